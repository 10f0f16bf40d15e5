"""A package as modules of one folder."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from nestlearn.models.hope import AUTO_CLASSES
from nestlearn.models.hub import flat
from nestlearn.models.hub.flat import flat_name, flat_sources

#: A package with every form of import that ours has.
PACKAGE = {
    "__init__.py": "from small.room import doubled as twice\n",
    "room/__init__.py": "from small.room.parts import (\n    doubled,\n    LIMIT as MOST,\n)\n",
    "room/parts.py": '''"""Parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from small.top import result

LIMIT = 7  # a comment that stays


def doubled(x: int) -> int:
    """Twice x."""
    return min(2 * x, LIMIT)
''',
    "room/unused.py": "raise RuntimeError('this is not needed')\n",
    "top.py": """import json, math
from small import room, twice
from small.room import MOST, parts as pieces


def result() -> list[int]:
    from small.late import late

    return [twice(3), MOST, pieces.LIMIT, room.doubled(1), late(), math.gcd(4, 6), json.loads("1")]
""",
    "late.py": "from small.top import result\n\n\ndef late() -> int:\n    return len(result.__name__)\n",
}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package, and nothing left of what was made of it."""
    home = tmp_path / "small"
    for name, text in PACKAGE.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    monkeypatch.setattr(flat, "_HOME", home)
    monkeypatch.setattr(flat, "_PACKAGE", "small")
    yield home
    for name in [name for name in sys.modules if name.split(".")[0] == "one_folder"]:
        del sys.modules[name]


def imported(folder: Path, sources: Mapping[str, str], module: str, monkeypatch: pytest.MonkeyPatch):
    """A module of the sources, out of one folder."""
    (folder / "one_folder").mkdir()
    for name, text in sources.items():
        (folder / "one_folder" / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module(f"one_folder.{module}")


def test_the_modules_do_what_the_package_did(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = flat_sources(["small.top"], "1.2")
    module = imported(tmp_path / "small", sources, "small_top", monkeypatch)
    assert "one_folder.small_late" not in sys.modules  # imported where it is used
    assert module.result() == [6, 7, 7, 2, 6, 2, 1]


def test_only_what_is_used_comes_along(small: Path) -> None:
    assert set(flat_sources(["small.room.parts"], "1.2")) == {
        "small_room_parts.py",
        "small_top.py",
        "small_late.py",
        "small_room.py",
    }
    (small / "room" / "parts.py").write_text("LIMIT = 7\n")
    assert set(flat_sources(["small.room.parts"], "1.2")) == {"small_room_parts.py"}


def test_everything_but_imports_stays_as_it_is(small: Path) -> None:
    text = flat_sources(["small.room.parts"], "1.2")["small_room_parts.py"]
    header, body = text.split('"""Parts."""')
    assert all(line.startswith("# ") for line in header.splitlines())
    assert "SPDX-License-Identifier: Apache-2.0" in header
    assert "small.room.parts of nestlearn 1.2" in header
    original = PACKAGE["room/parts.py"].split('"""Parts."""')[1]
    assert body == original.replace("from small.top import", "from .small_top import")


def test_what_has_no_relative_form_is_refused(small: Path) -> None:
    (small / "late.py").write_text("import os\nimport small.room\n")
    with pytest.raises(ValueError, match=r"small.late, line 2: `import small.room` has no relative twin"):
        flat_sources(["small.late"], "1.2")
    with pytest.raises(ValueError, match=r"there is no module 'small.cellar'"):
        flat_sources(["small.cellar"], "1.2")


def test_no_module_of_hope_needs_the_package() -> None:
    sources = flat_sources([kind.__module__ for kind in AUTO_CLASSES.values()], "1.2")
    assert {flat_name("nestlearn.memory.chunk") + ".py", "nestlearn_models_hope_cache.py"} <= set(sources)
    for name, text in sources.items():
        for node in ast.walk(ast.parse(text, name)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [name for name in names if name.split(".")[0] == "nestlearn"]
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                assert f"{node.module}.py" in sources
