"""The Continuum Memory System: feed-forward blocks updated at different frequencies (Eq. 70 to 74)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestlearn.layers.norm import RMSNorm


class FeedForward(nn.Module):
    """One block of the system: SwiGLU behind a norm, without its residual (SPEC 6.17).

    Args:
        hidden_size: Width d of the residual stream.
        intermediate_size: Hidden units.
        eps: Added to the mean square of the norm.

    Shapes: ``[B, T, d]`` in and out.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = RMSNorm(hidden_size, eps=eps)
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, d]`` to the block's contribution ``[B, T, d]``."""
        z = self.norm(x)
        out: Tensor = self.down_proj(F.silu(self.gate_proj(z)) * self.up_proj(z))
        return out


class ContinuumMemory(nn.Module):
    """Feed-forward blocks, fast to slow along depth, one per level.

    The blocks' weights change only when their level's clock is due: that is the business of
    :class:`nestlearn.optim.Nested`, which finds them by :attr:`blocks`. The forms differ as follows.

    * ``"sequential"`` (Eq. 73): each block reads the output of the faster one.
    * ``"nested"`` (Eq. 72): the same map; in addition a faster block starts anew from its meta-learned
      initial state whenever a slower one is updated, which the optimizer does.
    * ``"independent"`` (Eq. 74): all blocks read the same input; a learned weighted sum joins them.

    Args:
        hidden_size: Width d of the residual stream.
        sizes: Hidden units of each block, fast to slow.
        variant: One of the three above.
        eps: Added to the mean square of the norms.

    Shapes: ``[B, T, d]`` in and out, the residual included.

    Raises:
        ValueError: If ``sizes`` is empty or the variant is unknown.
    """

    def __init__(
        self, hidden_size: int, sizes: Sequence[int], variant: str = "sequential", eps: float = 1e-6
    ) -> None:
        super().__init__()
        if not sizes:
            raise ValueError("a Continuum Memory System needs at least one block, got none")
        if variant not in ("sequential", "nested", "independent"):
            raise ValueError(f"variant must be sequential, nested or independent, got {variant!r}")
        self.variant = variant
        self.blocks = nn.ModuleList(FeedForward(hidden_size, size, eps) for size in sizes)
        if variant == "independent":
            self.mixture = nn.Parameter(torch.ones(len(sizes)))

    def reset_parameters(self) -> None:
        """The blocks of the independent variant start with equal weights."""
        if self.variant == "independent":
            nn.init.ones_(self.mixture)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, d]`` to ``[B, T, d]``."""
        if self.variant == "independent":
            return x + torch.stack([block(x) for block in self.blocks], dim=-1) @ self.mixture
        for block in self.blocks:
            x = x + block(x)
        return x
