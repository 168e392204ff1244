"""The error tree: what every error has, and what its text says."""

import inspect

import pytest

from sallyport.tunnel import errors
from sallyport.tunnel.errors import (
    BodyTruncated,
    HelloRefused,
    HttpRefused,
    LimitReached,
    LinkLost,
    LinkRefused,
    LinkTimedOut,
    ProtocolViolation,
    ProxyRefused,
    SettingRefused,
    StreamReset,
    TlsFailed,
    TlsTruncated,
    TunnelError,
)
from sallyport.tunnel.frames import GoAwayReason, RefusalCode, ResetCode

EXAMPLES = [
    (
        ProtocolViolation(GoAwayReason.PROTOCOL, "DATA on stream 0"),
        "the peer broke the link protocol: DATA on stream 0",
    ),
    (
        LinkRefused(RefusalCode.REVOKED, "certificate revoked"),
        "the relay refused the link: certificate revoked",
    ),
    (LinkTimedOut(9.04), "the link is dead: waited 9.0 s for any frame"),
    (LinkLost("the peer closed the connection"), "the peer closed the connection"),
    (StreamReset(ResetCode.SLOW_CONSUMER, by_peer=True), "the stream was reset by the peer: slow consumer"),
    (StreamReset(77, by_peer=False), "the stream was reset by this end: 77"),
    (LimitReached("streams"), "the link's limit is reached: streams"),
    (HelloRefused(112, "no server name"), "the ClientHello was refused: no server name"),
    (ProxyRefused("version 1"), "the PROXY header was refused: version 1"),
    (TlsFailed(None, "no shared cipher"), "TLS failed: no shared cipher"),
    (TlsFailed("unknown_ca", "read"), "TLS failed: the peer sent the alert unknown_ca (read)"),
    (
        TlsTruncated("after the handshake"),
        "the connection was cut after the handshake, without TLS close_notify",
    ),
    (HttpRefused(400, "two Host headers"), "the HTTP message was refused: two Host headers"),
    (BodyTruncated(3, 10), "the body ended after 3 bytes, before 10 bytes"),
    (BodyTruncated(3), "the body ended after 3 bytes, before the last chunk"),
    (SettingRefused("SALLYPORT_LOOP", "fast", "it is asyncio"), "there is no SALLYPORT_LOOP=fast"),
]


@pytest.mark.parametrize(("error", "text"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_each_error(error: TunnelError, text: str) -> None:
    """An error's text has no capital of its own and no full stop, and its fields survive."""
    assert str(error) == text
    assert not text.endswith(".")
    assert error.fault in {"ours", "peer", "network"}
    assert isinstance(error.retryable, bool)
    assert isinstance(error.hint, str)


def test_the_tree_is_drawn_whole() -> None:
    """Every class of the module is in the drawing at its top, and in these examples."""
    classes = {
        name
        for name, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, TunnelError)
    }
    drawn = {line.split()[1] for line in (errors.__doc__ or "").splitlines() if "── " in line}
    assert drawn == classes - {"TunnelError"} == {type(error).__name__ for error, _ in EXAMPLES}


def test_the_module_imports_nothing_of_ours() -> None:
    """Everybody may import errors because it imports nobody."""
    assert "from sallyport" not in inspect.getsource(errors)


@pytest.mark.parametrize("code", ResetCode)
def test_what_was_never_begun_can_be_tried_again(code: ResetCode) -> None:
    """A stream that was never begun can be opened elsewhere; of any other nobody knows what it did."""
    never_begun = code in {ResetCode.REFUSED, ResetCode.OVERLOADED}
    assert StreamReset(code, by_peer=True).retryable is never_begun


def test_a_refusal_says_whether_waiting_helps() -> None:
    """A refused link is tried again when the relay says after what time."""
    assert LinkRefused(RefusalCode.OVERLOADED, "busy", 5.0).retryable
    assert not LinkRefused(RefusalCode.REVOKED, "revoked").retryable
