"""
The short form of ``make drill``: every attack, on the callers that need no other program.
"""

from pathlib import Path

import pytest

from bench.drill import run_drill
from tests.harness.product import is_root


@pytest.mark.skipif(not is_root(), reason="reading the relay's memory needs root")
def test_whoever_owns_the_relay_and_the_dns_gets_nothing(tmp_path: Path) -> None:
    """Each attack fails for its own reason before a byte of a request has left the caller."""
    drill = run_drill(tmp_path, only_clients=frozenset({"connector", "Python"}))
    assert drill.clients == ["connector", "Python"]
    assert len(drill.reasons) == 9
    assert drill.failures == []
