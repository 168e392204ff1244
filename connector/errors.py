"""
What can go wrong on the agent's side.

ConnectorError
├── BundleNotFound           no bundle for this tunnel in the places where one is looked for
├── BundleMismatch           the bundle that was named belongs to another tunnel
├── KeyRefused               what was given as an API key is none
├── PortUnavailable          the local port is taken, or may not be opened
├── PublicNameNeeded         a hosted client was asked for, which cannot reach this machine
├── LocalRequestRefused      a request that a web page, or a foreign host name, sent here (403, 421)
└── HopFailed                no connection to the gateway, or one that broke
    ├── OwnCertificateRefused  our own certificate would be refused: not dialled at all
    ├── RelayUnreachable       no TCP connection to the relay
    ├── RelayRefused           the relay answered with an alert
    │   ├── TunnelUnknown          112: no such tunnel, or archived
    │   ├── NoGatewayConnected     80
    │   └── RelayAtLimit           40
    ├── GatewayRefused         what answered is not a gateway of this tunnel: the attack case
    ├── KeysNotTaken           what answered takes no API keys
    ├── CallerRefused          the gateway did not accept our certificate
    ├── HandshakeFailed        neither end was refused by name: cut off, silent, not TLS
    └── GatewayLost            the connection ended under a call

This module imports nothing of ours. Fields come first and the text is made in ``__str__``; ``hint`` says
what to do and may be empty. ``HopFailed.hop`` is the hop to look at, ``reference`` the id under which the
relay's and the gateway's logs have the same connection (empty when not one byte was sent).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

Hop = Literal["connector", "relay", "gateway"]


class ConnectorError(Exception):
    """The root of this package's errors."""

    hint: str = ""


class BundleNotFound(ConnectorError):
    """The user's: there is no bundle for the tunnel. ``looked`` are the files that were tried."""

    def __init__(self, tunnel: str, looked: Sequence[Path]) -> None:
        super().__init__(tunnel, looked)
        self.tunnel = tunnel
        self.looked = tuple(looked)
        self.hint = (
            "`sallyport certs issue caller NAME` makes one on the gateway's side: "
            "copy it to that place, or name it with --bundle FILE"
        )

    def __str__(self) -> str:
        return f"no bundle for tunnel {self.tunnel}: looked at {', '.join(str(path) for path in self.looked)}"


class PublicNameNeeded(ConnectorError):
    """The user's: ``client`` is a service that dials from its own machines, and nothing there leads here."""

    hint = "give the tools to a client on this machine, such as mcp-sdk, and call the model's API from it"

    def __init__(self, client: str) -> None:
        super().__init__(client)
        self.client = client

    def __str__(self) -> str:
        return (
            f"{self.client} calls MCP servers from its provider's machines: that needs a public name "
            "with a certificate that everybody trusts, and a tunnel has none yet"
        )


class BundleMismatch(ConnectorError):
    """The user's: the bundle belongs to tunnel ``found``, and ``asked`` was named."""

    def __init__(self, path: Path, *, asked: str, found: str) -> None:
        super().__init__(path, asked, found)
        self.path = path
        self.asked = asked
        self.found = found
        self.hint = f"connect to {found}, or name the bundle of {asked} with --bundle FILE"

    def __str__(self) -> str:
        return f"{self.path} is a bundle of tunnel {self.found}, not of {self.asked}"


class KeyRefused(ConnectorError):
    """The user's: ``source`` holds what is no API key. It is not quoted, for it may nearly be one."""

    hint = "a key is sp_ and 52 characters of a-z and 2-7: `sallyport gateway keys add NAME` printed it"

    def __init__(self, source: str, *, hint: str = "") -> None:
        super().__init__(source)
        self.source = source
        self.hint = hint or self.hint

    def __str__(self) -> str:
        return f"{self.source} holds no API key"


class PortUnavailable(ConnectorError):
    """The machine's: nobody can listen at ``address``; ``why`` is the operating system's reason."""

    def __init__(self, address: str, why: str, *, hint: str) -> None:
        super().__init__(address, why)
        self.address = address
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        return f"cannot listen at {self.address}: {self.why}"


class LocalRequestRefused(ConnectorError):
    """
    The request does not come from a local program that means this endpoint (DNS rebinding, a web page).

    ``status`` is the HTTP status and ``rule`` its short name. The same request would be refused again.
    """

    def __init__(self, status: int, rule: str, detail: str) -> None:
        super().__init__(status, rule, detail)
        self.status = status
        self.rule = rule
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


class HopFailed(ConnectorError):
    """A connection to the gateway was not made, or broke; the subclasses say where and why."""

    hop: ClassVar[Hop] = "gateway"

    def __init__(self, tunnel: str, *, reference: str = "") -> None:
        super().__init__(tunnel, reference)
        self.tunnel = tunnel
        self.reference = reference


class OwnCertificateRefused(HopFailed):
    """Ours: the strict verifier refuses the caller certificate of the bundle. Only a new one helps."""

    hop = "connector"

    def __init__(self, tunnel: str, *, detail: str, hint: str) -> None:
        super().__init__(tunnel)
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return self.detail


class RelayUnreachable(HopFailed):
    """The network's or the relay's: no TCP connection to ``address`` (host:port). Later may help."""

    hop = "relay"

    def __init__(self, tunnel: str, *, address: str, why: str) -> None:
        super().__init__(tunnel)
        self.address = address
        self.why = why
        self.hint = "check the relay's address in the bundle (or --relay), its DNS record and your firewall"

    def __str__(self) -> str:
        return f"the relay at {self.address} cannot be reached: {self.why}"


class RelayRefused(HopFailed):
    """
    The relay's: it ended the connection with ``alert``, the TLS name of one of its three alerts (SPEC.md).

    An alert before the gateway's first word is not authenticated: it says what the network claims.
    """

    hop = "relay"

    def __init__(self, tunnel: str, *, alert: str, reference: str = "") -> None:
        super().__init__(tunnel, reference=reference)
        self.alert = alert


class TunnelUnknown(RelayRefused):
    """The tunnel is not registered at this relay. Later helps only when somebody adds it."""

    hint = "compare the tunnel ID and the relay's address; on the relay: `sallyport relay tunnel list`"

    def __str__(self) -> str:
        return f"the relay does not know tunnel {self.tunnel} (or it was archived)"


class NoGatewayConnected(RelayRefused):
    """The tunnel exists and nobody serves it now. Later may help."""

    hint = "start the gateway with `sallyport gateway run`, or ask whoever runs it"

    def __str__(self) -> str:
        return f"the relay says: no gateway is connected for tunnel {self.tunnel}"


class RelayAtLimit(RelayRefused):
    """The relay, or every link of the tunnel, is at one of its limits. Later may help."""

    hint = "try again later, and with fewer connections at once"

    def __str__(self) -> str:
        return f"the relay is at a limit and did not take the connection to tunnel {self.tunnel}"


class GatewayRefused(HopFailed):
    """
    An attacker's, or a wrong relay's: what answered did not prove to be a gateway of this tunnel.

    Nothing was sent to it. ``rule`` is the rule of the strict verifier that failed, or ``chain`` when TLS
    itself refused the certificates; ``detail`` says what was wrong with them.
    """

    hint = (
        "nothing was sent. Somebody between here and the gateway answered in its place, "
        "or the gateway's certificates are wrong: run `sallyport doctor` there and here"
    )

    def __init__(self, tunnel: str, *, rule: str, detail: str, reference: str = "") -> None:
        super().__init__(tunnel, reference=reference)
        self.rule = rule
        self.detail = detail

    def __str__(self) -> str:
        return f"what answered is not a gateway of tunnel {self.tunnel}: rule {self.rule}: {self.detail}"


class KeysNotTaken(HopFailed):
    """
    The gateway's: it does not show its root, which those do whose config turns keys on.

    Only an alert says so, and anybody could have sent it; nothing was sent to whoever it was.
    """

    hint = "turn them on with `keys: on` in gateway.yaml, or call with a bundle: --bundle FILE"

    def __str__(self) -> str:
        return f"the gateway of tunnel {self.tunnel} takes no API keys"


class CallerRefused(HopFailed):
    """The gateway's: it ended the connection with an alert because of the certificate of ``caller``."""

    def __init__(self, tunnel: str, *, caller: str, why: str, hint: str, reference: str = "") -> None:
        super().__init__(tunnel, reference=reference)
        self.caller = caller
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        return f"the gateway of tunnel {self.tunnel} refuses caller {self.caller}: {self.why}"


class HandshakeFailed(HopFailed):
    """The network's, the relay's or the gateway's: no TLS connection came about. Later may help."""

    hint = "run `sallyport doctor --bundle FILE`, which names the hop that fails"

    def __init__(self, tunnel: str, *, why: str, reference: str = "") -> None:
        super().__init__(tunnel, reference=reference)
        self.why = why

    def __str__(self) -> str:
        return f"no TLS connection to a gateway of tunnel {self.tunnel}: {self.why}"


class GatewayLost(HopFailed):
    """The network's, the relay's or the gateway's: the connection ended while a call was under way."""

    hint = "look for the call's id in the gateway's log before repeating a call that changes something"

    def __init__(self, tunnel: str, *, why: str, reference: str = "") -> None:
        super().__init__(tunnel, reference=reference)
        self.why = why

    def __str__(self) -> str:
        return f"the connection to the gateway of tunnel {self.tunnel} was lost: {self.why}"
