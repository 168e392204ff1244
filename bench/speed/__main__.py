"""
``make bench``: ours and the peers side by side; see ``bench/README.md``.

    python -m bench.speed [--quick] [--rounds N] [--only workload,…] [--systems a,b]

The exit code is 1 when a gate is missed, and 2 when the load itself cannot be made on this machine.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeVar

from bench.report import say
from bench.speed import install, report, upstream
from bench.speed.gates import is_compared, judge
from bench.speed.load.programs import LoadProgram
from bench.speed.picture import draw
from bench.speed.rounds import Samples, contestants, run_rounds
from bench.speed.system import System
from bench.speed.systems import all_systems
from bench.speed.workloads import WORKLOADS
from bench.speed.workloads.workload import FULL, QUICK, Workload

_ROUNDS = 5
_VARIANTS = ("sallyport-fallback", "frp-nomux")  # left out of --quick: each second counts there
_START_LIMIT = 20.0  # seconds


def main() -> int:
    """Run what the arguments ask for, write the results, and return the exit code."""
    # By default this signal ends the interpreter on the spot, and every process under test would stay.
    signal.signal(signal.SIGTERM, _end)
    every_system = all_systems()
    arguments = _arguments(every_system)
    lacking = _lacking()
    if lacking:
        say(f"bench: {lacking}")
        return 2
    workloads = _chosen(WORKLOADS, arguments.only)
    if arguments.quick and not arguments.only:
        workloads = [workload for workload in workloads if workload.quick]
    systems = _chosen(every_system, arguments.systems)
    if arguments.quick and not arguments.systems:
        systems = [system for system in systems if system.name not in _VARIANTS]
    rounds = arguments.rounds or (1 if arguments.quick else _ROUNDS)
    missing = {system.name: reason for system in systems if (reason := system.missing())}
    for name, reason in missing.items():
        say(f"MISSING {name}: {reason}")
    present = [system for system in systems if system.name not in missing]
    began = time.monotonic()
    # Whoever names what he wants has asked for it in every round.
    in_every_round = _always if arguments.only or arguments.systems else is_compared
    samples = _measure(present, workloads, rounds, in_every_round, quick=arguments.quick)
    run = report.Run(
        samples=samples,
        workloads=workloads,
        systems=[system.name for system in systems],
        missing=missing,
        judgements=judge(samples.medians(), workloads, [system.name for system in systems]),
        rounds=rounds,
        seconds=time.monotonic() - began,
        quick=arguments.quick,
        partial=arguments.quick
        or (len(workloads), len(systems)) != (len(WORKLOADS), len(every_system))
        or rounds < _ROUNDS,
    )
    run.folder.mkdir(parents=True, exist_ok=True)
    draw(samples.medians(), workloads, run.folder, note=report.note(run))
    return report.write(run)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _always(_workload: str, _system: str) -> bool:
    return True


def _measure(
    systems: Sequence[System],
    workloads: Sequence[Workload],
    rounds: int,
    in_every_round: Callable[[str, str], bool],
    *,
    quick: bool,
) -> Samples:
    with tempfile.TemporaryDirectory(prefix="sallyport-bench-") as folder, ExitStack() as stack:
        events = stack.enter_context(LoadProgram("events", {}))
        behind = {"/mcp/events": int(events.hear(_START_LIMIT)["port"])}
        server_folder = Path(folder) / "upstream"
        server_folder.mkdir()
        server = stack.enter_context(upstream.run_upstream(server_folder, behind=behind))
        subjects = stack.enter_context(contestants(systems, server, Path(folder)))
        effort = QUICK if quick else FULL
        return run_rounds(subjects, workloads, rounds=rounds, effort=effort, in_every_round=in_every_round)


def _arguments(every_system: Sequence[System]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="measure ours and the peers side by side")
    parser.add_argument(
        "--quick", action="store_true", help="one short round of the main rows, under a minute"
    )
    parser.add_argument("--rounds", type=int, default=0, help=f"{_ROUNDS} unless told, 1 with --quick")
    parser.add_argument(
        "--only", default="", help="workloads, by comma: " + ",".join(w.name for w in WORKLOADS)
    )
    parser.add_argument("--systems", default="", help="by comma: " + ",".join(s.name for s in every_system))
    return parser.parse_args()


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_Thing = TypeVar("_Thing", bound=_Named)


def _chosen(things: Sequence[_Thing], wanted: str) -> list[_Thing]:
    """Return those that the user named, in our order; all when none is named."""
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    unknown = set(names) - {thing.name for thing in things}
    if unknown:
        raise SystemExit(
            f"bench: there is no {', '.join(sorted(unknown))}; there are {', '.join(t.name for t in things)}"
        )
    return [thing for thing in things if not names or thing.name in names]


def _lacking() -> str:
    tools = [tool for tool in ("wrk", "curl") if shutil.which(tool) is None]
    if tools:
        return f"{' and '.join(tools)} not installed: apt install {' '.join(tools)}"
    return install.missing("nginx")


if __name__ == "__main__":
    sys.exit(main())
