"""How a process that runs for months uses memory."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# glibc's `M_MMAP_THRESHOLD` (mallopt(3)), and the size of a block that is large: to get one from the system and to give
# it back takes time, so no more of them than need be.
_MMAP_THRESHOLD = -3
_LARGE = 16 * 1024 * 1024


@contextmanager
def freeze_startup_objects() -> Iterator[None]:
    """Arrange memory for a process that has made what it keeps, and from now on answers requests."""
    # What start-up made lives as long as the process: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    _release_large_blocks()
    yield
    gc.unfreeze()


def _release_large_blocks() -> None:
    """Have the C library give large blocks back to the system when they are freed.

    Once glibc has seen one, it takes others of its size from a heap that stays as large as it ever was: whoever signed
    in left the 19 MiB that hashing a password takes. A threshold of our own forbids that. Other libraries have none.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
