"""Every number that a Greengrass runtime or AWS IoT Core imposes, each once, with its source.

What we chose ourselves stands where it is used. This module imports nothing.
"""

from __future__ import annotations

LITE_FRAME_BYTES = 10_000
"""Nucleus lite 2.6.0 drops the connection at a larger IPC frame (measured)."""
MAX_TOPIC_AND_BASE64_BYTES = 9_700
"""What else is in a frame takes some 250 of `LITE_FRAME_BYTES`: 9,743 were carried, 9,759 not (measured)."""
MAX_PAYLOAD_BYTES = 7_000
"""Largest payload of one local publish: in the frame it is base64 and shares the room with the topic (measured: 7,302 bytes
with a short topic)."""
MAX_TOPIC_BYTES = 256
"""AWS IoT Core's limit for a topic, and nucleus lite's for a local one."""
MAX_CLOUD_TOPIC_SLASHES = 7
"""AWS IoT Core's limit for the levels of a topic."""
LITE_UNACKNOWLEDGED_MESSAGES = 10
"""QoS 1 messages that nucleus lite's iotcored holds for the whole device without an acknowledgement; it refuses the next. It
answers a publish when it has written it to its socket, so these are lost with the connection (measured)."""
LITE_UNACKNOWLEDGED_BYTES = 15_000
"""Bytes of packets that it holds for them (source of nucleus lite 2.6.0)."""
MQTT_PACKET_BYTES = 16
"""What MQTT adds to a topic and a payload, at most (MQTT 5.0, section 3.3)."""
LITE_DEAD_NETWORK_SECONDS = DEAD_NETWORK_SECONDS = 90.0
"""For so long a dead network can look alive to nucleus lite: it pings every 30 s and closes when the next ping finds no
answer (measured). And to the classic nucleus: it pings every 60 s and waits 30 s for the answer (defaults of 2.18.2)."""
CLASSIC_SPOOL_BYTES = 2_621_440
"""Payloads that the classic nucleus spools (`spooler.maxSizeInBytes`, its default); it refuses the next of QoS 1."""
LITE_STALL_SECONDS = 5.0
"""Nucleus lite blocks for so long on each message to a subscriber that does not read (measured)."""
CALL_SECONDS = 2 * LITE_STALL_SECONDS
"""For so long the answer to a call is waited for."""
CLOUD_ANSWER_SECONDS = 6 * LITE_STALL_SECONDS
"""For so long the answer to a publish to the cloud is waited for: a stalled lite takes them one by one."""
MAX_FLOAT32 = 3.4028234663852886e38
"""Largest finite float32, which is what a booster calculates with: beyond it a value is infinite to the model."""
