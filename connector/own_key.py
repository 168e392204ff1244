"""
A caller with an API key and no bundle.

With the key come the tunnel's ID, its domain and the relay's address, all of which are public; what is
missing is the root. So a first connection asks for it (ALPN ``sallyport-root/1``), and what is shown there is
compared with the ID, which is the hash of the root's key: whoever answers can show the right root or be found
out. That root is then the one thing that is trusted. Nothing is sent on the first connection, and the key on
none but those where the gateway has proven itself by that root. Identity §6.
"""

import ssl
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from sallyport.certs.api_key import ApiKey, looks_like_api_key
from sallyport.certs.contexts import keyed_caller_context
from sallyport.certs.errors import NameRefused
from sallyport.certs.names import TunnelId
from sallyport.config.fields import Address
from sallyport.connector.errors import KeyRefused

KEY_VARIABLE: Final = "SALLYPORT_KEY"


@dataclass(frozen=True, slots=True)
class CallerByKey:
    """
    Who calls, and where to.

    Attributes:
        tunnel: The ID. It comes from whoever runs the gateway, and all trust begins with it.
        domain: The tunnel domain under which it is called.
        relay: Where to dial.
        key: The API key.
    """

    tunnel: TunnelId
    domain: str
    relay: Address
    key: ApiKey


def take_key(environment: MutableMapping[str, str], file: Path | None) -> ApiKey | None:
    """
    Read the key that the user has given: from the file that he named, else from ``SALLYPORT_KEY``.

    The variable is taken out of the environment in any case, so that no child process inherits it.

    Raises:
        CertificateError: The file cannot be used, is readable by others, or holds no key.
        KeyRefused: The variable holds no key, or what was named is no file but the key itself.
    """
    variable = environment.pop(KEY_VARIABLE, None)
    if file is not None and looks_like_api_key(file.name):
        # The key in place of its file: no error about a path may say it again.
        raise KeyRefused(
            "--key-file", hint="it names a file with the key in it; whoever could see this one can use it"
        )
    if file is not None:
        return ApiKey.load(file)
    if variable is None:
        return None
    try:
        return ApiKey(variable.strip().encode("utf-8", "replace"))
    except NameRefused:
        raise KeyRefused(KEY_VARIABLE) from None


class OwnKey:
    """
    Keeps the root that was found, and the TLS context that trusts it.

    It stands where an ``OwnBundle`` stands for a caller who has one.
    """

    name = "by API key"

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None

    @property
    def context(self) -> ssl.SSLContext | None:
        """The context for the next handshake; None while the root is not known."""
        return self._context

    def trust(self, root: x509.Certificate) -> None:
        """Trust this root, which was found by the tunnel's ID, and nothing else."""
        self._context = keyed_caller_context(root)

    def forget_root(self) -> None:
        """Ask for the root again: a gateway was refused by it, and its certificate may be a new one."""
        self._context = None

    def judge(self) -> None:
        """Find nothing wrong: whether a key is good is for the gateway to say, of each request."""

    async def refresh(self) -> None:
        """Keep the key that was given at the start."""
