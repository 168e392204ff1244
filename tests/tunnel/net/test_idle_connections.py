"""How often the sockets of idle connections are looked at."""

import anyio
import pytest

from tests.harness.http_hop import PATIENCE, Caller, answers, hop_to, request, serve

pytestmark = pytest.mark.anyio


async def test_a_look_does_not_hold_behind_an_answer(looks: list[int]) -> None:
    """Its server may have closed the connection right behind it: each request has a look of its own."""
    with anyio.fail_after(PATIENCE):
        async with serve(answers()) as upstream, hop_to(upstream.address) as hop:
            for _ in range(3):
                async with await Caller.connect(hop.address) as caller:
                    await caller.send(request(b"x"))
                    assert (await caller.reply()).status == 200
            assert upstream.accepted == 1
    assert len(looks) == 2
