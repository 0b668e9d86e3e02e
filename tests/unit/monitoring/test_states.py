from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_inference.monitoring.states import ABNORMAL, MAX_MACHINES, NORMAL, MachineStates


def run(states: MachineStates, verdicts: str, machine: str = "m") -> list[str]:
    """`x` is abnormal; a state that changed, or is the first, is written in capitals."""
    told = []
    for verdict in verdicts:
        state, changed = states.update(machine, abnormal=verdict == "x")
        told.append(state.upper() if changed else state)
    return told


def test_without_debouncing_every_reading_decides() -> None:
    assert run(MachineStates(), "..xx.") == ["NORMAL", "normal", "ABNORMAL", "abnormal", "NORMAL"]


def test_a_state_changes_after_so_many_readings_in_a_row_in_either_direction() -> None:
    assert run(MachineStates(3), ".xx.xxx..x...") == (
        ["NORMAL"] + ["normal"] * 5 + ["ABNORMAL"] + ["abnormal"] * 5 + ["NORMAL"]
    )


def test_the_first_reading_of_a_machine_is_news_whatever_it_says() -> None:
    assert run(MachineStates(2), "xx") == ["NORMAL", "ABNORMAL"]
    assert run(MachineStates(1), "xx") == ["ABNORMAL", "abnormal"]


def test_machines_do_not_disturb_one_another() -> None:
    states = MachineStates(2)
    for _ in range(2):
        states.update("a", abnormal=True)
        states.update("b", abnormal=False)
    assert states.update("a", abnormal=True) == (ABNORMAL, False)
    assert states.update("b", abnormal=True) == (NORMAL, False)
    assert states.abnormal() == ["a"]


def test_a_changed_debounce_applies_to_what_was_counted_before() -> None:
    states = MachineStates(5)
    assert run(states, "xxx") == ["NORMAL", "normal", "normal"]
    states.debounce = 2
    assert run(states, "x") == ["ABNORMAL"]


def test_the_machine_that_was_silent_the_longest_is_forgotten_first() -> None:
    states = MachineStates(capacity=2)
    states.update("a", abnormal=True)
    states.update("b", abnormal=True)
    states.update("a", abnormal=True)
    states.update("c", abnormal=True)
    assert states.abnormal() == ["a", "c"]
    assert states.update("b", abnormal=False) == (NORMAL, True)


def test_made_up_names_do_not_fill_the_memory() -> None:
    states = MachineStates()
    for number in range(MAX_MACHINES + 100):
        states.update(f"made-up-{number}", abnormal=True)
    assert len(states.abnormal()) == MAX_MACHINES


@pytest.mark.parametrize("debounce", [1, 2, 4])
@given(verdicts=st.text(alphabet=".x", max_size=40))
def test_the_state_is_the_verdict_of_the_last_long_enough_run(debounce: int, verdicts: str) -> None:
    told = run(MachineStates(debounce), verdicts)
    state = NORMAL
    for position in range(len(verdicts)):
        recent = verdicts[max(0, position + 1 - debounce) : position + 1]
        if len(recent) == debounce and len(set(recent)) == 1:
            state = ABNORMAL if recent[0] == "x" else NORMAL
        assert told[position].lower() == state
        before = told[position - 1].lower() if position else None
        assert told[position].isupper() == (before != state)
