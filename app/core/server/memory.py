"""Tunes the garbage collector and malloc for a process that runs for months."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# glibc's `M_MMAP_THRESHOLD` (mallopt(3)), and the size from which a block is mapped on its own. Mapping and unmapping
# take time, so the threshold is above the size of most responses.
_MMAP_THRESHOLD = -3
_LARGE_BLOCK_BYTES = 1024 * 1024


@contextmanager
def freeze_startup_objects() -> Iterator[None]:
    """Tune GC and malloc once start-up is complete."""
    # Start-up objects live as long as the process: freezing them spares the collector repeated scans.
    gc.collect()
    gc.freeze()
    _release_large_blocks()
    yield
    gc.unfreeze()


def _release_large_blocks() -> None:
    """Make glibc return large blocks to the system when they are freed.

    After the first large block glibc allocates others of that size from a heap that never shrinks, so each sign-in left
    the 19 MiB of a password hash behind, and the process held up to 40 MB more than its unread responses. A fixed
    threshold prevents that. Other C libraries have no threshold.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
