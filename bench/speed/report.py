"""
What a run leaves behind: ``latest.json``, ``bench.md``, ``bench.json`` and the last line.

``latest.json`` is ``{workload: {system: {metric: median}}}`` and nothing else; the rows that ``make
bench-sdk`` left are in it too. ``bench.json`` has the conditions, every round's figures, the failures and the
judgements. A run of a part (``--quick``, ``--only``, ``--systems``, too few rounds) goes to ``partial/``
instead, so that it never passes for the whole.
"""

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.report import RESULTS, finish
from bench.speed.gates import BEST, OURS, Judgement, Verdict
from bench.speed.rounds import DIRECT, Medians, Samples
from bench.speed.workloads.workload import Metric, Workload

PARTIAL = RESULTS / "partial"
_ONCE = "¹"


@dataclass(frozen=True)
class Run:
    """
    A run that is over.

    Attributes:
        samples: What was measured.
        workloads: In order.
        systems: All that were asked for, in the order of the columns.
        missing: Why one of them could not run, by name.
        judgements: Of the rules.
        rounds: How many.
        seconds: It took.
        quick: Whether it was a quick one.
        partial: Whether it was less than the whole table.
    """

    samples: Samples
    workloads: Sequence[Workload]
    systems: Sequence[str]
    missing: Mapping[str, str]
    judgements: Sequence[Judgement]
    rounds: int
    seconds: float
    quick: bool
    partial: bool

    @property
    def folder(self) -> Path:
        """Where it is written."""
        return PARTIAL if self.partial else RESULTS


def write(run: Run) -> int:
    """Write all files but the picture, print the last line, and return the exit code."""
    medians = run.samples.medians()
    run.folder.mkdir(parents=True, exist_ok=True)
    everything = {**medians, **({} if run.partial else _sdk_result().get("rows", {}))}
    (run.folder / "latest.json").write_text(json.dumps(everything, indent=1) + "\n")
    (run.folder / "bench.md").write_text(markdown(run, medians))
    missed = [each for each in run.judgements if each.gate is Verdict.MISSED]
    name = "partial/bench" if run.partial else "bench"
    # A quick round is there to show that everything runs; one round of a second proves no ratio.
    ok = not run.samples.failures if run.quick else not missed
    return finish(name, _last_line(run), _facts(run), ok=ok)


def markdown(run: Run, medians: Medians) -> str:
    """Return the table of figures and the table of gates."""
    parts = [
        "# Speed, side by side",
        "",
        f"{note(run)} In brackets: {OURS} ÷ that system. `bench/README.md` says how to read it.",
        "",
    ]
    parts += [f"**{name} did not run:** {reason}" for name, reason in run.missing.items()]
    parts += ["", *_figures_table(run, medians)]
    if run.rounds > 1:
        parts += ["", f"{_ONCE} One round: no gate compares this figure."]
    parts += ["", "## Gates and targets", "", *_gates_table(run)]
    if run.samples.failures:
        parts += ["", "## Failed rounds", ""]
        parts += [
            f"* {each.workload}, {each.system}, round {each.round}: {_one_line(each.reason)}"
            for each in run.samples.failures
        ]
    parts += ["", *_other_checks()]
    return "\n".join(parts).rstrip() + "\n"


def note(run: Run) -> str:
    """Return the conditions in one line, for tables and picture."""
    rounds = "One round" if run.rounds == 1 else f"Medians of {run.rounds} interleaved rounds"
    line = (
        f"{rounds} on {psutil.cpu_count()} CPUs "
        f"({platform.system()} {platform.release()}, Python {platform.python_version()}), all on loopback."
    )
    return f"{line} A quick run: no ratio here is proof of anything." if run.quick else line


def _figures_table(run: Run, medians: Medians) -> list[str]:
    columns = [name for name in run.systems if name not in run.missing]
    lines = [f"| workload | figure | {' | '.join(columns)} |", "| --- | --- |" + " ---: |" * len(columns)]
    for workload in run.workloads:
        for index, metric in enumerate(workload.metrics):
            cells = (_cell(run, medians, workload, metric, system) for system in columns)
            title = f"{workload.title} (`{workload.name}`)" if index == 0 else ""
            lines.append(f"| {title} | {metric.title} | {' | '.join(cells)} |")
    return lines


def _cell(run: Run, medians: Medians, workload: Workload, metric: Metric, system: str) -> str:
    if run.samples.failed(workload.name, system):
        return "failed"
    by_system = medians.get(workload.name, {})
    figure = by_system.get(system, {}).get(metric.name)
    if figure is None:
        return "–"
    ours = by_system.get(OURS, {}).get(metric.name)
    once = run.rounds > 1 and len(run.samples.figures[workload.name][system][metric.name]) == 1
    shown = f"{figure:,.{metric.digits}f}{_ONCE if once else ''}"
    if ours is None or figure <= 0 or system in (OURS, DIRECT):
        return shown
    return f"{shown} ({ours / figure:.2f}×)"


def _gates_table(run: Run) -> list[str]:
    titles = {workload.name: workload for workload in run.workloads}
    lines = [
        "| workload | figure | against | measured | gate | target |",
        "| --- | --- | --- | ---: | --- | --- |",
    ]
    for each in run.judgements:
        rule = each.rule
        metric = next(metric for metric in titles[rule.workload].metrics if metric.name == rule.metric)
        sign = "≥" if metric.more_is_better else "≤"
        unit = "" if rule.difference or not rule.against else "×"
        against = f"{rule.against} ({each.peer})" if rule.against == BEST else rule.against or "itself"
        ours = "" if rule.ours == OURS else f", {rule.ours}"
        measured = "none" if each.figure is None else f"{each.figure:.2f}{unit}"
        bounds = (
            "–" if bound is None else f"{sign} {bound:g}{unit}: {verdict.value}"
            for bound, verdict in ((rule.gate, each.gate), (rule.target, each.target))
        )
        title = f"{titles[rule.workload].title}{ours}"
        lines.append(f"| {title} | {metric.title} | {against} | {measured} | {' | '.join(bounds)} |")
    return lines


def _other_checks() -> list[str]:
    """Return what ``make bench-sdk`` left: an SDK server behind, and the MCP proxies before it."""
    found = _sdk_result()
    heading = ["## An MCP SDK server behind, and the MCP proxies", ""]
    if not found:
        return [*heading, "Not measured yet: `make bench-sdk` does it."]
    verdict = "held" if found.get("ok") else "MISSED"
    return [*heading, f"`make bench-sdk`, {found.get('when')}: {found.get('figures')}. Its gates: {verdict}."]


def _sdk_result() -> dict[str, Any]:
    """Return what ``make bench-sdk`` wrote; empty when it was not run."""
    path = RESULTS / "sdk.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _last_line(run: Run) -> str:
    gates = [each for each in run.judgements if each.gate is not Verdict.NONE]
    targets = [each for each in run.judgements if each.target is not Verdict.NONE]
    held = sum(each.gate is Verdict.HELD for each in gates)
    unjudged = sum(each.gate is Verdict.UNJUDGED for each in gates)
    reached = sum(each.target is Verdict.HELD for each in targets)
    ratios = [
        f"{each.figure:.2f}× {each.peer}"
        for each in gates
        if (each.rule.workload, each.rule.metric, each.rule.ours) == ("small-32", "calls_per_s", OURS)
        and each.figure is not None
    ]
    line = f"{held} of {len(gates)} gates held, {reached} of {len(targets)} targets reached"
    if unjudged:
        line += f", {unjudged} gates not judged"
    if ratios:
        line += f"; calls/s at 32 callers {', '.join(ratios)}"
    return (
        f"{line}; {run.rounds} rounds in {run.seconds:.0f} s, {len(run.samples.failures)} failed loads"
        f"{', missing: ' + ', '.join(run.missing) if run.missing else ''}"
    )


def _facts(run: Run) -> dict[str, object]:
    return {
        "rounds": run.rounds,
        "seconds": round(run.seconds, 1),
        "quick": run.quick,
        "conditions": _conditions(),
        "missing": dict(run.missing),
        "failures": [asdict(each) for each in run.samples.failures],
        "judgements": [
            {
                **asdict(each.rule),
                "peer": each.peer,
                "figure": each.figure,
                "gate_verdict": each.gate.value,
                "target_verdict": each.target.value,
            }
            for each in run.judgements
        ],
        "every_round": run.samples.figures,
    }


def _conditions() -> dict[str, object]:
    return {
        "cpus": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before_last_minute": round(psutil.getloadavg()[2], 2),
        "wrk": _version("wrk", "--version"),
        "curl": _version("curl", "--version"),
        "openssl": _version("openssl", "version"),
    }


def _version(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return next(iter((done.stdout or done.stderr).splitlines()), "")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
