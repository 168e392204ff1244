"""
The ClientHello reader: real hellos, hand-made ones, hostile ones, each cut at every byte.

The contract under test: for every prefix of every input there is a hello, ``None`` or ``HelloRefused``; once
a prefix has an answer other than ``None``, every longer prefix has the same.
"""

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings, strategies as st

from sallyport.tunnel.alerts import Alert
from sallyport.tunnel.errors import HelloRefused
from sallyport.tunnel.hello_records import MAX_HELLO
from sallyport.tunnel.sni import ClientHello, least_length, read_client_hello
from tests.hostile.hellos import (
    GREASE,
    RANDOM,
    HostileHello,
    alpn,
    client_hello,
    extension,
    hello_message,
    hostile_hellos,
    record,
    records,
    server_name,
    usual_extensions,
)

HOST = "tickets.abcdefghijklmnopqrstuvwxyz234567.tunnel.example.com"
CORPUS = hostile_hellos(HOST)


def answer(data: bytes) -> ClientHello | Alert | None:
    """Read a hello; a refusal is its alert. Anything else that is raised fails the test."""
    try:
        return read_client_hello(data)
    except HelloRefused as refused:
        return Alert(refused.alert)


def check_every_prefix(data: bytes) -> ClientHello | Alert | None:
    """Read every prefix, check that the answer never changes once it was given, and return the last one."""
    lengths: Sequence[int] = range(len(data) + 1)
    if len(data) > 2500:  # all would be quadratic: all of both ends, and a sample in between
        lengths = [*lengths[:400], *lengths[400:-400:101], *lengths[-400:]]
    answers = [answer(data[:length]) for length in lengths]
    for earlier, later in pairwise(answers):
        assert earlier is None or earlier == later
    return answers[-1]


def openssl_hello(*options: str) -> bytes:
    """Catch what ``openssl s_client`` sends first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        host, port = listener.getsockname()
        command = ["openssl", "s_client", "-connect", f"{host}:{port}", *options]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as client:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                data = b""
                while answer(data) is None:
                    received = connection.recv(65536)
                    assert received, "openssl has left before its hello was whole"
                    data += received
            client.communicate(timeout=20)
    return data


def python_hello(*, host: str | None = HOST, protocols: tuple[str, ...] = ()) -> bytes:
    """Make the hello of Python's own TLS client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(list(protocols))
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


# Real hellos


def test_python_says_its_name() -> None:
    """The hello of Python's ssl is read whole, and every prefix of it asks for more."""
    data = python_hello(protocols=("sallyport/1", "http/1.1"))
    hello = check_every_prefix(data)
    assert isinstance(hello, ClientHello)
    assert hello.server_name == HOST
    assert hello.alpn == (b"sallyport/1", b"http/1.1")
    assert hello.random == data[11:43]
    assert hello.length == len(data)
    assert hello.reference == data[11:19].hex()


def test_python_without_a_name_is_unrecognized() -> None:
    """A client that sends no name is told so, at its last byte and not before."""
    data = python_hello(host=None)
    assert answer(data[:-1]) is None
    assert check_every_prefix(data) is Alert.UNRECOGNIZED_NAME


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
@pytest.mark.parametrize(
    "options",
    [["-tls1_3"], ["-tls1_2"], [], ["-alpn", "h2,http/1.1"], ["-groups", "X25519:P-256:P-384"]],
    ids=" ".join,
)
def test_openssl_says_its_name(options: list[str]) -> None:
    """The hellos of openssl are read, whatever versions they offer: that is between caller and gateway."""
    hello = check_every_prefix(openssl_hello("-servername", HOST.upper(), *options))
    assert isinstance(hello, ClientHello)
    assert hello.server_name == HOST
    assert hello.alpn == ((b"h2", b"http/1.1") if "-alpn" in options else None)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_openssl_in_fragments_says_its_name() -> None:
    """The hello of an openssl that splits its records is put together again."""
    data = openssl_hello("-servername", HOST, "-tls1_3", "-split_send_frag", "64", "-max_send_frag", "512")
    hello = check_every_prefix(data)
    assert isinstance(hello, ClientHello)
    assert hello.server_name == HOST


# Hand-made hellos


@pytest.mark.parametrize("sizes", [[1], [2, 3], [4], [5, 1000], [3, 1, 1, 500], [100], [16384]], ids=str)
def test_records_may_be_cut_anywhere(sizes: list[int]) -> None:
    """However a hello is cut into records, it says the same, and its length counts every header."""
    message = hello_message([server_name(HOST.encode()), *usual_extensions()])
    data = records(message, sizes)
    assert check_every_prefix(data) == ClientHello(HOST, None, RANDOM, len(data))


def test_what_follows_the_hello_is_left_alone() -> None:
    """Early data, or anything else in records of its own, does not matter."""
    data = client_hello(HOST)
    assert answer(data + record(b"early data", kind=23)) == answer(data)
    assert answer(data + b"rubbish" * 10_000) == answer(data)


def test_grease_is_ignored() -> None:
    """Reserved values (RFC 8701) in suites, extensions and ALPN are nothing to stumble over."""
    grease = GREASE.to_bytes(2, "big")
    message = hello_message(
        [
            extension(GREASE, b""),
            server_name(HOST.encode()),
            *usual_extensions(),
            alpn(grease, b"http/1.1"),
            extension(0x4A4A, b"\x00"),
        ],
        suites=grease + b"\x13\x01",
    )
    hello = check_every_prefix(record(message))
    assert isinstance(hello, ClientHello)
    assert hello.alpn == (grease, b"http/1.1")


def test_only_the_outer_name_counts() -> None:
    """An encrypted hello (ECH) is skipped unread, whatever it holds."""
    inner = server_name(b"inner.example") * 3
    hello = check_every_prefix(client_hello(HOST, extension(0xFE0D, inner)))
    assert isinstance(hello, ClientHello)
    assert hello.server_name == HOST


def test_case_is_folded() -> None:
    """Names are compared without case, so they are handed on in one."""
    hello = answer(client_hello(HOST.upper()))
    assert isinstance(hello, ClientHello)
    assert hello.server_name == HOST


@pytest.mark.parametrize(
    "host", ["a." * 126 + "a", "a" * 63 + ".example", "xn--bcher-kva.example", "1.2.3.4a", "a.b"]
)
def test_good_names_are_read(host: str) -> None:
    """The longest name, the longest label, and names that only look odd are taken."""
    hello = answer(client_hello(host))
    assert isinstance(hello, ClientHello)
    assert hello.server_name == host


@pytest.mark.parametrize("size", [2000, 8000, 16000])
def test_long_hellos_are_read(size: int) -> None:
    """A hello may take any size up to the limit."""
    data = client_hello(HOST, extension(21, bytes(size)))
    assert len(data) <= MAX_HELLO
    assert isinstance(answer(data), ClientHello)


def test_the_limit_is_exact() -> None:
    """16 KiB on the wire are read and one byte more is refused, as soon as the header promises it."""
    overhead = len(client_hello(HOST, extension(21, b"")))
    largest = client_hello(HOST, extension(21, bytes(MAX_HELLO - overhead)))
    assert len(largest) == MAX_HELLO
    assert isinstance(answer(largest), ClientHello)
    larger = client_hello(HOST, extension(21, bytes(MAX_HELLO - overhead + 1)))
    assert answer(larger[:5]) is Alert.HANDSHAKE_FAILURE


# Hostile hellos


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_hostile_hellos_get_their_alert(case: HostileHello) -> None:
    """Each case of the corpus is answered as it says, and consistently on the way there."""
    result = check_every_prefix(case.data)
    if case.readable:
        assert isinstance(result, ClientHello)
    else:
        assert result == case.alert


def test_rubbish_is_refused_at_its_first_byte() -> None:
    """No first byte but a handshake record's can begin a hello, so nobody waits for a second."""
    for byte in range(256):
        expected = None if byte == 22 else Alert.UNEXPECTED_MESSAGE
        assert answer(bytes([byte])) is expected


# How much to wait for


def reads_until_answered(data: bytes) -> Iterator[int]:
    """Follow ``least_length`` from the first byte on, as the relay does."""
    have = 1
    while answer(data[:have]) is None:
        yield have
        least = least_length(data[:have])
        assert have < least <= len(data)
        have = least


@pytest.mark.parametrize("sizes", [[1], [2, 3], [1, 400], [100], [16384]], ids=str)
def test_a_trickled_hello_is_read_a_few_times_only(sizes: list[int]) -> None:
    """Waiting for the least length never waits for too much, and needs few reads."""
    data = records(hello_message([server_name(HOST.encode()), *usual_extensions()]), sizes)
    assert len(list(reads_until_answered(data))) <= 50


@settings(deadline=None)
@given(st.binary(max_size=400))
@example(b"\x16\x03\x01\x00\x01\x01\x16")
def test_the_least_length_is_more_than_there_is(data: bytes) -> None:
    """Whoever waits for the least length always waits for something new."""
    if answer(data) is None:
        assert least_length(data) > len(data)


# Anything


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_have_an_answer(data: bytes) -> None:
    """Bytes out of nowhere never do anything but wait or be refused."""
    check_every_prefix(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_any_message_in_records_has_an_answer(body: bytes, sizes: list[int]) -> None:
    """A message whose outside is right may hold anything."""
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    assert check_every_prefix(records(message, sizes)) is not None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_hello_has_an_answer(data: st.DataObject) -> None:
    """A good hello with bytes changed, lost or added gives a hello or a documented error."""
    good = client_hello(HOST, alpn(b"http/1.1"))
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        match data.draw(st.sampled_from(["change", "lose", "add"])):
            case "change":
                damaged[at] = data.draw(st.integers(0, 255))
            case "lose":
                del damaged[at]
            case _:
                damaged.insert(at, data.draw(st.integers(0, 255)))
    check_every_prefix(bytes(damaged))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=8))
def test_any_cut_reads_the_same(sizes: list[int]) -> None:
    """The hello does not depend on where its sender cuts it."""
    message = hello_message([server_name(HOST.encode()), *usual_extensions(), alpn(b"http/1.1")])
    data = records(message, sizes)
    hello = answer(data)
    assert hello == ClientHello(HOST, (b"http/1.1",), RANDOM, len(data))
    list(reads_until_answered(data))
