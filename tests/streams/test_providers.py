import shutil
from pathlib import Path

import pytest

from nestlearn.streams import DataError, load_parallel_help
from nestlearn.streams.libreoffice import PACKAGES
from nestlearn.streams.providers import find_material, from_folder
from tests.streams.fakes import build_packages

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on this machine")


@pytest.mark.usefixtures("no_tools")
def test_nothing_available_is_one_sentence_with_what_was_tried_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_parallel_help(cache_dir=tmp_path / "cache")
    message = str(caught.value)
    tried = ("NESTLEARN_DATA is not set", "apt-cache is not on this machine", "`datasets` is not installed")
    to_do = (
        "run `apt-get update`",
        "run `pip install datasets`",
        "set NESTLEARN_DATA",
        "libreoffice-help-en-us",
    )
    assert all(part in message for part in (*tried, *to_do)), message
    assert message.count("\n") == 0
    assert message.endswith(".")
    assert list((tmp_path / "cache").iterdir()) == []


def test_folder_with_the_help(help_tree: Path) -> None:
    for folder in (help_tree, help_tree / "usr/share/libreoffice/help"):
        material = from_folder(folder)
        assert (material.name, material.origin) == ("libreoffice-help 7.4", str(folder))
        assert len(material.rows) == 400


@needs_dpkg
def test_folder_with_the_packages(help_tree: Path, tmp_path: Path) -> None:
    build_packages(tmp_path / "debs", help_tree)
    assert from_folder(tmp_path / "debs").rows == from_folder(help_tree).rows


@pytest.mark.usefixtures("no_tools")
@pytest.mark.parametrize("named", ["argument", "environment"])
def test_named_folder_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    if named == "environment":
        monkeypatch.setenv("NESTLEARN_DATA", str(tmp_path))
    folder = tmp_path if named == "argument" else None
    with pytest.raises(DataError, match=r"holds neither the LibreOffice help .* nor the packages .*-help-fr"):
        find_material(folder)
    with pytest.raises(DataError, match="is not a folder: correct NESTLEARN_DATA or unset it"):
        find_material(tmp_path / "nothing")


@pytest.mark.usefixtures("no_tools")
def test_packages_without_dpkg_and_two_versions(tmp_path: Path) -> None:
    for name in PACKAGES.values():
        (tmp_path / f"{name}_1.deb").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be unpacked \(dpkg-deb is not on this machine\)"):
        from_folder(tmp_path)
    (tmp_path / "libreoffice-help-it_2.deb").write_bytes(b"")
    with pytest.raises(DataError, match="more than one package libreoffice-help-it"):
        from_folder(tmp_path)


@needs_dpkg
def test_damaged_package(tmp_path: Path) -> None:
    for name in PACKAGES.values():
        (tmp_path / f"{name}_1.deb").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"libreoffice-help-en-us_1\.deb is not a sound Debian package"):
        from_folder(tmp_path)
