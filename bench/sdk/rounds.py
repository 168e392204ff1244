"""
What is measured, and in which order.

A round takes one measurement after the other, each on all paths before the next begins, and the order of
the paths moves on by one from round to round: what disturbs the machine for some seconds disturbs
neighbours alike, and no path is always the first. A measurement ends after its count of calls or after its
time, whichever comes first, so that a path of half a second a call does not stretch the run to an hour.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.sdk.caller import Caller, CallFailed, text_of

P50, P99, RATE, ONE_MB, TEN_MB = "p50_ms", "p99_ms", "calls_per_s", "mb1_ms", "mb10_ms"
METRICS = (P50, P99, RATE, ONE_MB, TEN_MB)

_MB = 1_000_000
_TEXT = "a few words, as agents say them"
_FEWEST = 3  # calls of which a median can be taken, whatever the time


@dataclass(frozen=True)
class Scale:
    """
    How long a run is.

    Attributes:
        rounds: How often everything is measured.
        calls: One after the other, for the latencies.
        callers: That call at once, for the rate, and
        parallel_calls: how many calls they make together.
        large_calls: For 1 MB; a third of it, at least one, for 10 MB.
        seconds: After which a measurement begins no further call.
        call_limit: In seconds, for one call.
    """

    rounds: int
    calls: int
    callers: int
    parallel_calls: int
    large_calls: int
    seconds: float
    call_limit: float = 30.0


FULL = Scale(rounds=7, calls=300, callers=32, parallel_calls=960, large_calls=9, seconds=3.0)
QUICK = Scale(rounds=3, calls=80, callers=32, parallel_calls=256, large_calls=3, seconds=1.0)

Figures = dict[str, float]
Measurement = Callable[[Caller, Scale], Awaitable[Figures]]


async def measure_latency(caller: Caller, scale: Scale) -> Figures:
    """Call one after the other and return the median and the 99th percentile in milliseconds."""
    times = await _timed(caller, scale, scale.calls, "echo", _TEXT, text=_TEXT)
    return {P50: percentile(times, 0.50) * 1000, P99: percentile(times, 0.99) * 1000}


async def measure_rate(caller: Caller, scale: Scale) -> Figures:
    """
    Let all callers call at once and return how many calls were answered in a second.

    Each has made a call before the clock starts: servers drop idle connections after some seconds, and
    opening one, with its handshake through a tunnel, is another benchmark's row.
    """
    await _call_at_once(caller, scale, scale.callers)
    began = time.perf_counter()
    done = await _call_at_once(caller, scale, scale.parallel_calls)
    return {RATE: done / (time.perf_counter() - began)}


async def _call_at_once(caller: Caller, scale: Scale, count: int) -> int:
    """Share out some calls among all callers, one each at least, and return how many were made in time."""
    numbers = iter(range(count))
    deadline = time.perf_counter() + scale.seconds
    done = 0

    async def call_in_turn() -> None:
        nonlocal done
        for _ in numbers:
            async with asyncio.timeout(scale.call_limit):
                answer = await caller.call("echo", text=_TEXT)
            _check(text_of(answer), _TEXT)
            done += 1
            if time.perf_counter() > deadline:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(scale.callers):
            group.create_task(call_in_turn())
    return done


async def measure_one_mb(caller: Caller, scale: Scale) -> Figures:
    """Fetch results of 1 MB and return the median in milliseconds."""
    times = await _timed(caller, scale, scale.large_calls, "blob", "x" * _MB, size=_MB)
    return {ONE_MB: percentile(times, 0.50) * 1000}


async def measure_ten_mb(caller: Caller, scale: Scale) -> Figures:
    """Fetch results of 10 MB and return the median in milliseconds."""
    count = max(scale.large_calls // 3, 1)
    times = await _timed(caller, scale, count, "blob", "x" * 10 * _MB, size=10 * _MB)
    return {TEN_MB: percentile(times, 0.50) * 1000}


MEASUREMENTS: tuple[tuple[Measurement, tuple[str, ...]], ...] = (
    (measure_latency, (P50, P99)),
    (measure_rate, (RATE,)),
    (measure_one_mb, (ONE_MB,)),
    (measure_ten_mb, (TEN_MB,)),
)


def in_turn(callers: Sequence[Caller], rounds: int) -> Iterator[tuple[int, Sequence[Caller]]]:
    """Yield the number of each round and the order of its callers."""
    for number in range(rounds):
        shift = number % len(callers)
        yield number, [*callers[shift:], *callers[:shift]]


def percentile(times: Sequence[float], share: float) -> float:
    """Return the smallest of some times that this share of them does not exceed."""
    ordered = sorted(times)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


async def _timed(
    caller: Caller, scale: Scale, count: int, tool: str, expected: str, **arguments: object
) -> list[float]:
    """Call one after the other; an answer is read after its time was taken."""
    times: list[float] = []
    deadline = time.perf_counter() + scale.seconds
    while len(times) < count and (len(times) < min(_FEWEST, count) or time.perf_counter() < deadline):
        async with asyncio.timeout(scale.call_limit):
            began = time.perf_counter()
            answer = await caller.call(tool, **arguments)
            times.append(time.perf_counter() - began)
        _check(text_of(answer), expected)
    return times


def _check(text: str, expected: str) -> None:
    if text != expected:
        raise CallFailed(f"answered a text of {len(text)} bytes, {text[:40]!r}, not the one asked for")
