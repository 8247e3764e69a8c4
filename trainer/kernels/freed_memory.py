"""What the C library does with freed memory, where tensors are in main memory.

The system clears a page before a program gets it again, which takes as long as some arithmetic on
it. Kept pages can lie in gaps that no tensor fits into.
"""

import ctypes
import sys
from functools import cache

import torch

_KEPT_BYTES, _HEAP_BLOCK_BYTES = 256 << 20, 32 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_library = ctypes.CDLL(None) if sys.platform == "linux" else None
_trim = getattr(_library, "malloc_trim", None)
_set_option = getattr(_library, "mallopt", None)


def release_freed_memory() -> None:
    """Returns freed memory of the C library to the system, if tensors are in main memory.

    Micro-batches differ in shape, and each leaves gaps that the next does not fit into. At a batch
    size of 1 024, half of a step's peak memory is such gaps. One call per micro-batch costs no
    measurable time.
    """
    if _trim is not None and not torch.cuda.is_initialized():
        _trim(0)


@cache
def keep_freed_memory() -> None:
    """Lets the C library keep up to 256 MB of freed memory from now on.

    Each layer of a model frees what the next one needs.
    """
    if _set_option is not None:
        _set_option(_MMAP_THRESHOLD, _HEAP_BLOCK_BYTES)
        _set_option(_TRIM_THRESHOLD, _KEPT_BYTES)
