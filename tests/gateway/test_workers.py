"""What a worker is given; ``tests/end_to_end/test_workers.py`` has the processes."""

import sys

import pytest

from sallyport.config.gateway import GatewayLimits
from sallyport.gateway.errors import WorkersUnavailable
from sallyport.gateway.workers import Worker, become_worker, worker_count


def test_one_worker_is_this_process() -> None:
    """Nobody looks after it, and it has everything."""
    alone = become_worker(1)
    assert (alone.index, alone.count, alone.lifeline, alone.wires) == (0, 1, None, ())
    assert alone.share_of(GatewayLimits()) == GatewayLimits()
    assert alone.boot_id != become_worker(1).boot_id
    alone.tell_started()


def test_limits_of_the_gateway_are_shared_out() -> None:
    """Memory is never more in all than was allowed; a caller may have at least one connection at each."""
    limits = GatewayLimits(memory=1000, streams_per_caller=2, streams_per_link=7)
    share = Worker(index=1, count=3).share_of(limits)
    assert (share.memory, share.streams_per_caller, share.streams_per_link) == (333, 1, 7)


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
        assert worker_count(None) == workers


def test_elsewhere_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for and cannot be had is refused, not ignored."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert worker_count(None) == 1
    assert worker_count(1) == 1
    with pytest.raises(WorkersUnavailable, match="the config wants 2 workers"):
        worker_count(2)
