"""
``make leaks``: ten thousand streams leave nothing behind, and callers that stop cost what is stated.

Three parts, each with processes of its own:

* *Churn.* After a warm-up of the same kind, 10,000 visits to the tunnel, by TLS straight to the relay: calls,
  and every way of leaving early. Tasks, descriptors, streams, links and memory must be where they were, ±5 %.
* *Stalls.* 1 and 200 callers that read nothing of 64 MiB, or send 64 MiB to a server that reads nothing; and
  2,000, of which the cost is only reported. RSS may grow by what SPEC.md §7 states. Twenty callers make small
  calls meanwhile and one a large download: all must finish.
* *Slow consumers.* 200 callers that stopped are left alone under the default budget, and ended by the rule of
  a minute where they fill more than half of a small one, until half of it is free.

    python -m bench.leaks [--quick]
"""

import argparse
import asyncio
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from bench.report import finish, say
from sallyport.tunnel.limits import INITIAL_WINDOW, KIB, MEMORY_BUDGET, MIB, SLOW_CONSUMER_AFTER
from tests.harness.churn import Churn
from tests.harness.process_figures import Holdings
from tests.harness.reservoir_stage import ReservoirStage, reservoir_stage
from tests.harness.stalls import LARGE, Cost, Direction, Latencies, go_on, measure_stall, stalled

_TOLERANCE: Final = 0.05
_STALLED: Final = 200
_OTHERS: Final = 20
_SMALL_BUDGET: Final = 16 * MIB  # 200 windows of 64 KiB are more than half of it, and less than the whole
_ENDED_WITHIN: Final = SLOW_CONSUMER_AFTER + 15.0  # seconds, from the stall
# SPEC.md §7: what waits to be sent on a stream, and one more read of its source.
_UNSENT: Final = 64 * KIB + 256 * KIB
_DIRECTIONS: Final[tuple[Direction, ...]] = ("download", "upload")


@dataclass
class Verdict:
    """What was found; ``problems`` is empty when every gate held."""

    problems: list[str] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    line: list[str] = field(default_factory=list)


def main() -> int:
    """Run the parts, print what is wrong, and return the exit code."""
    parser = argparse.ArgumentParser(description="what streams leave behind, and what stopped callers cost")
    parser.add_argument("--quick", action="store_true", help="fewer visits, and no 2,000 stopped callers")
    arguments = parser.parse_args()
    verdict = Verdict()
    with tempfile.TemporaryDirectory(prefix="sallyport-leaks-") as folder:
        asyncio.run(_run(Path(folder), verdict, quick=arguments.quick))
    for problem in verdict.problems:
        say(f"WRONG {problem}")
    return finish("leaks", "; ".join(verdict.line), verdict.facts, ok=not verdict.problems)


async def _run(folder: Path, verdict: Verdict, *, quick: bool) -> None:
    visits, warm_up = (2_000, 1_000) if quick else (10_000, 2_000)
    async with reservoir_stage(folder / "churn") as stage:
        await _churn(stage, verdict, warm_up=warm_up, visits=visits)
    counts = [1, _STALLED] if quick else [1, _STALLED, 10 * _STALLED]
    costs: list[dict[str, object]] = []
    for with_connector in (False, True):
        for direction in _DIRECTIONS:
            name = f"{direction}-{with_connector}"
            async with reservoir_stage(folder / name, with_connector=with_connector) as stage:
                await _stalls(stage, direction, counts[:2] if with_connector else counts, verdict, costs)
    verdict.facts["stalls"] = costs
    await _slow_consumers(folder, verdict)


# Churn


async def _churn(stage: ReservoirStage, verdict: Verdict, *, warm_up: int, visits: int) -> None:
    churn = Churn(stage.tunnel)
    await churn.run(warm_up)
    before = await stage.settle()
    churn.done.clear()
    await churn.run(visits)
    after = await stage.settle(like=before)
    worst = 0.0
    for subject, then, now in zip(stage.subjects, before, after, strict=True):
        growth = now.growth_from(then)
        say(f"churn, {subject.name}: " + ", ".join(f"{name} {part:+.1%}" for name, part in growth.items()))
        # Memory that shrank was the warm-up's; a count that shrank is a mistake like one that grew.
        wrong = {name: part for name, part in growth.items() if part > _TOLERANCE or _is_odd(name, part)}
        verdict.problems += [f"{subject.name}: {name} {part:+.1%}" for name, part in wrong.items()]
        worst = max(worst, growth["resident"])
    verdict.problems += [f"{count} × {what}" for what, count in churn.failed.items()]
    verdict.facts["churn"] = {
        "warm_up": warm_up,
        "visits": dict(churn.done),
        "failed": dict(churn.failed),
        "before": _by_name(stage, before),
        "after": _by_name(stage, after),
    }
    held = ", ".join(
        f"{subject.name} {now.descriptors} descriptors, {now.tasks} tasks, {now.streams} streams"
        for subject, now in zip(stage.subjects, after, strict=True)
    )
    verdict.line.append(f"{churn.done.total():,} streams: {held}, RSS at most {worst:+.1%}")


def _is_odd(name: str, part: float) -> bool:
    return name not in ("resident", "private") and part < -_TOLERANCE


def _by_name(stage: ReservoirStage, holdings: list[Holdings]) -> dict[str, dict[str, int]]:
    return {subject.name: now.as_dict() for subject, now in zip(stage.subjects, holdings, strict=True)}


# Stalls


async def _stalls(
    stage: ReservoirStage,
    direction: Direction,
    counts: list[int],
    verdict: Verdict,
    costs: list[dict[str, object]],
) -> None:
    alone = await go_on(stage.endpoint, callers=_OTHERS)
    before = await stage.settle()
    way = "connector" if stage.has_connector else "TLS"
    for count in counts:
        others = _OTHERS if count <= _STALLED else 0
        cost = await _measured(stage, direction, count, verdict, before=before, others=others)
        if cost is None:
            return
        stage.reservoir.hang_up()
        left = await stage.settle()
        bound = MEMORY_BUDGET + count * (INITIAL_WINDOW + _UNSENT)
        for name, growth in cost.growth.items():
            each = f"{growth / count / KIB:,.0f} KiB each, " if count > 1 else ""
            say(f"{count} stopped in {direction} by {way}, {name}: {growth / MIB:+.1f} MiB, {each}"
                f"budget counts {cost.charged[name] / MIB:.1f}")  # fmt: skip
            if growth > bound and count <= _STALLED:
                verdict.problems.append(
                    f"{name} grew by {growth} bytes for {count} stopped in {direction}, bound {bound}"
                )
        if cost.refused:
            say(f"   {cost.refused} of them turned away")
            if count <= _STALLED:
                verdict.problems.append(f"{cost.refused} of {count} stopped callers were turned away")
        if cost.beside is not None:
            say(f"   beside them: {_shown(cost.beside)}; without: {_shown(alone)}")
        open_streams = max(now.streams for now in left)
        if open_streams and not stage.has_connector:
            verdict.problems.append(f"{open_streams} streams stayed after {direction}s by {way}")
        costs.append(
            {
                "way": way,
                **asdict(cost),
                "bound": bound,
                "alone": asdict(alone),
                "left": _by_name(stage, left),
            }
        )
        if count == _STALLED:
            grown = "/".join(f"{growth / MIB:.0f}" for growth in cost.growth.values())
            verdict.line.append(f"{count} stopped {direction}s by {way} {grown} of {bound / MIB:.0f} MiB")


async def _measured(
    stage: ReservoirStage,
    direction: Direction,
    count: int,
    verdict: Verdict,
    *,
    before: list[Holdings],
    others: int,
) -> Cost | None:
    try:
        # So many large ones would fill the kernel's memory for TCP and measure that.
        size = LARGE if count <= _STALLED else MIB
        return await measure_stall(stage, direction, count, before=before, others=others, size=size)
    except* (TimeoutError, OSError, EOFError) as failures:
        reasons = {f"{type(error).__name__} {error}" for error in failures.exceptions}
        verdict.problems.append(f"beside {count} stopped in {direction}: {'; '.join(sorted(reasons))}")
    return None


def _shown(seen: Latencies) -> str:
    return (
        f"{seen.calls} calls, p50 {seen.p50_ms} ms, p99 {seen.p99_ms} ms, "
        f"worst caller {seen.slowest_caller_ms} ms, download {seen.bulk_mib_per_second} MiB/s"
    )


# Slow consumers


async def _slow_consumers(folder: Path, verdict: Verdict) -> None:
    """Let both budgets be stalled for more than a minute, side by side."""
    async with (
        reservoir_stage(folder / "default") as default,
        reservoir_stage(folder / "small", relay_limits={"memory": f"{_SMALL_BUDGET // MIB}MiB"}) as small,
        stalled(default.endpoint, "download", _STALLED),
        stalled(small.endpoint, "download", _STALLED),
    ):
        say(f"{_STALLED} stopped under each of two budgets, for {_ENDED_WITHIN:.0f} s")
        await asyncio.sleep(_ENDED_WITHIN)
        left_alone, ended = _slow_count(default), _slow_count(small)
        used = (await small.relay.holdings()).charged
        beside = [await go_on(stage.endpoint, callers=_OTHERS) for stage in (default, small)]
    if left_alone:
        verdict.problems.append(f"{left_alone} slow consumers were ended under the default budget")
    if not ended:
        verdict.problems.append("no slow consumer was ended under the small budget")
    if used > _SMALL_BUDGET // 2:
        verdict.problems.append(f"{used} bytes of the small budget are used after the rule of a minute")
    verdict.facts["slow_consumers"] = {
        "stopped": _STALLED,
        "default_budget": {"ended": left_alone, "beside": asdict(beside[0])},
        "small_budget": {
            "bytes": _SMALL_BUDGET,
            "ended": ended,
            "used_afterwards": used,
            "beside": asdict(beside[1]),
        },
    }
    verdict.line.append(
        f"slow consumers ended: {left_alone} under 64 MiB, {ended} of {_STALLED} under "
        f"{_SMALL_BUDGET // MIB} MiB"
    )


def _slow_count(stage: ReservoirStage) -> int:
    return len(stage.relay.process.events("stream", outcome="reset:slow_consumer"))


if __name__ == "__main__":
    sys.exit(main())
