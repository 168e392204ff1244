"""How a run of ``make bench`` is judged, and that its rounds are interleaved."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.speed.gates import RULES, Verdict, is_compared, judge
from bench.speed.load.callers import LoadFailed
from bench.speed.rounds import Contestant, Medians, Samples, run_rounds
from bench.speed.system import Entrance, Running
from bench.speed.systems import all_systems
from bench.speed.workloads import WORKLOADS
from bench.speed.workloads.workload import QUICK, Effort, Metric, Subject

_EVERYBODY = ("direct", "sallyport", "frp", "chisel", "rathole", "ssh -R")


def _calls(**rates: float) -> Medians:
    return {
        "small-32": {name.replace("ssh", "ssh -R"): {"calls_per_s": rate} for name, rate in rates.items()}
    }


def _verdicts(medians: Medians, against: str) -> list[tuple[Verdict, Verdict]]:
    workloads = [workload for workload in WORKLOADS if workload.name in medians]
    judged = judge(medians, workloads, _EVERYBODY)
    return [
        (each.gate, each.target)
        for each in judged
        if each.rule.against == against
        and each.rule.metric in next(iter(medians[each.rule.workload].values()))
    ]


@pytest.mark.parametrize(
    ("ours", "verdicts"),
    [
        (130.0, (Verdict.HELD, Verdict.HELD)),
        (100.0, (Verdict.HELD, Verdict.MISSED)),
        (99.0, (Verdict.MISSED, Verdict.MISSED)),
    ],
)
def test_a_rate_is_bounded_from_below(ours: float, verdicts: tuple[Verdict, Verdict]) -> None:
    """At the gate is held, under it is missed; the target is judged apart."""
    assert _verdicts(_calls(sallyport=ours, frp=100.0), "frp") == [verdicts]


def test_an_absent_peer_is_not_judged() -> None:
    """No figure of a peer is no success and no failure."""
    assert _verdicts(_calls(sallyport=100.0), "frp") == [(Verdict.UNJUDGED, Verdict.UNJUDGED)]


def test_our_own_missing_figure_misses_the_gate() -> None:
    """A load that our system did not carry cannot have held a gate."""
    assert _verdicts(_calls(frp=100.0), "frp") == [(Verdict.MISSED, Verdict.MISSED)]


def test_the_best_peer_is_the_one_with_the_shortest_time() -> None:
    """Where less is better the best is the least, and ours is bounded from above."""
    medians: Medians = {
        "small-32": {
            name: {"p99_us": figure} for name, figure in (("sallyport", 6.0), ("frp", 10.0), ("chisel", 20.0))
        }
    }
    (judged,) = (
        each for each in judge(medians, WORKLOADS, _EVERYBODY) if each.rule.metric == "p99_us" and each.figure
    )
    assert (judged.peer, judged.figure, judged.gate, judged.target) == (
        "frp",
        0.6,
        Verdict.HELD,
        Verdict.MISSED,
    )


def test_every_rule_names_a_figure_that_some_workload_yields() -> None:
    """A rule with a misspelt name would never be judged."""
    yielded = {(workload.name, metric.name) for workload in WORKLOADS for metric in workload.metrics}
    assert {(rule.workload, rule.metric) for rule in RULES} <= yielded


class _Idle:
    """A system that needs no process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.starts = 0

    def missing(self) -> str:
        return ""

    @contextmanager
    def start(self, folder: Path, upstream: object, **options: Any) -> Iterator[Running]:
        self.starts += 1
        nowhere = Path("nowhere")
        yield Running(Entrance(1, "name.test", nowhere, nowhere, nowhere, 1), [])


class _Recorder:
    """A workload that writes down whom it measured; the second measurement of ``b`` fails."""

    name = "recorder"
    title = "Recorder"
    metrics = (Metric("figure", "figure"),)
    quick = True

    def __init__(self) -> None:
        self.order: list[str] = []

    def measure(self, subject: Subject, effort: Effort) -> dict[str, float]:
        subject.running()
        self.order.append(subject.name)
        if subject.name == "b" and self.order.count("b") == 2:
            raise LoadFailed("an answer is missing")
        return {"figure": float(len(self.order))}

    def beyond(self, figures: Mapping[str, float], direct: Mapping[str, float]) -> dict[str, float]:
        return {}


def test_rounds_are_interleaved_and_a_failure_takes_the_figure_away(tmp_path: Path) -> None:
    """Each round begins with another system; one that failed is started anew and has no median."""
    systems = [_Idle(name) for name in ("a", "b", "c")]
    subjects = [Contestant(system, None, tmp_path / system.name) for system in systems]  # type: ignore[arg-type]
    recorder = _Recorder()
    samples: Samples = run_rounds(
        subjects, [recorder], rounds=3, effort=QUICK, in_every_round=lambda _workload, _system: True
    )
    assert recorder.order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [(each.system, each.round) for each in samples.failures] == [("b", 2)]
    assert samples.medians() == {"recorder": {"a": {"figure": 6.0}, "c": {"figure": 5.0}}}
    assert [system.starts for system in systems] == [1, 2, 1]


def test_what_no_rule_compares_is_measured_once(tmp_path: Path) -> None:
    """The first round has everything, the others what they are told."""
    subjects = [Contestant(_Idle(name), None, tmp_path / name) for name in ("a", "c")]  # type: ignore[arg-type]
    recorder = _Recorder()
    run_rounds(
        subjects, [recorder], rounds=3, effort=QUICK, in_every_round=lambda _workload, system: system == "c"
    )
    assert recorder.order == ["a", "c", "c", "c"]


@pytest.mark.parametrize(
    ("workload", "systems"),
    [
        ("small-1", {"sallyport", "sallyport-tunnel", "direct", "frp", "chisel", "rathole"}),
        (
            "small-32",
            {
                "sallyport",
                "sallyport-tunnel",
                "sallyport-fallback",
                "direct",
                "frp",
                "chisel",
                "rathole",
                "ssh -R",
            },
        ),
        ("idle-10000", {"sallyport"}),
        ("far", set()),
    ],
)
def test_what_a_rule_compares_is_measured_in_every_round(workload: str, systems: set[str]) -> None:
    """Ours and those that it is compared with, and what stands beside them."""
    names = [system.name for system in all_systems()]
    assert {name for name in names if is_compared(workload, name)} == systems
