"""A component that gives back the bytes it gets: the least that any component costs.

    python echo.py TOPIC ANSWER CLOUD

Run as a program of its own, with the SDK and nothing else, as a device would. It publishes from the SDK's own callback, without waiting
for answers, to ANSWER and, unless CLOUD is "", to that topic of AWS IoT Core.
"""

import os
import sys
import threading
from functools import partial
from typing import Any

from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup, SocketDomain, SocketOptions
from awsiot.eventstreamrpc import Connection, LifecycleHandler, MessageAmendment
from awsiot.greengrasscoreipc import client, model


def main() -> None:
    topic, answer, cloud = sys.argv[1:]
    group = EventLoopGroup(num_threads=1)
    options = SocketOptions()
    options.domain = SocketDomain.Local
    connection = Connection(
        host_name=os.environ["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"],
        port=0,
        bootstrap=ClientBootstrap(group, DefaultHostResolver(group)),
        socket_options=options,
        connect_message_amender=MessageAmendment.create_static_authtoken_amender(os.environ["SVCUID"]),
    )
    connection.connect(LifecycleHandler()).result(10)
    ipc = client.GreengrassCoreIPCClient(connection)

    class Handler(client.SubscribeToTopicStreamHandler):
        def on_stream_event(self, event: Any) -> None:
            payload = event.binary_message.message
            message = model.PublishMessage(binary_message=model.BinaryMessage(message=payload))
            ask(ipc.new_publish_to_topic(), model.PublishToTopicRequest(topic=answer, publish_message=message))
            if cloud:
                ask(
                    ipc.new_publish_to_iot_core(),
                    model.PublishToIoTCoreRequest(topic_name=cloud, qos="1", payload=payload),
                )

    operation = ipc.new_subscribe_to_topic(Handler())
    operation.activate(model.SubscribeToTopicRequest(topic=topic)).result(10)
    operation.get_response().result(10)
    print("ready", flush=True)
    threading.Event().wait()


def ask(operation: Any, request: Any) -> None:
    # On nucleus lite an open stream costs the SDK memory for as long as the connection lives.
    operation.activate(request)
    operation.get_response().add_done_callback(partial(close, [operation]))


def close(operations: list[Any], _: Any) -> None:
    operations.pop().close()


if __name__ == "__main__":
    main()
