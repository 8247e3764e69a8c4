"""Keeps freed memory with the process: a training step asks for the same blocks again and again."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Tells glibc not to give large freed blocks back to the system, which would zero them anew for every activation.

    Half of the page faults of a CPU training step go away (`benchmarks/memory_reuse.py`). True where it took effect; False, and
    nothing changed, where the C library is not glibc.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    gigabyte = 1 << 30
    return bool(library.mallopt(_M_MMAP_THRESHOLD, gigabyte) and library.mallopt(_M_TRIM_THRESHOLD, 2 * gigabyte - 1))
