"""
What stands in another process's memory, as root on the same machine reads it (proc(5)).

Read are all writable mappings, file-backed ones and the stack included, and all anonymous ones: a thing that
the process holds cannot be elsewhere. Mappings come and go while they are read; one that is gone is skipped.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.harness.canaries import OVERLAP

_PIECE = 8 << 20


@dataclass(frozen=True)
class Mapping:
    """One line of ``/proc/PID/maps``."""

    start: int
    end: int
    permissions: str
    name: str

    @property
    def is_searched(self) -> bool:
        """Whether data of the process can be in it."""
        if "r" not in self.permissions or self.name in ("[vvar]", "[vvar_vclock]", "[vsyscall]", "[vdso]"):
            return False
        return "w" in self.permissions or not self.name


def read_memory(pid: int) -> Iterator[bytes]:
    """Yield the memory of a process in pieces that overlap by ``OVERLAP`` bytes."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for mapping in _mappings(pid):
            if mapping.is_searched:
                yield from _read_mapping(memory.fileno(), mapping)


def _read_mapping(memory: int, mapping: Mapping) -> Iterator[bytes]:
    at = mapping.start
    while at < mapping.end:
        try:
            piece = os.pread(memory, min(_PIECE, mapping.end - at), at)
        except OSError:
            return
        if not piece:
            return
        yield piece
        at += max(len(piece) - OVERLAP, 1) if at + len(piece) < mapping.end else len(piece)


def _mappings(pid: int) -> Iterator[Mapping]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, permissions, _, _, _, *name = line.split(maxsplit=5)
        start, _, end = span.partition("-")
        yield Mapping(int(start, 16), int(end, 16), permissions, name[0] if name else "")
