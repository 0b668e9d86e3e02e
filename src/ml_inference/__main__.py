"""`python -m ml_inference` is the command `ml-inference`."""

import sys

from ml_inference.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
