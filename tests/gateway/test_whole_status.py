"""One gateway's status from its workers' reports."""

from typing import Any

from sallyport.gateway.whole_status import Absence, whole_readiness, whole_status
from sallyport.tunnel.net.health import Readiness


def report(
    pid: int, link: str = "up", *, calls: int = 0, failure: str = "", reasons: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Make what one worker says."""
    server = {"server": "tickets", "address": "h:1", "tls": False, "calls": calls, "failed": 1, "dials": 2}
    relay = {"address": "r:443", "link": link, "since": f"t{pid}", "last_error": "", "rtt_ms": float(pid)}
    return {
        "status": {
            "gateway": "gw1",
            "pid": pid,
            "uptime_seconds": 10 * pid,
            "relay": relay,
            "streams": pid,
            "tasks": 5,
            "callers": {"admitted": 1, "refused": 0},
            "memory": {"total": 32, "used": pid, "stalled_streams": 0},
            "servers": [{**server, "failed_dials": 0, "last_failure": failure, "last_dial_error": ""}],
            "certificates_not_taken": {} if link == "up" else {"link": "half copied"},
        },
        "reasons": list(reasons),
    }


def test_what_is_counted_is_added_up() -> None:
    """Streams, callers, memory and calls; what all know alike stays as it is."""
    whole = whole_status([report(1, calls=3), report(2, calls=4)])
    assert whole["gateway"] == "gw1"
    assert whole["streams"] == 3
    assert whole["tasks"] == 10
    assert whole["uptime_seconds"] == 20
    assert "pid" not in whole
    assert whole["callers"] == {"admitted": 2, "refused": 0}
    assert whole["memory"] == {"total": 64, "used": 3, "stalled_streams": 0}
    (server,) = whole["servers"]  # type: ignore[misc]
    assert (server["calls"], server["failed"], server["dials"], server["tls"]) == (7, 2, 4, False)  # type: ignore[index]


def test_a_link_that_is_up_stands_for_all() -> None:
    """The gateway has a link when one worker has one; which one has none is in its row."""
    whole: dict[str, Any] = whole_status([report(1, "down"), report(2), Absence.SILENT, Absence.ENDED])
    assert whole["memory"]["total"] == 4 * 32
    assert whole["relay"]["since"] == "t2"
    assert whole["certificates_not_taken"] == {"link": "half copied"}
    rows = [(row["worker"], row["link"]) for row in whole["workers"]]
    assert rows == [(0, "down"), (1, "up"), (2, "silent"), (3, "not running")]


def test_without_any_link_the_first_ones_error_is_told() -> None:
    """All of them dial the same relay."""
    whole: dict[str, Any] = whole_status([report(1, "down"), report(2, "down")])
    assert whole["relay"]["since"] == "t1"


def test_different_failures_are_all_told() -> None:
    """Nobody knows which was the last; the same one is told once."""
    reports = [report(1, failure="refused"), report(2, failure="timed out"), report(3, failure="refused")]
    whole: dict[str, Any] = whole_status(reports)
    assert whole["servers"][0]["last_failure"] == "refused; timed out"


def test_one_worker_that_is_ready_is_enough() -> None:
    """Callers are served, so a balancer or a supervisor must not act."""
    own = Readiness(ready=False, reasons=["no link"])
    assert whole_readiness(own, [Absence.SILENT, report(2)]).ready
    assert whole_readiness(own, [Absence.SILENT, report(2)]).reasons == []


def test_reasons_are_told_once() -> None:
    """Mostly all of them wait for the same relay."""
    own = Readiness(ready=False, reasons=["no link"])
    others = [report(1, reasons=("no link",)), report(2, reasons=("stopping",)), Absence.ENDED]
    assert whole_readiness(own, others) == Readiness(ready=False, reasons=["no link", "stopping"])
