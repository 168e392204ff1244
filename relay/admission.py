"""
What becomes of a connection that has said hello: a pure decision.

The server name says what the connection is for, the registry whether it can be had. The order of the
questions is part of the answer: a tunnel that is archived is told as unknown before anybody asks whether a
gateway is connected, so that the two cannot be told apart from outside.

A link's certificate is not judged here, because it is not known yet: for ``ToLink`` the TLS handshake comes
first, and then ``links.py``.
"""

from dataclasses import dataclass
from typing import TypeVar

from sallyport.certs.errors import NameRefused
from sallyport.certs.names import CallerTarget, LinkTarget, parse_host
from sallyport.relay.registry import Carrying, Registry, Tunnel, TunnelState
from sallyport.tunnel.alerts import SPEC_ALERTS, Alert, Situation
from sallyport.tunnel.sni import ClientHello

L = TypeVar("L", bound=Carrying)


@dataclass(frozen=True, slots=True)
class ToLink:
    """
    A gateway that wants to make a link of this tunnel.
    """

    tunnel: Tunnel


@dataclass(frozen=True, slots=True)
class ToCaller:
    """
    A caller of this tunnel, which has a gateway.
    """

    tunnel: Tunnel


@dataclass(frozen=True, slots=True)
class Refuse:
    """
    Nobody whom the relay serves: the situation chooses the alert, ``why`` is for the log.
    """

    situation: Situation
    why: str

    @property
    def alert(self) -> Alert:
        """
        What the peer is told.
        """
        return SPEC_ALERTS[self.situation]


def decide(hello: ClientHello, registry: Registry[L], *, domain: str) -> ToLink | ToCaller | Refuse:
    """
    Decide what a connection is for.

    Args:
        hello: what it said.
        registry: who is known and connected.
        domain: the relay's tunnel domain.
    """
    try:
        target = parse_host(hello.server_name, domain)
    except NameRefused as refused:
        return Refuse(Situation.UNKNOWN_TUNNEL, str(refused))
    tunnel = registry.tunnel(target.label)
    if tunnel is None:
        return Refuse(Situation.UNKNOWN_TUNNEL, "no such tunnel is registered")
    match target:
        case LinkTarget():
            # Archived and disabled too: after its handshake a gateway can be told so in words (identity §4).
            return ToLink(tunnel)
        case CallerTarget():
            return _decide_for_caller(tunnel, is_served=registry.is_served(tunnel.label))


def _decide_for_caller(tunnel: Tunnel, *, is_served: bool) -> ToCaller | Refuse:
    if tunnel.state is TunnelState.ARCHIVED:
        return Refuse(Situation.UNKNOWN_TUNNEL, "the tunnel is archived")
    if tunnel.state is TunnelState.DISABLED:
        return Refuse(Situation.NO_GATEWAY, "the tunnel is disabled")
    if not is_served:
        return Refuse(Situation.NO_GATEWAY, "no gateway is connected")
    return ToCaller(tunnel)
