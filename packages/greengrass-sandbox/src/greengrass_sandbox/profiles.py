"""What differs between the two runtimes, as numbers and switches.

Everything here was read in the runtimes' sources or measured on a running nucleus lite 2.6.0 and a running classic nucleus 2.18.2; nothing here may be a guess about what
would be convenient. The rest of the package asks the profile and never the profile's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

ProfileName = Literal["classic", "lite"]


@dataclass(frozen=True, slots=True)
class Profile:
    """A runtime's limits and habits. A limit of None does not exist there.

    Attributes:
        name: `classic` (aws.greengrass.Nucleus, Java) or `lite` (aws.greengrass.NucleusLite, C).
        version: What components read in `GGC_VERSION`.
        socket_name: File name of the IPC socket under the root.
        request_limit: Longest frame accepted from a component, in bytes; a longer one drops the connection.
        reply_limit: Longest frame sent to a component, in bytes; a longer event is skipped, a longer response is a ServiceError.
        request_memory: Memory in which a request is parsed, in lite's 11-byte objects' bytes (see `access_memory` in limits).
        event_memory: Memory in which a subscriber's daemon parses a published message; one that needs more kills the subscription.
        depth: Deepest nesting of a request's JSON, the request itself included.
        connections: Connections at a time, of all components.
        subscriptions: Subscriptions at a time, of all components.
        send_timeout: Seconds that one unread message blocks the whole nucleus; None where messages wait in memory instead.
        connects_by_name: Whether a process may connect with its component's name in place of a token.
        answers_pings: Whether a PING is answered, and an error's text is where the SDK reads it.
        doubles: Whether every number of a JSON message and of UpdateConfiguration becomes a floating-point number.
        strict_levels: Whether `#` stands for at least one level, and empty levels at the end of a topic do not count (classic's local broker).
        closes_answered_streams: Whether the response to a request without events also ends the stream.
        receive_modes: Whether `ReceiveMode` is honoured; where not, everybody hears their own messages.
        checks_publish_topic: Whether a wildcard, the length and the depth of a topic are checked before publishing.
        component_updates: Whether update notices and configuration validation exist.
        leaf_limit: Longest configuration leaf, in bytes of JSON.
        object_limit: Most keys and items that one reading of the configuration may hold.
        defaults_refresh: Whether a changed default of the recipe replaces an older default (lite) or only fills gaps (classic).
        exact_keys: Whether recipe keys are case-sensitive.
        runtime_required: Whether a manifest must name `runtime` and `os` in its Platform.
        recipe_limit: Longest recipe, in bytes.
        paths_end_in_slash: Whether `{artifacts:path}` and its like end in a slash.
        cuts_unknown: Whether a `{` that opens no known variable cuts the script there; where not, it is left as written.
        policy_variables: Whether `{iot:thingName}` in the resources of `accessControl` stands for the core device's name.
        policy_delay: Seconds for which a changed `accessControl` is not yet in force when a component hears of the change.
        rolls_back: Whether a failed deployment from the cloud goes back to what ran before.
        reinstalls: Whether `install` runs again after BROKEN, at each start of the nucleus and at a rollback.
        separates_output: Whether output on stderr is told from output on stdout, as WARN and INFO.
        unlinks: Whether a failed installation leaves the old version running without its unit, so that it is not started again.
        updates_in_place: Whether a new version installs while the old one still runs.
        restarts_on_configuration: Whether every configuration deployment restarts the component, or only one that changes a script.
        install_attempts: Times that a failing install is tried.
        failures: Failures within an hour that make a component BROKEN.
        restart_delay: Seconds between a failure and the next start.
        stop_timeout: Seconds from SIGTERM to SIGKILL; None for the `Timeout` of the recipe.
        clean_signals: Signals that end a component as well as exit code 0 does.
        spool: Bytes of cloud messages kept while offline; None where there is no spool and a publish offline fails.
        window: QoS 1 messages that may be unacknowledged.
        window_bytes: Bytes in them.
    """

    name: ProfileName
    version: str
    socket_name: str
    request_limit: int
    reply_limit: int
    request_memory: int | None
    event_memory: int | None
    depth: int | None
    connections: int | None
    subscriptions: int | None
    send_timeout: float | None
    connects_by_name: bool
    answers_pings: bool
    doubles: bool
    strict_levels: bool
    closes_answered_streams: bool
    receive_modes: bool
    checks_publish_topic: bool
    component_updates: bool
    leaf_limit: int | None
    object_limit: int | None
    defaults_refresh: bool
    exact_keys: bool
    runtime_required: bool
    recipe_limit: int | None
    paths_end_in_slash: bool
    cuts_unknown: bool
    policy_variables: bool
    policy_delay: float
    rolls_back: bool
    reinstalls: bool
    separates_output: bool
    unlinks: bool
    updates_in_place: bool
    restarts_on_configuration: bool
    install_attempts: int
    failures: int
    restart_delay: float
    stop_timeout: float | None
    clean_signals: frozenset[int]
    spool: int | None
    window: int | None
    window_bytes: int | None


CLASSIC: Final = Profile(
    name="classic",
    version="2.18.2",
    socket_name="ipc.socket",
    request_limit=16 * 1024 * 1024,  # the protocol's own limit
    reply_limit=16 * 1024 * 1024,
    request_memory=None,
    event_memory=None,
    depth=255,  # the nesting limit of Gson
    connections=None,
    subscriptions=None,
    send_timeout=None,
    connects_by_name=False,
    answers_pings=True,
    doubles=True,
    strict_levels=True,
    closes_answered_streams=True,
    receive_modes=True,
    checks_publish_topic=True,
    component_updates=True,
    leaf_limit=None,
    object_limit=None,
    defaults_refresh=False,
    exact_keys=False,
    runtime_required=False,
    recipe_limit=None,
    paths_end_in_slash=False,
    cuts_unknown=False,
    policy_variables=True,
    policy_delay=1.0,
    rolls_back=True,
    reinstalls=True,
    separates_output=True,
    unlinks=False,
    updates_in_place=False,
    restarts_on_configuration=False,
    install_attempts=3,
    failures=3,
    restart_delay=0.0,
    stop_timeout=5.0,
    clean_signals=frozenset(),
    spool=2_621_440,  # 2.5 MB, the default of spooler.maxSizeInBytes
    window=None,
    window_bytes=None,
)

LITE: Final = Profile(
    name="lite",
    version="2.6.0",
    socket_name="gg-ipc.socket",
    request_limit=10_012,  # 10,000 bytes after the prelude of 12
    reply_limit=10_000,
    request_memory=255 * 11,
    event_memory=50 * 11,
    depth=15,
    connections=50,
    subscriptions=100,
    send_timeout=5.0,  # SO_SNDTIMEO of ggipcd's sockets
    connects_by_name=True,  # `handle_conn_init` of ggipcd
    answers_pings=False,
    doubles=False,
    strict_levels=False,
    closes_answered_streams=False,
    receive_modes=False,
    checks_publish_topic=False,
    component_updates=False,
    leaf_limit=1024,
    object_limit=255,
    defaults_refresh=True,
    exact_keys=True,
    runtime_required=True,
    recipe_limit=8196,
    paths_end_in_slash=True,
    cuts_unknown=True,
    policy_variables=False,
    policy_delay=0.0,
    rolls_back=False,
    reinstalls=False,
    separates_output=False,
    unlinks=True,
    updates_in_place=True,
    restarts_on_configuration=True,
    install_attempts=3,
    failures=3,
    restart_delay=1.0,
    stop_timeout=None,
    clean_signals=frozenset({1, 2, 13, 15}),  # what systemd takes for a clean end: SIGHUP, SIGINT, SIGPIPE, SIGTERM
    spool=None,
    window=10,
    window_bytes=15_000,
)


def profile_named(name: str) -> Profile:
    """Returns the profile of that name.

    Raises:
        ValueError: There is no such profile.
    """
    for profile in (CLASSIC, LITE):
        if profile.name == name:
            return profile
    raise ValueError(f"no profile {name!r}: classic or lite")
