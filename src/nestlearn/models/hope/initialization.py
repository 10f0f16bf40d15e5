"""Initial values of what a checkpoint lacks."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def reset_missing(module: nn.Module) -> None:
    """Reset a module's own parameters, without those that transformers has loaded from a checkpoint.

    transformers marks what it loads, and asks a module as a whole for initial values as soon as one of its
    parameters is missing. Its guard is in ``torch.nn.init``, which sees neither slices of a parameter nor
    arithmetic.

    Args:
        module: A module with ``reset_parameters``.
    """
    own = list(module.parameters(recurse=False))
    loaded = [parameter for parameter in own if getattr(parameter, "_is_hf_initialized", False)]
    if own and len(loaded) == len(own):
        return  # older versions of transformers ask nevertheless
    values = [parameter.detach().clone() for parameter in loaded]
    module.reset_parameters()  # type: ignore[operator]
    for parameter, value in zip(loaded, values, strict=True):
        parameter.copy_(value)


__all__ = ["reset_missing"]
