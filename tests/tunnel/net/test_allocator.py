"""The C library's allocator is set where it can be, and only where nobody has set it."""

import ctypes
import platform
import subprocess
import sys

import pytest

from sallyport.tunnel.net.allocator import settle_allocator

_IS_GLIBC = platform.libc_ver()[0] == "glibc"

# Frees a piece at the end of the heap again and again, and counts how often its pages had to be had anew.
_CHURN = """
import resource, sys
from sallyport.tunnel.net.allocator import settle_allocator
if sys.argv[1] == "settled":
    assert settle_allocator({})
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    kept = [bytes(240 * 1024) for _ in range(3)]
    del kept
before = faults()
for _ in range(200):
    kept = [bytes(240 * 1024) for _ in range(3)]
    del kept
print(faults() - before)
"""


@pytest.mark.skipif(not _IS_GLIBC, reason="another C library has no such bounds")
def test_pieces_are_not_given_back_and_had_again() -> None:
    """Where glibc takes our bounds, a buffer that is made anew costs no page faults."""
    faults = {
        way: int(subprocess.run([sys.executable, "-c", _CHURN, way], check=True, capture_output=True).stdout)
        for way in ("as it comes", "settled")
    }
    assert faults["settled"] < 200 < faults["as it comes"]


@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_what_an_operator_set_stays(name: str) -> None:
    """Bounds that came with the environment are not touched."""
    assert not settle_allocator({name: "1"})


def test_a_library_without_bounds_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere there is nothing to set, and nothing is wrong."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert not settle_allocator({})
