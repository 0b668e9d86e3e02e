"""``python -m inference_bridge``: the command `ml-inference-bridge`; the component's recipe starts `run`."""

import os
import sys

from inference_bridge.command import main

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The SDK's native threads may take their time to end, and the nucleus kills after 5 s.
    os._exit(code)
