"""What is known of the way to AWS IoT Core."""

from __future__ import annotations

from ml_inference.delivery.reach import Reach
from ml_inference.delivery.routing import PROBE_ID, Message


def connected() -> Reach:
    """On classic, where a probe has just said that the nucleus is connected."""
    reach = Reach(lambda: 0.0)
    reach.probe = Message(topic="greengrass/probe", payload=b"{}", id=PROBE_ID)
    reach.begin(spools=True)
    reach.ask()
    reach.took_probe()
    return reach


def test_on_classic_a_full_spool_is_no_problem_any_more_when_it_takes_a_message() -> None:
    reach = connected()
    reach.refused("ServiceError: The spool is full")
    assert reach.problem == "AWS IoT Core: ServiceError: The spool is full"
    reach.took()
    assert reach.problem is None


def test_on_classic_an_outage_ends_with_a_probe_and_not_with_what_is_only_spooled() -> None:
    reach = connected()
    reach.ask()
    reach.refused_probe("ServiceError: Device is offline")
    reach.out_of_reach()
    reach.took()
    assert reach.problem == "AWS IoT Core: ServiceError: Device is offline"
    reach.ask()
    reach.took_probe()
    assert reach.problem is None
