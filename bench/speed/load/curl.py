"""
64 MiB down and up, made by ``curl``, which checks the system's certificate against its one root.

What curl must know is in a file that only we can read, as the API key is among it.
"""

import json
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.speed.load.callers import LOOPBACK, LoadFailed, call_headers
from bench.speed.system import Entrance

SIZE = 64 * 2**20  # bytes of a transfer
_LIMIT = 120.0  # seconds for one
_WRITTEN = (
    '{"status": %{http_code}, "down": %{size_download}, "up": %{size_upload}, "seconds": %{time_total}}\\n'
)


def download(entrance: Entrance, folder: Path, *, box: float | None = None) -> float:
    """
    Fetch ``/mcp/big`` once.

    Args:
        entrance: Where.
        folder: For curl's settings.
        box: Seconds after which it is stopped; the rate is then that of the part that came.

    Returns:
        MB/s (a million bytes), connecting included.

    Raises:
        LoadFailed: It failed or was cut short.
    """
    return _transfer(entrance, folder, "/mcp/big", "down", [], box)


def upload(entrance: Entrance, folder: Path) -> float:
    """Post 64 MiB to ``/mcp/upload`` once; see ``download``."""
    payload = folder / "payload"
    if not payload.exists():
        payload.write_bytes(bytes(range(256)) * (SIZE // 256))
    return _transfer(entrance, folder, "/mcp/upload", "up", ["--data-binary", f"@{payload}"], None)


class DownloadLoop:
    """
    Fetches ``/mcp/big`` again and again on one connection while its context is open.

    Args:
        entrance: Where.
        folder: For curl's settings.
    """

    def __init__(self, entrance: Entrance, folder: Path) -> None:
        command = _command(entrance, folder, "/mcp/big?[1-100000]", [])
        self._began = time.monotonic()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def rate(self) -> float:
        """
        End the loop.

        Returns:
            MB/s over the whole time. The download that was under way counts for what /proc says it has
            passed on, so that a slow tunnel is not rounded to nothing.

        Raises:
            LoadFailed: A download failed, or the loop had ended.
        """
        seconds = time.monotonic() - self._began
        taken = self._bytes_written()
        self._process.kill()
        written, _ = self._process.communicate()
        for line in written.splitlines():
            _check(json.loads(line), "down")
        if not taken:
            raise LoadFailed("nothing was downloaded beside the calls")
        return taken / seconds / 1e6

    def _bytes_written(self) -> int:
        if self._process.poll() is not None:
            assert self._process.stderr is not None
            raise LoadFailed(f"the download beside the calls ended: {self._process.stderr.read()[-200:]}")
        # What write() took: all of the body goes to /dev/null. What recv() gave is in no such counter.
        fields = Path(f"/proc/{self._process.pid}/io").read_text().split()
        return int(fields[fields.index("wchar:") + 1])


def _transfer(
    entrance: Entrance, folder: Path, path: str, direction: str, options: list[str], box: float | None
) -> float:
    limit = ["--max-time", str(box or _LIMIT)]
    command = _command(entrance, folder, path, limit + options)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT + 10, check=False)
    except subprocess.TimeoutExpired as error:
        raise LoadFailed(f"curl {path} did not end") from error
    boxed = box is not None and done.returncode == 28
    if not boxed and done.returncode != 0:
        raise LoadFailed(f"curl {path}: exit {done.returncode}, {done.stderr.strip()[-200:]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    if not boxed:
        _check(figures, direction)
    return float(figures[direction]) / float(figures["seconds"]) / 1e6


def _check(figures: dict[str, float], direction: str) -> None:
    if figures["status"] != 200 or figures[direction] != SIZE:
        raise LoadFailed(f"a transfer of {SIZE} bytes ended with {figures}")


def _command(entrance: Entrance, folder: Path, path: str, options: list[str]) -> list[str]:
    settings = folder / f"curl-{entrance.port}"
    settings.touch(mode=0o600)
    lines = [
        "silent",
        "show-error",
        "http1.1",
        'output = "/dev/null"',
        f'cacert = "{entrance.authority}"',
        f'resolve = "{entrance.server_name}:{entrance.port}:{LOOPBACK}"',
        'header = "Expect:"',
        *(f'header = "{name}: {value}"' for name, value in call_headers(entrance).items()),
    ]
    settings.write_text("\n".join(lines) + "\n")
    url = f"https://{entrance.server_name}:{entrance.port}{path}"
    return ["curl", "--config", str(settings), "--write-out", _WRITTEN, *options, url]
