"""
What can go wrong with what travels.

    TunnelError
    ├── ProtocolViolation   the peer broke the link protocol; the link ends
    ├── LinkRefused         the relay will not have this link, and says why
    ├── LinkTimedOut        nothing came from the peer for too long
    ├── LinkLost            the carrier ended, or is not up
    ├── StreamReset         one stream was ended at once, by either end
    ├── LimitReached        a limit of this end forbids it; nothing was sent
    ├── HelloRefused        a caller's first bytes are not a ClientHello that can be routed
    ├── ProxyRefused        a balancer's first bytes are not a PROXY protocol header
    ├── TlsFailed           a TLS handshake or record failed
    ├── TlsTruncated        TLS ended without close_notify: what came may be cut short
    ├── HttpRefused         an HTTP message breaks a rule that we keep
    ├── BodyTruncated       an HTTP body ended before its declared end
    └── SettingRefused      a variable in the environment asks for what there is not

Each class says whose ``fault`` it is (``"ours"``, ``"peer"``, ``"network"``), whether trying again can help
(``retryable``) and what to do (``hint``, perhaps empty). Fields come first; the text is made from them in
``__str__``, and nobody decides by it. This module imports nothing of ours.
"""

from collections.abc import Iterator
from typing import Final, Literal

Fault = Literal["ours", "peer", "network"]


class TunnelError(Exception):
    """
    The root of this package's errors.

    Attributes:
        fault: Whose doing it is.
        retryable: Whether the same thing can succeed later, or on another link, unchanged.
        hint: What to do about it, for a person; may be empty.
    """

    fault: Fault = "ours"
    retryable: bool = False
    hint: str = ""


class ProtocolViolation(TunnelError):
    """
    The peer sent what SPEC.md forbids, and the link cannot go on.

    Attributes:
        code: The ``GoAwayReason`` that the peer is told.
        detail: What was wrong, in terms of the protocol only; never payload.
    """

    fault = "peer"
    retryable = True  # on a new link; the peer may have been restarted or repaired
    hint = "if it happens again, compare the versions of sallyport at both ends"

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(code, detail)
        self.code: Final = code
        self.detail: Final = detail

    def __str__(self) -> str:
        return f"the peer broke the link protocol: {self.detail}"


class LinkRefused(TunnelError):
    """
    The relay answered HELLO with REFUSED.

    Attributes:
        code: The ``RefusalCode``.
        text: The relay's reason, for a person.
        retry_after: Seconds to wait before trying again; None when it cannot help until something changes.
    """

    def __init__(self, code: int, text: str, retry_after: float | None = None) -> None:
        super().__init__(code, text, retry_after)
        self.code: Final = code
        self.text: Final = text
        self.retry_after: Final = retry_after
        self.retryable = retry_after is not None

    def __str__(self) -> str:
        return f"the relay refused the link: {self.text}"


class LinkTimedOut(TunnelError):
    """
    Nothing was received on a link for longer than a living peer is silent.

    Attributes:
        silence: How long, in seconds.
        waiting_for: What should have come.
    """

    fault = "network"
    retryable = True

    def __init__(self, silence: float, waiting_for: str = "any frame") -> None:
        super().__init__(silence, waiting_for)
        self.silence: Final = silence
        self.waiting_for: Final = waiting_for

    def __str__(self) -> str:
        return f"the link is dead: waited {self.silence:.1f} s for {self.waiting_for}"


class LinkLost(TunnelError):
    """
    The carrier of a link ended, or is not there yet.

    Attributes:
        reason: How, for a person.
    """

    fault = "network"
    retryable = True

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason: Final = reason

    def __str__(self) -> str:
        return self.reason


class StreamReset(TunnelError):
    """
    A stream was ended at once, in both directions, and what was under way in it is lost.

    Attributes:
        code: The ``ResetCode``.
        by_peer: Whether the other end did it.
    """

    # ResetCode.REFUSED and .OVERLOADED: the stream was never begun, so opening it elsewhere repeats nothing.
    _NEVER_BEGUN: Final = frozenset({3, 4})

    def __init__(self, code: int, by_peer: bool) -> None:
        super().__init__(code, by_peer)
        self.code: Final = code
        self.by_peer: Final = by_peer
        self.fault = "peer" if by_peer else "ours"
        self.retryable = code in self._NEVER_BEGUN

    def __str__(self) -> str:
        name = str(getattr(self.code, "name", self.code)).lower().replace("_", " ")
        return f"the stream was reset by {'the peer' if self.by_peer else 'this end'}: {name}"


class LimitReached(TunnelError):
    """
    This end will not do it, because a limit of its own forbids it; the peer was told nothing.

    Attributes:
        limit: Which one: ``streams``, ``memory``, ``opens per second``, ``output``, ``stream ids``, or
            ``going away``.
    """

    retryable = True  # on another link, or later

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit: Final = limit

    def __str__(self) -> str:
        return f"the link's limit is reached: {self.limit}"


class HelloRefused(TunnelError):
    """
    A caller's first bytes cannot be routed.

    Attributes:
        alert: The TLS alert (RFC 8446 §6) that the caller is sent.
        detail: What was wrong.
    """

    fault = "peer"

    def __init__(self, alert: int, detail: str) -> None:
        super().__init__(alert, detail)
        self.alert: Final = alert
        self.detail: Final = detail

    def __str__(self) -> str:
        return f"the ClientHello was refused: {self.detail}"


class ProxyRefused(TunnelError):
    """
    A balancer's first bytes are not a PROXY protocol header of version 2.

    Attributes:
        detail: What was wrong.
    """

    fault = "peer"
    hint = (
        "haproxy says it with `send-proxy-v2` on the server line; "
        "what is no balancer does not belong in `proxy_protocol_from`"
    )

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail: Final = detail

    def __str__(self) -> str:
        return f"the PROXY header was refused: {self.detail}"


class TlsFailed(TunnelError):
    """
    A TLS handshake or record failed.

    Attributes:
        alert: The alert's name when the peer sent one, else None: this end refused, or the bytes were no TLS.
        detail: What was wrong.
    """

    fault = "peer"

    def __init__(self, alert: str | None, detail: str) -> None:
        super().__init__(alert, detail)
        self.alert: Final = alert
        self.detail: Final = detail

    def __str__(self) -> str:
        if self.alert is None:
            return f"TLS failed: {self.detail}"
        return f"TLS failed: the peer sent the alert {self.alert} ({self.detail})"


class TlsTruncated(TunnelError):
    """
    TLS ended without close_notify, so that what was received may be only a part (RFC 8446 §6.1).

    Attributes:
        when: ``"during the handshake"`` or ``"after the handshake"``.
    """

    fault = "network"
    retryable = True

    def __init__(self, when: str) -> None:
        super().__init__(when)
        self.when: Final = when

    def __str__(self) -> str:
        return f"the connection was cut {self.when}, without TLS close_notify"


class HttpRefused(TunnelError):
    """
    An HTTP message breaks a rule that we keep.

    Attributes:
        status: The status that answers it.
        rule: The rule's name, for logs and the answer's body.
    """

    fault = "peer"

    def __init__(self, status: int, rule: str) -> None:
        super().__init__(status, rule)
        self.status: Final = status
        self.rule: Final = rule

    def __str__(self) -> str:
        return f"the HTTP message was refused: {self.rule}"


class BodyTruncated(TunnelError):
    """
    An HTTP body ended before its declared end.

    Attributes:
        received: Bytes of the body that came.
        expected: Bytes that were declared; None when it was chunked.
    """

    fault = "peer"

    def __init__(self, received: int, expected: int | None = None) -> None:
        super().__init__(received, expected)
        self.received: Final = received
        self.expected: Final = expected

    def __str__(self) -> str:
        declared = "the last chunk" if self.expected is None else f"{self.expected} bytes"
        return f"the body ended after {self.received} bytes, before {declared}"


class SettingRefused(TunnelError):
    """
    A variable in this process's environment asks for what there is not.

    Attributes:
        variable: Its name.
        value: What it asks for.
    """

    def __init__(self, variable: str, value: str, hint: str) -> None:
        super().__init__(variable, value)
        self.variable: Final = variable
        self.value: Final = value
        self.hint = hint

    def __str__(self) -> str:
        return f"there is no {self.variable}={self.value}"


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Take apart what task groups bundle, also groups in groups; any other error is its own cause."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from causes_of(inner)
    else:
        yield error
