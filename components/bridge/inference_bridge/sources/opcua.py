"""An OPC UA server as a source, by subscription, and as a way out to nodes of an allow-list: asyncua in a loop of its own.

What the server may send is set by the mapping alone: node ids are made of it and of the mapping's machines, never of a message's
text. The server's certificate is the configured one or there is no connection.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timezone
from pathlib import Path

from asyncua import ua
from asyncua.client.client import Client
from asyncua.crypto import security_policies
from asyncua.crypto.uacrypto import CertProperties
from asyncua.ua.attribute_ids import AttributeIds

from inference_bridge.extract import Qualities
from inference_bridge.mapping import OpcUa
from inference_bridge.sources.base import MAX_OUTGOING, Events, Source, SourceError, read_password

CALL_SECONDS = 10.0
CONNECT_SECONDS = 5.0
LOOK_SECONDS = 2.0
"""Between two proofs that the server still answers."""
ITEMS_A_REQUEST = 500
NOTIFICATIONS_A_MESSAGE = 10_000
LIFETIMES = 10_000
"""Publishing intervals without a sign of this client after which the server gives a subscription up."""
ALIVE_MILLISECONDS = 5000.0
"""In which the server says that it is there, where no value changes."""
MAX_MISSED = 1 << 16
"""A larger step in the sequence numbers is no gap."""
SESSION_MILLISECONDS = 60_000
"""After which a server forgets a bridge that was killed; many allow but a few sessions."""
_OVERFLOW = 0x480
"""Of a status code: the server's queue was full, and it left out values before this one (OPC UA part 4, 7.39)."""

logger = logging.getLogger(__name__)


class OpcUaClient(Source):
    """The client of one server."""

    def __init__(self, configuration: OpcUa, events: Events) -> None:
        super().__init__(configuration.name, events)
        self._configuration = configuration
        self._qualities = Qualities("opc_ua", use_uncertain=configuration.uncertain == "use")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._outgoing: dict[str, ua.Variant] = {}
        self._meaning: list[tuple[str, int]] = []
        self._sequence = 0
        self.sent = 0
        self.ended = False
        self.failed = 0

    def wake(self) -> None:
        """Let it notice that it shall end, or that something is to be written."""
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None and not loop.is_closed():
            loop.call_soon_threadsafe(wake.set)

    def work(self) -> None:
        """Connect, subscribe, and wait until the connection ends."""
        asyncio.run(self._work())

    async def _work(self) -> None:
        self.ended = False
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        configuration = self._configuration
        client = Client(configuration.endpoint, timeout=CALL_SECONDS, auto_reconnect=False)
        client.name, client.application_uri = "inference-bridge", configuration.application_uri
        client.session_timeout = SESSION_MILLISECONDS
        lost: asyncio.Future[str] = self._loop.create_future()

        async def on_lost(error: Exception) -> None:
            if not lost.done():
                lost.set_result(str(error) or type(error).__name__)
            assert self._wake is not None  # noqa: S101 - for the type checker
            self._wake.set()

        client.connection_lost_callback = on_lost
        await self._secure(client)
        try:
            await asyncio.wait_for(client.connect(), CONNECT_SECONDS)
        except asyncio.TimeoutError:
            secure = configuration.security_policy != "None"
            hint = ": is `server_certificate` its own, and does it trust ours?" if secure else ""
            raise SourceError(f"no answer within {CONNECT_SECONDS:g} s{hint}") from None
        try:
            await self._subscribe(client)
            self.is_connected()
            while not self.stopping.is_set() and not lost.done() and not self.ended:
                self._wake.clear()
                await self._write(client)
                try:
                    await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)
                except asyncio.TimeoutError:
                    await asyncio.wait_for(client.nodes.server_state.read_value(), CALL_SECONDS)
            if lost.done():
                raise SourceError(f"the connection is lost: {lost.result()}")
            if self.ended:
                raise SourceError("the server ended the subscription")
        finally:
            self._wake = None
            try:
                await asyncio.wait_for(client.disconnect(), 2.0)
            except Exception:  # noqa: BLE001 - it is gone already
                client.disconnect_socket()

    async def _secure(self, client: Client) -> None:
        configuration = self._configuration
        if configuration.security_policy != "None":
            certificate, key, server = await asyncio.to_thread(
                lambda: [
                    _file(each)
                    for each in (configuration.certificate, configuration.key, configuration.server_certificate)
                ]
            )
            # With the server's certificate given, asyncua compares it and does not ask the server for one.
            await client.set_security(
                getattr(security_policies, f"SecurityPolicy{configuration.security_policy}"),
                certificate,
                key,
                server_certificate=server,
                mode=getattr(ua.MessageSecurityMode, configuration.security_mode),
            )
        password = read_password(configuration.password_file, configuration.password_secret, self.events.secret)
        if configuration.username:
            client.set_user(configuration.username)
            client.set_password(password or "")

    async def _subscribe(self, client: Client) -> None:
        configuration = self._configuration
        self._sequence = 0
        self._meaning = [
            (machine, self.events.feature(feature))
            for machine in configuration.machines
            for feature in configuration.nodes
        ]
        nodes = [
            _node_id(template.replace("{machine}", machine))
            for machine in configuration.machines
            for template in configuration.nodes.values()
        ]
        milliseconds = configuration.publishing_milliseconds
        asked = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=ua.Duration(milliseconds),
            RequestedLifetimeCount=ua.Counter(LIFETIMES),
            RequestedMaxKeepAliveCount=ua.Counter(max(1, int(ALIVE_MILLISECONDS / milliseconds))),
            MaxNotificationsPerPublish=ua.Counter(NOTIFICATIONS_A_MESSAGE),
            PublishingEnabled=True,
        )
        # Below asyncua's own Subscription, which makes a task for each value.
        subscription = await client.uaclient.create_subscription(asked, self._published)
        refused: list[str] = []
        for start in range(0, len(nodes), ITEMS_A_REQUEST):
            some = nodes[start : start + ITEMS_A_REQUEST]
            items = [self._item(handle, node) for handle, node in enumerate(some, start)]
            answers = await client.uaclient.create_monitored_items(
                ua.CreateMonitoredItemsParameters(
                    SubscriptionId=subscription.SubscriptionId,
                    TimestampsToReturn=ua.TimestampsToReturn.Both,
                    ItemsToCreate=items,
                )
            )
            refused += [
                f"{node.to_string()} ({answer.StatusCode.name})"
                for node, answer in zip(some, answers, strict=True)
                if not answer.StatusCode.is_good()
            ]
        if refused:
            shown = ", ".join(refused[:5]) + (f" and {len(refused) - 5} more" if len(refused) > 5 else "")  # noqa: PLR2004
            raise SourceError(f"the server has no value of {shown}")

    def _item(self, handle: int, node: ua.NodeId) -> ua.MonitoredItemCreateRequest:
        return ua.MonitoredItemCreateRequest(
            ItemToMonitor=ua.ReadValueId(NodeId=node, AttributeId=AttributeIds.Value),
            MonitoringMode=ua.MonitoringMode.Reporting,
            RequestedParameters=ua.MonitoringParameters(
                ClientHandle=ua.IntegerId(handle),
                SamplingInterval=ua.Duration(self._configuration.sampling_milliseconds),
                QueueSize=ua.Counter(self._configuration.queue_size),
                DiscardOldest=True,
            ),
        )

    def _published(self, result: ua.PublishResult) -> None:
        """A message of the subscription."""
        try:
            message = result.NotificationMessage
            missed = 0
            if message.NotificationData:
                # From 1 on; after the last number of 32 bits, from 1 again.
                expected = self._sequence % ((1 << 32) - 1) + 1
                if self._sequence and 0 < message.SequenceNumber - expected < MAX_MISSED:
                    missed = message.SequenceNumber - expected
                self._sequence = message.SequenceNumber
            for part in message.NotificationData or ():
                if isinstance(part, ua.DataChangeNotification):
                    missed += sum(self._took(item) for item in part.MonitoredItems)
                elif isinstance(part, ua.StatusChangeNotification):
                    # The subscription ended: the connection is of no use.
                    self.ended = True
                    self.wake()
            if missed:
                self.events.missed(self.name, missed)
        except Exception:
            logger.exception("internal error: %s", self.name)  # else asyncua would swallow it

    def _took(self, item: ua.MonitoredItemNotification) -> bool:
        """Hand a value on; whether the server had no room for one before it."""
        machine, feature = self._meaning[item.ClientHandle]
        data = item.Value
        stamp = data.SourceTimestamp or data.ServerTimestamp
        time = None
        if stamp is not None and self._configuration.time_from == "source":
            time = stamp.replace(tzinfo=timezone.utc).timestamp() if stamp.tzinfo is None else stamp.timestamp()
        code = data.StatusCode.value if data.StatusCode is not None else 0
        problem = self._qualities.problem(code)
        value = None if problem or data.Value is None else data.Value.Value
        if not problem and value is None:
            problem = "its value is null"
        self.events.samples(self.name, [self.events.sample(machine, feature, value, time, problem)])
        return code & _OVERFLOW == _OVERFLOW

    def write(self, node: str, value: float | bool) -> bool:
        """Write a value to a node of the allow-list, the newest one if several wait. May be called from any thread."""
        if len(self._outgoing) >= MAX_OUTGOING and node not in self._outgoing:
            return False
        kind = ua.VariantType.Boolean if isinstance(value, bool) else ua.VariantType.Double
        self._outgoing[node] = ua.Variant(value, kind)
        self.wake()
        return True

    async def _write(self, client: Client) -> None:
        while self._outgoing:
            node, value = next(iter(self._outgoing.items()))
            # A value alone: many servers take neither a status nor a time from a client.
            try:
                await asyncio.wait_for(client.get_node(node).write_value(ua.DataValue(value)), CALL_SECONDS)
                self.sent += 1
            except ua.uaerrors.UaError as error:
                self.failed += 1
                self.problem = f"cannot write {node}: {type(error).__name__}"
            if self._outgoing.get(node) is value:
                del self._outgoing[node]


def _node_id(text: str) -> ua.NodeId:
    try:
        return ua.NodeId.from_string(text)
    except Exception as error:
        raise SourceError(f"{text!r} is no node id") from error


def _file(path: str) -> CertProperties:
    """A certificate or a key, by what is in its file and not by how that is called.

    Raises:
        SourceError: It cannot be read.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None
    return CertProperties(content, extension="pem" if b"-----BEGIN" in content else "der")
