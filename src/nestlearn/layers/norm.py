"""RMS norm that keeps its input's type."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """``torch.nn.RMSNorm`` whose scale takes the type of its input.

    Under autocast a norm's input may be bfloat16 beside a float32 scale, for which torch has no fused form,
    as it warns. Arguments and shapes are those of ``torch.nn.RMSNorm``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``x / rms(x) * scale`` along the last axes, in the type of ``x``."""
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


__all__ = ["RMSNorm"]
