"""
A gateway of several workers is one gateway: for callers, for its operator, for whoever stops it, and when a
part of it dies.
"""

import asyncio
import os
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest

from sallyport.processes import free_port
from sallyport.tunnel.net.health_client import ask_status
from tests.harness.mcp_wire import ModernClient, expect_failure, open_stream, result_text, tool_call
from tests.harness.product import LOOPBACK, Product
from tests.harness.raw_http import Endpoint, Reply
from tests.harness.stage import Fixture, Stage, start_fixture

pytestmark = [pytest.mark.anyio, pytest.mark.platform("linux")]

_WORKERS = 3
_BOUND = 10.0  # seconds for what takes a fraction of one
_BACK = 20.0  # seconds until a worker is there again: the first pause is below half a second


@pytest.fixture
def fixture(tmp_path: Path) -> Iterator[Fixture]:
    """Run the MCP server of the tests."""
    started = start_fixture(tmp_path)
    with started.process:
        yield started


@pytest.fixture
def health() -> int:
    """Give the port of the gateway's health listener."""
    return free_port()


@pytest.fixture
def own(tmp_path: Path, fixture: Fixture, health: int) -> Iterator[Stage]:
    """Run a product of the test's own whose gateway has three workers, all with a link."""
    with Product(tmp_path / "product") as product:
        product.start_relay()
        tunnel = product.make_tunnel("acme", {"tickets": fixture.url})
        settings = {"workers": _WORKERS, "health": f"{LOOPBACK}:{health}"}
        gateway = tunnel.start_gateway(settings=settings)
        yield Stage(fixture, product, tunnel, gateway, tunnel.start_connector())


async def test_streams_are_spread_and_the_status_is_one(own: Stage, health: int) -> None:
    """Nine streams are three at each worker; calls and streams are added up, and each link has its row."""
    async with AsyncExitStack() as open_streams:
        for _ in range(3 * _WORKERS):
            await open_streams.enter_async_context(await open_stream(own.tunnel.tls_endpoint()))
        status = await _status(health)

        assert Counter(row["streams"] for row in status["workers"]) == {3: _WORKERS}
        assert {row["link"] for row in status["workers"]} == {"up"}
        assert {row["pid"] for row in status["workers"]} == set(own.gateway.tree()[1:])
        assert status["streams"] == status["callers"]["admitted"] == 3 * _WORKERS
        assert status["servers"][0]["calls"] == 3 * _WORKERS

    folder = own.tunnel.folder
    shown = own.product.run("gateway", "status", "--config", "gateway-gw1.yaml", folder=folder)
    assert f"{_WORKERS}, each with a link" in shown
    lines = own.gateway.lines()
    assert all("worker" in line for line in lines), "every line says who says it"


async def test_callers_that_come_together_are_spread(own: Stage, health: int) -> None:
    """All their hellos are read in one turn of the relay, and each goes where the fewest are by then."""
    relay = own.product.relay
    assert relay is not None
    replies: list[Reply] = []

    async def come() -> None:
        replies.append(await open_stream(own.tunnel.tls_endpoint()))

    async with anyio.create_task_group() as callers:
        os.kill(relay.pid, signal.SIGSTOP)
        for _ in range(3 * _WORKERS):
            callers.start_soon(come)
        await anyio.sleep(0.3)  # so that they are there when it goes on
        os.kill(relay.pid, signal.SIGCONT)
    status = await _status(health)

    assert Counter(row["streams"] for row in status["workers"]) == {3: _WORKERS}
    for reply in replies:
        await reply.close()


async def test_a_worker_that_dies_takes_its_own_callers_only_and_comes_back(own: Stage, health: int) -> None:
    """Its streams are cut, the others go on, new calls work at once, and soon there are three again."""
    streams = [await open_stream(own.tunnel.tls_endpoint()) for _ in range(_WORKERS)]
    victim = (await _status(health))["workers"][0]["pid"]  # the one that listens for health

    os.kill(victim, signal.SIGKILL)

    with anyio.fail_after(_BOUND):
        cut = [await _is_cut(stream) for stream in streams]
        assert sorted(cut) == [False] * (_WORKERS - 1) + [True]
        await _call(own.tunnel.tls_endpoint())
    ended = own.gateway.wait_for("worker ended", pid=victim)
    assert (ended["reason"], ended["worker"]) == ("SIGKILL", 0)
    await anyio.to_thread.run_sync(lambda: own.gateway.wait_for("link up", count=_WORKERS + 1, within=_BACK))
    status = await _status(health)
    assert [row["link"] for row in status["workers"]] == ["up"] * _WORKERS
    assert victim not in {row["pid"] for row in status["workers"]}
    for stream in streams:
        await stream.close()


async def test_the_callers_of_a_dead_worker_count_no_more(own: Stage) -> None:
    """Whoever was cut comes back at once, also before another worker is there."""
    own.gateway.stop()
    settings = {"workers": _WORKERS, "limits": {"streams_per_caller": _WORKERS}}
    gateway = await anyio.to_thread.run_sync(lambda: own.tunnel.start_gateway("gw2", settings=settings))
    streams = [await open_stream(own.tunnel.tls_endpoint()) for _ in range(_WORKERS)]
    victim = gateway.tree()[2]

    os.kill(victim, signal.SIGKILL)

    await anyio.to_thread.run_sync(lambda: gateway.wait_for("worker ended", pid=victim))
    await _call(own.tunnel.tls_endpoint())
    for stream in streams:
        await stream.close()


async def test_a_worker_that_cannot_come_back_says_why_in_the_log(own: Stage, health: int) -> None:
    """Its files were broken meanwhile: the others keep theirs, and it comes when they are right again."""
    certificate = own.tunnel.identity.gateway("gw1").certificate
    good = certificate.read_bytes()
    certificate.write_bytes(good[: len(good) // 2])

    os.kill((await _status(health))["workers"][2]["pid"], signal.SIGKILL)

    said = await anyio.to_thread.run_sync(lambda: own.gateway.wait_for("worker cannot start", within=_BACK))
    assert (said["worker"], said["level"]) == (2, "error")
    assert "gateway certificate gw1" in said["reason"]
    again = await anyio.to_thread.run_sync(
        lambda: own.gateway.wait_for("worker ended", worker=2, reason="exit status 1")
    )
    assert again["next_start_seconds"] < _BACK
    certificate.write_bytes(good)
    await anyio.to_thread.run_sync(lambda: own.gateway.wait_for("link up", count=_WORKERS + 1, within=_BACK))
    assert "error: " not in own.gateway.log


async def test_a_worker_that_hangs_is_named(own: Stage, health: int) -> None:
    """The status comes without it, and says so; the gateway is ready as long as one of them is."""
    victim = (await _status(health))["workers"][2]["pid"]
    os.kill(victim, signal.SIGSTOP)
    try:
        rows = (await _status(health, silent=1))["workers"]
        code = await anyio.to_thread.run_sync(_readiness_code, health)
        folder = own.tunnel.folder
        shown = own.product.run("gateway", "status", "--config", "gateway-gw1.yaml", folder=folder)
    finally:
        os.kill(victim, signal.SIGCONT)
    assert [row["link"] for row in rows] == ["up", "up", "silent"]
    assert code == 200
    assert "3, 2 is silent" in shown


async def test_no_worker_outlives_the_first_process(own: Stage) -> None:
    """It cannot clean up when it is killed: the kernel closes their lifeline, and a call ends soon."""
    workers = [psutil.Process(pid) for pid in own.gateway.tree()[1:]]
    assert len(workers) == _WORKERS
    stream = await open_stream(own.tunnel.tls_endpoint())

    own.gateway.kill()

    with anyio.fail_after(_BOUND):
        assert await _is_cut(stream)
    await anyio.to_thread.run_sync(_until, lambda: not any(map(_runs, workers)))


async def test_a_signal_to_all_of_them_drains(own: Stage) -> None:
    """A service manager tells every process, and the first one tells them again: calls have their time."""
    reply = await _begin_waiting(own.tunnel.tls_endpoint(), own.fixture, seconds=1.0)

    for pid in own.gateway.tree():
        os.kill(pid, signal.SIGTERM)

    async with reply:
        await reply.read_head()
        assert "result" in await reply.json()
    assert await anyio.to_thread.run_sync(own.gateway.wait) == 0
    assert len(own.gateway.events("stopped")) == _WORKERS
    assert not own.gateway.events("stopping at once")


async def test_health_answers_until_the_last_worker_has_ended(own: Stage, health: int) -> None:
    """Worker 0 has nothing to do any more, and who looks must not take the gateway for dead."""
    first = await open_stream(own.tunnel.tls_endpoint())  # at worker 0, so that the call is at another
    reply = await _begin_waiting(own.tunnel.tls_endpoint(), own.fixture, seconds=6.0)
    await first.close()

    os.kill(own.gateway.pid, signal.SIGTERM)

    await anyio.to_thread.run_sync(lambda: own.gateway.wait_for("worker 0 leaves last"))
    await anyio.to_thread.run_sync(lambda: own.gateway.wait_for("stopped"))
    rows = (await _status(health))["workers"]
    assert [row["link"] for row in rows] == ["stopping", "stopping", "not running"]
    async with reply:
        await reply.read_head()
        assert "result" in await reply.json()
    assert await anyio.to_thread.run_sync(own.gateway.wait) == 0
    assert own.gateway.events("stopped")[-1]["worker"] == 0


async def test_the_second_signal_ends_them_at_once(own: Stage) -> None:
    """The first process is told twice, and nobody waits for the call."""
    reply = await _begin_waiting(own.tunnel.tls_endpoint(), own.fixture, seconds=300.0)
    os.kill(own.gateway.pid, signal.SIGTERM)
    await anyio.to_thread.run_sync(lambda: own.gateway.wait_for("stopping", count=_WORKERS))

    os.kill(own.gateway.pid, signal.SIGINT)

    assert await anyio.to_thread.run_sync(own.gateway.wait) == 0
    assert own.gateway.events("stopping at once")
    with anyio.fail_after(_BOUND):
        await expect_failure(reply)


async def test_one_that_hangs_is_killed_in_the_end(own: Stage) -> None:
    """Two signals end the gateway, whatever a worker does."""
    os.kill(own.gateway.tree()[1], signal.SIGSTOP)
    os.kill(own.gateway.pid, signal.SIGTERM)
    await anyio.to_thread.run_sync(lambda: own.gateway.wait_for("stopped", count=_WORKERS - 1))
    os.kill(own.gateway.pid, signal.SIGTERM)

    assert await anyio.to_thread.run_sync(own.gateway.wait) == 128 + signal.SIGKILL


async def test_a_signal_while_it_starts_ends_it(own: Stage) -> None:
    """Whenever it comes, nobody is left, and nothing is called a bug."""
    config = own.tunnel.write_gateway_config("gw2", {"workers": _WORKERS})
    for _ in range(5):
        starting = own.product.start("early", "gateway", "run", "--config", config, folder=own.tunnel.folder)
        await anyio.to_thread.run_sync(starting.wait_for_child)
        tree = starting.tree()
        os.kill(starting.pid, signal.SIGTERM)
        assert await anyio.to_thread.run_sync(starting.wait) == 0, starting.log
        assert "bug" not in starting.log
        assert not [pid for pid in tree[1:] if psutil.pid_exists(pid)]


async def test_a_caller_has_one_limit_for_all_of_them(own: Stage) -> None:
    """Four connections are allowed, and three workers do not make twelve of them."""
    own.gateway.stop()
    settings = {"workers": _WORKERS, "limits": {"streams_per_caller": 4}}
    await anyio.to_thread.run_sync(lambda: own.tunnel.start_gateway("gw2", settings=settings))
    async with AsyncExitStack() as open_streams:
        for _ in range(4):
            await open_streams.enter_async_context(await open_stream(own.tunnel.tls_endpoint()))
        call = tool_call("probe_echo", {"text": "one too many"})
        for _ in range(_WORKERS):
            async with await ModernClient(own.tunnel.tls_endpoint()).post("tools/call", call) as reply:
                assert reply.status == 503


async def test_a_worker_that_is_stopped_by_hand_comes_back(own: Stage) -> None:
    """Somebody ends the wrong process: it drains, and its place is filled."""
    victim = own.gateway.tree()[2]

    os.kill(victim, signal.SIGTERM)

    ended = await anyio.to_thread.run_sync(lambda: own.gateway.wait_for("worker ended", pid=victim))
    assert ended["reason"] == "exit status 0"
    await anyio.to_thread.run_sync(lambda: own.gateway.wait_for("link up", count=_WORKERS + 1, within=_BACK))


async def test_what_forbids_the_start_is_said_once(own: Stage, health: int) -> None:
    """The health address is taken by the gateway that runs already: one error, status 1, nobody is left."""
    settings = {"workers": _WORKERS, "health": f"{LOOPBACK}:{health}"}
    config = own.tunnel.write_gateway_config("gw2", settings)
    second = own.product.start("second", "gateway", "run", "--config", config, folder=own.tunnel.folder)

    assert await anyio.to_thread.run_sync(second.wait) == 1
    assert second.log.count("error: ") == 1
    assert "the port is in use" in second.log
    assert not second.events("worker ended")


def _until(holds: Callable[[], bool]) -> None:
    """Look until something holds that nobody announces."""
    deadline = time.monotonic() + _BOUND
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _runs(process: psutil.Process) -> bool:
    """Say whether it still runs: nobody may be there to take note of its end."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def _status(health: int, *, silent: int = 0) -> dict[str, Any]:
    """Ask until no more workers than that are silent: half a second may be short on a busy machine."""
    with anyio.fail_after(_BOUND):
        while True:
            status = await anyio.to_thread.run_sync(ask_status, LOOPBACK, health)
            assert isinstance(status, dict)
            if sum(row["link"] == "silent" for row in status["workers"]) <= silent:
                return status


def _readiness_code(health: int) -> int:
    with urllib.request.urlopen(f"http://{LOOPBACK}:{health}/readyz", timeout=_BOUND) as answer:
        return int(answer.status)


async def _begin_waiting(endpoint: Endpoint, fixture: Fixture, *, seconds: float) -> Reply:
    before = await ModernClient(fixture.endpoint()).stats()
    call = tool_call("probe_sleep", {"seconds": seconds})
    reply = await ModernClient(endpoint).post("tools/call", call, wait=False)
    await ModernClient(fixture.endpoint()).wait_for("started", before["started"] + 1)
    return reply


async def _is_cut(reply: Reply) -> bool:
    """Read on for a while, and say whether the stream broke."""
    events = reply.events()
    try:
        for _ in range(20):
            await anext(events)
    except (ConnectionError, asyncio.IncompleteReadError):
        return True
    return False


async def _call(endpoint: Endpoint) -> None:
    assert result_text(await ModernClient(endpoint).call("probe_echo", text="again")) == "again"
