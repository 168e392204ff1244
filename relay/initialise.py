"""
``relay init``: the files that a new relay needs, and the words that its operator needs.

A relay proves itself to gateways by a certificate for ``*.link.<domain>`` and its own names. Any CA may have
issued it; where there is none, this makes one for the occasion: a CA that signs once and whose key is thrown
away, so that there is nothing more to guard than ``relay.key``. Gateways trust the CA's certificate or pin
the key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from sallyport.certs.authority import make_relay_authority
from sallyport.certs.contexts import spki_pin
from sallyport.certs.files import write_private, write_public
from sallyport.certs.pem import encode_certificates, encode_key
from sallyport.config.fields import Address
from sallyport.relay.errors import FileInTheWay

_CONFIG: Final = """\
# Made by `sallyport relay init`. Relative paths are relative to this file.
listen: "{listen}"
domain: {domain}
tls: {{certificate: ./relay.pem, key: ./relay.key}}
database: sqlite:///relay.db
health: 127.0.0.1:7431
proxy_protocol_from: []
log: {{level: info, format: auto}}
"""


@dataclass(frozen=True, slots=True)
class Initialised:
    """
    What was made.

    Attributes:
        directory: where.
        config: the configuration file.
        ca: the CA certificate, for gateways to trust.
        pin: the pin of the relay's key, for gateways that trust that instead.
    """

    directory: Path
    config: Path
    ca: Path
    pin: str


def initialise(
    directory: Path, *, domain: str, listen: Address, names: Sequence[str], now: datetime
) -> Initialised:
    """
    Make the files of a new relay.

    Args:
        directory: where to; made if it is missing.
        domain: the tunnel domain, checked.
        listen: the public address.
        names: the relay's own host names and addresses, beside ``*.link.<domain>``.
        now: the time, with a zone.

    Raises:
        FileInTheWay: one of the files is there already; nothing was written.
        FileRefused: one of them cannot be written.
    """
    made = make_relay_authority([f"*.link.{domain}", *names], now)
    certificate, key, ca = directory / "relay.pem", directory / "relay.key", directory / "relay-ca.pem"
    config = directory / "relay.yaml"
    for path in (certificate, key, ca, config):
        if path.exists():
            raise FileInTheWay(path)
    directory.mkdir(parents=True, exist_ok=True)
    write_private(key, encode_key(made.key))
    write_public(certificate, encode_certificates([made.certificate]))
    write_public(ca, encode_certificates([made.authority.certificate]))
    write_public(config, _CONFIG.format(listen=listen, domain=domain).encode())
    return Initialised(directory, config, ca, spki_pin(made.certificate))
