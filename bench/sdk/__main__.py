"""
``python -m bench.sdk [--quick] [--no-proxies]``: start every path, have the load measure them, judge.

Exit code 1 when a gate does not hold: p50 ≤ 2× direct, calls/s of 32 callers ≥ 0.8×, 10 MB ≤ 1.6×, through
the connector, in both eras. Proxies that cannot be installed are skipped, and that is said.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.node_tools import ToolMissing
from bench.report import finish, say
from bench.sdk.caller import Era
from bench.sdk.figures import Medians, Verdict, judge, lines_behind, medians, ratios, table
from bench.sdk.load import Samples, read_samples, write_plan
from bench.sdk.paths import CallPath, running_server
from bench.sdk.proxies import PROXIES, running_proxy
from bench.sdk.rounds import FULL, P50, QUICK, RATE, TEN_MB, Scale
from bench.sdk.tunnelled import running_tunnel
from tests.harness.child_process import CHECKOUT, NotReached

_SHORT = {P50: "p50", RATE: "calls/s", TEN_MB: "10 MB"}


@dataclass
class Running:
    """
    What takes part.

    Attributes:
        paths: Those that run.
        proxies: The names of those among them that others wrote.
        skipped: Why a proxy does not run, by name.
    """

    paths: list[CallPath] = field(default_factory=list)
    proxies: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def main() -> int:
    """Run the benchmark, print its tables and return the exit code."""
    parser = argparse.ArgumentParser(description="what a path adds to calls of an SDK server")
    parser.add_argument(
        "--quick", action="store_true", help="about a minute: fewer rounds, calls and proxies"
    )
    parser.add_argument("--no-proxies", action="store_true", help="direct and through the tunnel only")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory(prefix="sallyport-bench-sdk-") as folder, ExitStack() as stack:
        running = _start(stack, Path(folder), proxies=not arguments.no_proxies, quick=arguments.quick)
        samples = _measure(Path(folder), running.paths, scale)
    # A short run must not overwrite the figures of a whole one.
    return _report("sdk-quick" if arguments.quick else "sdk", running, samples, scale)


def _start(stack: ExitStack, folder: Path, *, proxies: bool, quick: bool) -> Running:
    """Start the server and all paths; they end with the stack."""
    direct = stack.enter_context(running_server(folder))
    url = f"http://{direct.authority}/mcp"
    found = Running([direct, *stack.enter_context(running_tunnel(folder / "product", url))])
    for proxy in PROXIES if proxies else ():
        if quick and not proxy.is_quick:
            continue
        try:
            found.paths.append(stack.enter_context(running_proxy(proxy, folder, url)))
        except (ToolMissing, NotReached) as error:
            say(f"SKIPPED {proxy.name}: {error}")
            found.skipped[proxy.name] = str(error)
        else:
            found.proxies.append(proxy.name)
    return found


def _measure(folder: Path, paths: Sequence[CallPath], scale: Scale) -> dict[Era, Samples]:
    plan, result = folder / "plan.json", folder / "result.json"
    write_plan(plan, paths, scale)
    command = [sys.executable, "-m", "bench.sdk.load", str(plan), str(result)]
    subprocess.run(command, cwd=CHECKOUT, check=True)
    return read_samples(result)


def _report(name: str, found: Running, samples: Mapping[Era, Samples], scale: Scale) -> int:
    """Print the tables and marks, write the result file and return the exit code."""
    rows: dict[str, Medians] = {}
    compared: dict[str, Medians] = {}
    verdicts: list[Verdict] = []
    behind: dict[str, dict[str, list[str]]] = {}
    for era, sample in samples.items():
        row = f"sdk {era}"
        rows[row], compared[row] = medians(sample.values), ratios(sample.values)
        verdicts += judge(era, compared[row])
        behind[row] = {proxy: lines_behind(rows[row], proxy) for proxy in found.proxies}
        say()
        for line in table(era, rows[row], compared[row], sample.failures):
            say(line)
    say()
    for verdict in verdicts:
        say(str(verdict))
    for row, by_proxy in behind.items():
        for proxy, metrics in by_proxy.items():
            where = f"NOT ahead in {', '.join(metrics)}" if metrics else "ahead on every line"
            say(f"{row}, beside {proxy}: {where}")
    facts = {
        "scale": asdict(scale),
        "paths": {path.name: path.about for path in found.paths},
        "rows": rows,
        "ratios": compared,
        "gates": [{**asdict(verdict), "holds": verdict.holds} for verdict in verdicts],
        "not_ahead": behind,
        "skipped": found.skipped,
        "failures": {f"sdk {era}": sample.failures for era, sample in samples.items()},
    }
    ok = all(verdict.holds for verdict in verdicts)
    return finish(name, _figures(verdicts, found, behind), facts, ok=ok)


def _figures(
    verdicts: Sequence[Verdict], found: Running, behind: Mapping[str, Mapping[str, Sequence[str]]]
) -> str:
    """Return the last line: the ratios through the connector, the gates, and how it stands with proxies."""
    parts = []
    for era in dict.fromkeys(verdict.era for verdict in verdicts):
        mine = (verdict for verdict in verdicts if verdict.era == era)
        shown = (f"{_SHORT[v.bar.metric]} {'failed' if v.ratio is None else f'{v.ratio:.2f}×'}" for v in mine)
        parts.append(f"{era} {', '.join(shown)}")
    held = sum(verdict.holds for verdict in verdicts)
    parts.append(f"{held} of {len(verdicts)} gates, {sum(v.holds_for_speed for v in verdicts)} for speed")
    ahead = sum(not any(row[proxy] for row in behind.values()) for proxy in found.proxies)
    parts.append(f"ahead of {ahead} of {len(found.proxies)} proxies on every line")
    if found.skipped:
        parts.append(f"SKIPPED {', '.join(found.skipped)}")
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
