"""Keeps the process's memory small and its pauses short, with what Python and the C library offer for that.

Nothing may depend on it: where the C library is another one than glibc, memory is only larger.
"""

from __future__ import annotations

import ctypes
import gc

_M_ARENA_MAX = -8  # mallopt(3)


def share() -> None:
    """Let all threads allocate from one heap. Each of their own keeps some MiB that the others cannot use."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def settle() -> None:
    """All is loaded: give back what that took, and exempt what stays from the garbage collector.

    Looking through all that has been imported now and then would hold up a result by 10 ms and more.
    """
    gc.collect()
    gc.freeze()
    trim()


def trim() -> None:
    """Give free memory back to the system: the C library keeps some MiB after a model was loaded, or after a burst."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)
