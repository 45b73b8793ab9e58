"""The C library's memory allocator, set up for tensors that come and go at every step."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

# Names and defaults of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 * 1024, 65536


@contextlib.contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Freed memory stays with this process until the block ends. Nothing where the C library is not glibc.

    glibc maps large blocks from the system and gives them back when they are freed, so that every step pays a page fault for
    each 4 KiB of its activations: up to a tenth of a step on a CPU.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        library.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        library.mallopt(_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
        library.malloc_trim(0)
