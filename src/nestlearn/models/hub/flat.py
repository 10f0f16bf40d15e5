"""Source of this package as modules of one folder, which is what transformers can load with a model.

Custom code of a model lies in one folder, and its modules import each other relatively. Here every module of
the package that is needed becomes ``nestlearn_ROOM_MODULE.py``. What is needed is found by following imports.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

_HOME = Path(__file__).parents[2]
_PACKAGE = _HOME.name
_HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# {module} of nestlearn {version}: licensed under the Apache License, Version 2.0
# (https://www.apache.org/licenses/LICENSE-2.0). Generated; only the imports differ from the original.
"""


def flat_name(module: str) -> str:
    """Name of a module of the package in the folder."""
    return module.replace(".", "_")


def flat_sources(roots: Iterable[str], version: str) -> dict[str, str]:
    """The given modules of the package and all that they import of it, ready for one folder.

    Imports of a package's ``__init__`` are led to where the name is defined, so that a package comes along
    only as far as it is used.

    Args:
        roots: Full names of modules, such as ``"nestlearn.models.hope.modeling"``.
        version: Of the package, for the header of the files.

    Returns:
        Source text by file name.

    Raises:
        ValueError: If there is no such module, or one is imported in a form that has no relative twin
            (``import nestlearn.x``).
    """
    sources: dict[str, str] = {}
    open_modules = list(roots)
    while open_modules:
        module = open_modules.pop()
        file = f"{flat_name(module)}.py"
        if file in sources:
            continue
        text, needed = _rewritten(module)
        sources[file] = _HEADER.format(module=module, version=version) + text
        open_modules += needed
    return sources


def _rewritten(module: str) -> tuple[str, list[str]]:
    """A module's source with relative imports, and the modules that it imports."""
    text = _path(module).read_text(encoding="utf-8")
    lines, needed = text.splitlines(), []
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in sorted(imports, key=lambda node: -node.lineno):
        if isinstance(node, ast.Import):
            _refuse_absolute(node, module)
        elif node.module is not None and node.module.split(".")[0] == _PACKAGE:
            new, found = _relative(node.module, node.names)
            needed += found
            assert node.end_lineno is not None
            indent = " " * node.col_offset
            lines[node.lineno - 1 : node.end_lineno] = [indent + line for line in new]
    return "\n".join(lines) + "\n", needed


def _relative(module: str, names: list[ast.alias]) -> tuple[list[str], list[str]]:
    """Relative statements that import what is imported from a module, and the modules that they import."""
    statements: list[str] = []
    by_module: dict[str, list[str]] = {}
    for alias in names:
        target, name = _defined(module, alias.name)
        bound = alias.asname or alias.name
        parts = by_module.setdefault(target, [])
        if name is None:
            # transformers copies what is imported by name, and overlooks the import of a whole module.
            parts.append("__name__ as _")
            statements.append(f"from . import {flat_name(target)} as {bound}")
        else:
            parts.append(name if name == bound else f"{name} as {bound}")
    named = [f"from .{flat_name(target)} import {', '.join(parts)}" for target, parts in by_module.items()]
    return named + statements, list(by_module)


def _defined(module: str, name: str) -> tuple[str, str | None]:
    """Where a name that is imported from a module is defined; None for a name if it is a module itself."""
    if _find(f"{module}.{name}") is not None:
        return f"{module}.{name}", None
    path = _path(module)
    if path.name == "__init__.py":
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == _PACKAGE:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return _defined(str(node.module), alias.name)
    return module, name


def _refuse_absolute(node: ast.Import, module: str) -> None:
    for alias in node.names:
        if alias.name.split(".")[0] == _PACKAGE:
            raise ValueError(
                f"{module}, line {node.lineno}: `import {alias.name}` has no relative twin; write "
                f"`from ... import ...`"
            )


def _path(module: str) -> Path:
    path = _find(module)
    if path is None:
        raise ValueError(f"there is no module {module!r} in {_HOME}")
    return path


def _find(module: str) -> Path | None:
    """File of a module of the package, None if there is none."""
    place = _HOME.joinpath(*module.split(".")[1:])
    files = (place.with_name(f"{place.name}.py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


__all__ = ["flat_name", "flat_sources"]
