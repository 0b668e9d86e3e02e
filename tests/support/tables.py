"""Training tables whose truth is known."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

AI4I_SENSORS = (
    "Air temperature [K]",
    "Process temperature [K]",
    "Rotational speed [rpm]",
    "Torque [Nm]",
    "Tool wear [min]",
)
AI4I_MODES = ("TWF", "HDF", "PWF", "OSF", "RNF")
AI4I_LABEL = "Machine failure"


def ai4i(rows: int = 10_000, seed: int = 0) -> dict[str, np.ndarray]:
    """A table by the published rules of the AI4I 2020 predictive-maintenance data set.

    S. Matzka, "Explainable Artificial Intelligence for Predictive Maintenance Applications", 2020: temperatures by random walks,
    torque around 40 Nm, wear by the product's quality, five failure modes by rules over these, and a label that is any of them.
    The speed falls with torque such that as many products fail by power as in the published table (about 1 %).
    """
    random = np.random.default_rng(seed)

    def walk(deviation: float) -> np.ndarray:
        steps: np.ndarray = np.cumsum(random.normal(size=rows))
        steps *= deviation / steps.std()
        return steps

    quality = random.choice(3, size=rows, p=[0.5, 0.3, 0.2])
    air_walk, process_walk = walk(2.0), walk(1.0)
    air = 300.0 + air_walk - air_walk.mean()
    process = air + 10.0 + process_walk - process_walk.mean()
    torque = np.clip(random.normal(40.0, 10.0, rows), 3.8, None)
    speed = 1500.0 * (40.0 / torque) ** 0.3 + random.normal(0.0, 50.0, rows)
    wear, worn_out = np.zeros(rows), np.zeros(rows, dtype=bool)
    used, life = 0.0, random.uniform(200.0, 240.0)
    for row in range(rows):
        wear[row] = used
        if used >= life:
            worn_out[row] = random.random() < 0.43
            used, life = 0.0, random.uniform(200.0, 240.0)
        used += (2.0, 3.0, 5.0)[quality[row]]
    power = torque * speed * 2.0 * np.pi / 60.0
    modes = {
        "TWF": worn_out,
        "HDF": (process - air < 8.6) & (speed < 1380.0),
        "PWF": (power < 3500.0) | (power > 9000.0),
        "OSF": wear * torque > np.array([11_000.0, 12_000.0, 13_000.0])[quality],
        "RNF": random.random(rows) < 0.001,
    }
    sensors = (air.round(1), process.round(1), speed.round(), torque.round(1), wear)
    return {
        "UDI": np.arange(1, rows + 1),
        "Type": np.array(["L", "M", "H"])[quality],
        **dict(zip(AI4I_SENSORS, sensors, strict=True)),
        AI4I_LABEL: np.any(list(modes.values()), axis=0).astype(int),
        **{name: mode.astype(int) for name, mode in modes.items()},
    }


def machines(count: int = 12, rows: int = 80, seed: int = 0) -> dict[str, np.ndarray]:
    """Readings a minute of machines that differ; each has two episodes of a fault that shows in both sensors."""
    random = np.random.default_rng(seed)
    table: dict[str, list[Any]] = {"machine": [], "time": [], "vibration [mm/s]": [], "current": [], "faulty": []}
    for machine in range(count):
        level = random.normal(0.0, 0.5)
        for row in range(rows):
            faulty = 20 <= row < 28 or 50 <= row < 58
            table["machine"].append(f"m{machine}")
            table["time"].append(f"2026-03-01T{row // 60:02d}:{row % 60:02d}:00Z")
            table["vibration [mm/s]"].append(round(level + random.normal(3.0 if faulty else 0.0), 3))
            table["current"].append(round(level + random.normal(1.5 if faulty else 0.0), 3))
            table["faulty"].append(int(faulty))
    return {name: np.array(values) for name, values in table.items()}


def wearing(count: int = 15, days: float = 6.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Readings every ten minutes of machines that wear for twelve hours before a label that lasts six; one episode each.

    Each machine has its own level, which hides the beginning of the wear from a model of single readings, and stands still for
    an hour after the repair. Machine 0 has a sensor that fails, which the label takes for a fault of the machine.
    """
    random = np.random.default_rng(seed)
    step = 600
    rows = int(days * 86_400 / step)
    table: dict[str, list[Any]] = {
        name: [] for name in ("equipment_id", "timestamp", "vibration", "current", "faulty", "sensor")
    }
    for machine in range(count):
        level = random.normal(0.0, 1.0)
        start = int(random.uniform(0.45, 0.65) * rows)
        for row in range(rows):
            hours = (row - start) * step / 3_600.0
            broken = machine == 0 and 12.0 <= hours < 18.0
            wear = 0.0 if machine == 0 else 4.0 * hours / 18.0 if 0.0 <= hours < 18.0 else 0.0
            rest = 18.0 <= hours < 19.0
            current = 1.0 if rest else 50.0 + level + 0.3 * wear + random.normal(0.0, 0.5)
            vibration = 0.2 if rest else 20.0 + level + wear + random.normal(0.0, 0.7)
            table["equipment_id"].append(f"m{machine}")
            table["timestamp"].append(1_772_000_000 + row * step)
            table["vibration"].append(5.0 if broken else round(vibration, 3))
            table["current"].append(round(current, 3))
            table["faulty"].append(int(12.0 <= hours < 18.0))
            table["sensor"].append("stuck" if broken else "")
    return {name: np.array(values) for name, values in table.items()}


def write_csv(path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray], delimiter: str = ",") -> Path:
    """Write columns as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path
