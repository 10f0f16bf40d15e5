"""A session in one file: tensors in safetensors, the rest as JSON in its header. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nestlearn.layers import (
    AttentionState,
    ContextState,
    GateState,
    LayeredState,
    MixerState,
    Segment,
    Window,
    WindowState,
)
from nestlearn.memory import MemoryState

FORMAT = "nestlearn-session-1"
#: A file can name these types and no others.
_TYPES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        AttentionState,
        ContextState,
        GateState,
        LayeredState,
        MemoryState,
        MixerState,
        Segment,
        Window,
        WindowState,
    )
}


def save_session(path: Path, states: Sequence[Any], numbers: Mapping[str, Any]) -> None:
    """Write the states of all layers; the file appears whole or not at all.

    Args:
        path: File to write; its folder is made if needed.
        states: One state per layer, nested named tuples of tensors.
        numbers: ``seen_tokens`` of all samples or of each, and ``columns``.
    """
    tensors: dict[str, Tensor] = {}
    content = json.dumps(flatten_session(states, numbers, tensors))
    metadata = {"format": FORMAT, "session": content, "sha256": _digest(content, tensors)}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors, name, metadata=metadata)
        with Path(name).open("rb") as file:
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def load_session(path: Path) -> tuple[list[Any], dict[str, Any]]:
    """Read what :func:`save_session` wrote, onto the CPU: the states and the numbers.

    Raises:
        ValueError: If the file is missing, damaged, or no session of this library.
    """
    if not path.is_file():
        raise ValueError(f"there is no session at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no session ({error})") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no session of this library: its format is {metadata.get('format')!r}, not {FORMAT!r}"
        )
    if metadata.get("sha256") != _digest(metadata.get("session", ""), tensors):
        raise ValueError(f"{path} is damaged: its checksum is wrong")
    return restore_session(json.loads(metadata["session"]), tensors, str(path))


def flatten_session(
    states: Sequence[Any], numbers: Mapping[str, Any], tensors: dict[str, Tensor]
) -> dict[str, Any]:
    """What JSON can hold of a session; its tensors go into ``tensors``, by name."""
    return {"layers": [_flatten(state, tensors, {}) for state in states], **numbers}


def restore_session(
    content: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> tuple[list[Any], dict[str, Any]]:
    """The states and numbers that :func:`flatten_session` took apart.

    Args:
        content: What it returned.
        tensors: The tensors that it named.
        where: What to call the source in an error.

    Raises:
        ValueError: If they are of another version.
    """
    numbers = {name: value for name, value in content.items() if name != "layers"}
    try:
        states = [_restore(node, tensors) for node in content["layers"]]
        numbers = {"seen_tokens": content["seen_tokens"], **numbers}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{where} holds a session that this version cannot read ({error!r})") from error
    return states, numbers


def _flatten(node: Any, tensors: dict[str, Tensor], names: dict[int, str]) -> Any:
    """The JSON form of a state; a tensor that stands in two places is kept once."""
    if isinstance(node, Tensor):
        if id(node) not in names:
            names[id(node)] = str(len(tensors))
            tensors[names[id(node)]] = node.detach().to("cpu", copy=True).contiguous()
        return names[id(node)]
    kind = type(node).__name__ if hasattr(node, "_fields") else None
    return {"type": kind, "parts": [_flatten(part, tensors, names) for part in node]}


def _restore(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(node, str):
        return tensors[node]
    parts = [_restore(part, tensors) for part in node["parts"]]
    return tuple(parts) if node["type"] is None else _TYPES[node["type"]](*parts)


def _digest(content: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the JSON and of every tensor's type, shape and bytes."""
    digest = hashlib.sha256(content.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


__all__ = ["FORMAT", "load_session", "save_session"]
