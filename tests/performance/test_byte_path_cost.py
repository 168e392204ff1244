"""
What a call and an idle stream cost on the byte path, in numbers that do not depend on the machine's speed.

A call is counted in function calls, ours and Python's own, which is what the time of a small call is made of;
a stream in memory that Python was asked for. Both are the same on every run, so a step upwards is a change
in the code and not in the weather. What is measured, and between which points, is said by
``tests.harness.byte_path``.
"""

import gc
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType

import pytest

from sallyport.certs.contexts import caller_context, door_context
from sallyport.certs.names import tunnel_host
from tests.harness.byte_path import BytePath
from tests.harness.identity import DOMAIN, TestIdentity

_MARGIN = 1.08
_UPDATE = (
    "If the change is worth it, put the new figure into the table at the top of this file; if it was not "
    "meant, print what sys.setprofile sees of each leg of tests/harness/byte_path.py before and after it."
)

_REQUEST, _ANSWER = b"q" * 700, b"a" * 650
_ROUNDS = 96  # a multiple of the calls after which credit goes back, so that its frames are counted too

# Callers whose frames share messages -> function calls of one call, at the relay's end and at the gateway's.
# They are the same on Python 3.11, 3.12 and 3.13; one that counts otherwise gets a row of its own.
_CALLS = {1: (50.7, 60.8), 8: (31.7, 41.7)}
# Python's minor version -> bytes of one idle stream without inner TLS, and with it: both ends and the
# caller's connection together, OpenSSL's own memory apart. A version that is not here is held to the newest.
_BYTES = {11: (2650, 4025), 12: (2610, 3929), 13: (2938, 4273)}


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> TestIdentity:
    """Make one tunnel for all tests of this file."""
    return TestIdentity(tmp_path_factory.mktemp("tunnel") / "identity")


def byte_path(identity: TestIdentity, *, callers: int, tls: bool = True) -> BytePath:
    """Make a link with so many callers on it."""
    door = door_context(identity.directory.gateway("gw"), identity.root) if tls else None
    dial = caller_context(identity.bundle) if tls else None
    path = BytePath(door, dial, tunnel_host(identity.label, DOMAIN))
    for _ in range(callers):
        path.add_caller()
    return path


class Counter:
    """Counts the function calls of what is run through it."""

    def __init__(self) -> None:
        self.calls = 0

    def run(self, leg: Callable[[], None]) -> None:
        """Run one leg of a call."""
        outer = sys.getprofile()
        sys.setprofile(self._happened)
        try:
            leg()
        finally:
            sys.setprofile(outer)

    def _happened(self, frame: FrameType, event: str, arg: object) -> None:
        self.calls += event in ("call", "c_call")


@pytest.mark.parametrize("callers", [1, 8])
def test_a_small_call_takes_no_more_function_calls(identity: TestIdentity, callers: int) -> None:
    """A small call costs the relay and the gateway as many function calls as it did, within the margin."""
    path = byte_path(identity, callers=callers)
    relay, gateway = Counter(), Counter()
    for _ in range(_ROUNDS):
        requests = path.encrypt(_REQUEST)
        relay.run(lambda: path.ask(requests))  # noqa: B023
        gateway.run(lambda: path.hear(path.relay_wire.take()))
        gateway.run(lambda: path.answer(_ANSWER))
        relay.run(lambda: path.deliver(path.gateway_wire.take()))
    assert all(upper.received == _ROUNDS * len(_REQUEST) for upper in path.served)
    each = tuple(round(counter.calls / _ROUNDS / callers, 1) for counter in (relay, gateway))
    expected = _CALLS[callers]
    assert all(now <= before * _MARGIN for now, before in zip(each, expected, strict=True)), (
        f"{each} function calls for a small call at the relay's and the gateway's end with {callers} "
        f"callers a turn, where {expected} were. {_UPDATE}"
    )


@pytest.mark.parametrize("tls", [False, True])
def test_an_idle_stream_holds_no_more_memory(identity: TestIdentity, tls: bool) -> None:
    """An idle stream costs as much of Python's memory as it did, within the margin."""
    streams = 200
    path = byte_path(identity, callers=streams, tls=tls)  # so that no table has to grow in what is measured
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(streams):
            path.add_caller()
        gc.collect()
        each = tracemalloc.get_traced_memory()[0] / streams
    finally:
        tracemalloc.stop()
    expected = _BYTES[min(sys.version_info.minor, max(_BYTES))][tls]
    assert each <= expected * _MARGIN, (
        f"{each:.0f} bytes for an idle stream {'with' if tls else 'without'} inner TLS, where {expected} "
        f"were. {_UPDATE}"
    )
