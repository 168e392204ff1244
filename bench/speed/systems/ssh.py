"""
``ssh -R``: an sshd of our own on a high port, with its own host key and configuration, and one client.

It runs as whoever runs the benchmark and logs in as the same user, by a key that is good for nothing else. An
sshd of root's wants the folder /run/sshd, which a machine without the service running may lack; it is made.
"""

import getpass
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.speed import install
from bench.speed.program import Program
from bench.speed.system import Running
from bench.speed.systems.passing import LinkThrough, dialled, entrance, ready
from bench.speed.upstream import Upstream
from sallyport.processes import free_port
from tests.harness.product import LOOPBACK

# StrictModes judges the folders above the key file, and the benchmark's lie in /tmp.
_SERVER = """\
Port {link}
ListenAddress 127.0.0.1
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/login.pub
AuthenticationMethods publickey
StrictModes no
PermitRootLogin yes
UsePAM no
AllowTcpForwarding remote
"""

_HOST_ALIAS: Final = "bench"
_PRIVILEGE_SEPARATION: Final = Path("/run/sshd")


class Ssh:
    """OpenSSH."""

    name = "ssh -R"

    def missing(self) -> str:
        """Say what is not installed."""
        return install.missing("sshd", "ssh", "ssh-keygen")

    @contextmanager
    def start(
        self, folder: Path, upstream: Upstream, *, link_through: LinkThrough = None
    ) -> Iterator[Running]:
        """Start sshd, and the client that asks it for two ports."""
        for key in ("host", "login"):
            command: list[str | Path] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bench"]
            command += ["-f", folder / key]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        if os.geteuid() == 0:
            _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        link, tls, mutual = free_port(), free_port(), free_port()
        (folder / "sshd_config").write_text(_SERVER.format(link=link, folder=folder))
        host_key = (folder / "host.pub").read_text()
        (folder / "known_hosts").write_text(f"{_HOST_ALIAS} {host_key}")
        serve: list[str | Path] = [install.require("sshd"), "-D", "-e", "-f", folder / "sshd_config"]
        dial: list[str | Path] = [
            "ssh",
            "-F",
            "none",
            "-N",
            "-i",
            folder / "login",
            "-p",
            str(dialled(link, link_through)),
        ]
        dial += ["-o", f"UserKnownHostsFile={folder / 'known_hosts'}", "-o", "IdentitiesOnly=yes"]
        dial += ["-o", f"HostKeyAlias={_HOST_ALIAS}"]
        dial += ["-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes"]
        dial += ["-R", f"{LOOPBACK}:{tls}:{LOOPBACK}:{upstream.tls}"]
        dial += ["-R", f"{LOOPBACK}:{mutual}:{LOOPBACK}:{upstream.mutual}"]
        dial += [f"{getpass.getuser()}@{LOOPBACK}"]
        with Program("sshd", serve, folder=folder) as server:
            server.wait_for_port(link)
            with Program("ssh", dial, folder=folder) as client:
                yield ready(entrance(upstream, tls, mutual), [server, client])
