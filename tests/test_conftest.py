"""The suite cannot skip in silence: what tests/conftest.py promises, tried on small suites of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SKIPS = "import pytest\n\ndef test_a():\n    pytest.skip('no such tool')\n"
_SKIPS_WHOLE = "import pytest\n\npytest.importorskip('no_such_module')\n"
_ELSEWHERE = "import pytest\n\n@pytest.mark.platform('vms')\ndef test_a():\n    raise AssertionError\n"
_LOOPS = """
import asyncio
import pytest

@pytest.mark.anyio
async def test_a():
    print(type(asyncio.get_running_loop()).__module__)
"""


def _run(folder: Path, suite: str, *, ci: bool) -> "subprocess.CompletedProcess[str]":
    shutil.copy(Path(__file__).with_name("conftest.py"), folder / "conftest.py")
    (folder / "test_it.py").write_text(suite)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = platform(*names): where it runs\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "."],
        cwd=folder,
        env={**os.environ, "CI": "true" if ci else ""},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("suite", [_SKIPS, _SKIPS_WHOLE])
def test_a_skip_is_loud(suite: str, tmp_path: Path) -> None:
    """On a developer's machine it is counted in capitals, with its reason."""
    done = _run(tmp_path, suite, ci=False)
    assert "1 SKIPPED: these proved nothing" in done.stdout
    assert "no such tool" in done.stdout or "no_such_module" in done.stdout


@pytest.mark.parametrize("suite", [_SKIPS, _SKIPS_WHOLE])
def test_a_skip_fails_under_ci(suite: str, tmp_path: Path) -> None:
    """A whole module that skips fails too."""
    done = _run(tmp_path, suite, ci=True)
    assert done.returncode not in (0, 5), done.stdout
    assert "skipped, which CI does not allow" in done.stdout


def test_another_platform_is_no_failure(tmp_path: Path) -> None:
    """A test that belongs elsewhere is skipped, and said to be."""
    done = _run(tmp_path, _ELSEWHERE, ci=True)
    assert done.returncode == 0, done.stdout
    assert f"not for {sys.platform}" in done.stdout


def test_async_tests_run_on_both_loops(tmp_path: Path) -> None:
    """Plain asyncio, and uvloop."""
    done = _run(tmp_path, _LOOPS, ci=True)
    assert done.returncode == 0, done.stdout
    assert "asyncio.unix_events" in done.stdout
    assert "uvloop" in done.stdout
