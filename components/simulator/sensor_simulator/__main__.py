"""``python -m sensor_simulator``: the command that the component's recipe starts."""

import sys

from sensor_simulator.cli import main

if __name__ == "__main__":
    sys.exit(main())
