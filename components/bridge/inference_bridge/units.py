"""Conversion between the units that sensors and models use: one factor and one offset for each pair.

It must never convert between dimensions, nor guess a unit.
"""

from __future__ import annotations

import math

# Unit: dimension, factor and offset to the dimension's own unit.
_UNITS: dict[str, tuple[str, float, float]] = {
    "degC": ("temperature", 1.0, 0.0),
    "degF": ("temperature", 5 / 9, -160 / 9),
    "K": ("temperature", 1.0, -273.15),
    "mm/s": ("velocity", 1.0, 0.0),
    "um/s": ("velocity", 1e-3, 0.0),
    "cm/s": ("velocity", 10.0, 0.0),
    "m/s": ("velocity", 1000.0, 0.0),
    "in/s": ("velocity", 25.4, 0.0),
    "m/s2": ("acceleration", 1.0, 0.0),
    "mm/s2": ("acceleration", 1e-3, 0.0),
    "g": ("acceleration", 9.80665, 0.0),
    "um": ("length", 1e-3, 0.0),
    "mm": ("length", 1.0, 0.0),
    "cm": ("length", 10.0, 0.0),
    "m": ("length", 1000.0, 0.0),
    "in": ("length", 25.4, 0.0),
    "mA": ("current", 1e-3, 0.0),
    "A": ("current", 1.0, 0.0),
    "kA": ("current", 1000.0, 0.0),
    "mV": ("voltage", 1e-3, 0.0),
    "V": ("voltage", 1.0, 0.0),
    "kV": ("voltage", 1000.0, 0.0),
    "W": ("power", 1.0, 0.0),
    "kW": ("power", 1000.0, 0.0),
    "hp": ("power", 745.6998715822702, 0.0),
    "Pa": ("pressure", 1e-5, 0.0),
    "kPa": ("pressure", 1e-2, 0.0),
    "MPa": ("pressure", 10.0, 0.0),
    "mbar": ("pressure", 1e-3, 0.0),
    "bar": ("pressure", 1.0, 0.0),
    "psi": ("pressure", 0.06894757293168361, 0.0),
    "RPM": ("rotation", 1.0, 0.0),
    "Hz": ("rotation", 60.0, 0.0),
    "rad/s": ("rotation", 30 / math.pi, 0.0),
    "%": ("ratio", 1.0, 0.0),
    "1": ("ratio", 100.0, 0.0),
    "permille": ("ratio", 0.1, 0.0),
    "ms": ("time", 1e-3, 0.0),
    "s": ("time", 1.0, 0.0),
    "min": ("time", 60.0, 0.0),
    "h": ("time", 3600.0, 0.0),
}


def conversion(from_unit: str, to_unit: str) -> tuple[float, float]:
    """Factor and offset from one unit to another: `value * factor + offset`.

    Raises:
        ValueError: A unit is not known, or they measure different things.
    """
    for unit in (from_unit, to_unit):
        if unit not in _UNITS:
            raise ValueError(f"the unit {unit!r} is not known; known are {', '.join(_UNITS)}")
    (dimension, factor, offset), (other, to_factor, to_offset) = _UNITS[from_unit], _UNITS[to_unit]
    if dimension != other:
        raise ValueError(f"{from_unit} is a {dimension} and {to_unit} a {other}")
    return factor / to_factor, (offset - to_offset) / to_factor
