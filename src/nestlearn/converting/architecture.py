"""Which tensors a configuration's model has, and which of them are one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nestlearn.converting.content import same_bits
from nestlearn.models.hope import HopeConfig

_TASKS = (
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForSeq2SeqLM",
    "AutoModelForMaskedLM",
    "AutoModel",
)


def outline_of(config: Mapping[str, Any]) -> Any:
    """The model of a configuration, without values.

    Args:
        config: As in ``config.json``.

    Raises:
        ValueError: If transformers knows no such model, or the configuration is not possible.
    """
    import transformers  # noqa: PLC0415

    kind, named = str(config.get("model_type")), (config.get("architectures") or [None])[0]
    if kind not in transformers.CONFIG_MAPPING:
        raise ValueError(f"the model type {kind!r} is not known to transformers")
    try:
        made = transformers.CONFIG_MAPPING[kind].from_dict(dict(config))
    except Exception as error:  # of any kind, from a file that anyone may have written
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"the configuration is not possible: {reason}") from error
    for task in _TASKS:
        mapping = getattr(transformers, task)._model_mapping
        found = mapping.get(type(made), None)
        if found is not None and named in (None, found.__name__):
            with torch.device("meta"):
                return found(made)
    raise ValueError(f"transformers has no {named} for the model type {kind!r}")


def is_hope(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is Hope's."""
    return config.get("model_type") == HopeConfig.model_type


def without_twins(model: Any, full: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole ``state_dict`` with only the first of tied tensors, as folders keep it.

    Args:
        model: Of :func:`outline_of`.
        full: The tensors.

    Raises:
        ValueError: If names or shapes are not the model's, or tied tensors differ.
    """
    _check(model, full, list(model.state_dict()))
    kept: dict[str, Tensor] = {}
    for name, first in _first(model).items():
        if name == first:
            kept[name] = full[name]
        elif not same_bits(full[name], full[first]):
            raise ValueError(f"{name} and {first} are one tensor in this model, but differ")
    return kept


def with_twins(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole ``state_dict``, as ``load_state_dict`` wants it.

    Raises:
        ValueError: If names or shapes are not the model's.
    """
    first = _first(model)
    _check(model, tensors, [name for name, own in first.items() if name == own])
    return {name: tensors[own] for name, own in first.items()}


def _first(model: Any) -> dict[str, str]:
    """For every name of the state the first name of the same tensor."""
    names: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    return {name: names.setdefault(id(tensor), name) for name, tensor in state.items()}


def _check(model: Any, tensors: Mapping[str, Tensor], names: list[str]) -> None:
    """Refuse what are not the tensors of a model.

    Raises:
        ValueError: Naming the first that is missing, too much, or of another shape.
    """
    state = model.state_dict()
    missing = [name for name in names if name not in tensors]
    foreign = [name for name in tensors if name not in names]
    if missing or foreign:
        what = f"there is no tensor {missing[0]}" if missing else f"there is a tensor {foreign[0]} too much"
        raise ValueError(f"these are not the weights of a {type(model).__name__}: {what}")
    for name in names:
        if tensors[name].shape != state[name].shape:
            raise ValueError(
                f"{name} has shape {list(tensors[name].shape)}, its configuration says "
                f"{list(state[name].shape)}"
            )


__all__ = ["is_hope", "outline_of", "with_twins", "without_twins"]
