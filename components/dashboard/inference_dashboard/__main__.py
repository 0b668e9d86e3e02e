"""``python -m inference_dashboard``: the command that the component's recipe starts."""

import os
import sys

from inference_dashboard.application import main

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The SDK's native threads may take their time to end, and the nucleus kills after 5 s.
    os._exit(code)
