"""
The process that measures: ``python -m bench.sdk.load PLAN RESULT``.

It reads which paths to call, and how much, from one JSON file and writes what it measured into another. It
is a process of its own because whoever started the paths also reads their logs, and would do so in the
load's time.
"""

import asyncio
import json
import sys
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httptools

from bench.report import say
from bench.sdk.caller import Caller, CallFailed, Era, text_of
from bench.sdk.paths import CallPath
from bench.sdk.rounds import MEASUREMENTS, Measurement, Scale, in_turn

ERAS: tuple[Era, ...] = ("legacy", "modern")
_WARM_UP = 5  # calls; connections open and code is loaded that no later call pays for
_OPEN_LIMIT = 30.0  # seconds

# Times the seconds of a measurement. A path that takes so long is so far behind that one round says it, and
# it is not asked again; nor is one that failed.
_OVERDUE = 3

# What a path that cannot do something may answer with; anything else is a mistake of the load.
_PATH_FAILURES = (CallFailed, OSError, TimeoutError, httptools.HttpParserError)


@dataclass
class Samples:
    """
    What was measured in one era.

    Attributes:
        values: One figure a round by path and metric; a path that failed at one has fewer.
        failures: Why, by path and metric.
    """

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, path: str, metric: str, value: float) -> None:
        """Keep a figure of one round."""
        self.values.setdefault(path, {}).setdefault(metric, []).append(value)

    def fail(self, path: str, metrics: Iterable[str], reason: str) -> None:
        """Keep why a path has no more figures of these metrics."""
        self.failures.setdefault(path, {}).update(dict.fromkeys(metrics, reason))


def write_plan(file: Path, paths: Sequence[CallPath], scale: Scale) -> None:
    """Write what ``main`` reads."""
    file.write_text(json.dumps({"paths": [asdict(path) for path in paths], "scale": asdict(scale)}))


def read_samples(file: Path) -> dict[Era, Samples]:
    """Read what ``main`` wrote."""
    content = json.loads(file.read_text())
    return {era: Samples(**content[era]) for era in ERAS}


async def measure(paths: Sequence[CallPath], scale: Scale) -> dict[Era, Samples]:
    """Measure all paths in both eras."""
    return {era: await _measure_era(era, paths, scale) for era in ERAS}


async def _measure_era(era: Era, paths: Sequence[CallPath], scale: Scale) -> Samples:
    samples = Samples()
    callers = [caller for path in paths if (caller := await _opened(path, era, samples)) is not None]
    overdue: set[tuple[str, Measurement]] = set()
    for number, order in in_turn(callers, scale.rounds):
        for measurement, metrics in MEASUREMENTS:
            began = time.perf_counter()
            for caller in order:
                if (caller.name, measurement) not in overdue:
                    if not await _measure_one(caller, measurement, metrics, scale, samples):
                        overdue.add((caller.name, measurement))
            say(f"{era} {number + 1}/{scale.rounds} {metrics[0]}: {time.perf_counter() - began:.1f} s")
    for caller in callers:
        caller.close()
    return samples


async def _measure_one(
    caller: Caller, measurement: Measurement, metrics: Sequence[str], scale: Scale, samples: Samples
) -> bool:
    """Measure one path once, and tell whether the next round may ask it again."""
    began = time.perf_counter()
    try:
        figures = await measurement(caller, scale)
    except* _PATH_FAILURES as errors:
        figures = {}
        samples.fail(caller.name, metrics, _first(errors))
    for metric, value in figures.items():
        samples.add(caller.name, metric, value)
    return bool(figures) and time.perf_counter() - began < _OVERDUE * scale.seconds


async def _opened(path: CallPath, era: Era, samples: Samples) -> Caller | None:
    """Return a caller that has made some calls, or None when the path cannot carry the era."""
    caller = Caller(path, era)
    try:
        async with asyncio.timeout(_OPEN_LIMIT):
            await caller.open()
            for _ in range(_WARM_UP):
                text_of(await caller.call("echo", text="warm"))
    except _PATH_FAILURES as error:
        caller.close()
        metrics = [metric for _, group in MEASUREMENTS for metric in group]
        samples.fail(path.name, metrics, _said(error))
        return None
    return caller


def _first(errors: BaseException) -> str:
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return _said(errors)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def main() -> None:
    """Measure what the plan says."""
    plan_file, result_file = map(Path, sys.argv[1:])
    plan = json.loads(plan_file.read_text())
    paths = [CallPath(**path) for path in plan["paths"]]
    samples = _run(measure(paths, Scale(**plan["scale"])))
    result_file.write_text(json.dumps({era: asdict(found) for era, found in samples.items()}))


def _run(work: "Coroutine[object, object, dict[Era, Samples]]") -> dict[Era, Samples]:
    """Run on the faster loop where it is installed, as the product does."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


if __name__ == "__main__":
    main()
