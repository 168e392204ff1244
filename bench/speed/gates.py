"""
The gates and targets of the table, as data, and how a run is judged by them.

A bound is on the ratio of our median to theirs in the same run. Where more is better it is a lower bound,
else an upper one. ``BEST`` is the best of the peers that ran. A gate that cannot be judged, because a peer is
not on this machine, is shown as such; one on which our own system failed is missed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from bench.speed.rounds import DIRECT, Medians
from bench.speed.workloads.workload import Metric, Workload

OURS: Final = "sallyport"
TUNNEL: Final = "sallyport-tunnel"
FALLBACK: Final = "sallyport-fallback"
PEERS: Final = ("frp", "chisel", "rathole", "ssh -R")
BEST: Final = "the best peer"
ITSELF: Final = ""  # The bound is on our figure and not on a ratio.


@dataclass(frozen=True)
class Rule:
    """
    One bound.

    Attributes:
        workload: Its name.
        metric: Its name.
        against: A system, ``BEST`` or ``ITSELF``.
        gate: Must hold; None where there is only a target.
        target: Is reported; None where there is none.
        ours: Which of our systems is judged.
        difference: Whether the bound is on ours minus theirs, and not on the ratio.
    """

    workload: str
    metric: str
    against: str
    gate: float | None
    target: float | None
    ours: str = OURS
    difference: bool = False


RULES: Final = (
    Rule("small-32", "calls_per_s", "frp", 1.0, 1.25),
    Rule("small-32", "calls_per_s", "chisel", 1.0, 1.3),
    Rule("small-32", "calls_per_s", "ssh -R", 2.5, 3.0),
    Rule("small-32", "calls_per_s", "rathole", 0.75, 0.95),
    Rule("small-256", "calls_per_s", "frp", 0.95, 1.1),
    Rule("small-256", "calls_per_s", "chisel", 1.0, 1.15),
    Rule("small-256", "calls_per_s", "rathole", 1.15, 1.3),
    Rule("small-32", "p99_us", BEST, 0.7, 0.5),
    Rule("small-1", "added_p50_us", "frp", 0.6, 0.5),
    Rule("small-1", "added_p50_us", "chisel", 0.6, 0.5),
    Rule("small-1", "added_p50_us", "rathole", 1.8, 1.5),
    Rule("beside-bulk", "p99_us", BEST, 0.35, 0.25),
    Rule("beside-bulk", "bulk_mb_per_s", BEST, 0.55, 0.7),
    Rule("connections-mutual", "connections_per_s", BEST, 1.0, 1.3),
    *(
        Rule(transfer, "mb_per_s", peer, gate, target)
        for transfer in ("download", "upload")
        for peer, gate, target in (("frp", 0.75, 0.9), ("chisel", 1.4, 1.7), ("rathole", 0.7, 0.8))
    ),
    Rule("idle-1000", "kib_per_stream", BEST, 0.5, 0.4),
    Rule("small-32", "cpu_us_per_call", "frp", 0.9, 0.75),
    Rule("small-32", "cpu_us_per_call", "rathole", None, 1.0),
    Rule("small-32", "cpu_us_per_call", TUNNEL, None, 10.0, difference=True),
    Rule("idle-10000", "slowdown", ITSELF, 1.5, None),
    Rule("small-32", "calls_per_s", "frp", 0.65, 0.9, ours=FALLBACK),
)


def is_compared(workload: str, system: str) -> bool:
    """
    Whether a rule compares a figure, or shows it beside one, as those of our bare tunnel and the direct path.

    Those are measured in every round. The others are measured once, since a whole run takes long enough.
    """
    for rule in (rule for rule in RULES if rule.workload == workload):
        beside = PEERS if rule.against == BEST else (rule.against,)
        if system == rule.ours or system in beside:
            return True
        if rule.against != ITSELF and system in (TUNNEL, DIRECT):
            return True
    return False


class Verdict(Enum):
    """What a bound came to."""

    HELD = "held"
    MISSED = "MISSED"
    UNJUDGED = "not judged"
    NONE = "–"


@dataclass(frozen=True)
class Judgement:
    """
    A rule with what the run says about it.

    Attributes:
        rule: The rule.
        figure: The ratio, difference or figure that is bounded; None where there is none.
        peer: Against which system it was in the end; empty where against none.
        gate: Whether the gate held.
        target: Whether the target was reached.
    """

    rule: Rule
    figure: float | None
    peer: str
    gate: Verdict
    target: Verdict


def judge(medians: Medians, workloads: Sequence[Workload], chosen: Sequence[str]) -> list[Judgement]:
    """
    Judge all rules that concern what was run.

    Args:
        medians: Of the run.
        workloads: Which were run.
        chosen: The systems that were to be run, those that failed among them.
    """
    metrics = {(workload.name, metric.name): metric for workload in workloads for metric in workload.metrics}
    concerned = (rule for rule in RULES if (rule.workload, rule.metric) in metrics and rule.ours in chosen)
    return [_judge(rule, metrics[rule.workload, rule.metric], medians) for rule in concerned]


def _judge(rule: Rule, metric: Metric, medians: Medians) -> Judgement:
    figures = {
        system: by_metric[rule.metric]
        for system, by_metric in medians.get(rule.workload, {}).items()
        if rule.metric in by_metric
    }
    peer = _peer(rule, metric, figures)
    if rule.ours not in figures:
        return Judgement(rule, None, peer, _verdict(rule.gate, held=False), _verdict(rule.target, held=False))
    theirs = figures.get(peer)
    figure = _bounded(rule, figures[rule.ours], theirs)
    if figure is None:
        return Judgement(rule, None, peer, _unjudged(rule.gate), _unjudged(rule.target))

    def verdict(bound: float | None) -> Verdict:
        held = bound is not None and (figure >= bound if metric.more_is_better else figure <= bound)
        return _verdict(bound, held=held)

    return Judgement(rule, figure, peer, verdict(rule.gate), verdict(rule.target))


def _peer(rule: Rule, metric: Metric, figures: Mapping[str, float]) -> str:
    if rule.against != BEST:
        return rule.against
    peers = [peer for peer in PEERS if peer in figures]
    if not peers:
        return BEST
    choose = max if metric.more_is_better else min
    return choose(peers, key=lambda peer: figures[peer])


def _bounded(rule: Rule, ours: float, theirs: float | None) -> float | None:
    if rule.against == ITSELF:
        return ours
    if theirs is None:
        return None
    if rule.difference:
        return ours - theirs
    # Latency over the direct path can come out as nothing on a noisy machine: no ratio then.
    return ours / theirs if theirs > 0 else None


def _verdict(bound: float | None, *, held: bool) -> Verdict:
    if bound is None:
        return Verdict.NONE
    return Verdict.HELD if held else Verdict.MISSED


def _unjudged(bound: float | None) -> Verdict:
    return Verdict.NONE if bound is None else Verdict.UNJUDGED
