"""A tunnel's identity in a temporary folder, and the contexts of both layers made from it."""

from datetime import UTC, datetime
from pathlib import Path

from sallyport.certs.bundle import Bundle
from sallyport.certs.issuer import create_identity, issue_caller

DOMAIN = "tunnel.test"
RELAY = "127.0.0.1:443"


class TestIdentity:
    """
    A whole identity: gateway and link ``gw``, caller ``alice``.

    Attributes:
        directory: The folder.
        label: The tunnel's label.
        bundle: Alice's bundle.
    """

    __test__ = False

    def __init__(self, folder: Path) -> None:
        now = datetime.now(UTC)
        self.directory = create_identity(folder, domains=[DOMAIN], relay=RELAY, name="gw", now=now)
        issue_caller(self.directory, "alice", domain=None, now=now)
        self.label = self.directory.tunnel_id().label
        self.bundle = Bundle.load(self.directory.caller_bundle("alice"))
        self.root = self.directory.root_certificate()
