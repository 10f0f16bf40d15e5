"""Checkpoints: one safetensors file that holds tensors and a JSON tree, written atomically. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "nestlearn-checkpoint-1"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, with the file's name and what to do."""


def save_tree(path: Path, tree: Any) -> None:
    """Write nested dicts and lists of tensors, numbers, strings, booleans and None.

    The file appears whole or not at all: it is written beside its place, flushed to disk, and renamed.

    Args:
        path: File to write; its folder is made if needed.
        tree: What to keep. Tuples come back as lists.

    Raises:
        ValueError: If the tree holds anything else, naming its place.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_flatten(tree, tensors, ""))
    metadata = {"format": FORMAT, "tree": structure, "sha256": digest(structure, tensors)}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors, name, metadata=metadata)
        Path(name).chmod(0o666 & ~umask())
        with Path(name).open("rb") as file:
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def load_tree(path: Path) -> Any:
    """Read what :func:`save_tree` wrote.

    Raises:
        CheckpointError: If the file is missing, damaged, or not a checkpoint of this library.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or no file of this library ({error}): "
            "if a run wrote it, delete it to start again"
        ) from error
    if metadata.get("format") == FORMAT and metadata.get("sha256") != digest(
        metadata.get("tree", ""), tensors
    ):
        raise CheckpointError(
            f"{path} is damaged (its checksum is wrong): if a run wrote it, delete it to start again"
        )
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a nestlearn checkpoint: its format is {metadata.get('format')!r}"
        )
    return _restore(json.loads(metadata["tree"]), tensors)


def digest(structure: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the tree and of every tensor's type, shape and bytes."""
    digest = hashlib.sha256(structure.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flatten(node: Any, tensors: dict[str, Tensor], place: str) -> Any:
    """The JSON form of a node; tensors go into ``tensors`` under their place."""
    if isinstance(node, Tensor):
        name = f"{len(tensors)}{place}"  # numbered: places like a/b and a, b look alike
        tensors[name] = node.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(node, dict):
        for key in node:
            if not isinstance(key, str | int):
                raise ValueError(f"a checkpoint's keys are strings or whole numbers, got {key!r} at {place}")
        return {"dict": [[k, _flatten(v, tensors, f"{place}/{k}")] for k, v in node.items()]}
    if isinstance(node, list | tuple):
        return {"list": [_flatten(v, tensors, f"{place}/{i}") for i, v in enumerate(node)]}
    if node is None or isinstance(node, bool | int | float | str):
        return {"value": node}
    raise ValueError(f"a checkpoint cannot hold a {type(node).__name__} (at {place or 'the top'})")


def _restore(node: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _restore(value, tensors) for key, value in content}
    if kind == "list":
        return [_restore(value, tensors) for value in content]
    return content
