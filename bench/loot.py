"""
What an attacker finds who owns the relay: its files and its memory, searched for keys.

A private key on P-256 is a number of 32 bytes. It is looked for as that number in both byte orders, as
OpenSSL and files hold it, in hexadecimal, and as the base64 lines of its PEM forms.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tests.harness.process_memory import read_memory
from tests.harness.product import Product, Tunnel


@dataclass(frozen=True)
class Loot:
    """
    How many private keys the search found.

    ``own`` are the relay's, which are there and prove that the search sees; ``tunnels`` are those of a
    tunnel, none of which may be.
    """

    own: list[str]
    tunnels: list[str]
    searched: int


def plunder(product: Product, tunnel: Tunnel) -> Loot:
    """Search the relay's files and memory for its own keys and for every key of a tunnel."""
    assert product.relay is not None, "the relay has to run to be searched"
    own = {"relay.key": _needles(product.relay_folder / "relay.key")}
    paths = [path for path in tunnel.identity.path.rglob("*") if path.suffix in (".key", ".pem")]
    theirs = {str(path.relative_to(tunnel.identity.path)): _needles(path) for path in paths}
    found: set[str] = set()
    searched = 0
    for piece in _everything(product, product.relay.pid):
        searched += len(piece)
        for name, needles in {**own, **theirs}.items():
            if any(needle in piece for needle in needles):
                found.add(name)
    return Loot(sorted(found & own.keys()), sorted(found & theirs.keys()), searched)


def _everything(product: Product, pid: int) -> Iterator[bytes]:
    for path in product.relay_folder.rglob("*"):
        if path.is_file():
            yield path.read_bytes()
    yield from read_memory(pid)


def _needles(path: Path) -> list[bytes]:
    pem = path.read_bytes()
    if b"PRIVATE KEY" not in pem:
        return []
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "every key of the product is on a curve"
    number = key.private_numbers().private_value
    big = number.to_bytes((key.key_size + 7) // 8, "big")
    return [big, big[::-1], big.hex().encode(), *_secret_lines(key)]


def _secret_lines(key: ec.EllipticCurvePrivateKey) -> list[bytes]:
    """Return the lines of both PEM forms with digits of the number in them; the others are public."""
    modern = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).splitlines()
    older = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).splitlines()
    return [*modern[1:3], older[1]]
