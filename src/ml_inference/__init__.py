"""A native AWS IoT Greengrass V2 component that scores sensor readings at the edge with XGBoost."""

__version__ = "1.1.0"
