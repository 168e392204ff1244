"""The strict verifier: good chains, the corpus of bad ones, and what it says of them."""

import ssl
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from sallyport.certs.authority import label_of, new_key
from sallyport.certs.contexts import caller_context, door_context, link_server_context
from sallyport.certs.errors import CertificateRefused, FileRefused, Rule
from sallyport.certs.facts import read_facts
from sallyport.certs.files import LeafFiles
from sallyport.certs.names import Identity, Role, TunnelId
from sallyport.certs.pem import encode_key
from sallyport.certs.profile import Issuing
from sallyport.certs.rules import require_strength
from sallyport.certs.storage import write_private
from sallyport.certs.verify import (
    verified_chain,
    verify_bundle,
    verify_identity,
    verify_issuing,
    verify_leaf_file,
    verify_root,
)
from tests.certs.certificate_kit import (
    DAY,
    DOMAIN,
    NOW,
    Chain,
    Draft,
    Handshake,
    Tunnel,
    any_ip,
    cn,
    dns,
    drafts,
    key_usage,
    lawless_context,
    shake_hands,
    uri,
    write_leaf,
)
from tests.certs.defects import DEFECTS, Defect

EVERY_DEFECT = [pytest.param(d, role, id=f"{role}-{d.name}") for d in DEFECTS for role in d.roles]


@pytest.mark.parametrize("role", Role)
def test_accepts_a_good_chain_drawn_up_by_hand(role: Role) -> None:
    """A chain made without the product's builders is accepted, so the corpus starts from something good."""
    drawn = drafts(role)

    identity = verify_identity(drawn.chain(), role=role, label=drawn.label, now=NOW)

    assert identity == Identity(drawn.label, role, "alice")


@pytest.mark.parametrize(("defect", "role"), EVERY_DEFECT)
def test_refuses_every_defect_by_its_rule(defect: Defect, role: Role) -> None:
    """Each bad certificate is refused for the reason that it was made for, and the text says what to do."""
    drawn = defect.drafts(role)

    with pytest.raises(CertificateRefused) as refused:
        verify_identity(drawn.chain(), role=role, label=drawn.label, now=NOW)

    assert refused.value.rule is defect.rule
    assert refused.value.hint
    assert refused.value.serial in str(refused.value)


@pytest.mark.parametrize(("defect", "role"), EVERY_DEFECT)
def test_no_defect_survives_a_real_handshake(defect: Defect, role: Role, tmp_path: Path) -> None:
    """OpenSSL refuses what the corpus says it refuses; all else reaches the verifier and ends there."""
    drawn = defect.drafts(role)
    chain = drawn.chain()

    done = _handshake(role, chain, drawn.leaf, tmp_path)

    if role in defect.openssl:
        assert done.error is not None
        return
    done.require()
    judge = done.client if role is Role.GATEWAY else done.server
    with pytest.raises(CertificateRefused) as refused:
        verify_identity(verified_chain(judge), role=role, label=drawn.label, now=NOW)
    assert refused.value.rule is defect.rule


@pytest.mark.parametrize("role", Role)
def test_a_good_chain_survives_the_same_handshake(role: Role, tmp_path: Path) -> None:
    """The handshakes of the corpus fail because of the defects, not because of how they are run."""
    drawn = drafts(role)
    chain = drawn.chain()

    done = _handshake(role, chain, drawn.leaf, tmp_path).require()

    judge = done.client if role is Role.GATEWAY else done.server
    assert verified_chain(judge) == chain
    assert verify_identity(verified_chain(judge), role=role, label=drawn.label, now=NOW).role is role


def _handshake(role: Role, chain: Chain, leaf: Draft, folder: Path) -> Handshake:
    """Present a chain, without its root, to the product's own context for that role."""
    presented, root = chain[:-1], chain[-1]
    tunnel = Tunnel.make()
    if role is Role.GATEWAY:
        trusting = replace(tunnel.bundle(folder, "bob"), root=root)
        server = lawless_context(ssl.PROTOCOL_TLS_SERVER, folder, presented, leaf.key)
        return shake_hands(server, caller_context(trusting), f"{TunnelId.of_root(root).label}.{DOMAIN}")
    client = lawless_context(ssl.PROTOCOL_TLS_CLIENT, folder, presented, leaf.key)
    own = tunnel.leaf_files(folder, Role.GATEWAY)
    if role is Role.CALLER:
        return shake_hands(door_context(own, root), client, "any.test")
    return shake_hands(link_server_context(own.certificate, own.key, root), client, "any.test")


def test_says_that_no_certificate_was_presented() -> None:
    """An empty chain is refused by a rule of its own, naming the command that makes a certificate."""
    with pytest.raises(CertificateRefused) as refused:
        verify_identity((), role=Role.CALLER, label=label_of(new_key()), now=NOW)

    assert refused.value.rule is Rule.MISSING
    assert "certs issue caller" in refused.value.hint


@pytest.mark.parametrize("role", Role)
def test_refuses_a_self_signed_leaf(role: Role) -> None:
    """A leaf that vouches for itself ends in a root that is not the tunnel's."""
    drawn = drafts(role)
    leaf = drawn.leaf.sign(drawn.leaf)

    with pytest.raises(CertificateRefused) as refused:
        verify_identity((leaf,), role=role, label=drawn.label, now=NOW)

    assert refused.value.rule is Rule.ANCHOR


@pytest.mark.parametrize("role", Role)
def test_refuses_a_chain_of_another_tunnel(role: Role) -> None:
    """A perfect chain is refused where another tunnel's is expected."""
    drawn = drafts(role)

    with pytest.raises(CertificateRefused) as refused:
        verify_identity(drawn.chain(), role=role, label=label_of(new_key()), now=NOW)

    assert refused.value.rule is Rule.ANCHOR


@pytest.mark.parametrize(("presented", "wanted"), [(a, b) for a in Role for b in Role if a is not b])
def test_refuses_every_role_in_every_other_place(presented: Role, wanted: Role) -> None:
    """A good certificate is good for its own role only."""
    drawn = drafts(presented)

    with pytest.raises(CertificateRefused) as refused:
        verify_identity(drawn.chain(), role=wanted, label=drawn.label, now=NOW)

    assert refused.value.rule is Rule.ROLE


def test_refuses_a_signature_below_sha256() -> None:
    """A weak hash is refused; ``cryptography`` no longer signs with one, so the facts are told to say so."""
    facts = read_facts(drafts(Role.CALLER).chain()[0])

    with pytest.raises(CertificateRefused) as refused:
        require_strength(replace(facts, signature_hash=hashes.SHA1()))

    assert refused.value.rule is Rule.SIGNATURE


def test_names_the_certificate_the_moment_and_the_remedy_of_an_expiry() -> None:
    """The sentence about an expired certificate is one that a user can act on, in UTC wherever he is."""
    drawn = drafts(Role.CALLER)
    moment = drawn.leaf.ends + timedelta(days=1)
    elsewhere = moment.astimezone(timezone(timedelta(hours=9)))

    with pytest.raises(CertificateRefused) as refused:
        verify_identity(drawn.chain(), role=Role.CALLER, label=drawn.label, now=elsewhere)

    ended = f"{drawn.leaf.ends:%Y-%m-%d %H:%M} UTC"
    assert str(refused.value).startswith(f"caller certificate alice expired on {ended} (serial ")
    assert refused.value.hint == "issue a new one: sallyport certs issue caller alice --replace"


def test_points_at_the_clock_where_a_certificate_is_not_yet_valid() -> None:
    """A certificate from the future most often means a clock from the past."""
    drawn = drafts(Role.LINK)
    moment = drawn.leaf.begins - timedelta(days=1)

    with pytest.raises(CertificateRefused, match="link certificate alice is not valid before") as refused:
        verify_identity(drawn.chain(), role=Role.LINK, label=drawn.label, now=moment)

    assert refused.value.rule is Rule.NOT_YET_VALID
    assert refused.value.hint == f"check this host's clock, which says {moment:%Y-%m-%d %H:%M} UTC"


@pytest.mark.parametrize("edge", ["begins", "ends"])
def test_both_ends_of_the_validity_are_inside_it(edge: str) -> None:
    """RFC 5280 §4.1.2.5: the period includes its first and its last second."""
    drawn = drafts(Role.CALLER)
    drawn.leaf.begins = NOW - timedelta(minutes=5)

    moment = getattr(drawn.leaf, edge)

    assert verify_identity(drawn.chain(), role=Role.CALLER, label=drawn.label, now=moment).name == "alice"


def test_a_chain_that_was_good_is_judged_again_each_time() -> None:
    """What is remembered of a good chain is for its role and tunnel only, and the time is asked anew."""
    drawn = drafts(Role.CALLER)
    chain = drawn.chain()
    other_label = drafts(Role.CALLER).label
    assert verify_identity(chain, role=Role.CALLER, label=drawn.label, now=NOW).name == "alice"

    rules = []
    for role, label, now in (
        (Role.CALLER, drawn.label, drawn.leaf.ends + timedelta(seconds=1)),
        (Role.GATEWAY, drawn.label, NOW),
        (Role.CALLER, other_label, NOW),
    ):
        with pytest.raises(CertificateRefused) as error:
            verify_identity(chain, role=role, label=label, now=now)
        rules.append(error.value.rule)

    assert rules == [Rule.EXPIRED, Rule.ROLE, Rule.ANCHOR]


def test_names_from_a_hostile_certificate_are_printed_harmlessly() -> None:
    """What a peer writes into its certificate reaches terminals and logs as ASCII, and not at any length."""
    drawn = drafts(Role.CALLER)
    drawn.leaf.subject = cn("\x1b[31mroot\u202e")
    drawn.leaf.names = [uri("sallyport://" + "x" * 10_000)]

    with pytest.raises(CertificateRefused) as refused:
        verify_identity(drawn.chain(), role=Role.CALLER, label=drawn.label, now=NOW)

    assert str(refused.value).isascii()
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("role", Role)
def test_malformed_extensions_are_refused_and_not_raised(role: Role) -> None:
    """An extension that is no DER is a rule broken by the certificate, not an error of ours."""
    drawn = drafts(role)
    drawn.leaf.names = []
    broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03\x02\x01")
    drawn.leaf.others = [(broken, True)]

    with pytest.raises(CertificateRefused) as refused:
        verify_identity(drawn.chain(), role=role, label=drawn.label, now=NOW)

    assert refused.value.rule is Rule.MALFORMED


# A root on its own


def test_accepts_a_root_and_says_whose_it_is() -> None:
    """Registration learns the tunnel's ID from the root's key."""
    tunnel = Tunnel.make()

    assert verify_root(tunnel.root.certificate, now=NOW) == TunnelId(tunnel.label)


def _root(**changes: object) -> x509.Certificate:
    draft = replace(drafts(Role.CALLER).root, **changes)  # type: ignore[arg-type]
    return draft.sign(draft)


def _forged_root() -> x509.Certificate:
    """Take a root's key, name and constraints, and sign them with another key."""
    draft = drafts(Role.CALLER).root
    return draft.sign(replace(draft, key=new_key()))


ROOTS = {
    "subject": (lambda: _root(subject=cn("my root")), Rule.ROOT_SUBJECT),
    "no CA": (lambda: _root(basic=x509.BasicConstraints(False, None)), Rule.CA),
    "short path": (lambda: _root(basic=x509.BasicConstraints(True, 1)), Rule.PATH_LENGTH),
    "key usage": (lambda: _root(usage=key_usage(sign=True)), Rule.KEY_USAGE),
    "no constraints": (lambda: _root(constraints=None), Rule.NAME_CONSTRAINTS),
    "constraints not critical": (lambda: _root(constraints_critical=False), Rule.NAME_CONSTRAINTS),
    "constrained to another": (
        lambda: _root(constraints=x509.NameConstraints(dns("example.com"), any_ip())),
        Rule.NAME_CONSTRAINTS,
    ),
    "addresses": (lambda: _addresses_allowed(), Rule.NAME_CONSTRAINTS),
    "expired": (lambda: _root(begins=NOW - 9 * DAY, ends=NOW - DAY), Rule.EXPIRED),
    "not yet": (lambda: _root(begins=NOW + DAY), Rule.NOT_YET_VALID),
    "another's signature": (_forged_root, Rule.CHAIN),
    "an issuing CA": (lambda: Tunnel.make().gateways.certificate, Rule.ROOT_SUBJECT),
    "a leaf": (lambda: Tunnel.make().leaf(Role.CALLER, "a")[0][0], Rule.ROOT_SUBJECT),
}


def _addresses_allowed() -> x509.Certificate:
    draft = drafts(Role.CALLER).root
    assert draft.constraints is not None
    draft.constraints = x509.NameConstraints(draft.constraints.permitted_subtrees, any_ip()[:1])
    return draft.sign(draft)


@pytest.mark.parametrize("case", ROOTS)
def test_refuses_what_is_no_root_of_a_tunnel(case: str) -> None:
    """Registration takes a root by the profile and nothing else."""
    make, rule = ROOTS[case]

    with pytest.raises(CertificateRefused) as refused:
        verify_root(make(), now=NOW)

    assert refused.value.rule is rule


# An issuing CA on its own


@pytest.mark.parametrize("issuing", Issuing)
@pytest.mark.parametrize("succeeded", [False, True])
def test_accepts_issuing_cas_with_and_without_a_successor(issuing: Issuing, succeeded: bool) -> None:
    """An issuing CA is good under the root, and under its cross-signed successor."""
    tunnel = Tunnel.make().succeeded() if succeeded else Tunnel.make()
    authority = tunnel.gateways if issuing is Issuing.GATEWAYS else tunnel.callers

    verify_issuing(
        [authority.certificate, *tunnel.above], root=tunnel.root.certificate, issuing=issuing, now=NOW
    )


def test_refuses_one_issuing_ca_in_the_place_of_the_other() -> None:
    """The CA's Subject is its role."""
    tunnel = Tunnel.make()

    with pytest.raises(CertificateRefused) as refused:
        verify_issuing(
            [tunnel.callers.certificate], root=tunnel.root.certificate, issuing=Issuing.GATEWAYS, now=NOW
        )

    assert refused.value.rule is Rule.ISSUER


def test_refuses_callers_that_do_not_exclude_server_names() -> None:
    """For verifiers that ignore a CA's extended key usage, ``callers`` must exclude the names themselves."""
    drawn = drafts(Role.CALLER)
    drawn.issuing.constraints = drawn.root.constraints
    _, issuing, root = drawn.chain()

    with pytest.raises(CertificateRefused) as refused:
        verify_issuing([issuing], root=root, issuing=Issuing.CALLERS, now=NOW)

    assert refused.value.rule is Rule.NAME_CONSTRAINTS


# One's own files, before dialling


def test_accepts_good_leaf_files(tmp_path: Path) -> None:
    """The files that were issued are good before any connection is made."""
    tunnel = Tunnel.make()
    files = tunnel.leaf_files(tmp_path, Role.LINK)

    identity = _verify_link_files(files, tunnel)

    assert identity == Identity(tunnel.label, Role.LINK, "gw1")


def test_a_leaf_file_may_hold_the_root_as_well(tmp_path: Path) -> None:
    """A root in the file is tolerated; it is not presented."""
    tunnel = Tunnel.make()
    presented, key = tunnel.leaf(Role.LINK, "gw1")
    files = write_leaf(tmp_path, (*presented, tunnel.root.certificate), key)

    assert _verify_link_files(files, tunnel).name == "gw1"
    assert files.load_presented() == presented


def test_refuses_a_key_of_another_certificate(tmp_path: Path) -> None:
    """A key that was swapped is found in the files, not in a failed handshake."""
    tunnel = Tunnel.make()
    files = tunnel.leaf_files(tmp_path, Role.LINK)
    write_private(files.key, encode_key(new_key()))

    with pytest.raises(CertificateRefused, match=str(files.key)) as refused:
        _verify_link_files(files, tunnel)

    assert refused.value.rule is Rule.KEY_MISMATCH


def test_refuses_a_key_that_others_can_read_before_anything_else(tmp_path: Path) -> None:
    """A wide key is refused with the chmod, whatever else is wrong."""
    tunnel = Tunnel.make()
    files = tunnel.leaf_files(tmp_path, Role.LINK)
    files.key.chmod(0o640)

    with pytest.raises(FileRefused) as refused:
        _verify_link_files(files, tunnel)

    assert refused.value.hint == f"run: chmod 600 {files.key}"


def test_names_the_certificate_that_nothing_has_signed(tmp_path: Path) -> None:
    """A file without the issuing CA says so in terms of signatures."""
    tunnel = Tunnel.make()
    (leaf, *_), key = tunnel.leaf(Role.LINK, "gw1")
    files = write_leaf(tmp_path, (leaf,), key)

    with pytest.raises(CertificateRefused, match="link certificate gw1 was signed neither") as refused:
        _verify_link_files(files, tunnel)

    assert refused.value.rule is Rule.CHAIN


def _verify_link_files(files: LeafFiles, tunnel: Tunnel) -> Identity:
    root = tunnel.root.certificate
    return verify_leaf_file(files, root=root, role=Role.LINK, label=tunnel.label, now=NOW)


def test_a_bundle_is_judged_as_the_gateway_will(tmp_path: Path) -> None:
    """A caller learns that its own certificate has expired before it dials."""
    bundle = Tunnel.make().bundle(tmp_path)

    assert verify_bundle(bundle, now=NOW).name == "alice"
    with pytest.raises(CertificateRefused, match="caller certificate alice expired on") as refused:
        verify_bundle(bundle, now=NOW + 91 * DAY)
    assert refused.value.rule is Rule.EXPIRED


def test_the_verified_chain_of_a_context_that_verifies_nothing_is_refused(tmp_path: Path) -> None:
    """OpenSSL keeps a chain there as well, with any number of broken signatures in it."""
    client = lawless_context(ssl.PROTOCOL_TLS_CLIENT, tmp_path).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())

    with pytest.raises(AssertionError, match="verifies nothing"):
        verified_chain(client)
