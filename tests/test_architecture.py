"""The rooms of docs/architecture.md, held against the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "nestlearn"
PICTURE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
#: From top to bottom: a room imports only from rooms above it.
ROOMS = [
    line.split("── ")[1].split("/")[0]
    for line in PICTURE.splitlines()
    if line.startswith(("├── ", "└── ")) and "/ " in line
]


def imports(path: Path) -> set[str]:
    """Rooms that a file imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("nestlearn.")}
        if isinstance(node, ast.ImportFrom) and node.module == "nestlearn":
            found |= {alias.name for alias in node.names}
    return found


def test_the_picture_shows_every_room():
    assert set(ROOMS) == {path.parent.name for path in SOURCE.glob("*/__init__.py")}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_above_it(room):
    above = set(ROOMS[: ROOMS.index(room) + 1])
    for path in (SOURCE / room).rglob("*.py"):
        assert imports(path) & set(ROOMS) <= above, path


def test_importing_the_package_is_light():
    heavy = "transformers", "tokenizers", "datasets", "matplotlib", "torch._dynamo"
    code = f"import sys, nestlearn as nl; nl.optim; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_public_names_are_there():
    import nestlearn as nl

    for name in nl.__all__:
        assert getattr(nl, name) is not None
    with pytest.raises(AttributeError, match="Hopp"):
        _ = nl.Hopp


def test_no_file_is_too_long():
    for path in SOURCE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 320, path
