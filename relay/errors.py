"""
What can go wrong at the relay.

    RelayError
    ├── ListenFailed         the public address cannot be listened on
    ├── DatabaseFailed       the database cannot be opened, read or written, or is of another version
    ├── TunnelRefused        a root certificate that is not taken as a tunnel's
    ├── TunnelUnknown        no tunnel with that ID is registered
    ├── TunnelArchived       it was, and is archived: the ID is not used again
    ├── NotConfirmed         a command that cannot be undone was not confirmed
    └── FileInTheWay         ``relay init`` would overwrite something

All of them are the operator's to mend and are raised before or beside the traffic: what a caller or a gateway
does wrong is answered on the wire (``tunnel.alerts``, ``Refusal``) and never raised past the connection that
it happened on. This module imports nothing of ours.
"""

import errno
from pathlib import Path
from typing import Final


class RelayError(Exception):
    """
    The root of this package's errors.

    Attributes:
        hint: what to do about it, for a person; may be empty.
    """

    hint: str = ""


class ListenFailed(RelayError):
    """
    The address of ``listen:`` cannot be used.

    Attributes:
        address: the address, as "host:port".
        error: what the system said.
    """

    def __init__(self, address: str, error: OSError) -> None:
        super().__init__(address, error)
        self.address: Final = address
        self.error: Final = error
        self.hint = _LISTEN_HINTS.get(error.errno or 0, "change `listen:`")

    def __str__(self) -> str:
        reason = _LISTEN_REASONS.get(self.error.errno or 0) or self.error.strerror or str(self.error)
        return f"cannot listen on {self.address}: {reason}"


_LISTEN_REASONS: Final = {
    errno.EADDRINUSE: "the port is in use",
    errno.EACCES: "permission denied: ports below 1024 need a privilege",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}
_LISTEN_HINTS: Final = {
    errno.EADDRINUSE: "see who has it with `ss -ltnp`, stop it, or change `listen:`",
    errno.EACCES: "grant CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=), or listen above 1023",
    errno.EADDRNOTAVAIL: "listen on 0.0.0.0, or on an address that `ip addr` shows",
}


class DatabaseFailed(RelayError):
    """
    The relay's database cannot be used.

    Attributes:
        database: which one, without any password.
        reason: what is wrong with it.
    """

    def __init__(self, database: str, reason: str, hint: str = "") -> None:
        super().__init__(database, reason, hint)
        self.database: Final = database
        self.reason: Final = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"the database {self.database} cannot be used: {self.reason}"


class TunnelRefused(RelayError):
    """
    A root certificate will not be registered.

    Attributes:
        tunnel: the tunnel's ID, or the file's name where there is none to speak of.
        reason: the rule that it breaks.
    """

    def __init__(self, tunnel: str, reason: str, hint: str = "") -> None:
        super().__init__(tunnel, reason, hint)
        self.tunnel: Final = tunnel
        self.reason: Final = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.tunnel} is not registered: {self.reason}"


class TunnelUnknown(RelayError):
    """
    No tunnel with this ID is registered.

    Attributes:
        tunnel: the ID that was asked for.
    """

    hint = "`sallyport relay tunnel list` shows those that are; `relay tunnel add ROOT.pem` registers one"

    def __init__(self, tunnel: str) -> None:
        super().__init__(tunnel)
        self.tunnel: Final = tunnel

    def __str__(self) -> str:
        return f"no tunnel {self.tunnel} is registered"


class TunnelArchived(RelayError):
    """
    The tunnel is archived, which is for good.

    Attributes:
        tunnel: its ID.
    """

    hint = "make a new tunnel: sallyport certs init"

    def __init__(self, tunnel: str) -> None:
        super().__init__(tunnel)
        self.tunnel: Final = tunnel

    def __str__(self) -> str:
        return f"{self.tunnel} is archived for good, and its ID is never used again"


class NotConfirmed(RelayError):
    """
    A command that cannot be undone was not confirmed; nothing was done.

    Attributes:
        action: what it would have done.
    """

    def __init__(self, action: str, hint: str = "") -> None:
        super().__init__(action)
        self.action: Final = action
        self.hint = hint

    def __str__(self) -> str:
        return f"not confirmed, and nothing was done: {self.action}"


class FileInTheWay(RelayError):
    """
    ``relay init`` makes new files only, and one is there already.

    Attributes:
        path: the file.
    """

    hint = (
        "name another folder with --dir, or move the file away; a new key means a new pin for every gateway"
    )

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path: Final = path

    def __str__(self) -> str:
        return f"{self.path} exists already"
