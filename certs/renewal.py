"""
When a certificate is due to be replaced, and by what (pure).

Nothing here is automatic yet: a leaf is due thirty days before its end, which is two thirds of its ninety,
and ``certs renew`` replaces it then; an issuing CA is due when a third of its life is left (identity §2).
A leaf never outlives its issuer, so one whose issuer ends first cannot be bettered by a new one.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from sallyport.certs.errors import IssuingRefused
from sallyport.certs.facts import Facts
from sallyport.certs.profile import LEAF_LIFE

RENEW_BEFORE: Final = timedelta(days=30)

_SPAN = re.compile(r"(\d{1,4})([dh])", re.ASCII)
_UNITS: Final = {"d": timedelta(days=1), "h": timedelta(hours=1)}


class Step(StrEnum):
    """
    What happens to a certificate next.
    """

    RENEW = "renew"  # `certs renew` makes a new one
    REPLACE_ISSUER = "replace-issuer"  # an issuing CA, which needs the root key
    SUCCEED = "succeed"  # a root, by its successor


@dataclass(frozen=True, slots=True)
class Outlook:
    """
    What happens to a certificate next, and when it is time.

    ``command`` is what to run then, "" where this version has no command for it.
    """

    step: Step
    due: datetime
    is_due: bool
    is_over: bool
    command: str

    def __str__(self) -> str:
        day = f"{self.due.astimezone(UTC):%Y-%m-%d}"
        match self.step:
            case Step.RENEW:
                if self.is_over:
                    return f"expired: {self.command}"
                return f"due: {self.command}" if self.is_due else f"{self.command}, from {day} on"
            case Step.REPLACE_ISSUER:
                if self.is_over:
                    return "expired: nothing can be issued under it"
                return "due: replace it, with the root key" if self.is_due else f"replace it, from {day} on"
            case Step.SUCCEED:
                return "due: make its successor" if self.is_due else f"make its successor, from {day} on"


def outlook(facts: Facts, *, now: datetime, before: timedelta = RENEW_BEFORE) -> Outlook:
    """
    Say what happens to a certificate next.

    Args:
        facts: the certificate.
        now: the time, with a zone.
        before: how long before its end a leaf is renewed.
    """
    over = now > facts.not_after
    if facts.identity is not None:
        due = facts.not_after - before
        name = f"{facts.identity.role} {facts.identity.name}"
        command = f"sallyport certs rotate leaf {name}" if over else "sallyport certs renew"
        return Outlook(Step.RENEW, due, now >= due, over, command)
    # The validity begins a little early, for slow clocks: that is too little to matter here.
    due = facts.not_before + (facts.not_after - facts.not_before) * 2 / 3
    step = Step.REPLACE_ISSUER if facts.issuing is not None else Step.SUCCEED
    return Outlook(step, due, now >= due, over, "")


def can_be_bettered(leaf: Facts, issuer: Facts, *, now: datetime) -> bool:
    """
    Say whether a new leaf would end later than this one does; not if its issuer ends first.
    """
    if leaf.identity is None:
        raise AssertionError("only leaves are renewed, and their identity was read before")
    return min(now + LEAF_LIFE[leaf.identity.role], issuer.not_after) > leaf.not_after


def parse_span(text: str) -> timedelta:
    """
    Read a span of time: "30d", "12h".

    Raises:
        IssuingRefused: if it is written in another way.
    """
    match = _SPAN.fullmatch(text)
    if match is None:
        raise IssuingRefused(f"{text[:40]!a} is no span of time", "write days or hours: 30d, 12h")
    return int(match[1]) * _UNITS[match[2]]
