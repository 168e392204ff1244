"""
The C library's allocator, set for processes that move bytes in large pieces.

What passes through is read, decrypted and encrypted in pieces of up to 256 KiB, each made and freed within
a millisecond. glibc gives such a piece back to the kernel as soon as it is free, and the next one is then
paid for again, a page fault for each 4 KiB: 8,000 of them for an answer of 10 MB through the connector. How
often that happens depends on what else lies at the end of the heap, so of two processes that do the same, one
may need three times as much time as the other.

Measured for 10 MB through all three programs, CPU time of the connector: 10 to 33 ms as glibc comes, 10 ms
with these bounds.

Other libraries have no such bounds and are left alone; so is a glibc whose bounds were set from outside.
"""

import ctypes
import os
from collections.abc import Mapping
from typing import Final

from sallyport.tunnel.limits import limit

_MAPPED: Final = limit(
    1024 * 1024, "bytes",
    "from which a piece of memory is the kernel's again when it is freed; no buffer of a stream is as large",
)  # fmt: skip
_SLACK: Final = limit(
    4 * 1024 * 1024, "bytes",
    "free at the end of the heap that a process keeps for what comes next: a few buffers of a few streams",
)  # fmt: skip

# <malloc.h>
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_SETTINGS: Final = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def settle_allocator(environment: Mapping[str, str] = os.environ) -> bool:
    """
    Have the process keep the memory that it is about to need again; call it at the start.

    Args:
        environment: Where an operator may have said otherwise.

    Returns:
        Whether the C library has such bounds and took ours.
    """
    if os.name != "posix" or any(name in environment for name in _SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl, macOS
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MAPPED) and mallopt(_M_TRIM_THRESHOLD, _SLACK))
