"""
What ``sallyport connect`` and ``sallyport bench`` share: the options that name a tunnel and who calls it.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from sallyport.certs.bundle import Bundle
from sallyport.certs.names import TunnelId, domain as checked_domain, server_name
from sallyport.config.fields import Address, FieldRefused
from sallyport.connector.bundles import find_bundle
from sallyport.connector.own_key import CallerByKey, take_key

BundleOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Your bundle; looked for in your config folder when not named."),
]
RelayOption = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Dial this relay instead of the bundle's; needed with a key."),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Your API key, if you have one in place of a bundle; mode 0600."),
]
DomainOption = Annotated[str | None, typer.Option(metavar="DOMAIN", help="With a key: the tunnel domain.")]


def parse_target(text: str) -> tuple[TunnelId, str | None]:
    """
    Read ``TUNNEL_ID`` or ``TUNNEL_ID/SERVER``.

    Raises:
        NameRefused: It is neither; says which part is wrong.
    """
    tunnel, slash, server = text.partition("/")
    return TunnelId.parse(tunnel), server_name(server) if slash else None


def relay_address(text: str | None) -> Address | None:
    """
    Read the option ``--relay``.

    Raises:
        typer.BadParameter: It is no address.
    """
    if text is None:
        return None
    try:
        return Address.parse(text, default_port=443)
    except FieldRefused as error:
        raise typer.BadParameter(error.message, param_hint="--relay") from error


def who_calls(
    tunnel: TunnelId, *, bundle: Path | None, key_file: Path | None, relay: Address | None, domain: str | None
) -> Bundle | CallerByKey:
    """
    Say who calls: by an API key where one is given, else by a bundle.

    Args:
        tunnel: Which tunnel is called.
        bundle, key_file, relay, domain: The options of those names; None for one that was not given.

    Raises:
        ConnectorError, CertificateError: The one that was given cannot be used, or there is none.
        typer.BadParameter: The options do not go together.
    """
    if bundle is not None and key_file is not None:
        raise typer.BadParameter("name a bundle or a key, not both", param_hint="--key-file")
    key = take_key(os.environ, key_file)
    if key is None or bundle is not None:
        if domain is not None:
            raise typer.BadParameter("a bundle has a domain of its own; --domain is for calls by key")
        return find_bundle(tunnel, bundle)
    if relay is None or domain is None:
        raise typer.BadParameter("a call by key needs both --relay HOST:PORT and --domain DOMAIN")
    return CallerByKey(tunnel, checked_domain(domain), relay, key)
