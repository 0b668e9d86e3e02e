"""A component that answers each number on demo/number with its double on demo/double; with the SDK's V2 client."""

import json
import threading

from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import BinaryMessage, PublishMessage, SubscriptionResponseMessage

client = GreengrassCoreIPCClientV2()


def double(event: SubscriptionResponseMessage) -> None:
    """Answers one number."""
    number = json.loads(event.binary_message.message)["number"]
    answer = BinaryMessage(message=json.dumps({"double": 2 * number}).encode())
    client.publish_to_topic(topic="demo/double", publish_message=PublishMessage(binary_message=answer))


client.subscribe_to_topic(topic="demo/number", on_stream_event=double)
threading.Event().wait()
