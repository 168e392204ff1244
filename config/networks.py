"""
Networks, as a key that lists peers has them; pure.

One address or one network in CIDR form, IPv4 or IPv6. What is ambiguous is refused: a network with host bits
set is a typing error in one of its halves, and nobody can tell in which.
"""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from sallyport.config.fields import FieldRefused, kind_of

Network = IPv4Network | IPv6Network

_MAPPED = IPv6Network("::ffff:0:0/96")


def _balancers(value: object) -> Network:
    if isinstance(value, (IPv4Network, IPv6Network)):
        return value
    if not isinstance(value, str):
        raise FieldRefused(f"wanted an address or a network, found {kind_of(value)}", 'write "10.0.0.0/24"')
    network = _network(value)
    if network.prefixlen == 0:
        raise FieldRefused(
            f"{value} is everybody: any caller could claim any address", "list the balancers' own addresses"
        )
    if isinstance(network, IPv6Network) and network.overlaps(_MAPPED):
        raise FieldRefused(f"{value} is IPv4 written as IPv6", "write it as IPv4: 10.0.0.0/24")
    return network


def _network(text: str) -> Network:
    try:
        meant = ip_network(text, strict=False)
    except ValueError as error:
        message = f"{text!r} is no IP address and no network"
        raise FieldRefused(message, "write 10.0.0.7 or 10.0.0.0/24; names are not looked up") from error
    address = ip_address(text.partition("/")[0])
    if address != meant.network_address:
        message = f"{text} is an address inside a network"
        raise FieldRefused(message, f"write {meant}, or {address} for that one")
    return meant


BalancerField = Annotated[
    Network,
    PlainValidator(_balancers),
    WithJsonSchema(
        {"type": "string", "title": "address or network", "examples": ["10.0.0.7", "10.0.0.0/24"]}
    ),
]
