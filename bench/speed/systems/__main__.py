"""
Shows that the systems work: starts each in turn, and makes a call with and one without a client certificate.

    python -m bench.speed.systems [NAME …]      exit status 1 when one that is installed carries no call
"""

import argparse
import http.client
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from bench.report import say
from bench.speed import install
from bench.speed.system import System
from bench.speed.systems import all_systems
from bench.speed.systems.passing import call
from bench.speed.upstream import Upstream, run_upstream
from tests.harness.child_process import NotReached

_MIB = 1024 * 1024


def main() -> int:
    """Try the systems that are named, or all."""
    parser = argparse.ArgumentParser(description="start each system of the benchmark and call through it")
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names
    if lacking := install.missing("nginx"):
        say(f"SKIPPED all: {lacking}")
        return 0
    broken = 0
    with tempfile.TemporaryDirectory(prefix="sallyport-systems-") as name, ExitStack() as stack:
        upstream_folder = Path(name) / "upstream"
        upstream_folder.mkdir()
        upstream = stack.enter_context(run_upstream(upstream_folder))
        for system in all_systems():
            if names and system.name not in names:
                continue
            if lacking := system.missing():
                say(f"{system.name:20} SKIPPED: {lacking}")
                continue
            broken += not _try(system, Path(name) / system.name.replace(" ", ""), upstream)
    return 1 if broken else 0


def _try(system: System, folder: Path, upstream: Upstream) -> bool:
    folder.mkdir()
    began = time.monotonic()
    try:
        with system.start(folder, upstream) as running:
            up = time.monotonic() - began
            times = [call(running.entrance, is_mutual=is_mutual) for is_mutual in (False, True)]
            memory = sum(psutil.Process(pid).memory_info().rss for pid in running.pids) / _MIB
            say(
                f"{system.name:20} up in {up:4.1f} s; call {times[0]:5.1f} ms, mutual {times[1]:5.1f} ms; "
                f"{len(running.pids)} processes, {memory:.0f} MiB"
            )
            return True
    except (NotReached, OSError, http.client.HTTPException) as error:
        say(f"{system.name:20} BROKEN: {error}")
        return False


if __name__ == "__main__":
    sys.exit(main())
