"""
``make bench-peers``: brings what ``make bench`` compares with, each peer from its own package registry.

    frp      github.com/fatedier/frp      the Go module proxy, checked by Go's checksum database
    chisel   github.com/jpillora/chisel   the same
    rathole  rathole                      crates.io
    wrk, nginx, sshd                      apt, only what is missing and only as root: outside the checkout

Programs go to ``.bench/bin`` in the checkout, at the versions below, built once: a program that is there is
left alone, and ``rm -r .bench`` forgets them all. What cannot be installed is said in capitals with its
reason and costs its column of the table; the exit status stays 0, because the rest of the table can be made.

Go modules are built where the module cache keeps them, as main modules: ``go install PACKAGE@VERSION``
refuses a module that replaces one of its dependencies, as frp does, and there the replacement and all
checksums are the author's own. rathole cannot be built with its own lock file (a dependency that it pins does
not compile since Rust 1.80), so cargo chooses the newest versions that fit.

    python -m bench.speed.install
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.report import say

CHECKOUT: Final = Path(__file__).resolve().parents[2]
HOME: Final = CHECKOUT / ".bench"
BIN: Final = HOME / "bin"

# Where daemons are, which is not on everybody's PATH.
_SYSTEM: Final = "/usr/sbin:/usr/local/sbin"
_TOLD: Final = 8  # lines of a failed build


class NotInstalled(Exception):
    """Something could not be installed, and why."""


@dataclass(frozen=True)
class GoPeer:
    """
    A peer that is a Go module.

    Attributes:
        module: Its path.
        version: The tag.
        programs: Packages inside the module by the name of the program.
        tags: For its build.
    """

    module: str
    version: str
    programs: Mapping[str, str]
    tags: Sequence[str] = field(default=())

    def install(self) -> None:
        """
        Build its programs.

        Raises:
            NotInstalled: Go is missing, or said no.
        """
        go = _require("go", "install Go 1.25 or newer")
        listed = json.loads(_run(go, "mod", "download", "-json", f"{self.module}@{self.version}"))
        for program, package in self.programs.items():
            _run(
                *(go, "build", "-C", listed["Dir"], "-mod=readonly", "-trimpath", "-buildvcs=false"),
                *("-tags", ",".join(self.tags), "-o", BIN / program, package),
            )


@dataclass(frozen=True)
class CargoPeer:
    """
    A peer that is a crate.

    Attributes:
        crate: Its name.
        version: Of the crate.
        features: Those that it is built with, and no others.
    """

    crate: str
    version: str
    features: Sequence[str]

    @property
    def programs(self) -> Sequence[str]:
        """What it installs."""
        return (self.crate,)

    def install(self) -> None:
        """
        Build it.

        Raises:
            NotInstalled: cargo is missing, or said no.
        """
        cargo = _require("cargo", "install Rust, and apt install pkg-config libssl-dev")
        _run(
            *(cargo, "install", self.crate, "--version", self.version, "--no-default-features"),
            *("--features", ",".join(self.features), "--root", HOME, "--target-dir", HOME / "build"),
        )
        shutil.rmtree(HOME / "build", ignore_errors=True)


# Without the pages of frp's dashboard, which are not in the module.
PEERS: Final[Mapping[str, GoPeer | CargoPeer]] = {
    "frp": GoPeer(
        "github.com/fatedier/frp",
        "v0.70.0",
        {"frps": "./cmd/frps", "frpc": "./cmd/frpc"},
        tags=("noweb",),
    ),
    "chisel": GoPeer("github.com/jpillora/chisel", "v1.11.3", {"chisel": "."}),
    "rathole": CargoPeer("rathole", "0.5.0", ("server", "client", "tls")),
}
_PACKAGES: Final = {"wrk": "wrk", "nginx": "nginx-light", "sshd": "openssh-server", "ssh": "openssh-client"}


def find(program: str) -> Path | None:
    """Return where a program is: the one that was installed here, or else the machine's own."""
    found = shutil.which(program, path=f"{BIN}:{os.environ.get('PATH', '')}:{_SYSTEM}")
    return None if found is None else Path(found)


def require(program: str) -> Path:
    """
    Return where a program is that ``missing`` has not complained of.

    Raises:
        NotInstalled: It is gone since.
    """
    path = find(program)
    if path is None:
        raise NotInstalled(missing(program))
    return path


def missing(*programs: str) -> str:
    """Say in one line which programs are not there and what would install them; empty when all are."""
    absent = [program for program in programs if find(program) is None]
    if not absent:
        return ""
    packages = [_PACKAGES[program] for program in absent if program in _PACKAGES]
    how = f"apt install {' '.join(packages)}" if packages else "make bench-peers"
    return f"{' and '.join(absent)} not installed: {how}"


def versions() -> dict[str, str]:
    """Return the version of each peer, by its name, as it would be installed here."""
    return {name: peer.version.removeprefix("v") for name, peer in PEERS.items()}


def main() -> int:
    """Install what is missing, say what could not be, and return 0."""
    BIN.mkdir(parents=True, exist_ok=True)
    _attempt("system programs", _install_packages)
    for name, peer in PEERS.items():
        if all((BIN / program).exists() for program in peer.programs):
            say(f"{name} {peer.version}: there already")
            continue
        say(f"{name} {peer.version}: building, a minute or several")
        _attempt(f"{name} {peer.version}", peer.install)
    return 0


def _attempt(name: str, install: Callable[[], None]) -> None:
    try:
        install()
    except NotInstalled as error:
        say(f"SKIPPED {name}: {error}")
    else:
        say(f"{name}: installed")


def _install_packages() -> None:
    packages = [package for program, package in _PACKAGES.items() if find(program) is None]
    if not packages:
        return
    if os.geteuid() != 0:
        raise NotInstalled(f"not root; as root: apt install {' '.join(packages)}")
    apt = _require("apt-get", f"install by hand: {' '.join(packages)}")
    _run(apt, "install", "-y", "--no-install-recommends", *packages)


def _require(program: str, hint: str) -> Path:
    path = find(program)
    if path is None:
        raise NotInstalled(f"no {program} here: {hint}")
    return path


def _run(*command: str | Path) -> str:
    """Run a command of an installer below the priority of everything else, and return what it printed."""
    words = ["nice", "-n", "15", *map(str, command)]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-_TOLD:]
        raise NotInstalled("\n  ".join([f"{' '.join(words[3:])}: exit {done.returncode}", *said]))
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
