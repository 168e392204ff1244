"""The benchmark behind an SDK server: its parts, in miniature, against the real server."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.sdk.caller import Caller, CallFailed, Era, text_of
from bench.sdk.http_client import ConnectionLost, HttpClient
from bench.sdk.load import ERAS, measure, read_samples, write_plan
from bench.sdk.paths import DIRECT, LOOPBACK, CallPath, plain_path, running_server
from bench.sdk.proxies import Proxy, running_proxy
from bench.sdk.rounds import METRICS, Scale, in_turn
from sallyport.processes import free_port
from tests.harness.child_process import CHECKOUT, ChildProcess, NotReached

pytestmark = pytest.mark.anyio

_TINY = Scale(rounds=2, calls=4, callers=3, parallel_calls=6, large_calls=1, seconds=5)


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CallPath]:
    """Run the server of the benchmark."""
    with running_server(tmp_path_factory.mktemp("server")) as path:
        yield path


@pytest.mark.parametrize("era", ERAS)
async def test_both_eras_call_both_tools(direct: CallPath, era: Era) -> None:
    """The server answers the load's requests in each era, small and large."""
    caller = Caller(direct, era)
    await caller.open()
    assert text_of(await caller.call("echo", text="héllo")) == "héllo"
    assert len(text_of(await caller.call("blob", size=1_000_000))) == 1_000_000
    caller.close()


@pytest.mark.parametrize("era", ERAS)
async def test_an_error_is_no_answer(direct: CallPath, era: Era) -> None:
    """A tool that does not exist is a failure, not a fast call."""
    caller = Caller(direct, era)
    await caller.open()
    answer = await caller.call("nothing", text="")
    with pytest.raises(CallFailed):
        text_of(answer)
    caller.close()


async def test_a_round_measures_all_and_says_what_failed(direct: CallPath) -> None:
    """A path that works has a figure a round for every metric, one that refuses has a reason for each."""
    closed = plain_path("closed", "nobody listens", free_port())
    for samples in (await measure([direct, closed], _TINY)).values():
        counts = {metric: len(values) for metric, values in samples.values[DIRECT].items()}
        assert counts == dict.fromkeys(METRICS, _TINY.rounds)
        assert set(samples.failures) == {"closed"}
        assert set(samples.failures["closed"]) == set(METRICS)


def test_the_load_is_a_process_that_takes_a_plan(direct: CallPath, tmp_path: Path) -> None:
    """What is written for the load is what it measures, and what it writes can be read."""
    plan, result = tmp_path / "plan.json", tmp_path / "result.json"
    write_plan(plan, [direct], _TINY)
    command = [sys.executable, "-m", "bench.sdk.load", plan, result]
    with ChildProcess("load", command, folder=tmp_path, environment={"PYTHONPATH": str(CHECKOUT)}) as load:
        assert load.wait(within=50) == 0, load.log
    samples = read_samples(result)
    assert list(samples) == list(ERAS)
    assert all(list(found.values) == [DIRECT] for found in samples.values())


async def test_a_kept_connection_that_was_closed_is_replaced() -> None:
    """A server may drop an idle connection, and the next request goes on a new one."""
    served = 0

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer_once, LOOPBACK, 0) as server:
        client = HttpClient(LOOPBACK, server.sockets[0].getsockname()[1])
        for _ in range(3):
            assert (await client.exchange(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")).body == b"ok"
        client.close()
    assert served == 3


async def test_a_body_that_is_cut_off_is_no_answer() -> None:
    """An answer that ends before its length is a failure, and is not asked for again."""
    served = 0

    async def cut_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(cut_off, LOOPBACK, 0) as server:
        client = HttpClient(LOOPBACK, server.sockets[0].getsockname()[1])
        with pytest.raises(ConnectionLost) as caught:
            await client.exchange(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    assert caught.value.had_begun
    assert served == 1


def test_every_path_is_first_in_turn() -> None:
    """The order moves on by one from round to round."""
    callers = [Caller(plain_path(name, "", 1), "modern") for name in "abc"]
    firsts = [order[0].name for _, order in in_turn(callers, 4)]
    assert firsts == ["a", "b", "c", "a"]


def test_a_proxy_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    """A program that ends at once is a failure with what it said."""
    program = "import sys; sys.exit('no such option')"
    proxy = Proxy("broken", "", lambda port, upstream: [sys.executable, "-c", program])
    with pytest.raises(NotReached, match="no such option"), running_proxy(proxy, tmp_path, "http://nowhere"):
        raise AssertionError("it came up")
