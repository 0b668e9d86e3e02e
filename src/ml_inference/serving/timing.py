"""How long the component waits for what, in one place, so that tests can be quick."""

from __future__ import annotations

from dataclasses import dataclass

from ml_inference.limits import CALL_SECONDS, CLOUD_ANSWER_SECONDS


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the component waits for what; all in seconds.

    Attributes:
        stop: For finishing after SIGTERM; classic kills after about 5 s.
        connect: For one attempt to connect.
        call: For the answer to a call.
        first_reconnect: Pause after the first failed attempt.
        longest_reconnect: Pause that it grows to.
        reconnect_limit: Without a connection, after which only a restart, with a new token, can help.
        configuration_poll: Between looks at the configuration: on nucleus lite the subscription to its updates can die in
            silence.
        model_poll: Between looks at the model directories.
        model_wait: At the start, for a model that is not there yet: its component may be deployed together with this one.
        served: For which a new model has to score before it takes the place of the one that is kept for bad times.
        listen_retry: Pause after the input topic was refused.
        longest_listen_retry: Pause that it grows to.
        listen_grace: For which a new input topic may be refused before that counts as a problem.
        stall: Without any answer, while calls wait for one, after which the connection counts as lost.
        silence: Without a message, after which the subscription has to prove that it is alive.
        control_silence: The same for requests about alarms, which are rare.
        patience: For that proof, once the nucleus has taken what has to come back.
        cloud: Without an answer to a message for the cloud, after which it counts as refused.
        defer: For which a deployment is put off while the queue drains.
        longest_defer: For which it is put off in all.
        tick: Between looks at what is due.
    """

    stop: float = 3.5
    connect: float = 2.0
    call: float = CALL_SECONDS
    first_reconnect: float = 0.1
    longest_reconnect: float = 5.0
    reconnect_limit: float = 60.0
    configuration_poll: float = 30.0
    model_poll: float = 2.0
    model_wait: float = 5.0
    served: float = 300.0
    listen_retry: float = 1.0
    longest_listen_retry: float = 30.0
    listen_grace: float = 30.0
    stall: float = 30.0
    silence: float = 5.0
    control_silence: float = 60.0
    patience: float = 2.0
    cloud: float = CLOUD_ANSWER_SECONDS
    defer: float = 1.0
    longest_defer: float = 10.0
    tick: float = 1.0
