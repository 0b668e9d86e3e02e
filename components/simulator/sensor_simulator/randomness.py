"""Named streams of random numbers, so that one part of the story never shifts another part's dice.

The same seed and names give the same numbers on every machine and Python version (a string seeds through SHA-512).
"""

import random


def stream(*names: str | int) -> random.Random:
    """Give the stream of that name, from its beginning.

    Args:
        names: The seed, the machine, the purpose.
    """
    return random.Random("/".join(map(str, names)))  # noqa: S311 - a simulation, nothing to protect
