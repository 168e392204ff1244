"""
The short form of ``make blind``: the relay sees nothing of 50 calls.
"""

from pathlib import Path

import pytest

from bench.blind import search_for_canaries
from tests.harness.product import is_root


@pytest.mark.skipif(not is_root(), reason="reading the relay's memory needs root")
def test_the_relay_never_has_what_it_carries(tmp_path: Path) -> None:
    """Canaries are nowhere in the relay, and the same search finds them in the gateway."""
    findings = search_for_canaries(tmp_path, calls=50)
    assert not findings.blind_spots
    assert findings.missed_packets == 0
    assert findings.relay
    assert findings.hits == 0, findings.relay
