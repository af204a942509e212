"""How a process that runs for months uses memory."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# glibc's `M_MMAP_THRESHOLD` (mallopt(3)), and the size of a block that is large.
_MMAP_THRESHOLD = -3
_LARGE = 1024 * 1024


@contextmanager
def settled() -> Iterator[None]:
    """Arrange memory for a process that has made what it keeps, and from now on answers requests."""
    # What start-up made lives as long as the process: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    give_back_large_blocks()
    yield
    gc.unfreeze()


def give_back_large_blocks() -> None:
    """Have the C library give large blocks back to the system when they are freed.

    Once glibc has seen one, it takes others of its size from a heap that stays as large as it ever was: whoever signed
    in left the 19 MiB that hashing a password takes. A threshold of our own forbids that. Other libraries have none.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(_MMAP_THRESHOLD, _LARGE)
