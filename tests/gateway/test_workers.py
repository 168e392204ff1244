"""What a worker is given; ``tests/end_to_end/test_workers.py`` has the processes."""

import sys

import pytest

from sallyport.gateway.errors import WorkersUnavailable
from sallyport.gateway.workers import Worker, become_worker, worker_count
from sallyport.tunnel.limits import MIB


def test_one_worker_is_this_process() -> None:
    """Nobody looks after it, and it has everything."""
    alone = become_worker(1)
    assert (alone.index, alone.count, alone.lifeline, alone.wires) == (0, 1, None, ())
    assert alone.share_of(64 * MIB) == 64 * MIB
    assert alone.shared_counts is None
    assert alone.boot_id != become_worker(1).boot_id
    alone.tell_started()


def test_memory_is_shared_out() -> None:
    """It is never more in all than was allowed."""
    assert Worker(index=1, count=3).share_of(1000) == 333


def test_a_number_is_taken_as_it_is() -> None:
    """More than there are CPUs, too."""
    assert worker_count(1) == 1
    if sys.platform == "linux":
        assert worker_count(16) == 16


def test_automatic_is_one_for_each_cpu_up_to_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs memory, and a gateway that needs more says so."""
    monkeypatch.setattr(sys, "platform", "linux")
    for cpus, workers in ((1, 1), (2, 2), (4, 4), (64, 4)):
        monkeypatch.setattr("sallyport.gateway.workers.usable_cpus", lambda _root, cpus=cpus: cpus)
        assert worker_count("auto") == workers


def test_elsewhere_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for and cannot be had is refused, not ignored."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert worker_count("auto") == 1
    assert worker_count(1) == 1
    with pytest.raises(WorkersUnavailable, match="the config wants 2 workers"):
        worker_count(2)
