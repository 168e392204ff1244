"""
Where a caller's bundle lies on this system, and whether it is the right one.

``sallyport certs issue caller NAME`` makes a bundle on the gateway's side; the user puts it into the
configuration folder of his own system under the name ``<tunnel id>.bundle.pem``, or names it. Which folder
that is, is a pure function of the platform, the environment and the home folder, so that the rules of every
system are tested on one.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from sallyport.certs.bundle import Bundle
from sallyport.certs.names import TunnelId
from sallyport.connector.errors import BundleMismatch, BundleNotFound

_FOLDER = "sallyport"


def find_bundle(tunnel: TunnelId, named: Path | None) -> Bundle:
    """
    Load the bundle for a tunnel: the named one, else the first that lies where one is looked for.

    Raises:
        BundleNotFound: None was named and none lies in the configuration folders.
        BundleMismatch: The bundle belongs to another tunnel.
        CertificateError: The file cannot be used: not there, readable by others, or not a bundle.
    """
    path = named if named is not None else _search(tunnel)
    bundle = Bundle.load(path)
    if bundle.tunnel != tunnel:
        raise BundleMismatch(path, asked=str(tunnel), found=str(bundle.tunnel))
    return bundle


def config_folders(platform: str, environment: Mapping[str, str], home: PurePath) -> tuple[PurePath, ...]:
    """
    List the folders in which this user's bundles are looked for, the system's own first.

    Linux has ``$XDG_CONFIG_HOME`` (XDG Base Directory Specification: a relative one is ignored) or
    ``~/.config``; Windows has ``%APPDATA%``; macOS has ``~/Library/Application Support``, and there
    ``~/.config`` too, because command-line users expect it.

    Args:
        platform: As ``sys.platform`` spells it.
        environment: The environment variables.
        home: The user's home folder.
    """
    if platform == "win32":
        roaming = environment.get("APPDATA", "")
        folder = PureWindowsPath(roaming)
        parent = folder if folder.is_absolute() else home / "AppData" / "Roaming"
        return (parent / _FOLDER,)
    xdg = PurePosixPath(environment.get("XDG_CONFIG_HOME", ""))
    config = (xdg if xdg.is_absolute() else home / ".config") / _FOLDER
    if platform == "darwin":
        return (home / "Library" / "Application Support" / _FOLDER, config)
    return (config,)


def _search(tunnel: TunnelId) -> Path:
    folders = config_folders(sys.platform, os.environ, Path.home())
    looked = [Path(folder) / f"{tunnel}.bundle.pem" for folder in folders]
    for path in looked:
        if path.exists():
            return path
    raise BundleNotFound(str(tunnel), looked)
