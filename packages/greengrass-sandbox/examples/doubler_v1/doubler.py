"""The doubler with the SDK's V1 client: operations and streams by hand, and a time limit for each answer."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import awsiot.greengrasscoreipc
from awsiot.greengrasscoreipc.client import SubscribeToTopicStreamHandler
from awsiot.greengrasscoreipc.model import (
    BinaryMessage,
    PublishMessage,
    PublishToTopicRequest,
    SubscribeToTopicRequest,
    SubscriptionResponseMessage,
)

client = awsiot.greengrasscoreipc.connect()
# A call that waits inside a callback of the V1 client waits for ever: the callbacks' thread is the one that would end it.
answering = ThreadPoolExecutor(1)


def publish(topic: str, payload: bytes) -> None:
    """Publishes a message and waits until the nucleus has it."""
    operation = client.new_publish_to_topic()
    message = PublishMessage(binary_message=BinaryMessage(message=payload))
    operation.activate(PublishToTopicRequest(topic=topic, publish_message=message)).result(10)
    operation.get_response().result(10)


class Numbers(SubscribeToTopicStreamHandler):
    """Answers each number."""

    def on_stream_event(self, event: SubscriptionResponseMessage) -> None:
        """Hands one number on."""
        number = json.loads(event.binary_message.message)["number"]
        answering.submit(publish, "demo/double", json.dumps({"double": 2 * number}).encode())

    def on_stream_error(self, error: Exception) -> bool:
        """Keeps the stream."""
        print(error)
        return False

    def on_stream_closed(self) -> None:
        """Says so."""
        print("the subscription has ended")


subscription = client.new_subscribe_to_topic(Numbers())
subscription.activate(SubscribeToTopicRequest(topic="demo/number")).result(10)
subscription.get_response().result(10)
threading.Event().wait()
