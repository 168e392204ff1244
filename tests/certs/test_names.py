"""Names: every written form read exactly, and everything else refused with a reason."""

import pytest
from hypothesis import given, strategies as st

from sallyport.certs.authority import new_key
from sallyport.certs.errors import NameRefused
from sallyport.certs.names import (
    CallerTarget,
    Identity,
    LinkTarget,
    Role,
    TunnelId,
    domain,
    holder_name,
    link_host,
    parse_host,
    relay_address,
    server_host,
    server_name,
    server_names,
    slug,
    tunnel_host,
)
from sallyport.certs.pem import public_der

LABEL = "abcdefghijklmnopqrstuvwxyz234567"
DOMAIN = "tunnel.example.com"


# The tunnel ID


def test_the_id_is_the_hash_of_the_root_key() -> None:
    """The ID is base32 of the first 20 bytes of SHA-256 of the SubjectPublicKeyInfo: a known answer."""
    assert str(TunnelId.of_public_key(b"sallyport")) == "tnl_f5tvxewthoik5x5js2bm7yuh3ggea73t"


def test_two_keys_give_two_ids_and_one_key_one() -> None:
    """The ID depends on the key, and on nothing else."""
    one, other = public_der(new_key()), public_der(new_key())

    assert TunnelId.of_public_key(one) == TunnelId.of_public_key(one) != TunnelId.of_public_key(other)


def test_an_id_is_read_as_it_is_written() -> None:
    """Parsing is the mirror of writing."""
    assert TunnelId.parse(f"tnl_{LABEL}") == TunnelId(LABEL)
    assert str(TunnelId(LABEL)) == f"tnl_{LABEL}"


@pytest.mark.parametrize(
    "text",
    [
        *("", "tnl_", LABEL, f"tnl{LABEL}", f"tnl_{LABEL}x", f"tnl_{LABEL[:-1]}", f"TNL_{LABEL}"),
        *(f"tnl_{LABEL.upper()}", f"tnl_{LABEL[:-1]}1", f"tnl_{LABEL[:-1]}=", f" tnl_{LABEL}"),
        *(f"tnl_{LABEL}\n", f"tnl_{LABEL}/tickets", f"tnl_{LABEL[:-1]}\u00e4", f"tnl_{LABEL[:-1]}\u0661"),
    ],
)
def test_refuses_what_is_no_id(text: str) -> None:
    """An ID is one exact spelling, because it is a pin."""
    with pytest.raises(NameRefused, match="tunnel ID"):
        TunnelId.parse(text)


# Identities


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("name", ["a", "gw1", "alice.smith", "ci_runner-7", "0", "x" * 63])
def test_an_identity_is_read_as_it_is_written(role: Role, name: str) -> None:
    """The URI of a leaf and the identity are two forms of one thing."""
    identity = Identity(LABEL, role, name)

    assert identity.uri == f"sallyport://{LABEL}/{role}/{name}"
    assert Identity.parse_uri(identity.uri) == identity


@pytest.mark.parametrize(
    "name",
    ["", "-a", "a-", ".", "..", ".a", "a.", "A", "a b", "a/b", "a\\b", "a\n", "ä", "a%2f", "x" * 64, "a\0"],
)
def test_refuses_names_that_no_holder_can_have(name: str) -> None:
    """A holder's name is also a file's: nothing in it can lead elsewhere."""
    with pytest.raises(NameRefused, match="caller name"):
        Identity(LABEL, Role.CALLER, name)


@given(st.text())
def test_reading_a_uri_gives_an_identity_or_a_refusal(text: str) -> None:
    """Whatever a peer writes, there are two outcomes; and one spelling for each identity."""
    for candidate in (text, f"sallyport://{text}", f"sallyport://{LABEL}/caller/{text}"):
        try:
            assert Identity.parse_uri(candidate).uri == candidate
        except NameRefused:
            pass


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("gw1", "gw1"),
        ("GW1.corp.example.com", "gw1"),
        ("Alices_Laptop", "alices-laptop"),
        ("--", "gateway"),
        ("", "gateway"),
        ("ü", "gateway"),
        ("x" * 62 + "_y", "x" * 62),
    ],
)
def test_a_hosts_name_becomes_a_gateways(host: str, name: str) -> None:
    """Whatever a host is called, its gateway has a name that an identity may have."""
    assert holder_name(host) == name
    Identity(LABEL, Role.GATEWAY, holder_name(host))


# Domains, servers, addresses


@pytest.mark.parametrize("text", ["tunnel.example.com", "a", "localhost", "xn--mnchen-3ya.de", "a-b.c1"])
def test_accepts_domains_in_lower_case(text: str) -> None:
    """A domain is folded, so that it is compared as bytes from then on."""
    assert domain(text) == text
    assert domain(text.upper()) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "a.", ".a", "a..b", "-a.b", "a-.b", "a_b.c", "*.a", "a b", "a/b", "https://a", "a:443"),
        *("münchen.de", "10.0.0.1", "a.1", "::1", "link.example.com", "link", "x" * 64, "a\n", "a\0"),
        ".".join(["x" * 60] * 4),
    ],
)
def test_refuses_what_is_no_tunnel_domain(text: str) -> None:
    """A domain goes into certificates and DNS, so it is judged before either."""
    with pytest.raises(NameRefused, match="tunnel domain"):
        domain(text)


def test_the_longest_domain_still_has_room_for_a_link() -> None:
    """The limit on domains is what makes every link's name fit into DNS."""
    longest = ".".join(["x" * 53] * 4)[:215]
    while longest.endswith("."):
        longest = longest[:-1]

    assert len(link_host(LABEL, domain(longest))) <= 253
    with pytest.raises(NameRefused, match="longer"):
        domain("x." * 108 + "x")


@pytest.mark.parametrize(
    ("text", "name"), [("tickets", "tickets"), ("WIKI", "wiki"), ("a-1", "a-1"), ("7", "7")]
)
def test_accepts_server_names(text: str, name: str) -> None:
    """A server's name is a DNS label, without case."""
    assert server_name(text) == name


@pytest.mark.parametrize(
    "text", ["link", "LINK", "_canary", "_", "", "a.b", "a_b", "-a", "a-", "x" * 64, "ä", "a\n"]
)
def test_refuses_server_names(text: str) -> None:
    """What is no label, or is reserved, cannot name a server."""
    with pytest.raises(NameRefused, match="server name"):
        server_name(text)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("tickets", "tickets"),
        ("My Server_1", "my-server-1"),
        ("a..b", "a-b"),
        ("(x)", "x"),
        ("y" * 70, "y" * 63),
    ],
)
def test_slugs_a_config_key(key: str, name: str) -> None:
    """A free-form key becomes a label that resembles it."""
    assert slug(key) == name


@pytest.mark.parametrize("key", ["", "---", "日本", "link", "Link!", "_canary", "__"])
def test_refuses_keys_that_leave_no_name(key: str) -> None:
    """A key without a letter or digit, or one that would take a reserved name, is refused."""
    with pytest.raises(NameRefused, match="server name"):
        slug(key)


@given(st.text())
def test_a_slug_is_a_server_name(key: str) -> None:
    """Whatever the key, what comes out could be written there itself."""
    try:
        assert server_name(slug(key)) == slug(key)
    except NameRefused:
        pass


def test_two_keys_for_one_name_are_refused() -> None:
    """Neither of two colliding keys wins by accident: both are named."""
    assert server_names(["b", "My Wiki", "a"]) == {"b": "b", "My Wiki": "my-wiki", "a": "a"}
    with pytest.raises(NameRefused, match=r"'my_wiki' becomes 'my-wiki' in DNS, and so does 'My Wiki'"):
        server_names(["My Wiki", "my_wiki"])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("relay.example.com", "relay.example.com:443"),
        ("Relay.Example.com:8443", "relay.example.com:8443"),
        ("192.0.2.1", "192.0.2.1:443"),
        ("[2001:DB8::1]:444", "[2001:db8::1]:444"),
        ("[::1]", "[::1]:443"),
        ("localhost:1", "localhost:1"),
    ],
)
def test_reads_a_relays_address(text: str, address: str) -> None:
    """The port is HTTPS's where none is given."""
    assert relay_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":443",
        "https://relay",
        "a:b",
        "a:",
        "a:0",
        "a:65536",
        "::1",
        "[1.2.3.4]",
        "[a]",
        "a b",
        "a/x",
        "a:1:2",
        "ä",
    ],
)
def test_refuses_what_is_no_address(text: str) -> None:
    """An address that cannot be dialled is refused where it is written down."""
    with pytest.raises(NameRefused, match="relay address"):
        relay_address(text)


# Host names


def test_writes_and_reads_all_three_forms() -> None:
    """Each host name that is written for a purpose is read back as that purpose."""
    assert parse_host(tunnel_host(LABEL, DOMAIN), DOMAIN) == CallerTarget(LABEL, None)
    assert parse_host(server_host("tickets", LABEL, DOMAIN), DOMAIN) == CallerTarget(LABEL, "tickets")
    assert parse_host(link_host(LABEL, DOMAIN), DOMAIN) == LinkTarget(LABEL)


def test_reserved_servers_come_through() -> None:
    """Whether a server exists is the gateway's to say, its own canary included."""
    assert parse_host(f"_canary.{LABEL}.{DOMAIN}", DOMAIN) == CallerTarget(LABEL, "_canary")
    assert parse_host(f"link.{LABEL}.{DOMAIN}", DOMAIN) == CallerTarget(LABEL, "link")


def test_a_server_may_be_called_like_a_label() -> None:
    """A label in the server's place names a server: only the place decides."""
    assert parse_host(f"{LABEL}.{LABEL}.{DOMAIN}", DOMAIN) == CallerTarget(LABEL, LABEL)


@pytest.mark.parametrize(
    "host",
    [
        *("", ".", DOMAIN, f".{DOMAIN}", f"link.{DOMAIN}", f"tickets.{DOMAIN}", f"{LABEL}x.{DOMAIN}", LABEL),
        *(
            f"{LABEL}{DOMAIN}",
            f"{LABEL}.{DOMAIN}.",
            f"{LABEL}.{DOMAIN}x",
            f"{LABEL}.x{DOMAIN}",
            f"{LABEL[1:]}.{DOMAIN}",
        ),
        *(
            f".{LABEL}.{DOMAIN}",
            f"a.b.{LABEL}.{DOMAIN}",
            f"a.{LABEL}.link.{DOMAIN}",
            f"{LABEL}.link.link.{DOMAIN}",
        ),
        *(
            f"*.{LABEL}.{DOMAIN}",
            f"-a.{LABEL}.{DOMAIN}",
            f"{'x' * 64}.{LABEL}.{DOMAIN}",
            f"_.{LABEL}.{DOMAIN}",
        ),
        *(
            f"{LABEL.upper()}.{DOMAIN}",
            f"tickets.{LABEL}.{DOMAIN}:443",
            f"a\0.{LABEL}.{DOMAIN}",
            "10.0.0.1",
            "::1",
        ),
        "x" * 254,
    ],
)
def test_refuses_every_other_host(host: str) -> None:
    """A host that is none of the three forms asks for nothing of ours."""
    with pytest.raises(NameRefused, match="host name"):
        parse_host(host, DOMAIN)


@given(st.text(max_size=300))
def test_reading_a_host_gives_a_target_or_a_refusal(text: str) -> None:
    """Whatever stands in a hello or a Host header, there are two outcomes."""
    for host in (text, f"{text}.{DOMAIN}", f"{text}.{LABEL}.{DOMAIN}", f"{text}.link.{DOMAIN}"):
        refusal = ""
        try:
            assert parse_host(host, DOMAIN).label in host
        except NameRefused as error:
            refusal = str(error)
        assert refusal.isprintable()


def test_a_name_too_long_for_dns_is_refused_when_it_is_made() -> None:
    """The whole of a server's name is held to DNS's limit."""
    with pytest.raises(NameRefused, match="253"):
        server_host("x" * 63, LABEL, domain(".".join(["x" * 53] * 3 + ["x" * 40])))
