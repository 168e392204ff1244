"""How many CPUs a process may use, as its control group says."""

import os
from pathlib import Path

import pytest

from sallyport.gateway.cpus import usable_cpus

BOUND = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(root: Path, membership: str, **quotas: str) -> Path:
    """Make a tree with the control group of this process, and ``cpu.max`` of groups by their folder."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for folder, quota in quotas.items():
        group = root / "sys/fs/cgroup" / folder.replace("__", "/")
        group.mkdir(parents=True, exist_ok=True)
        (group / "cpu.max").write_text(quota)
    return root


def test_without_control_groups_all_cpus_count(tmp_path: Path) -> None:
    """Those that the process is bound to."""
    assert usable_cpus(tmp_path) == BOUND


@pytest.mark.parametrize(
    ("quota", "found"),
    [
        ("max 100000", BOUND),
        ("50000 100000", 1),  # half a CPU is still one worker
        ("100000 100000", 1),
        ("199999 100000", 1),  # a second worker would wait for its time half of the time
        ("6400000 100000", BOUND),
    ],
)
def test_a_quota_bounds_them(tmp_path: Path, quota: str, found: int) -> None:
    """``docker run --cpus`` and ``limits.cpu``: the group is the topmost one that the container sees."""
    assert usable_cpus(machine(tmp_path, "0::/\n", **{".": quota})) == found


def test_the_quota_of_a_group_above_counts(tmp_path: Path) -> None:
    """A slice of systemd's, with the service in it."""
    root = machine(
        tmp_path, "0::/a.slice/b.service\n", a__slice="max 100000", **{"a.slice": "100000 100000"}
    )
    assert usable_cpus(root) == 1


def test_version_one_says_nothing(tmp_path: Path) -> None:
    """Its lines have controllers in the middle; nothing is read there."""
    assert usable_cpus(machine(tmp_path, "4:cpu,cpuacct:/docker/x\n", **{".": "100000 100000"})) == BOUND
