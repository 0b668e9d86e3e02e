"""The demo in a terminal: a line for each machine, and below it what the system does. Pure drawing: figures in, lines out.

It fits any terminal from 60 by 20 on: what has no room is left out, the machines in trouble last. It never scrolls.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.text import Text

BARS = "▁▂▃▄▅▆▇█"
STYLES = {"abnormal": "bold red", "normal": "green", "off": "dim"}
_NAME_CELLS, _STATE_CELLS, _SCORE_CELLS, _SENSOR_CELLS = 12, 9, 6, 7
_LEAST_CURVE, _MOST_CURVE = 8, 30


@dataclass(slots=True)
class MachineView:
    """What the view shows of one machine.

    Attributes:
        state: As the last result says it.
        score: The smoothed score, which the state follows; the score where there is none.
        sensors: Latest value of each sensor.
        faults: Faulty sensors and what is wrong with them.
    """

    state: str = "…"
    score: float | None = None
    scores: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_CURVE))
    reason: str = ""
    sensors: dict[str, float] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that the view shows.

    Attributes:
        facts: Lines about the system, the most important first.
        warning: A state of the system that needs a colour, such as a cloud that is out of reach; "" for none.
        events: Latest events, the newest last.
    """

    machines: Mapping[str, MachineView]
    facts: Sequence[str]
    warning: str
    events: Sequence[str]


def lines(picture: Picture, width: int, height: int) -> list[Text]:
    """Draw.

    Args:
        picture: What to show.
        width: Cells of a line; none gets longer.
        height: Lines; there are at most so many.
    """
    names = sorted(picture.machines, key=lambda name: (_calm(picture.machines[name]), _natural(name)))
    sensors = list(dict.fromkeys(name for machine in picture.machines.values() for name in machine.sensors))
    system = [Text(fact) for fact in picture.facts]
    if picture.warning:
        system.insert(0, Text(picture.warning, "bold black on yellow"))
    # A title, the machines, what the troubled ones suffer from, the system, and events in what is left.
    room = height - 2 - len(system)
    troubled = [name for name in names if not _calm(picture.machines[name])]
    whys = [_why(name, picture.machines[name]) for name in troubled[: max(0, min(3, room - len(names)))]]
    shown = names[: max(1, room - len(whys))]
    hidden = len(names) - len(shown)
    if hidden:
        shown = shown[:-1]
        hidden += 1
    curve, chosen = _columns(width, sensors)
    found = [_title(curve, chosen)]
    found += [_row(name, picture.machines[name], curve, chosen) for name in shown]
    if hidden:
        found.append(Text(f"and {hidden} more", "dim"))
    found += whys
    found.append(Text("─" * width, "dim"))
    found += system
    left = height - len(found)
    found += [Text(event, "dim") for event in list(picture.events)[-left:]] if left > 0 else []
    for line in found:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return found[:height]


def label(sensor: str, cells: int = _SENSOR_CELLS - 1) -> str:
    """A sensor's name in few cells: the letters that tell it from its neighbours, such as `VibZRMS`."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]*|[a-z]+|\d+", re.sub(r"^[a-z](?=[A-Z])", "", sensor))
    if len(words) > 1:
        words = [words[0][: max(2, cells - 3)], *words[1:]] if len(words[1]) <= 1 else [words[0][:2], *words[1:]]
    return "".join(words)[:cells]


def _columns(width: int, sensors: Sequence[str]) -> tuple[int, list[str]]:
    """Cells of the curve, and the sensors for which there is room."""
    left = width - _NAME_CELLS - _STATE_CELLS - _SCORE_CELLS - 1
    chosen = list(sensors[: max(0, (left - _LEAST_CURVE - 1) // _SENSOR_CELLS)])
    return min(_MOST_CURVE, max(_LEAST_CURVE, left - 1 - _SENSOR_CELLS * len(chosen))), chosen


def _title(curve: int, sensors: Sequence[str]) -> Text:
    heads = "".join(label(name).rjust(_SENSOR_CELLS) for name in sensors)
    return Text(
        f"{'machine':<{_NAME_CELLS}}{'state':<{_STATE_CELLS}}{'score':>{_SCORE_CELLS - 1}}  {'':<{curve}}{heads}",
        "bold",
    )


def _row(name: str, machine: MachineView, curve: int, sensors: Sequence[str]) -> Text:
    style = STYLES.get(machine.state, "dim")
    row = Text(set_cell_size(name, _NAME_CELLS - 1) + " ")
    row.append(f"{machine.state[: _STATE_CELLS - 1]:<{_STATE_CELLS}}", style)
    row.append(f"{'…' if machine.score is None else f'{machine.score:.2f}':>{_SCORE_CELLS - 1}}  ", style)
    row.append(_curve(list(machine.scores)[-curve:]).rjust(curve), style)
    for sensor in sensors:
        value = machine.sensors.get(sensor)
        text = "-" if value is None else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}"  # noqa: PLR2004
        row.append(text[: _SENSOR_CELLS - 1].rjust(_SENSOR_CELLS), "yellow" if sensor in machine.faults else "")
    return row


def _why(name: str, machine: MachineView) -> Text:
    faults = [f"{sensor} {fault}" for sensor, fault in machine.faults.items()]
    return Text(f"{name}: {'; '.join([*([machine.reason] if machine.reason else []), *faults])}", STYLES["abnormal"])


def _calm(machine: MachineView) -> bool:
    return machine.state != "abnormal" and not machine.faults


def _curve(scores: Sequence[float]) -> str:
    top = max([1.0, *scores])
    return "".join(BARS[max(0, min(7, int(8 * score / top)))] for score in scores)


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [
        (1, int(part), "") if part.isdecimal() and part.isascii() else (0, 0, part) for part in re.split(r"(\d+)", name)
    ]


def width_of(line: Text) -> int:
    """Cells that a line takes."""
    return cell_len(line.plain)
