"""
``make conformance``: the tunnel changes nothing that the official suite or the wire probe can see.

The official MCP conformance suite judges the fixture server twice in both requirement sets, directly and
through connector → relay → gateway, and the verdicts are compared check by check: the tunnel may turn
neither a pass into a failure nor a failure into a pass. Then the wire probe, which lives outside of this
repository on purpose, judges the connector and TLS straight to the relay, leaving its connections in order
and by dropping them.

    python -m bench.conformance [--slow]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.node_tools import ToolMissing, conformance_command
from bench.report import finish, say
from tests.harness.product import LOOPBACK, Product, Tunnel
from tests.harness.stage import Fixture, start_fixture

ERAS = ("2025-11-25", "2026-07-28")
_SUITE_LIMIT = 300  # seconds
_PROBES = Path(__file__).resolve().parents[2] / "shared" / "probes"

# Scenario, check and how many of that name came before it in the scenario; then the verdict.
Verdicts = dict[tuple[str, str, int], str]


@dataclass(frozen=True)
class SuiteRun:
    """What the suite said of one endpoint in one requirement set."""

    verdicts: Verdicts
    exit_code: int

    @property
    def score(self) -> str:
        """Checks passed and failed; information and skips count as neither."""
        counts = Counter(self.verdicts.values())
        return f"{counts['SUCCESS']}/{counts['FAILURE']}"


@dataclass(frozen=True)
class ProbeRun:
    """What the wire probe said of one path."""

    path: str
    passed: int
    total: int
    failures: list[str]


def main() -> int:
    """Run everything and return the exit code."""
    parser = argparse.ArgumentParser(description="the official suite and the wire probe, through the tunnel")
    parser.add_argument("--slow", action="store_true", help="let the probe also watch an idle stream, 40 s")
    arguments = parser.parse_args()
    try:
        suite = conformance_command()
    except ToolMissing as error:
        say(f"error: {error}")
        return 1
    with tempfile.TemporaryDirectory(prefix="sallyport-conformance-") as name:
        folder = Path(name)
        fixture = start_fixture(folder)
        with fixture.process, Product(folder / "product") as product:
            product.start_relay()
            tunnel = product.make_tunnel("acme", {"tickets": fixture.url})
            tunnel.start_gateway()
            connector = tunnel.start_connector()
            urls = {"direct": fixture.url, "tunnelled": connector.url}
            runs = {era: _run_era(suite, era, urls, folder) for era in ERAS}
            probes = _run_probes(tunnel, fixture, connector.url, folder, slow=arguments.slow)
    return _judge(runs, probes)


# -- the official suite -------------------------------------------------------------------------------


def _run_era(suite: Sequence[str], era: str, urls: dict[str, str], folder: Path) -> dict[str, SuiteRun]:
    runs = {}
    for path, url in urls.items():
        results = folder / f"{era}-{path}"
        command = [*suite, "server", "--url", url, "--requirements", era, "-o", str(results)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SUITE_LIMIT, check=False)
        runs[path] = SuiteRun(_read_verdicts(results), done.returncode)
        say(f"{era} {path}: {runs[path].score}, exit code {done.returncode}")
        if done.returncode != 0:
            say(done.stdout[-3000:] + done.stderr[-1000:])
    return runs


def _read_verdicts(results: Path) -> Verdicts:
    verdicts: Verdicts = {}
    for file in sorted(results.glob("*/checks.json")):
        # The folder is SCENARIO-2026-11-21T12-11-08-390Z; the time is the run's, not the check's.
        scenario = file.parent.name[: -len("-2026-11-21T12-11-08-390Z")]
        seen: Counter[str] = Counter()
        for check in json.loads(file.read_text()):
            verdicts[scenario, check["id"], seen[check["id"]]] = check["status"]
            seen[check["id"]] += 1
    return verdicts


def _differences(direct: Verdicts, tunnelled: Verdicts) -> list[str]:
    return [
        f"{scenario}: {check} #{number}: {direct.get(key, 'absent')} directly, "
        f"{tunnelled.get(key, 'absent')} through the tunnel"
        for key in sorted(direct.keys() | tunnelled.keys())
        # Information is a trace of what went over the wire, and how many pieces that was is no verdict.
        if direct.get(key) != tunnelled.get(key) and {direct.get(key), tunnelled.get(key)} - {"INFO", None}
        for scenario, check, number in [key]
    ]


# -- the wire probe -----------------------------------------------------------------------------------


def _run_probes(tunnel: Tunnel, fixture: Fixture, url: str, folder: Path, *, slow: bool) -> list[ProbeRun]:
    probe = Path(os.environ.get("SALLYPORT_PROBES", _PROBES)) / "wire_probe.py"
    if not probe.exists():
        say(f"the wire probe is not at {probe}: set SALLYPORT_PROBES to its folder")
        return []
    bundle = str(tunnel.bundle())
    to_relay = [
        f"https://{tunnel.host('tickets')}/mcp",
        *("--connect", f"{LOOPBACK}:{tunnel.product.relay_port}"),
        *("--cafile", str(tunnel.identity.root_path), "--cert", bundle, "--key", bundle),
    ]
    paths = {
        "direct": [fixture.url],
        "connector": [url],
        "connector, dropping": [url, "--abort"],
        "relay": to_relay,
        "relay, dropping": [*to_relay, "--abort"],
    }
    extra = ["--slow"] if slow else []
    return [_run_probe(probe, path, [*args, *extra], folder) for path, args in paths.items()]


def _run_probe(probe: Path, path: str, arguments: list[str], folder: Path) -> ProbeRun:
    report = folder / "probe.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, str(probe), *arguments, "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SUITE_LIMIT, check=False)
    rows = json.loads(report.read_text()) if report.exists() else []
    failures = [f"{row['check']}: {row['detail']}" for row in rows if not row["ok"]]
    if not rows:
        failures = [done.stderr.strip() or "the probe wrote no report"]
    run = ProbeRun(path, sum(row["ok"] for row in rows), len(rows), failures)
    say(f"wire {path}: {run.passed}/{run.total}")
    for failure in failures:
        say(f"  FAIL {failure}")
    return run


# -- the verdict --------------------------------------------------------------------------------------


def _judge(runs: dict[str, dict[str, SuiteRun]], probes: list[ProbeRun]) -> int:
    ok = True
    figures = []
    differences: dict[str, list[str]] = {}
    for era, by_path in runs.items():
        direct, tunnelled = by_path["direct"], by_path["tunnelled"]
        differences[era] = _differences(direct.verdicts, tunnelled.verdicts)
        for line in differences[era]:
            say(f"DIFFERENT {era} {line}")
        ok = ok and not differences[era] and bool(direct.verdicts)
        ok = ok and direct.exit_code == tunnelled.exit_code == 0
        figures.append(f"{era} {tunnelled.score} (direct {direct.score})")
    if probes:
        worst = min(probes, key=lambda run: run.passed)
        figures.append(f"wire {worst.passed}/{worst.total}")
        ok = ok and all(run.total and run.passed == run.total for run in probes)
    else:
        figures.append("wire not run")
    facts = {
        "suite": {era: {path: run.score for path, run in by_path.items()} for era, by_path in runs.items()},
        "differences": differences,
        "wire": {run.path: f"{run.passed}/{run.total}" for run in probes},
        "wire_failures": {run.path: run.failures for run in probes if run.failures},
    }
    return finish("conformance", ", ".join(figures), facts, ok=ok)


if __name__ == "__main__":
    sys.exit(main())
