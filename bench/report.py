"""
How every long check ends: its figures as one last line, and ``bench/results/NAME.json`` beside it.
"""

import json
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from sallyport import __version__

RESULTS = Path(__file__).resolve().parent / "results"


def say(line: str = "") -> None:
    """Print one line at once, so that a reader of a pipe sees how far the run is."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def finish(name: str, figures: str, facts: Mapping[str, object], *, ok: bool) -> int:
    """
    Write the result file, print the last line and return the exit code.

    Args:
        name: of the check, which begins the line and names the file.
        figures: what the line says after the name.
        facts: what the file holds beside the figures.
        ok: whether every gate held.
    """
    result = {
        "name": name,
        "ok": ok,
        "figures": figures,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        **facts,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, sort_keys=False) + "\n")
    say(f"{name}: {figures}")
    return 0 if ok else 1
