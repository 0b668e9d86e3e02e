"""Six-sensor telemetry of electric cylinders that wear, fail and are repaired; for a line without a line.

Needs nothing but the standard library, except for publishing over Greengrass IPC.
"""

from sensor_simulator.faults import Fault
from sensor_simulator.fleet import COLUMNS, LABEL, SENSORS, START, UNITS, Fleet, Row
from sensor_simulator.sensor_faults import SensorFault, When
from sensor_simulator.truth import Truth

__all__ = ["COLUMNS", "LABEL", "SENSORS", "START", "UNITS", "Fault", "Fleet", "Row", "SensorFault", "Truth", "When"]
