"""The forms of a model on disk: Hugging Face folder, single file, training checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nestlearn.converting.architecture import is_hope, outline_of, with_twins, without_twins
from nestlearn.converting.content import Content, decoded, encoded, is_companion
from nestlearn.training import load_tree, save_tree
from nestlearn.training.checkpoint import digest
from nestlearn.training.weights import WEIGHTS

#: In the header of a single file.
SINGLE = "nestlearn-model-1"
CONFIG, WHOLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def read_folder(path: Path) -> Content:
    """A Hugging Face folder in safetensors, whole or in shards.

    Raises:
        ValueError: If a part is missing, damaged, or belongs to another model.
    """
    config = _json(path / CONFIG)
    if (path / WHOLE).is_file():
        tensors, _ = read_tensors(path / WHOLE)
    elif (path / INDEX).is_file():
        tensors = _shards(path)
    else:
        raise ValueError(
            f"{path} has no {WHOLE} and no {INDEX}: load it with transformers and save_pretrained it, which "
            "writes safetensors"
        )
    files = {f.name: f.read_bytes() for f in sorted(path.iterdir()) if f.is_file() and is_companion(f.name)}
    return _checked(path, Content(config, tensors, files, _others(path)))


def write_folder(content: Content, path: Path, max_shard_size: str) -> None:
    """Write a Hugging Face folder.

    Args:
        content: The model.
        path: The folder, which is made.
        max_shard_size: Largest file of weights, such as ``5GB``.

    Raises:
        ValueError: If that is no size.
    """
    from huggingface_hub import save_torch_state_dict  # noqa: PLC0415

    path.mkdir(parents=True)
    save_torch_state_dict(content.tensors, path, max_shard_size=max_shard_size, metadata={"format": "pt"})
    (path / CONFIG).write_text(json.dumps(content.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name, data in content.files.items():
        (path / name).write_bytes(data)


def read_file(path: Path) -> Content:
    """A single file: weights, and in its header the configuration, companions and a checksum.

    Raises:
        ValueError: If it is damaged.
    """
    tensors, metadata = read_tensors(path)
    own = {key: value for key, value in metadata.items() if key != "sha256"}
    if metadata.get("sha256") != digest(json.dumps(own, sort_keys=True), tensors):
        raise ValueError(f"{path} is damaged: its checksum is wrong")
    return _checked(path, Content(json.loads(own["config"]), tensors, decoded(own)))


def write_file(content: Content, path: Path) -> None:
    """Write a single file, which any reader of safetensors takes for a file of weights."""
    config = json.dumps(content.config, sort_keys=True)
    metadata = {"format": "pt", "nestlearn": SINGLE, "config": config, **encoded(content.files)}
    tensors = {name: tensor.contiguous() for name, tensor in content.tensors.items()}
    metadata["sha256"] = digest(json.dumps(metadata, sort_keys=True), tensors)
    save_file(tensors, path, metadata=metadata)


def read_checkpoint(path: Path) -> Content:
    """The model of a training checkpoint.

    Raises:
        ValueError: If it is damaged, or does not say whose weights it holds.
    """
    tree = load_tree(path)
    if not tree.get("config"):
        raise ValueError(
            f"{path} does not say what model it is of: the model has no configuration, or an earlier version "
            "wrote it; go on training for a step with this one"
        )
    config = json.loads(tree["config"])
    try:
        tensors = without_twins(outline_of(config), tree["model"])
        files = decoded(tree.get("files", {}))
    except ValueError as error:
        raise ValueError(f"{path} cannot be converted: {error}") from error
    rest = {key: value for key, value in tree.items() if key not in ("kind", "config", "model", "files")}
    left_out = (f"the optimizer and the position in the stream ({_bytes(rest):,} bytes)",) if rest else ()
    return Content(config, tensors, files, left_out)


def _others(folder: Path) -> tuple[str, ...]:
    """What else a folder holds, hidden files aside."""
    names = (f"{entry.name}/" if entry.is_dir() else entry.name for entry in sorted(folder.iterdir()))
    known = (CONFIG, WHOLE, INDEX)
    return tuple(
        name
        for name in names
        if not name.startswith(".")
        and name not in known
        and not is_companion(name)
        and not name.endswith(".safetensors")
    )


def write_checkpoint(content: Content, path: Path) -> None:
    """Write a checkpoint from which a run starts at its first step.

    Raises:
        ValueError: If the model is not known, or the tensors are not its own.
    """
    full = with_twins(outline_of(content.config), content.tensors)
    config, files = json.dumps(content.config, sort_keys=True), encoded(content.files)
    save_tree(path, {"kind": WEIGHTS, "config": config, "model": full, "files": files})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and its metadata.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged, or not in the safetensors format ({error})") from error


def _shards(path: Path) -> dict[str, Tensor]:
    """The tensors of a folder whose weights are in several files."""
    places = _json(path / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(Path(str(file)).name == file for file in places.values()):
        raise ValueError(f"{path / INDEX} has no weight_map with files of this folder")
    tensors: dict[str, Tensor] = {}
    for file in dict.fromkeys(places.values()):
        if not (path / file).is_file():
            raise ValueError(f"{path} is not complete: {file} is missing")
        found, _ = read_tensors(path / file)
        if different := set(found) ^ {name for name, place in places.items() if place == file}:
            raise ValueError(f"{path / INDEX} and {file} differ in the tensor {min(different)}")
        tensors |= found
    return tensors


def _checked(path: Path, content: Content) -> Content:
    """Of a Hope, all tensors have to be there; for other models that is transformers' business."""
    if is_hope(content.config):
        try:
            with_twins(outline_of(content.config), content.tensors)
        except ValueError as error:
            raise ValueError(f"{path} cannot be converted: {error}") from error
    return content


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    return found


def _bytes(tree: Any) -> int:
    """Of the tensors of a tree."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return sum(map(_bytes, parts))


__all__ = [
    "CONFIG",
    "INDEX",
    "SINGLE",
    "WHOLE",
    "read_checkpoint",
    "read_file",
    "read_folder",
    "read_tensors",
    "write_checkpoint",
    "write_file",
    "write_folder",
]
