"""Workers tell each other how they are."""

import asyncio
import socket
from collections.abc import Iterator

import anyio
import pytest
from structlog.testing import capture_logs

from sallyport.gateway.roll_call import RollAnswer, RollCall
from sallyport.gateway.whole_status import Absence

pytestmark = pytest.mark.anyio

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    """Make the wires to two other workers."""
    made = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    for pair in made:
        for end in pair:
            end.setblocking(False)
    yield made
    for pair in made:
        for end in pair:
            end.close()


def report(number: int) -> dict[str, object]:
    """Make what a worker says."""
    return {"status": {"number": number}, "reasons": []}


def everybody(_index: int) -> bool:
    """Say that each worker runs."""
    return True


async def test_each_says_its_own(pairs: list[Pair]) -> None:
    """In the order of the wires; asked again, they say it again, and two who ask at once are both told."""
    loop = asyncio.get_running_loop()
    answers = [RollAnswer(far, lambda n=n: report(n), loop=loop) for n, (_, far) in enumerate(pairs)]
    roll = RollCall([near for near, _ in pairs], runs=everybody, loop=loop)
    heard = []

    async def ask() -> None:
        heard.append(await roll.ask())

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
        await ask()
    assert heard == [[report(0), report(1)]] * 3
    for each in (*answers, roll):
        each.close()


async def test_alone_there_is_nobody_to_ask() -> None:
    """And nothing to wait for."""
    roll = RollCall([], runs=everybody, loop=asyncio.get_running_loop())
    with anyio.fail_after(0.5):
        assert await roll.ask() == []
    roll.close()


async def test_a_silent_one_is_none_and_its_late_answer_counts_for_nothing(pairs: list[Pair]) -> None:
    """What it says when it wakes up answers the question of then, not the next one."""
    loop = asyncio.get_running_loop()
    (near_a, far_a), (near_b, far_b) = pairs
    awake = RollAnswer(far_a, lambda: report(0), loop=loop)
    roll = RollCall([near_a, near_b], runs=everybody, loop=loop)
    assert await roll.ask() == [report(0), Absence.SILENT]

    numbers = iter((1, 2))
    late = RollAnswer(far_b, lambda: report(next(numbers)), loop=loop)
    assert await roll.ask() == [report(0), report(2)]
    for each in (awake, late, roll):
        each.close()


async def test_who_has_ended_is_not_waited_for(pairs: list[Pair]) -> None:
    """Nor is anything put into its wire, which nobody reads."""
    loop = asyncio.get_running_loop()
    (near_a, far_a), (near_b, far_b) = pairs
    awake = RollAnswer(far_b, lambda: report(1), loop=loop)
    roll = RollCall([near_a, near_b], runs=lambda index: index == 2, loop=loop)
    with anyio.fail_after(0.4):  # half a second is what one that runs would be given
        assert await roll.ask() == [Absence.ENDED, report(1)]
    with pytest.raises(BlockingIOError):
        far_a.recv(1)
    awake.close()
    roll.close()


async def test_a_report_that_is_too_long_is_silence(pairs: list[Pair]) -> None:
    """The log says why."""
    loop = asyncio.get_running_loop()
    (near, far), _ = pairs
    long = RollAnswer(far, lambda: {"status": "x" * (1 << 20), "reasons": []}, loop=loop)
    roll = RollCall([near], runs=everybody, loop=loop)
    with capture_logs() as lines:
        assert await roll.ask() == [Absence.SILENT]
    assert lines[0]["event"] == "a worker cannot tell another how it is"
    for each in (long, roll):
        each.close()


async def test_an_end_stops_the_listening(pairs: list[Pair]) -> None:
    """Otherwise the loop would be told of it again and again."""
    loop = asyncio.get_running_loop()
    (near, far), (other_near, other_far) = pairs
    roll = RollCall([near], runs=everybody, loop=loop)
    answer = RollAnswer(other_far, lambda: report(1), loop=loop)
    far.close()
    other_near.close()
    assert await roll.ask() == [Absence.SILENT]
    assert not loop.remove_reader(near.fileno())
    assert not loop.remove_reader(other_far.fileno())
    answer.close()
    roll.close()
