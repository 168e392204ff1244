"""What a worker is given; ``tests/end_to_end/test_workers.py`` has the processes."""

import os
import subprocess
import sys

import pytest

from sallyport.gateway.errors import WorkersUnavailable
from sallyport.gateway.workers import Worker, become_worker, worker_count
from sallyport.tunnel.limits import MIB

# A gateway of two workers that do nothing. At which attempt there is no process to be had, and how many
# seconds a worker takes to come up, are its arguments. The worker that comes third ends the gateway.
_BARE = """
import errno, os, random, signal, sys, time
from sallyport.gateway import workers
from sallyport.gateway.errors import CannotFork
fails, slow = int(sys.argv[1]), float(sys.argv[2])
fork, tried = os.fork, 0
def count():
    global tried
    tried += 1
    if tried == fails:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")
    return fork()
os.fork, random.random, workers._SLOW_START = count, lambda: 0.9, 0.1
try:
    worker = workers.become_worker(2)
except CannotFork as refused:
    sys.exit(str(refused))
time.sleep(slow)
worker.tell_started()
if worker.joins and tried > 2:
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
os.kill(os.getpid(), signal.SIGKILL)
"""


def bare_gateway(*, fails: int = 0, slow: float = 0.0) -> subprocess.CompletedProcess[str]:
    """Run that gateway to its end."""
    command = [sys.executable, "-c", _BARE, str(fails), str(slow)]
    plain = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=plain)


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


@pytest.mark.platform("linux")
def test_without_a_first_process_there_is_no_gateway() -> None:
    """It is an error with a reason, not a wait."""
    ended = bare_gateway(fails=1)
    assert (ended.returncode, ended.stderr) == (1, "no worker can be started: Cannot allocate memory\n")


@pytest.mark.platform("linux")
def test_memory_that_is_short_for_a_moment_does_not_end_the_gateway() -> None:
    """Both workers are dead and the third cannot be had: it is tried again, as the log says."""
    ended = bare_gateway(fails=3)
    assert ended.returncode == 0, ended.stderr
    assert "worker not started" in ended.stdout
    assert "Cannot allocate memory" in ended.stdout


@pytest.mark.platform("linux")
def test_a_worker_that_hangs_while_it_starts_is_told_of() -> None:
    """Once, by the one that waits for it."""
    assert bare_gateway(slow=0.5).stdout.count("worker 0 is not up yet") == 1
