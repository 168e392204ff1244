"""SPEC.md against the code, table by table and number by number; §8 is held by test_corpus."""

import re
from enum import IntEnum
from pathlib import Path

import pytest

import sallyport.tunnel
from sallyport.tunnel import limits
from sallyport.tunnel.alerts import SPEC_ALERTS
from sallyport.tunnel.frames import FrameType, GoAwayReason, RefusalCode, ResetCode
from sallyport.tunnel.hello import PROTOCOL_VERSION
from sallyport.tunnel.limits import LIMITS
from sallyport.tunnel.stream_state import markdown_table

PACKAGE = Path(sallyport.tunnel.__file__).parent
SPEC = (PACKAGE / "SPEC.md").read_text()


def marked(name: str) -> str:
    """Return the table between a marker and its end."""
    begin = SPEC.index(f"<!-- {name}")
    return SPEC[SPEC.index("-->", begin) + 4 : SPEC.index("<!-- end -->", begin)].strip()


def section(number: int) -> str:
    """Return the text of one section."""
    return SPEC.partition(f"\n## {number}. ")[2].partition("\n## ")[0]


def number(value: float) -> str:
    """Write a number as the page does."""
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def test_stream_states() -> None:
    """The table of states is the one of stream_state.py."""
    assert marked("states") == markdown_table()


def test_limits() -> None:
    """The limits that both ends agree on are those of limits.py, with value and reason."""
    rows = ["| limit | value | unit | because |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {limit.name} | {number(limit.value)} | {limit.unit} | {limit.reason} |"
        for limit in LIMITS
        if limit.kind == "spec"
    ]
    assert marked("limits") == "\n".join(rows)


def test_alerts() -> None:
    """What the relay says to callers is the table of alerts.py."""
    rows = ["| situation | alert |", "| --- | --- |"]
    rows += [
        f"| {situation.value} | {alert.value} {alert.name.lower()} |"
        for situation, alert in SPEC_ALERTS.items()
    ]
    assert marked("alerts") == "\n".join(rows)


def test_frame_types() -> None:
    """Every frame type is listed under its number."""
    assert re.findall(r"^\| (\d+) \| (\w+) \|", section(3), re.MULTILINE) == [
        (str(kind.value), kind.name) for kind in FrameType
    ]


@pytest.mark.parametrize(
    ("title", "codes"), [("RESET", ResetCode), ("REFUSED", RefusalCode), ("GO_AWAY", GoAwayReason)]
)
def test_codes(title: str, codes: type[IntEnum]) -> None:
    """Every code is listed under its number."""
    table = section(13).partition(f"| {title} | | |")[2].partition("\n\n")[0]
    listed = re.findall(r"^\| (\d+) \| (\w+) \| .+ \|$", table, re.MULTILINE)
    assert listed == [(str(code.value), code.name) for code in codes]


def test_version() -> None:
    """The page is about the version that the code speaks."""
    assert SPEC.startswith(f"# The link protocol, version {PROTOCOL_VERSION}\n")
    assert f"This is version {PROTOCOL_VERSION}." in section(14)


@pytest.mark.parametrize(
    ("where", "phrase", "value"),
    [
        (4, "waits longer than {} s", limits.HELLO_TIMEOUT),
        (7, "idle for {} to 20 s", limits.IDLE_CREDIT_EVERY),
        (7, "up to {} MiB", limits.MAX_WINDOW / limits.MIB),
        (7, "stalled for {} s", limits.SLOW_CONSUMER_AFTER),
        (7, "after {} s already", limits.SLOW_CONSUMER_AT_LEAST),
        (10, "{} KiB a turn", limits.TURN / limits.KIB),
        (10, "up to {} KiB, decides", limits.JOINED_MESSAGE / limits.KIB),
        (10, "at most {} PONGs", limits.PENDING_PONGS),
        (10, "OPEN and RESET (burst {},", limits.OPEN_BURST),
        (10, "then {}/s each)", limits.OPEN_RATE),
        (10, "answer nothing ({},", limits.PING_BURST),
        (10, "CONTROL and GO_AWAY ({},", limits.CONTROL_BURST),
        (10, "end a stream ({},", limits.FAULT_BURST),
        (10, "opens at most {} streams at once", limits.OPEN_BURST_SENT),
        (10, "streams at once and {} a second", limits.OPEN_RATE_SENT),
        (11, "After {} s of silence an end sends PING", limits.PING_AFTER),
        (11, "after {} s of silence the link is dead", limits.DEAD_AFTER),
        (11, "at least every {} s", limits.RTT_EVERY),
        (11, "late by more than {} s", limits.OVERSLEPT),
    ],
)
def test_numbers_in_the_text(where: int, phrase: str, value: float) -> None:
    """A number that the page names in a sentence is the number of the code."""
    assert phrase.format(number(value)) in " ".join(section(where).split())


def test_sections_that_the_code_cites() -> None:
    """Where the code cites a section, there is one."""
    cited = {
        int(found)
        for path in PACKAGE.rglob("*.py")
        for found in re.findall(r"SPEC\.md §(\d+)", path.read_text())
    }
    assert cited
    assert cited <= {int(found) for found in re.findall(r"^## (\d+)\. ", SPEC, re.MULTILINE)}
