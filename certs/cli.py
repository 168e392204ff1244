"""
The commands ``sallyport certs …``: make an identity, issue from it, show and check what there is. Those that
keep it fresh are in ``cli_renewal.py``.

Each command reads the clock, calls one function of the package and prints; refusals rise to
``sallyport.cli``, which says them with their hint. ``--json`` prints one JSON value and nothing else.
"""

import socket
from pathlib import Path
from typing import Annotated

import typer

from sallyport.certs.check import Finding, check_directory
from sallyport.certs.cli_options import IDENTITY, AsJson, Directory, current_time, print_json
from sallyport.certs.cli_renewal import renew, rotate_app, status
from sallyport.certs.describe import as_table, describe, dns_records
from sallyport.certs.errors import IssuingRefused
from sallyport.certs.files import IdentityDirectory, load_certificates
from sallyport.certs.issuer import add_domains, create_identity, issue_caller, issue_leaf, write_settings
from sallyport.certs.names import Role, domain as checked_domain, holder_name, relay_address
from sallyport.certs.storage import is_present

app = typer.Typer(no_args_is_help=True, add_completion=False)
issue = typer.Typer(no_args_is_help=True, help="Issue a certificate with a new key.")
app.add_typer(issue, name="issue")
app.add_typer(rotate_app, name="rotate")
app.command()(renew)
app.command()(status)

Name = Annotated[str, typer.Argument(help="Who it is for: a-z, 0-9, '.', '_' and '-'.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace the one that is there.")]


@app.command()
def init(
    domain: Annotated[
        list[str], typer.Option(help="The tunnel domain, as the relay has it; may be repeated.")
    ],
    relay: Annotated[str | None, typer.Option(help="The relay's address, HOST or HOST:PORT.")] = None,
    directory: Directory = IDENTITY,
    name: Annotated[
        str | None, typer.Option(help="Of the first gateway; this host's name by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Make a tunnel's identity, or let an existing one have names under another domain.
    """
    domains = list(dict.fromkeys(map(checked_domain, domain)))
    address = None if relay is None else relay_address(relay)
    if is_present(IdentityDirectory(directory).root_path):
        _add(IdentityDirectory(directory), domains, address, as_json=as_json)
        return
    if address is None:
        raise IssuingRefused("a new identity must know its relay", "add --relay HOST or --relay HOST:PORT")
    gateway = name or holder_name(socket.gethostname())
    made = create_identity(directory, domains=domains, relay=address, name=gateway, now=current_time())
    if as_json:
        _print_identity(made, gateway=gateway)
        return
    typer.echo(f"made {directory} for the tunnel {made.tunnel_id()}")
    _print_records(domains, address)
    typer.echo("next:")
    typer.echo(f"  the relay's operator registers {made.root_path}:  sallyport relay tunnel add root.pem")
    typer.echo(f"  here, as gateway {gateway}:  sallyport gateway run")
    typer.echo("  for each caller:  sallyport certs issue caller NAME")
    typer.echo(f"  {made.root_key_path} is not needed for any of these: keep it in a safe place")


@issue.command("gateway")
def issue_gateway(
    name: Name, directory: Directory = IDENTITY, replace: Replace = False, as_json: AsJson = False
) -> None:
    """
    Issue the certificate that a gateway shows to callers.
    """
    _issue_leaf(Role.GATEWAY, name, directory, replace=replace, as_json=as_json)


@issue.command("link")
def issue_link(
    name: Name, directory: Directory = IDENTITY, replace: Replace = False, as_json: AsJson = False
) -> None:
    """
    Issue the certificate that a gateway shows to the relay.
    """
    _issue_leaf(Role.LINK, name, directory, replace=replace, as_json=as_json)


@issue.command("caller")
def issue_caller_bundle(
    name: Name,
    directory: Directory = IDENTITY,
    domain: Annotated[str | None, typer.Option(help="Call under this domain; the first by default.")] = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """
    Issue a caller's bundle: its key, its certificate and the root to trust, in one file.
    """
    wanted = None if domain is None else checked_domain(domain)
    identity = IdentityDirectory(directory)
    path = issue_caller(identity, name, domain=wanted, now=current_time(), replace=replace)
    _print_issued(path, as_json=as_json)
    if not as_json:
        typer.echo("it holds a private key: hand it over where nobody else can read it, and delete your copy")


@app.command()
def show(file: Annotated[Path, typer.Argument(help="A PEM file.")], as_json: AsJson = False) -> None:
    """
    Say what the certificates in a file are.
    """
    descriptions = [describe(certificate, now=current_time()) for certificate in load_certificates(file)]
    if as_json:
        print_json(descriptions)
        return
    typer.echo("\n\n".join("\n".join(as_table(description)) for description in descriptions))


@app.command()
def check(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="The identity directory.")] = None,
    directory: Annotated[Path | None, typer.Option("--dir", help="The same.")] = None,
    as_json: AsJson = False,
) -> None:
    """
    Run every certificate and key of an identity through the strict verifier; exit 1 if one fails.
    """
    if folder is not None and directory is not None:
        raise typer.BadParameter("name one directory", param_hint="--dir")
    findings = list(check_directory(folder or directory or IDENTITY, now=current_time()))
    if as_json:
        print_json([finding.as_json() for finding in findings])
    else:
        for finding in findings:
            typer.echo(_line(finding))
    if not all(finding.is_good for finding in findings):
        raise typer.Exit(1)


def _add(directory: IdentityDirectory, domains: list[str], relay: str | None, *, as_json: bool) -> None:
    """
    Carry out ``init`` on an identity that exists: the one thing that it may change is its domains.
    """
    known = directory.domains()
    new = [domain for domain in domains if domain not in known]
    if not new:
        raise IssuingRefused(
            f"{directory.path} holds an identity with {', '.join(known)} already; nothing was changed",
            "name a new domain to add it, or another directory with --dir",
        )
    add_domains(directory, new, now=current_time())
    if relay is not None:
        write_settings(directory, relay)
    if as_json:
        _print_identity(directory, gateway=None)
        return
    typer.echo(f"added {', '.join(new)} to the tunnel {directory.tunnel_id()}, which keeps its ID")
    _print_records(new, directory.relay())
    typer.echo("next, in this order: callers with an old bundle refuse a gateway with a new certificate")
    typer.echo(f"  1. the relay registers {directory.root_path}:  sallyport relay tunnel add root.pem")
    typer.echo("  2. every caller gets a new bundle, and whoever trusts root.pem alone the new root.pem:")
    typer.echo("       sallyport certs issue caller NAME --replace")
    typer.echo(f"       sallyport certs issue caller NAME --replace --domain {new[0]}    to call under it")
    typer.echo(
        "  3. when all callers have theirs, every gateway gets a new certificate, and the new root.pem:"
    )
    typer.echo("       sallyport certs issue gateway NAME --replace")


def _issue_leaf(role: Role, name: str, directory: Path, *, replace: bool, as_json: bool) -> None:
    path = issue_leaf(IdentityDirectory(directory), role, name, now=current_time(), replace=replace)
    _print_issued(path, as_json=as_json)


def _print_issued(path: Path, *, as_json: bool) -> None:
    description = describe(load_certificates(path)[0], now=current_time())
    if as_json:
        print_json({"file": str(path), **description})
        return
    typer.echo(f"wrote {path}: {description['certificate']}, valid until {description['not_after']}")


def _print_identity(directory: IdentityDirectory, *, gateway: str | None) -> None:
    print_json(
        {
            "tunnel_id": str(directory.tunnel_id()),
            "directory": str(directory.path),
            "domains": list(directory.domains()),
            "relay": directory.relay(),
            "gateway": gateway,
        }
    )


def _print_records(domains: list[str], relay: str | None) -> None:
    typer.echo("DNS records, for the relay's operator:")
    target = relay.rpartition(":")[0] if relay else "the relay"
    for record in (record for domain in domains for record in dns_records(domain)):
        typer.echo(f"  {record}  ->  {target}")


def _line(finding: Finding) -> str:
    if not finding.is_good:
        rule = f" [{finding.rule}]" if finding.rule else ""
        hint = f"; {finding.hint}" if finding.hint else ""
        return f"bad   {finding.path:<28} {finding.problem}{rule}{hint}"
    days = "" if finding.days_left is None else f", {finding.days_left} days left"
    return f"ok    {finding.path:<28} {finding.subject}{days}"
