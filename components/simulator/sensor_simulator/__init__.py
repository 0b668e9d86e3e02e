"""Six-sensor telemetry of electric cylinders that wear, fail and are repaired; for a line without a line.

Needs nothing but the standard library, except for publishing over Greengrass IPC.
"""

from sensor_simulator.faults import Fault
from sensor_simulator.fleet import COLUMNS, LABEL, SENSORS, UNITS, Fleet, Row
from sensor_simulator.truth import Truth

__all__ = ["COLUMNS", "LABEL", "SENSORS", "UNITS", "Fault", "Fleet", "Row", "Truth"]
