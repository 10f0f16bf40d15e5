"""Checkpoints that hold a model alone: a run starts from them at its first step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nestlearn.optim import Nested

#: Kind of a checkpoint without optimizer: ``model``, ``config`` as JSON, ``files`` that go with the model.
WEIGHTS = "nestlearn-weights-1"


def model_config(model: nn.Module) -> str | None:
    """A Hugging Face model's configuration as JSON, with its class and dtype; None for other modules."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_json_string"):
        return None
    own = {**json.loads(config.to_json_string()), "architectures": [type(model).__name__]}
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if len(dtypes) == 1:
        own["dtype"] = str(dtypes.pop()).removeprefix("torch.")
    return json.dumps(own, sort_keys=True)


@torch.no_grad()
def start_from(model: nn.Module, optimizer: Nested, weights: Mapping[str, Tensor]) -> None:
    """Give a model that has not been trained yet the weights of another; its optimizer begins there.

    Args:
        model: The model.
        optimizer: Its optimizer, before the first step.
        weights: As of the model's ``state_dict``.

    Raises:
        ValueError: If they are another model's; nothing has changed then.
    """
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name in sorted({*own, *weights}):
        if name not in own or name not in weights or weights[name].shape != own[name]:
            raise ValueError(f"{name} is not in both, or of another shape")
    model.load_state_dict(weights)
    state = optimizer.state_dict()
    groups = zip(optimizer.levels, optimizer.param_groups, strict=True)
    start = {level.name: [p.detach().clone() for p in group["params"]] for level, group in groups}
    # Levels that start anew do so from where they are now.
    optimizer.load_state_dict({**state, "initial": {name: start[name] for name in state["initial"]}})


__all__ = ["WEIGHTS", "model_config", "start_from"]
