"""Memory files: what was learned is put into its base, or taken out of a model as a difference."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nestlearn.continual.identity import identify
from nestlearn.continual.memory_file import MemoryFileError, check_base, read_memory, save_memory
from nestlearn.continual.methods import METHODS, FineTuning
from nestlearn.converting.content import Content, differences, same_bits
from nestlearn.converting.forms import read_folder, write_folder
from nestlearn.models.pretrained import load_model, place_of

#: Of a configuration, what does not change what the model computes.
_NAMES = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


def merged(path: Path, base: str | Path) -> Content:
    """A base with what a memory file holds, as one model.

    Args:
        path: The memory file.
        base: A folder, a name on the hub, or ``"smollm2"``.

    Raises:
        ValueError: If the file belongs to another base, or what was learned is not in the base's own weights.
    """
    tree, model = read_memory(path), load_model(base)
    check_base(path, tree, model)
    try:
        method = METHODS[tree["method"]].from_settings(tree["settings"], tree["learned"])
        method.attach(model)
        method.apply(tree["learned"])
    except (ValueError, KeyError, TypeError) as error:
        raise MemoryFileError(f"{path} does not fit this model: {error}") from error
    own: Any = method.model
    if list(own.state_dict()) != list(model.state_dict()):
        raise ValueError(
            f"{path} was learned by {tree['method']}, which adds weights of its own: rounding would change "
            "what the model says; use it through nl.Learner.load"
        )
    with tempfile.TemporaryDirectory(prefix="nestlearn-") as scratch:
        own.save_pretrained(scratch)
        content, again = read_folder(Path(scratch)), load_model(scratch)
    _refuse_different(own.state_dict(), again.state_dict(), f"{base} with {path}")
    method.close()
    return replace(content, files={**content.files, **_companions(base)})


def write_difference(content: Content, path: Path, base: str | Path) -> list[Tensor]:
    """Write what makes a model of a base, as a memory file of ordinary fine-tuning.

    Args:
        content: The model.
        path: The memory file.
        base: A folder, a name on the hub, or ``"smollm2"``.

    Returns:
        The tensors that the file holds.

    Raises:
        ValueError: If the two are not the same architecture in the same dtype, or differ in more than
            parameters.
    """
    model = load_model(base)
    with as_folder(content) as folder:
        learned = load_model(folder)
    _refuse_other_architecture(learned, model)
    after = dict(learned.named_parameters())
    changed = {n: after[n].detach() for n, p in model.named_parameters() if not same_bits(p, after[n])}
    save_memory(path, FineTuning(), identify(model), {}, changed)
    again = FineTuning()
    again.attach(model)
    again.apply(read_memory(path)["learned"])
    _refuse_different(learned.state_dict(), again.model.state_dict(), f"{base} with {path.name}")
    return list(changed.values())


@contextmanager
def as_folder(content: Content) -> Iterator[Path]:
    """A folder with a model, for as long as it is used."""
    with tempfile.TemporaryDirectory(prefix="nestlearn-") as scratch:
        folder = Path(scratch) / "model"
        write_folder(content, folder, "5GB")
        yield folder


def _companions(base: str | Path) -> dict[str, bytes]:
    """Tokenizer and other files of a base; of one on the hub, its tokenizer."""
    place = place_of(base)
    if Path(place).is_dir():
        return read_folder(Path(place)).files
    from transformers import AutoTokenizer  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="nestlearn-") as scratch:
        AutoTokenizer.from_pretrained(place).save_pretrained(scratch)
        return {file.name: file.read_bytes() for file in Path(scratch).iterdir() if file.is_file()}


def _refuse_other_architecture(learned: Any, base: Any) -> None:
    """A difference is only there between models that compute the same with the same weights.

    Raises:
        ValueError: Naming what differs.
    """
    first, second = learned.config.to_dict(), base.config.to_dict()
    keys = {*first, *second} - set(_NAMES)
    other = sorted(key for key in keys if first.get(key) != second.get(key))
    if type(learned) is not type(base) or other:
        what = f": {', '.join(other)} differ" if other else ""
        raise ValueError(f"the model is a {type(learned).__name__}, the base a {type(base).__name__}{what}")
    for name, value in base.state_dict().items():
        own = learned.state_dict()[name]
        if own.dtype != value.dtype:
            raise ValueError(
                f"{name} is {own.dtype} in the model and {value.dtype} in the base: convert one of them with "
                "another dtype first"
            )
    parameters = {name for name, _ in base.named_parameters(remove_duplicate=False)}
    moved = differences(learned.state_dict(), base.state_dict())
    if buffers := [name for name in moved if name not in parameters]:
        raise ValueError(
            f"the buffer {buffers[0]} differs from the base's, and a memory holds parameters only"
        )


def _refuse_different(expected: dict[str, Tensor], got: dict[str, Tensor], what: str) -> None:
    if wrong := differences(expected, got):
        raise ValueError(f"{what} does not come back to the bit: {wrong[0]} differs")


__all__ = ["as_folder", "merged", "write_difference"]
