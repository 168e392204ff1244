"""
Names that the config and the certificates both know: what one takes, the other takes.

``config`` and ``certs`` import nothing of each other, so each has the rules; these tables are what keeps them
the same. A gateway finds its leaves by a name that ``certs init`` has made of the host's, and a relay serves
a domain that stands in its tunnels' certificates.
"""

import pytest
from pydantic import TypeAdapter, ValidationError

from sallyport.certs import names
from sallyport.certs.errors import NameRefused
from sallyport.config.fields import DomainField, NameField
from sallyport.config.gateway import TunnelSection

LABEL = "a" * 32

HOSTS = [
    *("gw1", "GW1.corp.example.com", "Alices_Laptop", "a--b", "-gw-", "--", "", "."),
    *("ü", "müller-pc", "gw\u0661", "\u212aelvin", "\u0130stanbul", "²", "a b"),
    *("x" * 62 + "_y", "x" * 62 + "-" + "y" * 9, "x" * 70, "_" + "x" * 62 + "-y", "x" * 60 + "---y"),
]


@pytest.mark.parametrize("host", HOSTS)
def test_a_gateways_default_name_is_what_init_made(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """The leaf is found on the host that it was made on, whatever the host is called."""
    monkeypatch.setattr("socket.gethostname", lambda: host)

    section = TunnelSection.model_validate({"id": f"tnl_{LABEL}"})

    assert section.name == names.holder_name(host)
    assert _config_takes(NameField, section.name) == section.name


DOMAINS = [
    *("tunnel.example.com", "Tunnel.Example.COM", "localhost", "a", "xn--mnchen-3ya.de", "a-b.c1", "1.a"),
    *("", ".", "a.", ".a", "a..b", "-a.b", "a-.b", "a_b.c", "*.a", "a b", "a/b", "https://a", "a:443"),
    *("münchen.de", "10.0.0.1", "a.1", "::1", "link", "link.example.com", "LINK.a", "x.link.a", "a\n", "a\0"),
    *("x" * 63, "x" * 64, "\u212a.de", "a.\u0661", ".".join(["x" * 53] * 4)),
    *("x." * 107 + "x", "x." * 107 + "xx"),  # 215 and 216 characters
]


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_domain_is_one_for_both_or_for_neither(domain: str) -> None:
    """A relay serves exactly the domains that a tunnel can have."""
    try:
        wanted = names.domain(domain)
    except NameRefused:
        wanted = None

    assert _config_takes(DomainField, domain) == wanted


NAMES = [
    "gw1",
    "a",
    "a.b_c-d",
    "x" * 63,
    "",
    "GW1",
    "-a",
    "a-",
    "a.",
    "_a",
    "x" * 64,
    "a/b",
    "a b",
    "ü",
    "a\n",
    "..",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_gateways_name_is_one_for_both_or_for_neither(name: str) -> None:
    """A name that no certificate can have is refused with its line in the file."""
    try:
        wanted = names.Identity(LABEL, names.Role.GATEWAY, name).name
    except NameRefused:
        wanted = None

    assert _config_takes(NameField, name) == wanted


def _config_takes(field: object, text: str) -> str | None:
    """Return what the config makes of a text, None where it refuses it."""
    try:
        taken: str = TypeAdapter(field).validate_python(text)
    except ValidationError:
        return None
    return taken
