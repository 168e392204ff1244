"""
What can go wrong in a gateway.

GatewayError
├── TunnelMismatch       the config names one tunnel and the identity folder holds another
├── WorkersUnavailable   the config wants several workers where there can be only one
├── CannotFork           the system has no process for a gateway's first worker
├── ServerUnusable       an entry of ``servers:`` cannot be served
├── KeysOff              a command about API keys, and the config has them off
├── KeyNameRefused       a key that cannot be made or revoked under that name
├── ServerUnknown        a key for a server that the config does not have
├── KeysUnusable         the keys file cannot be used, so no key is accepted
│   └── KeysMissing      there is none
├── RequestRefused       a caller's request that the gateway answers itself (401, 403, 421, 503)
├── UpstreamFailed       one dial of an internal server, judged (each subclass carries its HTTP status)
│   ├── UpstreamUnreachable   503: no address, refused, no route
│   ├── UpstreamTimedOut      504: no connection within the configured time
│   ├── UpstreamUntrusted     502: its certificate was refused, or it does not speak TLS
│   └── MeasurementsRunning   503: no server at all, but the gateway's own yardstick, which is in use
├── RelayUnreachable     no TCP connection to the relay
├── RelayRefused         the relay answered, and not with a link: an alert, a REFUSED, a wrong certificate
├── StatusUnavailable    ``gateway status`` found nobody to ask
└── ChecksFailed         ``gateway check`` found problems, which it has already printed

This module imports nothing of ours. Fields come first and the text is made in ``__str__``; ``hint`` says
what to do and may be empty. Texts of ``RequestRefused`` travel to the caller, so they name rules and
servers, never an internal address; those of ``UpstreamFailed`` stay in the log and in ``gateway status``,
and only their ``why`` travels.
"""

from pathlib import Path


class GatewayError(Exception):
    """The root of this package's errors."""

    hint: str = ""


class TunnelMismatch(GatewayError):
    """The operator's mistake: the identity belongs to another tunnel. Trying again cannot help."""

    def __init__(self, configured: str, found: str, identity: Path) -> None:
        super().__init__(configured, found, identity)
        self.configured = configured
        self.found = found
        self.identity = identity
        self.hint = f"set tunnel.id to {found}, or point tunnel.identity at the folder of {configured}"

    def __str__(self) -> str:
        return (
            f"the config names tunnel {self.configured}, but {self.identity} holds the root of {self.found}"
        )


class WorkersUnavailable(GatewayError):
    """The operator's mistake: several workers are made with what only Linux has."""

    hint = "remove `workers:`, or run several gateways on this tunnel"

    def __init__(self, wanted: int) -> None:
        super().__init__(wanted)
        self.wanted = wanted

    def __str__(self) -> str:
        return f"the config wants {self.wanted} workers, and only Linux can have more than one"


class CannotFork(GatewayError):
    """There is no process to be had for the gateway's first worker."""

    hint = "raise the limit of processes (TasksMax of systemd, pids of a container), or set `workers: 1`"

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        return f"no worker can be started: {self.error.strerror}"


class ServerUnusable(GatewayError):
    """The operator's mistake in one entry of ``servers:``. Trying again cannot help."""

    def __init__(self, server: str, detail: str, *, hint: str = "") -> None:
        super().__init__(server, detail)
        self.server = server
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return f"server {self.server!r} cannot be served: {self.detail}"


class KeysOff(GatewayError):
    """The operator's: nothing accepts keys as long as the config says so."""

    def __init__(self, config: Path) -> None:
        super().__init__(config)
        self.config = config
        self.hint = f"write `keys: on` into {config}, and restart the gateway"

    def __str__(self) -> str:
        return f"API keys are off in {self.config}"


class KeyNameRefused(GatewayError):
    """The operator's: no key can be made, or none is there, under ``name``."""

    def __init__(self, name: str, reason: str, *, hint: str = "") -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"key name {self.name[:80]!a} {self.reason}"


class ServerUnknown(GatewayError):
    """The operator's: no server of the config is called ``server``."""

    def __init__(self, server: str, nearest: str, known: list[str]) -> None:
        super().__init__(server, nearest, known)
        self.server = server
        self.nearest = nearest
        self.known = known
        self.hint = f"did you mean {nearest!r}?" if nearest else f"there are: {', '.join(known)}"

    def __str__(self) -> str:
        return f"no server is called {self.server!r}"


class KeysUnusable(GatewayError):
    """
    The operator's: the keys file is missing, broken, or open to others.

    Trying again cannot help until somebody mends it, unless ``may_pass``: then the file may be good, and it
    was the system that could not read it. Until then no key is good.
    """

    def __init__(self, path: Path, reason: str, *, hint: str = "", may_pass: bool = False) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason
        self.hint = hint
        self.may_pass = may_pass

    def __str__(self) -> str:
        return f"no API key is accepted: {self.path} {self.reason}"


class KeysMissing(KeysUnusable):
    """The operator's, or nobody's: no key was made yet."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason, hint="make a first key: sallyport gateway keys add NAME")


class RequestRefused(GatewayError):
    """
    The caller's request is answered here and never reaches an upstream.

    ``status`` is the HTTP status, ``rule`` the short name that the answer's body and the log carry, and
    ``detail`` one clause for the caller. The same request would be refused again.
    """

    def __init__(self, status: int, rule: str, detail: str) -> None:
        super().__init__(status, rule, detail)
        self.status = status
        self.rule = rule
        self.detail = detail

    def __str__(self) -> str:
        return f"refused by rule {self.rule}: {self.detail}"


class UpstreamFailed(GatewayError):
    """
    An internal server could not be connected to, so nothing was executed there.

    ``address`` is ``host:port`` for the log. ``why`` is a clause fit for the caller: it holds no address and
    no host name. ``detail`` is what the log says beyond it, in the words of whoever found it; may be "".
    """

    status: int = 502

    def __init__(self, server: str, address: str, why: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(server, address, why)
        self.server = server
        self.address = address
        self.why = why
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        text = f"server {self.server} at {self.address} {self.why}"
        return f"{text} ({self.detail})" if self.detail else text


class UpstreamUnreachable(UpstreamFailed):
    """The server or the network between: no address, connection refused, no route. Later may help."""

    status = 503


class UpstreamTimedOut(UpstreamFailed):
    """The server or the network between: no connection within the limit. Later may help."""

    status = 504


class UpstreamUntrusted(UpstreamFailed):
    """The server's certificate, or the operator's ``ca:``, is wrong. Later does not help by itself."""

    status = 502


class MeasurementsRunning(UpstreamFailed):
    """Callers measure the tunnel already, as many as may at once (``most``). Later helps."""

    status = 503

    def __init__(self, most: int) -> None:
        super().__init__("_canary", "", f"measures for {most} callers already, and for no more at once")

    def __str__(self) -> str:
        return f"the gateway {self.why}"


class RelayUnreachable(GatewayError):
    """The network between gateway and relay, or the relay, is down. Later may help."""

    def __init__(self, address: str, detail: str) -> None:
        super().__init__(address, detail)
        self.address = address
        self.detail = detail
        self.hint = "check the relay's name, that it runs, and that a firewall lets this host dial out to it"

    def __str__(self) -> str:
        return f"no connection to the relay at {self.address}: {self.detail}"


class RelayRefused(GatewayError):
    """
    What answers at the relay's address does not give this gateway a link.

    ``retry_after`` is in seconds, a floor for the next attempt; 0 where the relay named none.
    """

    def __init__(self, address: str, detail: str, *, hint: str = "", retry_after: float = 0.0) -> None:
        super().__init__(address, detail)
        self.address = address
        self.detail = detail
        self.hint = hint
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"no link to the relay at {self.address}: {self.detail}"


class StatusUnavailable(GatewayError):
    """The health listener of a running gateway was not found."""

    def __init__(self, address: str, detail: str, *, hint: str = "") -> None:
        super().__init__(address, detail)
        self.address = address
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return f"no gateway answers at {self.address}: {self.detail}"


class ChecksFailed(GatewayError):
    """Some check did not pass; the table above this error says which, and the remedy."""

    def __init__(self, failed: int) -> None:
        super().__init__(failed)
        self.failed = failed

    def __str__(self) -> str:
        return f"{self.failed} check{'s' if self.failed != 1 else ''} failed"
