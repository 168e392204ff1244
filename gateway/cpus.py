"""
How many CPUs this process may use.

Three things limit it: how many there are, which of them it is bound to, and how much time its control group
has (``docker run --cpus``, Kubernetes' ``limits.cpu``, systemd's ``CPUQuota``). Python knows the first two.
"""

import os
from collections.abc import Iterator
from pathlib import Path


def usable_cpus(root: Path) -> int:
    """
    Count the CPUs that this process can fill; at least 1.

    Args:
        root: Where ``/proc`` and ``/sys`` are: ``/``, but in tests.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([bound, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield how many CPUs' time this process's control group and those above it have (cgroup v2, cpu.max)."""
    try:
        membership = (root / "proc/self/cgroup").read_text()
    except OSError:
        return  # No control groups here, or none that may be looked at: nothing is known to limit it.
    path = next((line[3:] for line in membership.splitlines() if line.startswith("0::/")), None)
    if path is None:
        return
    mounted = root / "sys/fs/cgroup"
    group = mounted / path.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(mounted):
            return
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            if quota != "max":
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue  # The topmost group has no such file, nor has one without the controller.
