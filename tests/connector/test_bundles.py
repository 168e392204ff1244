"""Where a bundle is looked for, on each system."""

from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import pytest

from sallyport.certs.errors import FileRefused
from sallyport.certs.names import TunnelId
from sallyport.connector.bundles import config_folders, find_bundle
from sallyport.connector.errors import BundleMismatch, BundleNotFound
from tests.harness.identity import TestIdentity

POSIX_HOME = PurePosixPath("/home/ada")
WINDOWS_HOME = PureWindowsPath("C:/Users/ada")


@pytest.mark.parametrize(
    ("platform", "environment", "home", "folders"),
    [
        ("linux", {}, POSIX_HOME, ["/home/ada/.config/sallyport"]),
        ("linux", {"XDG_CONFIG_HOME": "/etc/ada"}, POSIX_HOME, ["/etc/ada/sallyport"]),
        ("linux", {"XDG_CONFIG_HOME": ""}, POSIX_HOME, ["/home/ada/.config/sallyport"]),
        ("linux", {"XDG_CONFIG_HOME": "relative"}, POSIX_HOME, ["/home/ada/.config/sallyport"]),
        ("linux", {"APPDATA": "C:/x"}, POSIX_HOME, ["/home/ada/.config/sallyport"]),
        ("freebsd14", {}, POSIX_HOME, ["/home/ada/.config/sallyport"]),
        (
            "darwin",
            {},
            PurePosixPath("/Users/ada"),
            ["/Users/ada/Library/Application Support/sallyport", "/Users/ada/.config/sallyport"],
        ),
        ("win32", {"APPDATA": "D:/Roam"}, WINDOWS_HOME, ["D:/Roam/sallyport"]),
        ("win32", {}, WINDOWS_HOME, ["C:/Users/ada/AppData/Roaming/sallyport"]),
        ("win32", {"APPDATA": "relative"}, WINDOWS_HOME, ["C:/Users/ada/AppData/Roaming/sallyport"]),
        ("win32", {"XDG_CONFIG_HOME": "/x"}, WINDOWS_HOME, ["C:/Users/ada/AppData/Roaming/sallyport"]),
    ],
)
def test_each_system_has_its_own_place(
    platform: str, environment: dict[str, str], home: PurePath, folders: list[str]
) -> None:
    """The folders are those that the system's users expect, whichever system this runs on."""
    found = config_folders(platform, environment, home)
    assert [folder.as_posix() for folder in found] == folders


def test_a_bundle_in_the_config_folder_is_found(
    tunnel: TestIdentity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle called after the tunnel needs no option."""
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "sallyport"
    folder.mkdir()
    installed = folder / f"{tunnel.bundle.tunnel}.bundle.pem"
    installed.write_bytes(tunnel.bundle.path.read_bytes())
    installed.chmod(0o600)
    assert find_bundle(tunnel.bundle.tunnel, None).path == installed


def test_where_a_bundle_was_looked_for_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that is nowhere is reported with the whole path that was tried and what makes one."""
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    missing = TunnelId("a" * 32)
    with pytest.raises(BundleNotFound) as refused:
        find_bundle(missing, None)
    assert str(tmp_path / "sallyport" / f"{missing}.bundle.pem") in str(refused.value)
    assert "certs issue caller" in refused.value.hint


def test_a_bundle_of_another_tunnel_is_refused(tunnel: TestIdentity) -> None:
    """A named bundle counts only for the tunnel that the user asked for."""
    with pytest.raises(BundleMismatch) as refused:
        find_bundle(TunnelId("a" * 32), tunnel.bundle.path)
    assert str(tunnel.bundle.tunnel) in str(refused.value)
    assert str(tunnel.bundle.tunnel) in refused.value.hint


def test_a_named_bundle_that_is_not_there_is_a_file_error(tunnel: TestIdentity, tmp_path: Path) -> None:
    """A wrong --bundle is reported as that file, not as a search."""
    with pytest.raises(FileRefused, match=r"nothing\.pem"):
        find_bundle(tunnel.bundle.tunnel, tmp_path / "nothing.pem")
