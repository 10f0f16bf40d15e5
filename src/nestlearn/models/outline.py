"""Models without their weights, for looking at what they are made of."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nestlearn.streams.errors import DataError


def outline(name: str | Path) -> nn.Module:
    """A model of Hugging Face's by its configuration alone: shapes and names, no values.

    Args:
        name: A folder with a ``config.json``, a name on the hub, or ``"smollm2"``.

    Raises:
        DataError: If there is no such configuration, or its model cannot be built.
    """
    import transformers  # noqa: PLC0415  (seconds to import)

    import nestlearn.models.hope  # noqa: F401, PLC0415  (its classes are known by name then)
    from nestlearn.models.pretrained import smollm2  # noqa: PLC0415

    place = str(smollm2()) if str(name) == "smollm2" else str(name)
    try:
        config = transformers.AutoConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"there is no model {str(name)!r} ({reason}): give a folder with a config.json, a name on the "
            "hub, smollm2, or module:function"
        ) from error
    try:
        with torch.device("meta"):
            model: nn.Module = _build(config)
            return model
    except (ValueError, ImportError, RuntimeError, TypeError) as error:
        raise DataError(f"the model of {name} cannot be built from its configuration: {error}") from error


def made_by(reference: str) -> tuple[nn.Module, Any]:
    """What a function makes, by ``module:function``: a model, or a model and its optimizer.

    The module is looked for in the working directory too, as ``python -m`` does.

    Raises:
        DataError: If there is no such function, or it makes something else.
    """
    module_name, _, function_name = reference.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        function: Callable[[], Any] = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise DataError(f"there is no function {reference!r}: {error}") from error
    made = function()
    model, optimizer = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise DataError(f"{reference} makes a {type(model).__name__}, not a torch.nn.Module")
    return model, optimizer


def _build(config: Any) -> Any:
    """The model of a configuration: of its first architecture, or the first Auto class that knows it."""
    import transformers  # noqa: PLC0415

    named = (getattr(config, "architectures", None) or [""])[0]
    own = getattr(transformers, named, None) if named else None
    if own is not None:
        return own._from_config(config)
    for task in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForMaskedLM", "AutoModel"):
        found = getattr(transformers, task)
        if type(config) in found._model_mapping:
            return found.from_config(config)
    raise ValueError(f"transformers has no model for {type(config).__name__}")


__all__ = ["made_by", "outline"]
