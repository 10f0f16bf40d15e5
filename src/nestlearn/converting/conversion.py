"""From one form of a model to another, checked to the bit before anything is put in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from nestlearn.continual.memory_file import KIND as MEMORY
from nestlearn.converting.content import Content, differences
from nestlearn.converting.forms import (
    CONFIG,
    SINGLE,
    read_checkpoint,
    read_file,
    read_folder,
    write_checkpoint,
    write_file,
    write_folder,
)
from nestlearn.converting.memories import merged, write_difference
from nestlearn.converting.staging import staged
from nestlearn.training import load_tree
from nestlearn.training.checkpoint import FORMAT as TREE
from nestlearn.training.weights import WEIGHTS

#: What a model can be turned into.
TARGETS = ("folder", "file", "checkpoint", "memory")
_CHECKPOINT = "checkpoint.safetensors"
_READERS: dict[str, Callable[[Path], Content]] = {
    "folder": read_folder,
    "file": read_file,
    "checkpoint": read_checkpoint,
}


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert` did.

    Attributes:
        source: Kind of the source.
        target: Kind of the target.
        path: The target.
        tensors: How many the target holds.
        bytes: Of these tensors.
        left_out: What of the source is not in the target, in words.
    """

    source: str
    target: str
    path: Path
    tensors: int
    bytes: int
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        rest = "".join(f"; left out: {what}" for what in self.left_out)
        count = "1 tensor" if self.tensors == 1 else f"{self.tensors} tensors"
        return (
            f"{self.source} to {self.target} {self.path}: {count}, {self.bytes:,} bytes, read back and equal "
            f"to the bit{rest}"
        )


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: str | None = None,
    base: str | Path | None = None,
    dtype: str | None = None,
    force: bool = False,
    max_shard_size: str = "5GB",
) -> Conversion:
    """Turn a model into another form.

    ==========  ============================================================================================
    folder      of Hugging Face's: ``config.json``, safetensors (one file or shards), tokenizer
    file        one safetensors file, with configuration and tokenizer in its header
    checkpoint  of :class:`~nestlearn.training.StreamTrainer`; one that is written here holds the model alone,
                and a run that resumes from it begins at its first step
    memory      of :meth:`nestlearn.Learner.save`; needs ``base``. A source's values are put into the base;
                a target gets the parameters that differ from it, as ordinary fine-tuning
    ==========  ============================================================================================

    The target is written beside its place, read back, compared bit for bit, and moved there: it is whole, or
    not there at all.

    Args:
        source: Of any kind, found out by its content. Of the folder of a run, its checkpoint.
        target: Where to write.
        to: Kind of the target, one of the table; by default ``file`` if its name ends in ``.safetensors``,
            otherwise ``folder``.
        base: For memories, the model they belong to: a folder, a name on the hub, or ``"smollm2"``.
        dtype: ``float32``, ``bfloat16`` or ``float16``; by default every tensor keeps its own.
        force: Replace a target that exists. A folder that holds anything but a model is never replaced.
        max_shard_size: Largest file of weights in a folder.

    Returns:
        What was done.

    Raises:
        ValueError: For a source that is damaged or of no known kind, a target that exists, and options that
            do not belong together. No target is written then.
    """
    source, target = Path(source), Path(target)
    kind = kind_of(source)
    to = ("file" if target.suffix == ".safetensors" else "folder") if to is None else to
    _check(source, kind, target, to, base, dtype)
    with staged(target, force) as draft:
        content = _read(source, kind, base)
        if dtype is not None:
            content = content.cast(dtype)
        written = list(content.tensors.values())
        if to == "memory":
            assert base is not None
            written = write_difference(content, draft, base)
        else:
            _write(content, draft, to, max_shard_size)
            _verify(content, draft, to)
    size = sum(tensor.numel() * tensor.element_size() for tensor in written)
    return Conversion(kind, to, target, len(written), size, content.left_out)


def _read(source: Path, kind: str, base: str | Path | None) -> Content:
    """The model in a source of a known kind."""
    if kind == "memory":
        assert base is not None
        return merged(source, base)
    return _READERS[kind](source / _CHECKPOINT if _is_run(source) else source)


def kind_of(path: str | Path) -> str:
    """What a path holds, by its content: ``folder``, ``file``, ``checkpoint`` or ``memory``.

    Raises:
        ValueError: If it is none of them, saying what it is where that is known.
    """
    path = Path(path)
    if path.is_dir():
        if (path / CONFIG).is_file():
            return "folder"
        if _is_run(path):
            return "checkpoint"
        raise ValueError(f"{path} is no folder of a model: it has no {CONFIG}, and no {_CHECKPOINT} of a run")
    if not path.is_file():
        raise ValueError(f"there is no model at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged, or not in the safetensors format ({error})") from error
    if header.get("nestlearn") == SINGLE:
        return "file"
    if header.get("format") != TREE:
        raise ValueError(
            f"{path} holds tensors without a configuration: give the folder with its {CONFIG}, a file that "
            "nestlearn convert wrote, a training checkpoint, or a memory file"
        )
    tree = load_tree(path)
    kind = tree.get("kind") if isinstance(tree, dict) else None
    if kind == MEMORY:
        return "memory"
    if kind == WEIGHTS or (isinstance(tree, dict) and {"model", "optimizer", "identity"} <= set(tree)):
        return "checkpoint"
    raise ValueError(
        f"{path} is a file of this library ({kind or 'of an unknown kind'}), but holds no whole model: "
        "finish learning, and convert the memory file"
    )


def _is_run(path: Path) -> bool:
    return path.is_dir() and not (path / CONFIG).is_file() and (path / _CHECKPOINT).is_file()


def _check(
    source: Path, kind: str, target: Path, to: str, base: str | Path | None, dtype: str | None
) -> None:
    """Refuse what does not belong together, before anything is read.

    Raises:
        ValueError: With the remedy.
    """
    if to not in TARGETS:
        raise ValueError(f"a target is one of {', '.join(TARGETS)}; got {to!r}")
    if "memory" in (kind, to) and base is None:
        raise ValueError("a memory belongs to a base: give the model that it was learned on (--base)")
    if "memory" not in (kind, to) and base is not None:
        raise ValueError(f"from {kind} to {to} there is no base: leave it out")
    if kind == to and dtype is None and kind != "folder":
        raise ValueError(f"{source} is a {kind} already: copy it, or give another dtype or kind")
    if kind == to == "memory":
        raise ValueError("a memory has the dtype of its base: convert it to a folder with the other dtype")
    here, there = source.resolve(), target.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise ValueError(
            f"{target} and {source} are the same, or one inside the other: choose another target"
        )


def _write(content: Content, path: Path, to: str, max_shard_size: str) -> None:
    if to == "folder":
        write_folder(content, path, max_shard_size)
    elif to == "file":
        write_file(content, path)
    else:
        write_checkpoint(content, path)


def _verify(content: Content, draft: Path, to: str) -> None:
    """Read back what was written.

    Raises:
        ValueError: If anything is not what it was.
    """
    again = _READERS[to](draft)
    wrong = differences(content.tensors, again.tensors)
    if wrong or again.config != content.config or again.files != content.files:
        what = wrong[0] if wrong else "the configuration" if again.config != content.config else "a file"
        raise ValueError(
            f"what was written does not come back as it was ({what} differs): the disk may be full"
        )


__all__ = ["TARGETS", "Conversion", "convert", "kind_of"]
