"""PEM files: what is whole is read, and each way of not being whole has its own sentence."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, strategies as st

from sallyport.certs.authority import new_key
from sallyport.certs.errors import FileRefused
from sallyport.certs.names import Role
from sallyport.certs.pem import encode_certificates, encode_key, parse_pem, public_der
from tests.certs.certificate_kit import drafts, with_damaged_key

PATH = Path("some.pem")
CHAIN = drafts(Role.CALLER).chain()
CERTIFICATES = encode_certificates(CHAIN)
KEY = new_key()
KEY_PEM = encode_key(KEY)


def sec1(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write a key as ``openssl ecparam -genkey`` does."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def encrypted(form: PrivateFormat) -> bytes:
    """Write a key under a password."""
    return KEY.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"password"))


PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"


@pytest.mark.parametrize(
    "data",
    [
        KEY_PEM + CERTIFICATES,
        CERTIFICATES + KEY_PEM,
        (KEY_PEM + CERTIFICATES).replace(b"\n", b"\r\n"),
        b"a: 1\r\nb: 2\r\n\r\n" + KEY_PEM + b"in between\n" + CERTIFICATES + b"after\n",
        PARAMETERS + sec1(KEY) + CERTIFICATES,
        (KEY_PEM + CERTIFICATES).replace(b"\n", b" \n"),
        (KEY_PEM + CERTIFICATES).rstrip(b"\n"),
    ],
    ids=[
        "key first",
        "key last",
        "CRLF",
        "free text",
        "SEC1 with parameters",
        "trailing blanks",
        "no last newline",
    ],
)
def test_reads_what_is_whole(data: bytes) -> None:
    """Order, line ends and free text do not matter; the blocks come in their order."""
    pem = parse_pem(PATH, data)

    assert pem.certificates == CHAIN
    assert public_der(pem.one_key()) == public_der(KEY)


def test_the_header_is_the_text_before_the_first_block() -> None:
    """What stands between and after the blocks is no header."""
    assert parse_pem(PATH, b"a: 1\nb: 2\n" + CERTIFICATES + b"c: 3\n").header == "a: 1\nb: 2"


CASES = {
    "empty": (b"", "is empty"),
    "blank": (b" \r\n\n", "is empty"),
    "junk": (b"hello\n", "is not PEM"),
    "binary": (bytes(range(256)), "is not PEM text"),
    "DER": (CHAIN[0].public_bytes(Encoding.DER), "is not PEM text"),
    "BOM": (b"\xef\xbb\xbf" + CERTIFICATES, "byte order mark"),
    "UTF-16": (CERTIFICATES.decode().encode("utf-16"), "byte order mark"),
    "cut in the middle": (CERTIFICATES[:-200], "ends in the middle of a CERTIFICATE block"),
    "cut in the last line": (CERTIFICATES[:-4], "ends in the middle of a CERTIFICATE block"),
    "cut at the front": (CERTIFICATES[40:], "without its beginning"),
    "cut, then another": (CERTIFICATES[:300] + b"\n" + KEY_PEM, "CERTIFICATE block that is cut off"),
    "wrong end": (CERTIFICATES.replace(b"END CERTIFICATE", b"END PRIVATE KEY", 1), "cut off in the middle"),
    "not base64": (
        b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
        "that is no certificate",
    ),
    "empty block": (b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "that is no certificate"),
    "no certificate": (
        b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
        "that is no certificate",
    ),
    "a damaged key": (with_damaged_key(CHAIN[0]), "holds a certificate whose key cannot be read"),
    "a key on no known curve": (
        with_damaged_key(CHAIN[0], curve=True),
        "holds a certificate whose key cannot be read",
    ),
    "no key": (
        b"-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n",
        "that is no private key",
    ),
    "encrypted": (encrypted(PrivateFormat.PKCS8), "an encrypted private key"),
    "encrypted, older form": (encrypted(PrivateFormat.TraditionalOpenSSL), "an encrypted private key"),
    "another kind of key": (
        ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "neither ECDSA nor RSA",
    ),
    "another kind of block": (
        b"-----BEGIN OPENSSH PRIVATE KEY-----\naGVsbG8=\n-----END OPENSSH PRIVATE KEY-----\n",
        "neither a certificate nor a private key",
    ),
    "a block line with a tail": (b"x-----BEGIN CERTIFICATE-----\n", "is not PEM"),
}


@pytest.mark.parametrize("case", CASES)
def test_says_what_is_wrong(case: str) -> None:
    """Each broken file is refused by a sentence that names it and its fault."""
    data, reason = CASES[case]

    with pytest.raises(FileRefused, match=f"^some.pem .*{reason}"):
        parse_pem(PATH, data)


def test_two_keys_are_one_too_many() -> None:
    """OpenSSL would take the first and say nothing."""
    with pytest.raises(FileRefused, match="holds 2 private keys"):
        parse_pem(PATH, KEY_PEM + encode_key(new_key())).one_key()


def test_a_file_without_what_is_asked_for_says_so() -> None:
    """A certificate file is no key file, and the other way round."""
    with pytest.raises(FileRefused, match="holds no private key"):
        parse_pem(PATH, CERTIFICATES).one_key()
    with pytest.raises(FileRefused, match="holds no certificate"):
        parse_pem(PATH, KEY_PEM).some_certificates()


def test_no_message_quotes_a_key() -> None:
    """A key that cannot be read is still a secret."""
    body = KEY_PEM.splitlines()[1]

    with pytest.raises(FileRefused) as refused:
        parse_pem(PATH, KEY_PEM.replace(body, body[:-4] + b"!!!!"))

    assert body[:16].decode() not in f"{refused.value} {refused.value.hint}"


@given(st.integers(0, len(CERTIFICATES + KEY_PEM) - 1))
def test_a_file_cut_anywhere_is_refused_or_read_up_to_a_block(length: int) -> None:
    """A file that was copied in part never gives half a block, nor an error of another kind."""
    try:
        pem = parse_pem(PATH, (CERTIFICATES + KEY_PEM)[:length])
    except FileRefused:
        return
    assert pem.certificates == CHAIN[: len(pem.certificates)]


@given(st.binary(max_size=200), st.integers(0, len(CERTIFICATES)))
def test_bytes_put_in_anywhere_give_a_value_or_a_refusal(rubbish: bytes, place: int) -> None:
    """Whatever a file holds, there are two outcomes."""
    refusal = ""
    try:
        parse_pem(PATH, CERTIFICATES[:place] + rubbish + CERTIFICATES[place:])
    except FileRefused as error:
        refusal = str(error)
    assert refusal.isprintable()
