"""
What ``sallyport bench`` does, step by step, in half a minute at most.

1. Each way is tried once, so that what does not work at all is said at once (``prepare``).
2. New connections, a few on each way, one after the other.
3. Single calls: one caller, the ways by turns call for call, each round beginning with another.
4. Calls of all callers at once: the ways by turns, a second each, twice.
5. Bulk, on the tunnel alone: a server is not asked to move bytes, but the gateway's yardstick is.

Every step ends after its share of the time, however slow the path. What was measured is in ``Findings`` as
soon as it is known, so whoever interrupts has it.
"""

import contextlib
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from sallyport.bench_figures import Bulk, Findings, Samples, Way, next_size
from sallyport.bench_lines import Line, Talker
from sallyport.bench_mcp import (
    Place,
    Session,
    discover,
    initialize,
    is_of_another_era,
    result_of,
    unusable,
)
from sallyport.bench_probe import Reply, Request
from sallyport.connector.errors import ConnectorError
from sallyport.errors import CommandError, MeasurementFailed
from sallyport.gateway.errors import GatewayError
from sallyport.tunnel.errors import TunnelError

_CONNECTIONS: Final = 10  # new ones on each way
_CONNECTIONS_FOR: Final = 3.0  # seconds, for all ways
_WARMING: Final = 5  # calls on a new connection that are not counted
_ALONE_FOR: Final = 10.0  # seconds, for all ways
_TOGETHER_ROUNDS: Final = 2
_TOGETHER_FOR: Final = 1.0  # seconds, for each way in each round
_OPENED_AT_ONCE: Final = 16  # connections
_BULK_FOR: Final = 2.0  # seconds, each direction
_BULK_FIRST: Final = 256 * 1024  # bytes
_BULK_MOST: Final = 16 * 1024 * 1024  # bytes; what a gateway lets one measurement move
_GOODBYE_WITHIN: Final = 2.0  # seconds

_FAILURES: Final = (CommandError, ConnectorError, GatewayError, TunnelError, OSError)
_MANY: Final = 10**9  # calls: time ends them

_Ask = Callable[[Talker, int], Awaitable[None]]

Progress = Callable[[str, float], None]
"""Told what is being done, and which part of the whole is behind: 0 to 1."""


@dataclass(frozen=True, slots=True)
class Course:
    """One way, tried: what is asked there again and again, and the session that it is asked in."""

    way: Way
    line: Line
    request: Request
    session_end: Request | None = None


async def prepare_tunnel(line: Line, canary: Place) -> Course:
    """
    Try the tunnel itself, with one call that the gateway answers.

    Raises:
        MeasurementFailed, ConnectorError: It does not get through.
    """
    request = canary.get()
    with contextlib.closing(Talker(line, [])) as talker:
        reply = await talker.ask(request)
    if reply.status != 200:
        raise MeasurementFailed(f"{line.what} answered its own canary call {reply.status}")
    return Course(Way.TUNNEL, line, request)


async def prepare_server(way: Way, line: Line, place: Place) -> Course:
    """
    Find the harmless request that a server answers; see ``bench_mcp``.

    Raises:
        MeasurementFailed, ConnectorError, GatewayError: It answers none.
    """
    with contextlib.closing(Talker(line, [])) as talker:
        request = discover(place)
        reply = await talker.ask(request)
        if not is_of_another_era(reply):
            _check(line, reply)
            return Course(way, line, request)
        reply = await talker.ask(initialize(place))
        _check(line, reply)
        session = Session.opened_by(reply)
        await talker.ask(session.initialized(place))
        request = session.ping(place)
        _check(line, await talker.ask(request))
        return Course(way, line, request, session.end(place) if session.is_kept else None)


def _check(line: Line, reply: Reply) -> None:
    """Demand an MCP result; anything but status 200 has none."""
    try:
        result_of(reply)
    except ValueError as found:
        raise unusable(line.what, reply, found) from found


class Measuring:
    """
    Measures courses.

    Args:
        courses: The tunnel's first.
        canary: The gateway's own place.
        calls: Single calls on each way.
        findings: Where the figures go.
        progress: Told how far it is.
        clock: Seconds, finer than a call.
    """

    def __init__(
        self,
        courses: Sequence[Course],
        canary: Place,
        *,
        calls: int,
        findings: Findings,
        progress: Progress,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._courses = courses
        self._canary = canary
        self._calls = calls
        self._findings = findings
        self._progress = progress
        self._clock = clock
        findings.ways.update({course.way: Samples() for course in courses})

    async def run(self) -> None:
        """
        Take every step, and give back what servers keep for it.

        Raises:
            MeasurementFailed, ConnectorError, GatewayError: Something stopped answering.
        """
        try:
            await self._measure_connections()
            await self._measure_alone()
            await self._measure_together()
            await self._measure_bulk()
        finally:
            await self._say_goodbye()

    async def _measure_connections(self) -> None:
        until = self._clock() + _CONNECTIONS_FOR
        for number in range(_CONNECTIONS):
            for course in self._turn(number):
                with contextlib.closing(self._talker(course, [])) as talker:
                    self._samples(course).connections.append(await talker.connect())
            self._progress("new connections", 0.05 * (number + 1) / _CONNECTIONS)
            if self._clock() > until:
                return

    async def _measure_alone(self) -> None:
        with contextlib.ExitStack() as stack:
            talkers = {}
            for course in self._courses:
                talker = stack.enter_context(contextlib.closing(self._talker(course, [])))
                await self._ask(course, talker, calls=_WARMING)
                talker.seconds = self._samples(course).alone
                talkers[course.way] = talker
            started = self._clock()
            for number in range(self._calls):
                for course in self._turn(number):
                    await self._ask(course, talkers[course.way])
                spent = (self._clock() - started) / _ALONE_FOR
                self._progress("single calls", 0.05 + 0.45 * max((number + 1) / self._calls, min(spent, 1.0)))
                if spent >= 1:
                    return

    async def _measure_together(self) -> None:
        blocks = _TOGETHER_ROUNDS * len(self._courses)
        for number in range(blocks):
            course = self._courses[number % len(self._courses)]
            self._progress(f"{self._findings.callers} callers at once", 0.5 + 0.25 * number / blocks)
            await self._measure_block(course)

    async def _measure_block(self, course: Course) -> None:
        """Have all callers call at once for a while, on connections that were made before."""
        samples = self._samples(course)
        with contextlib.ExitStack() as stack:
            talkers = [
                stack.enter_context(contextlib.closing(self._talker(course, [])))
                for _ in range(self._findings.callers)
            ]
            places = anyio.CapacityLimiter(_OPENED_AT_ONCE)

            async def open_one(talker: Talker) -> None:
                async with places:
                    await self._ask(course, talker)
                talker.seconds = samples.together

            async with anyio.create_task_group() as opening:
                for talker in talkers:
                    opening.start_soon(open_one, talker)
            started = self._clock()
            until = started + _TOGETHER_FOR
            async with anyio.create_task_group() as calling:
                for talker in talkers:
                    calling.start_soon(self._keep_asking, course, talker, until)
            samples.together_for += self._clock() - started

    async def _keep_asking(self, course: Course, talker: Talker, until: float) -> None:
        while self._clock() < until:
            # It returns before its time only where the server closes connections between calls.
            await self._ask(course, talker, calls=_MANY, until=until)

    async def _measure_bulk(self) -> None:
        line = self._courses[0].line
        with contextlib.closing(Talker(line, [], clock=self._clock)) as talker:
            try:
                self._progress("bytes down", 0.75)
                await self._move(talker, self._findings.down, self._ask_down)
                self._progress("bytes up", 0.88)
                await self._move(talker, self._findings.up, self._ask_up)
            except CommandError as error:
                # The rest stands without it: an older gateway, or a path that is slower than our patience.
                self._findings.no_bulk = str(error)
        self._progress("done", 1.0)

    async def _move(self, talker: Talker, bulk: Bulk, ask: _Ask) -> None:
        """Move more and more at a time, and count what moved at the largest size."""
        size, until = _BULK_FIRST, self._clock() + _BULK_FOR
        while True:
            talker.seconds = []
            await ask(talker, size)
            (seconds,) = talker.seconds
            bulk.bytes += size
            bulk.seconds += seconds
            if self._clock() >= until:
                return
            larger = next_size(size, seconds, _BULK_MOST)
            if larger > size:
                size, bulk.bytes, bulk.seconds = larger, 0, 0.0

    async def _ask_down(self, talker: Talker, size: int) -> None:
        reply = await talker.ask(self._canary.get(b"?bytes=%d" % size))
        _check_measured(reply, reply.size == size)

    async def _ask_up(self, talker: Talker, size: int) -> None:
        reply = await talker.ask(self._canary.upload(size))
        _check_measured(reply, _received(reply) == size)

    async def _ask(self, course: Course, talker: Talker, *, calls: int = 1, until: float = math.inf) -> None:
        reply = await talker.ask(course.request, calls=calls, until=until)
        if reply.status != 200:
            _check(course.line, reply)

    async def _say_goodbye(self) -> None:
        """End the sessions that servers keep; they end by themselves where this comes too late."""
        with anyio.move_on_after(_GOODBYE_WITHIN, shield=True):
            for course in self._courses:
                if course.session_end is not None:
                    with contextlib.closing(Talker(course.line, [])) as talker:
                        # What is wrong with that way was said, or is no matter of the figures.
                        with contextlib.suppress(*_FAILURES):
                            await talker.ask(course.session_end)

    def _turn(self, number: int) -> Sequence[Course]:
        """Return the courses, each round beginning with another: none has the better place."""
        first = number % len(self._courses)
        return [*self._courses[first:], *self._courses[:first]]

    def _talker(self, course: Course, seconds: list[float]) -> Talker:
        return Talker(course.line, seconds, clock=self._clock)

    def _samples(self, course: Course) -> Samples:
        return self._findings.ways[course.way]


def _check_measured(reply: Reply, is_whole: bool) -> None:
    if reply.status == 200 and not is_whole:
        raise MeasurementFailed("this gateway does not measure yet: it is of an older version")
    if reply.status != 200:
        try:
            result_of(reply)
        except ValueError as found:
            raise MeasurementFailed(f"the gateway answered {found}") from found


def _received(reply: Reply) -> int | None:
    try:
        answer = json.loads(reply.body)
    except ValueError:
        return None
    return answer.get("received") if isinstance(answer, dict) else None
