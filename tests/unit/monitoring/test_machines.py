"""Which machines are remembered: a large line that begins at once, and a flood of names that nobody has."""

from __future__ import annotations

from ml_inference.monitoring.machines import Machine, Machines


def report(machines: Machines[Machine], names: list[str], at: float) -> None:
    for name in names:
        machine = machines.seen(name)
        step = machine.advance(at)
        if step is not None and not machine.known:
            machines.count_valid(machine, step)


def test_two_thousand_machines_that_begin_at_once_all_become_known() -> None:
    machines = Machines(Machine)
    line = [f"cylinder-{number}" for number in range(2_000)]
    for at in range(0, 780, 60):
        report(machines, line, float(at))
    assert machines.known == len(line)


def test_made_up_names_stay_within_bounds_and_cost_no_known_machine() -> None:
    machines = Machines(Machine, known=20, newcomers=5)
    line = [f"cylinder-{number}" for number in range(15)]
    for at in range(0, 780, 60):
        report(machines, line, float(at))
    for number in range(1_000):
        report(machines, [f"made-up-{number}"], 800.0 + number)
        assert len(machines) <= 25
    assert machines.known == len(line)
    assert all(machines.get(name) is not None for name in line)
