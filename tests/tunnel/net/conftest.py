"""What several files of these tests watch."""

from collections.abc import Collection

import pytest

from sallyport.tunnel.net import http_client
from sallyport.tunnel.net.unread import unread_among


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each look at idle connections adds how many it is at."""
    counts: list[int] = []

    def look(descriptors: list[int]) -> Collection[int]:
        counts.append(len(descriptors))
        return unread_among(descriptors)

    monkeypatch.setattr(http_client, "unread_among", look)
    return counts
