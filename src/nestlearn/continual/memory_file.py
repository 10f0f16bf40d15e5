"""What was learned, in one small file: safetensors, loaded onto the model that it was learned on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestlearn.continual.identity import Identity, identify
from nestlearn.continual.methods import METHODS, Method
from nestlearn.training import CheckpointError, load_tree, save_tree

KIND = "nestlearn-memory-1"


class MemoryFileError(ValueError):
    """A memory file that cannot be used, with its name and the reason."""


def save_memory(
    path: Path,
    method: Method,
    base: Identity,
    learner: Mapping[str, Any],
    learned: Mapping[str, Any] | None = None,
) -> None:
    """Write what a method has learned, and what it was learned on.

    Args:
        path: The file; it appears whole or not at all.
        method: The method.
        base: The model that it was learned on.
        learner: Further settings, as JSON knows them.
        learned: What :meth:`Method.learned` would return, where it is known.
    """
    tree = {
        "kind": KIND,
        "method": method.name,
        "settings": method.settings,
        "base": {"name": base.name, "digest": base.digest},
        "learner": dict(learner),
        "learned": method.learned() if learned is None else dict(learned),
    }
    save_tree(path, tree)


def read_memory(path: Path) -> dict[str, Any]:
    """The content of a memory file.

    Raises:
        MemoryFileError: If it is missing, damaged, or no memory file.
    """
    try:
        tree = load_tree(path)
    except CheckpointError as error:
        raise MemoryFileError(str(error)) from error
    if not isinstance(tree, dict) or tree.get("kind") != KIND:
        raise MemoryFileError(f"{path} is no memory file: it was not written by Learner.save")
    if tree["method"] not in METHODS:
        raise MemoryFileError(
            f"{path} was learned by the method {tree['method']!r}; known are {', '.join(METHODS)}"
        )
    return tree


def check_base(path: Path, tree: Mapping[str, Any], base: Any) -> Identity:
    """Refuse another model than the one that a memory was learned on.

    Raises:
        MemoryFileError: Naming both.
    """
    learned_on, given = Identity(**tree["base"]), identify(base)
    if learned_on.digest != given.digest:
        raise MemoryFileError(
            f"{path} was learned on {learned_on}, not on {given}: load it onto the model that it belongs to"
        )
    return given
