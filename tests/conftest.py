"""
What every test has: both event loops, and a suite that cannot skip in silence.

With ``CI=true`` a skipped test is a failure, but for those that name another platform: a suite that skips is
a suite that does not run.
"""

import os
import sys
from collections.abc import Generator

import pytest
import structlog

_skipped: list[str] = []


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Run an async test on plain asyncio and on uvloop."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Generator[None, None, None]:
    """Undo what a test, or the program that it ran in this process, has configured for logs."""
    yield
    structlog.reset_defaults()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked for other platforms: ``@pytest.mark.platform("linux", "darwin")``."""
    if _is_for_another_platform(item):
        pytest.skip(f"not for {sys.platform}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a test that skips; under CI it fails, unless it belongs to another platform."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _judge_skip(report, allowed=_is_for_another_platform(item))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Count a module that skips as a whole, as ``importorskip`` does; under CI it fails."""
    report = yield
    if report.skipped:
        _judge_skip(report, allowed=False)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud what did not run."""
    if _skipped:
        terminalreporter.section(f"{len(_skipped)} SKIPPED: these proved nothing", sep="!", red=True)
        for line in _skipped:
            terminalreporter.write_line(line)


def _judge_skip(report: pytest.TestReport | pytest.CollectReport, *, allowed: bool) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    _skipped.append(f"{report.nodeid}: {reason}")
    if os.environ.get("CI") == "true" and not allowed:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {reason}"


def _is_for_another_platform(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("platform")
    return mark is not None and not sys.platform.startswith(mark.args)
