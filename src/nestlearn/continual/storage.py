"""What is kept from subject to subject, in bytes."""

from __future__ import annotations

from torch import Tensor


def size_of(*tensors: Tensor) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
