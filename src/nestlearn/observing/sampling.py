"""Which numbers of a tensor are looked at, where all would be too many."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=4096)
def _places(numbers: int, most: int, device: torch.device) -> Tensor:
    """Drawn places, the same every time; even steps would meet the same columns of a matrix again."""
    draw = torch.Generator().manual_seed(numbers)
    return torch.randint(numbers, (most,), generator=draw).to(device)


@torch.no_grad()
def sampled(tensor: Tensor, most: int) -> Tensor:
    """A copy of a tensor's numbers in a row, or of ``most`` of them at fixed drawn places."""
    flat = tensor.detach().reshape(-1)
    if flat.numel() <= most:
        return flat.clone()
    return flat[_places(flat.numel(), most, flat.device)]


__all__ = ["sampled"]
