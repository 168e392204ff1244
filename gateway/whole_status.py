"""
How a whole gateway is, from what its workers say (pure).

What each counts is added up; what all know alike is worker 0's; of the links one that is up stands for all,
and each has its row under ``workers``. The gateway can serve callers when one worker can.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from sallyport.tunnel.net.health import Readiness

Report = Mapping[str, Any]
"""What one worker says of itself, as JSON: its ``status``, and the ``reasons`` why it is not ready."""


class Absence(StrEnum):
    """Why a worker says nothing; told in the place of its link."""

    SILENT = "silent"  # it runs, and has not answered: it hangs, or the machine is very busy
    ENDED = "not running"  # it has ended, or was not started yet; the log says why, and when it is


_COUNTED = ("calls", "failed", "dials", "failed_dials")
_SAID = ("last_failure", "last_dial_error")


def whole_status(reports: Sequence[Report | Absence]) -> dict[str, object]:
    """
    Describe the gateway.

    Args:
        reports: What the workers say, by their indices, or why one says nothing. Worker 0 always does.
    """
    statuses = [report["status"] for report in reports if not isinstance(report, Absence)]
    first = statuses[0]
    memory = _added([status["memory"] for status in statuses])
    return {
        # The process to signal is none of them.
        **{key: value for key, value in first.items() if key != "pid"},
        "uptime_seconds": max(status["uptime_seconds"] for status in statuses),
        "relay": next((s["relay"] for s in statuses if s["relay"]["link"] == "up"), first["relay"]),
        "streams": sum(status["streams"] for status in statuses),
        "tasks": sum(status["tasks"] for status in statuses),
        "callers": _added([status["callers"] for status in statuses]),
        "memory": {**memory, "total": first["memory"]["total"] * len(reports)},
        "servers": [_server(rows) for rows in zip(*(s["servers"] for s in statuses), strict=True)],
        "certificates_not_taken": {
            name: why for status in statuses for name, why in status["certificates_not_taken"].items()
        },
        "workers": [_row(index, report) for index, report in enumerate(reports)],
    }


def whole_readiness(own: Readiness, others: Sequence[Report | Absence]) -> Readiness:
    """
    Say whether the gateway can serve callers.

    Args:
        own: Whether worker 0 can.
        others: What the other workers say, or why one says nothing.
    """
    reports = [report for report in others if not isinstance(report, Absence)]
    is_ready = own.ready or any(not report["reasons"] for report in reports)
    if is_ready:
        return Readiness(ready=True, certificates=own.certificates)
    said = [reason for report in reports for reason in report["reasons"]]
    # Mostly all of them say the same.
    return Readiness(
        ready=False, reasons=list(dict.fromkeys([*own.reasons, *said])), certificates=own.certificates
    )


def _added(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {key: sum(each[key] for each in counts) for key in counts[0]}


def _server(rows: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Put together what the workers say of one server: each of them dials it by itself."""
    said = {key: "; ".join(dict.fromkeys(row[key] for row in rows if row[key])) for key in _SAID}
    return {**rows[0], **{key: sum(row[key] for row in rows) for key in _COUNTED}, **said}


def _row(index: int, report: Report | Absence) -> dict[str, object]:
    if isinstance(report, Absence):
        return {"worker": index, "link": report.value}
    status = report["status"]
    relay = status["relay"]
    return {
        "worker": index,
        "pid": status["pid"],
        "uptime_seconds": status["uptime_seconds"],
        "link": relay["link"],
        "since": relay["since"],
        "last_error": relay["last_error"],
        "rtt_ms": relay["rtt_ms"],
        "streams": status["streams"],
    }
