"""
Small calls over kept connections, made by ``wrk`` in one thread of C.

The URL names the server, so that SNI and Host are right, and the script takes the address from loopback. The
script is written to a file that only we can read: it holds the API key. wrk checks no certificates and has
none of its own; that is the same for every system.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.speed.load.callers import BODY, LOOPBACK, LoadFailed, call_headers
from bench.speed.system import Entrance

_SCRIPT = """
wrk.method = "POST"
wrk.body = {body}
{headers}

function wrk.resolve(host, service)
  wrk.addrs = wrk.lookup("{address}", service)
end

local failures = {{"connect", "read", "write", "status", "timeout"}}

function done(summary, latency, requests)
  local failed = 0
  local reasons = {{}}
  for _, kind in ipairs(failures) do
    failed = failed + summary.errors[kind]
    if summary.errors[kind] > 0 then
      table.insert(reasons, summary.errors[kind] .. " " .. kind)
    end
  end
  local form = '{{"calls": %d, "microseconds": %d, "p50": %f, "p99": %f, "failed": %d, "why": "%s"}}'
  local p50, p99 = latency:percentile(50), latency:percentile(99)
  local why = table.concat(reasons, ", ")
  io.write("\\n{mark}", string.format(form, summary.requests, summary.duration, p50, p99, failed, why), "\\n")
end
"""
_MARK = "figures: "
_SLACK = 20.0  # seconds beyond the asked time; wrk waits for the last answers


@dataclass(frozen=True)
class Calls:
    """
    What a run of wrk saw.

    Attributes:
        number: Of whole answers.
        seconds: The run took.
        p50: In microseconds.
        p99: In microseconds.
    """

    number: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.number / self.seconds


def call(entrance: Entrance, folder: Path, *, callers: int, seconds: int) -> Calls:
    """
    Make small calls for some seconds.

    Args:
        entrance: Where.
        folder: For the script.
        callers: Connections, each with one call at a time.
        seconds: Whole ones; wrk takes no others.

    Raises:
        LoadFailed: Even one call failed.
    """
    command = [
        "wrk",
        "-t1",
        f"-c{callers}",
        f"-d{seconds}s",
        "--timeout",
        "15s",
        "-s",
        str(_script(entrance, folder)),
    ]
    command.append(f"https://{entrance.server_name}:{entrance.port}/mcp")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _SLACK, check=False)
    except subprocess.TimeoutExpired as error:
        raise LoadFailed(f"wrk with {callers} callers did not end") from error
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return _calls(json.loads(line.removeprefix(_MARK)))
    raise LoadFailed(f"wrk: {(done.stderr or done.stdout).strip()[-200:]}")


def _calls(figures: dict[str, float | str]) -> Calls:
    number = int(figures["calls"])
    if figures["failed"] or not number:
        raise LoadFailed(f"wrk: {number} calls, failed: {figures['why'] or 'all'}")
    return Calls(number, float(figures["microseconds"]) / 1e6, float(figures["p50"]), float(figures["p99"]))


def _script(entrance: Entrance, folder: Path) -> Path:
    path = folder / f"call-{entrance.port}.lua"
    headers = "\n".join(
        f"wrk.headers[ {_lua(name)} ] = {_lua(value)}" for name, value in call_headers(entrance).items()
    )
    text = _SCRIPT.format(body=_lua(BODY.decode()), headers=headers, address=LOOPBACK, mark=_MARK)
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def _lua(text: str) -> str:
    """Return a string literal of Lua; nothing in it is an escape."""
    assert "]==]" not in text
    return f"[==[{text}]==]"
