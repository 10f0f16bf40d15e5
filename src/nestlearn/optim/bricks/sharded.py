"""Parameters that are split over several devices (FSDP2's DTensor).

What works element by element needs nothing of this. A product needs the whole matrix: every process gathers
it, computes the same, and keeps its part.
"""

from __future__ import annotations

from torch import Tensor


def is_sharded(value: Tensor) -> bool:
    """Whether a tensor is a DTensor. Their module is imported only where there are some: it takes long."""
    return hasattr(value, "full_tensor")


def whole(value: Tensor) -> Tensor:
    """The whole of a tensor, gathered if it is split."""
    return value.full_tensor() if is_sharded(value) else value  # type: ignore[attr-defined]


def split_like(result: Tensor, value: Tensor) -> Tensor:
    """A whole result split as ``value`` is; every process has the result, so nothing is sent."""
    if not is_sharded(value):
        return result
    from torch.distributed.tensor import DTensor, distribute_tensor  # noqa: PLC0415

    assert isinstance(value, DTensor)
    return distribute_tensor(result.contiguous(), value.device_mesh, value.placements, src_data_rank=None)
