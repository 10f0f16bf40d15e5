"""Debian packages, with stand-ins for the package manager's two commands."""

import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from nestlearn.streams import DataError, load_parallel_help
from nestlearn.streams.debian import from_debian
from nestlearn.streams.libreoffice import PACKAGES
from nestlearn.streams.material import UnavailableError
from nestlearn.streams.providers import from_folder
from tests.streams.fakes import build_packages, write_script


@pytest.fixture
def fake_apt(help_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package manager that knows five small packages; returns the folder of its parts."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not on this machine")
    root = tmp_path / "apt"
    files = build_packages(root / "mirror", help_tree)
    records = [
        f"Package: {name}\nVersion: 9.9\nDescription: x\n y: z\n"
        f"SHA256: {sha256(file.read_bytes()).hexdigest()}\n"
        for name, file in zip(PACKAGES.values(), files, strict=True)
    ]
    (root / "list").write_text("\n".join(records))
    write_script(root / "bin" / "apt-cache", f"cat {root / 'list'}")
    write_script(root / "bin" / "apt-get", f"cp {root}/mirror/*.deb .")
    monkeypatch.setenv("PATH", f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return root


def test_packages_are_fetched_verified_and_read(fake_apt: Path, help_tree: Path) -> None:
    calls: list[str] = []
    material = from_debian(lambda what, *_: calls.append(what))
    assert (material.name, material.origin) == ("libreoffice-help 7.4", "debian")
    assert material.rows == from_folder(help_tree).rows
    assert set(calls) == {"Fetching packages", "Reading the help pages"}


def test_wrong_checksum_is_final(fake_apt: Path, tmp_path: Path) -> None:
    file = fake_apt / "mirror" / "libreoffice-help-de_9.9_all.deb"
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(
        DataError, match=r"libreoffice-help-de_9\.9_all\.deb has SHA-256 \w{64} where .* states"
    ):
        load_parallel_help(cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("tool", "script", "reason"),
    [
        ("apt-cache", "echo 'E: No packages found' >&2; exit 100", "the package list lacks"),
        ("apt-cache", "echo 'Package: libreoffice-help-fr'", "the package list lacks"),
        ("apt-get", "echo 'W: x' >&2; echo 'E: No route' >&2; exit 100", r"`apt-get` failed \(No route\)"),
        ("apt-get", "exit 3", r"`apt-get` failed \(exit code 3\)"),
        ("apt-get", "exit 0", "the download of libreoffice-help-en-us left no file"),
    ],
)
def test_package_manager_that_cannot(fake_apt: Path, tool: str, script: str, reason: str) -> None:
    write_script(fake_apt / "bin" / tool, script)
    with pytest.raises(UnavailableError, match=reason):
        from_debian()


def test_package_manager_that_hangs(fake_apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nestlearn.streams.debian._PATIENCE", 0.1)
    write_script(fake_apt / "bin" / "apt-get", "exec sleep 5")
    with pytest.raises(UnavailableError, match="timed out"):
        from_debian()
