"""
What the processes of a tunnel use: CPU time and memory, with all that they started.
"""

from collections.abc import Sequence
from pathlib import Path

import psutil


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the user and system time that these processes and those below them have used so far."""
    times = [process.cpu_times() for process in _trees(pids)]
    return float(sum(each.user + each.system for each in times))


def memory_kib(pids: Sequence[int]) -> float:
    """
    Return the memory of these processes and those below them.

    It is the proportional set size, so that a library that two of them share counts once.
    """
    return sum(_proportional_kib(process.pid) for process in _trees(pids))


def _trees(pids: Sequence[int]) -> list[psutil.Process]:
    # Through the ids, because a system may name a parent and its child both.
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            found[each.pid] = each
    return list(found.values())


def _proportional_kib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1])
    raise ValueError(f"no Pss in /proc/{pid}/smaps_rollup")
