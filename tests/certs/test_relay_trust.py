"""Pins: one written form, of one key."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sallyport.certs.authority import make_relay_authority
from sallyport.certs.contexts import Pin, spki_pin
from sallyport.certs.errors import NameRefused
from tests.certs.certificate_kit import NOW

CERTIFICATE = make_relay_authority(["relay.test"], NOW).certificate


def test_a_pin_is_the_hash_of_the_key_as_curl_writes_it() -> None:
    """The same digest as ``curl --pinnedpubkey`` and RFC 7469 use, so that outsiders can compute it."""
    spki = CERTIFICATE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    assert spki_pin(CERTIFICATE) == f"sha256/{base64.b64encode(hashlib.sha256(spki).digest()).decode()}"


def test_a_pin_is_read_as_it_is_written() -> None:
    """Parsing is the mirror of writing."""
    assert Pin.parse(spki_pin(CERTIFICATE)) == Pin.of(CERTIFICATE)


GOOD = "sha256/" + "A" * 43 + "="


@pytest.mark.parametrize(
    "text",
    [
        *("", "sha256", "sha256/", GOOD[7:], GOOD[:-1], GOOD + "=", GOOD + "\n", GOOD.replace("256", "512")),
        *(GOOD.replace("/", "//"), GOOD.replace("A", "-", 1), "sha256/" + "00" * 32, "SHA256/" + GOOD[7:]),
        GOOD.replace("AAAA", "AA\u00e4A", 1),
    ],
)
def test_refuses_what_is_no_pin(text: str) -> None:
    """A pin that was copied in part must not pin something else."""
    with pytest.raises(NameRefused, match=r"^pin "):
        Pin.parse(text)
