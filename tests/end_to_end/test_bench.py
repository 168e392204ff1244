"""``sallyport bench`` measures a real tunnel to a real server, by the commands that its page shows."""

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from tests.harness.child_process import CHECKOUT, run_sallyport
from tests.harness.product import LOOPBACK
from tests.harness.stage import Stage
from tests.sallyport.transcript import Command, steps

_PAGE = CHECKOUT / "docs" / "measure.md"
_COMMANDS = [step.line for step in steps(_PAGE.read_text()) if isinstance(step, Command)]
_BRIEF = ("--calls", "20", "--callers", "2")


def _run(stage: Stage, line: str) -> "subprocess.CompletedProcess[str]":
    """Run a documented command, with what this machine has in the place of what it names."""
    for documented, here in (
        ("tnl_…", stage.tunnel.id),
        ("agent.bundle.pem", str(stage.tunnel.bundle())),
        ("http://127.0.0.1:9000/mcp", stage.fixture.url),
    ):
        line = line.replace(documented, here)
    name, *words = shlex.split(line)
    assert name == "sallyport"
    return run_sallyport(*words, *_BRIEF, folder=stage.tunnel.folder)


@pytest.mark.parametrize("line", [line for line in _COMMANDS if "--json" not in line])
def test_people_read_a_table(stage: Stage, line: str) -> None:
    """A row for each way, what the bytes did, and a sentence; no bar where there is no terminal."""
    done = _run(stage, line)
    assert (done.returncode, done.stderr) == (0, "")
    rows = ["tunnel alone", "MB/s down", "MB/s up"]
    if "/tickets" in line:
        rows += ["server, tunnelled"]
        rows += ["server, direct", "added by the tunnel"] if "--direct" in line else ["the server's share"]
    assert [row for row in rows if row not in done.stdout] == []
    assert max(map(len, done.stdout.splitlines())) <= 110


@pytest.mark.parametrize("line", [line for line in _COMMANDS if "--json" in line])
def test_programs_read_json(stage: Stage, line: str) -> None:
    """Every figure of every way; the gateway logs bulk calls like any others."""
    done = _run(stage, line)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["tunnel"], told["server"], told["complete"]) == (stage.tunnel.id, "tickets", True)
    assert list(told["ways"]) == ["tunnel", "call", "direct"]
    for way in told["ways"].values():
        assert way["calls"] == 20
        assert 0 < way["p50_ms"] <= way["p99_ms"]
        assert all(way[key] > 0 for key in ("calls_per_second", "p99_ms_at_callers", "new_connection_ms"))
    added = told["ways"]["call"]["p50_ms"] - told["ways"]["direct"]["p50_ms"]
    assert told["added"]["p50_ms"] == pytest.approx(added, abs=0.002)
    assert min(told["down_mb_per_second"], told["up_mb_per_second"]) > 0
    logged = stage.gateway.events("call", server="_canary", path="/_canary", outcome="answered")
    for method, counted in (("GET", "response_bytes"), ("POST", "request_bytes")):
        moved = [int(str(line[counted])) for line in logged if line["method"] == method]
        assert max(moved) >= 256 * 1024


@pytest.mark.parametrize(
    ("target", "more", "said", "hint"),
    [
        ("/nothere", (), "server nothere answered 421, gateway gw1: refused by rule server", ""),
        ("/tickets", ("--path", "/else"), "server tickets answered 403, gateway gw1", "with --path"),
        ("/tickets", ("--relay", f"{LOOPBACK}:1"), f"the relay at {LOOPBACK}:1 cannot be reached", "--relay"),
        (
            "/tickets",
            ("--direct", f"http://{LOOPBACK}:1/mcp"),
            f"server tickets at {LOOPBACK}:1 refused the connection",
            "is it running",
        ),
    ],
)
def test_what_does_not_answer_is_named(
    stage: Stage, target: str, more: tuple[str, ...], said: str, hint: str
) -> None:
    """One line with the reason, one with the remedy, status 1, and no figures."""
    options: tuple[str | Path, ...] = ("--bundle", stage.tunnel.bundle(), *_BRIEF, *more)
    done = run_sallyport("bench", stage.tunnel.id + target, *options, folder=stage.tunnel.folder)
    assert (done.returncode, done.stdout) == (1, "")
    first, *rest = done.stderr.splitlines()
    assert first.startswith(f"error: {said}")
    assert hint in "".join(rest)


@pytest.mark.anyio
async def test_an_interrupt_shows_what_is_known(stage: Stage) -> None:
    """Ctrl-C after the first calls: their figures, and the status of an interrupt."""
    before = len(stage.gateway.events("call", server="_canary"))
    process = stage.product.start(
        *("bench", "bench", stage.tunnel.id, "--bundle", stage.tunnel.bundle(), "--calls", "100000"),
        folder=stage.tunnel.folder,
    )
    with anyio.fail_after(40):
        await anyio.to_thread.run_sync(
            lambda: stage.gateway.wait_for("call", server="_canary", count=before + 50)
        )
        os.kill(process.pid, signal.SIGINT)
        assert await anyio.to_thread.run_sync(process.wait) == 130
    assert "tunnel alone" in process.output
    assert process.log == ""
