"""
What ``sallyport bench`` found, and the arithmetic on it; pure.

A *way* is where requests go: to the gateway itself through the tunnel (``tunnel``), to the user's server
through the tunnel (``call``), or to that server without the tunnel (``direct``). Percentiles are taken by
nearest rank, so each is a time that some call really took. What one way adds to another is the difference of
their percentiles: the calls of two ways alternate, so both were measured under the same conditions, but no
call belongs to another, and differences of single calls would mean nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil

MB = 1_000_000  # bytes, as networks count


class Way(StrEnum):
    """Where requests go, in the order of telling."""

    TUNNEL = "tunnel"
    CALL = "call"
    DIRECT = "direct"


@dataclass(slots=True)
class Samples:
    """
    What was measured on one way.

    Attributes:
        connections: Seconds that each new connection took, its handshakes included.
        alone: Seconds of each call, made one after the other.
        together: Seconds of each call, made by all callers at once.
        together_for: Seconds in which those were made.
    """

    connections: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    together: list[float] = field(default_factory=list)
    together_for: float = 0.0

    @property
    def rate(self) -> float | None:
        """Calls a second of all callers together; None where there were none."""
        return len(self.together) / self.together_for if self.together_for else None


@dataclass(slots=True)
class Bulk:
    """Bytes that went one way in so many seconds."""

    bytes: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float | None:
        """Bytes a second; None where nothing was measured."""
        return self.bytes / self.seconds if self.seconds else None


@dataclass(slots=True)
class Findings:
    """
    All that was measured, complete or not.

    Attributes:
        callers: How many called at once.
        ways: By way; one that was not measured has no entry.
        down: From the gateway to here.
        up: From here to the gateway.
        no_bulk: Why there is no bulk measurement; empty where there is one.
    """

    callers: int
    ways: dict[Way, Samples] = field(default_factory=dict)
    down: Bulk = field(default_factory=Bulk)
    up: Bulk = field(default_factory=Bulk)
    no_bulk: str = ""

    @property
    def has_any(self) -> bool:
        """Whether there is anything to show."""
        return any(samples.alone for samples in self.ways.values())

    def difference(self) -> "Difference | None":
        """
        Compare the calls to the server with the nearest there is to compare them with.

        That is the direct way where it was measured, and the difference is what the tunnel *added*; else the
        tunnel's own share, and the difference is the *server*'s.
        """
        if Way.DIRECT in self.ways:
            return Difference.between("added", self.ways.get(Way.CALL), self.ways[Way.DIRECT])
        return Difference.between("server", self.ways.get(Way.CALL), self.ways.get(Way.TUNNEL))


@dataclass(frozen=True, slots=True)
class Difference:
    """What one way has more than another, in seconds; ``name`` is ``added`` or ``server``."""

    name: str
    p50: float
    p99: float

    @classmethod
    def between(cls, name: str, longer: Samples | None, shorter: Samples | None) -> "Difference | None":
        """Subtract percentiles of single calls; None where either way was not measured."""
        if longer is None or shorter is None or not longer.alone or not shorter.alone:
            return None
        p50, p99 = (percentile(longer.alone, rank) - percentile(shorter.alone, rank) for rank in (50, 99))
        return cls(name, p50, p99)


def percentile(values: Sequence[float], rank: float) -> float:
    """
    Return the value that ``rank`` percent of the values do not exceed (nearest rank).

    Args:
        values: At least one, in any order.
        rank: Above 0, at most 100.
    """
    if not values or not 0 < rank <= 100:
        raise ValueError("a percentile wants values, and a rank up to 100")
    return sorted(values)[ceil(rank / 100 * len(values)) - 1]


def next_size(size: int, seconds: float, most: int) -> int:
    """
    Return how many bytes to move next: more, as long as a transfer is over before it has told anything.

    Args:
        size: Of the last transfer.
        seconds: That it took.
        most: What one transfer may move.
    """
    return min(4 * size, most) if seconds < _TELLING else size


_TELLING = 0.4  # seconds; several round trips of a long path, in which a window grows


def reading(findings: Findings) -> str:
    """Say in one sentence what the figures mean; empty where there are none yet."""
    tunnel, call = (_median(findings, way) for way in (Way.TUNNEL, Way.CALL))
    difference = findings.difference()
    if difference is not None and difference.name == "added":
        if difference.p50 < 0:
            return "a call through the tunnel is no slower than a direct one: the difference drowns in noise"
        return (
            f"the tunnel adds {shown(difference.p50)} to a call's median and {shown(difference.p99)} to its "
            "99th percentile"
        )
    if difference is not None and tunnel is not None and call is not None:
        share = f"{100 * tunnel / call:.0f} %" if tunnel < call else "all"
        return f"of a call's {shown(call)} (median) the tunnel takes {shown(tunnel)}, {share} of it"
    if tunnel is not None:
        return f"a call that the gateway answers itself takes {shown(tunnel)} (median) through the tunnel"
    return ""


def shown(seconds: float) -> str:
    """Write a time in milliseconds, with as many digits as mean something."""
    milliseconds = seconds * 1000
    digits = 2 if abs(milliseconds) < 10 else 1 if abs(milliseconds) < 100 else 0
    return f"{milliseconds:.{digits}f} ms"


def as_json(findings: Findings) -> dict[str, object]:
    """Return the figures for programs: milliseconds, calls a second, millions of bytes a second."""
    difference = findings.difference()
    values: dict[str, object] = {
        "callers": findings.callers,
        "ways": {way.value: _way_as_json(samples) for way, samples in findings.ways.items()},
        "down_mb_per_second": _rounded(findings.down.rate, 1 / MB),
        "up_mb_per_second": _rounded(findings.up.rate, 1 / MB),
    }
    if difference is not None:
        values[difference.name] = {
            "p50_ms": _rounded(difference.p50, 1000),
            "p99_ms": _rounded(difference.p99, 1000),
        }
    return values


def _way_as_json(samples: Samples) -> Mapping[str, object]:
    return {
        "calls": len(samples.alone),
        "p50_ms": _rank(samples.alone, 50),
        "p99_ms": _rank(samples.alone, 99),
        "calls_per_second": _rounded(samples.rate, 1),
        "p99_ms_at_callers": _rank(samples.together, 99),
        "new_connection_ms": _rank(samples.connections, 50),
    }


def _rank(values: Sequence[float], rank: float) -> float | None:
    return _rounded(percentile(values, rank), 1000) if values else None


def _rounded(value: float | None, scale: float) -> float | None:
    return None if value is None else round(value * scale, 3)


def _median(findings: Findings, way: Way) -> float | None:
    samples = findings.ways.get(way)
    return percentile(samples.alone, 50) if samples is not None and samples.alone else None
