"""
The five hops that the doctor tests, and what it says of each; pure.

A hop has failed, or it has not; what could not be tried because an earlier hop failed is *skipped*, and so is
what cannot be tried from this machine. The hops are told in one order for both sides, files first and the
whole call last, though a clock can be judged only once somebody has told the time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

State = Literal["ok", "warning", "failed", "skipped"]

_CLOCK_WARNS = 30.0  # seconds; a fresh certificate is predated by more than this
_CLOCK_FAILS = 300.0  # seconds; what others accept as skew ends about here


class Hop(StrEnum):
    """What is tested, in the order of telling."""

    FILES = "files and keys"
    CLOCK = "clock"
    RELAY = "relay"
    LINK = "link"
    CANARY = "canary call"


class Remedied(Protocol):
    """Any error of ours: its text says what is wrong, its hint what to do."""

    @property
    def hint(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the doctor says of one hop: ``what`` was found, and a ``hint`` what to do, perhaps empty."""

    hop: Hop
    state: State
    what: str
    hint: str = ""


def passed(hop: Hop, what: str) -> Verdict:
    """Say that a hop works, and what was seen there."""
    return Verdict(hop, "ok", what)


def failed(hop: Hop, error: Remedied) -> Verdict:
    """Say that a hop does not work, in the words of the error."""
    return Verdict(hop, "failed", str(error), error.hint)


def skipped(hop: Hop, why: str, hint: str = "") -> Verdict:
    """Say why a hop was not tried."""
    return Verdict(hop, "skipped", why, hint)


def judge_clock(offset: float, whose: str) -> Verdict:
    """
    Judge this machine's clock.

    Args:
        offset: the other clock minus ours, in seconds.
        whose: the other clock, such as ``the relay's``.
    """
    if abs(offset) < 1:
        return passed(Hop.CLOCK, f"agrees with {whose} clock")
    what = f"{abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'} {whose} clock"
    hint = "set this clock by NTP (`timedatectl set-ntp true`), or that one if it is the wrong one"
    if abs(offset) > _CLOCK_FAILS:
        return Verdict(Hop.CLOCK, "failed", f"{what}: certificates begin and end at the wrong time", hint)
    if abs(offset) > _CLOCK_WARNS:
        return Verdict(Hop.CLOCK, "warning", what, hint)
    return passed(Hop.CLOCK, what)


def in_order(found: Iterable[Verdict]) -> list[Verdict]:
    """Return a verdict for every hop, in the order of telling; those that were not reached are skipped."""
    by_hop: Mapping[Hop, Verdict] = {verdict.hop: verdict for verdict in found}
    culprit = next((verdict.hop for verdict in by_hop.values() if verdict.state == "failed"), None)
    why = f"not tried, because of the {culprit}" if culprit else "not tried"
    return [by_hop.get(hop) or skipped(hop, why) for hop in Hop]
