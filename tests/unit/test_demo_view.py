"""The demo's terminal view: it fits, it says who is in trouble and why, and shows sensors that move."""

from __future__ import annotations

from collections import deque

import pytest

from ml_inference.workbench.demo_view import MachineView, Picture, label, lines, width_of
from support.models import NORMAL

SIZES = [(80, 24), (60, 20), (200, 60), (40, 10)]
FACTS = ["page   http://127.0.0.1:8990/", "sent 120  scored 115  rejected 5  in the cloud 115", "Ctrl-C ends"]


def machine(score: float = 0.05, **more: object) -> MachineView:
    state = "abnormal" if score > 0.5 else "normal"
    return MachineView(state=state, score=score, scores=deque([score] * 30), sensors=dict(NORMAL), **more)  # type: ignore[arg-type]


def plain(picture: Picture, width: int, height: int) -> list[str]:
    return [line.plain for line in lines(picture, width, height)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("count", [0, 4, 16, 100])
def test_it_fits_whatever_there_is_to_show(width: int, height: int, count: int) -> None:
    names = ["실린더-" * 9, "x" * 128, *(f"cylinder-{number}" for number in range(count))][:count]
    picture = Picture(
        {name: machine(0.9, reason="wRMSCurrent 106.9 A " * 9) for name in names},
        FACTS,
        "cloud out of reach",
        ["e" * 300] * 50,
    )
    drawn = lines(picture, width, height)
    assert len(drawn) <= height
    assert all(width_of(line) <= width for line in drawn)
    assert any("cloud out of reach" in line.plain for line in drawn)


@pytest.mark.parametrize(("width", "height", "sensors"), [(80, 24, 6), (60, 20, 3)])
def test_a_machine_is_one_line_with_state_score_and_sensors(width: int, height: int, sensors: int) -> None:
    drawn = plain(Picture({"cylinder-7": machine(0.93)}, FACTS, "", []), width, height)
    (row,) = [line for line in drawn if line.startswith("cylinder-7 ")]
    assert row.split()[1:3] == ["abnormal", "0.93"]
    values = [f"{value:.1f}" for value in NORMAL.values() if isinstance(value, float)]
    assert row.split()[4:] == values[:sensors]


def test_machines_in_trouble_come_first_with_their_reasons_and_the_rest_is_counted() -> None:
    machines = {f"cylinder-{number}": machine() for number in range(1, 41)}
    machines["cylinder-30"] = machine(0.9, reason="wRMSCurrent 180 A")
    machines["cylinder-31"] = machine(faults={"wCurrentLoad": "stuck"})
    drawn = plain(Picture(machines, FACTS, "", []), 80, 24)
    assert [line.split()[0] for line in drawn[1:4]] == ["cylinder-30", "cylinder-31", "cylinder-1"]
    shown = sum(line.startswith("cylinder-") and ":" not in line for line in drawn)
    assert f"and {42 - 2 - shown} more" in drawn
    few = plain(Picture(dict(list(machines.items())[28:32]), FACTS, "", []), 80, 24)
    assert "cylinder-30: wRMSCurrent 180 A" in few
    assert "cylinder-31: wCurrentLoad stuck" in few


def test_labels_tell_the_sensors_apart() -> None:
    names = [name for name, value in NORMAL.items() if isinstance(value, float)]
    assert len({label(name) for name in names}) == len(names)
    assert all(0 < len(label(name)) <= 6 for name in names)
