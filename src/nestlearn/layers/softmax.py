"""One softmax over persistent keys and the keys of tokens: what all attention layers share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestlearn.layers.rotary import rotary, rotate
from nestlearn.memory import unit


class Softmax(nn.Module):
    """Attention of unit queries to unit keys with a learned inverse temperature, and persistent keys.

    Rotary positions apply between tokens only. A persistent key has no position: it is compared with the
    query before its rotation, so that what it says to a token does not depend on where the token is.

    Args:
        num_heads: Heads H.
        width: Even width e of a head.
        persistent_tokens: Learned keys and values P that every token sees; 0 for none.
        rope_theta: Base of the rotary positions.

    Raises:
        ValueError: If the width is odd.
    """

    def __init__(
        self, num_heads: int, width: int, *, persistent_tokens: int = 0, rope_theta: float = 10000.0
    ) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"rotary positions need heads of even width, got {width}")
        if persistent_tokens < 0:
            raise ValueError(f"persistent_tokens must be 0 (none) or more, got {persistent_tokens}")
        self.rope_theta = rope_theta
        # Unit queries and keys bound the logits by the square of this.
        self.sharpness = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.persistent_tokens = persistent_tokens
        if persistent_tokens:
            self.persistent_key = nn.Parameter(torch.empty(num_heads, persistent_tokens, width))
            self.persistent_value = nn.Parameter(torch.empty(num_heads, persistent_tokens, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Logits up to 16; persistent keys in random directions, their values small."""
        nn.init.constant_(self.sharpness, 4.0)
        if self.persistent_tokens:
            nn.init.normal_(self.persistent_key)
            nn.init.normal_(self.persistent_value, std=0.1)

    def scaled(self, query: Tensor) -> Tensor:
        """Unit queries times the inverse temperature, ``[B, H, T, e]``."""
        return unit(query) * self.sharpness * self.sharpness

    def turned(self, x: Tensor, start: int | Tensor) -> Tensor:
        """Queries or keys ``[..., T, e]`` at positions from ``start`` on, of all samples or each ``[B]``."""
        return rotate(x, *rotary(start, x.shape[-2], x.shape[-1], self.rope_theta, x))

    def attend(
        self, query: Tensor, turned: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Values weighted by one softmax over persistent tokens and tokens.

        Args:
            query: Scaled queries without positions, ``[N, H, T, e]``; only persistent keys see them.
            turned: The same with positions.
            key: Unit keys with positions, ``[N, H, J, e]``.
            value: ``[N, H, J, e]``.
            mask: True where a query sees a key, ``[T, J]`` or ``[N, 1, T, J]``;
                None for causal with T = J, or for one query.

        Returns:
            ``[N, H, T, e]``.
        """
        causal = mask is None and query.shape[-2] > 1
        if not self.persistent_tokens:
            return F.scaled_dot_product_attention(
                turned, key, value, attn_mask=mask, is_causal=causal, scale=1.0
            )
        if mask is None:
            sizes = query.shape[-2], key.shape[-2]
            mask = torch.ones(sizes, dtype=torch.bool, device=key.device).tril(sizes[1] - sizes[0])
        # Twice the width, one half for each kind of key.
        fixed = unit(self.persistent_key).expand(key.shape[0], -1, -1, -1)
        fixed_value = self.persistent_value.expand(key.shape[0], -1, -1, -1)
        keys = torch.cat([F.pad(fixed, (key.shape[-1], 0)), F.pad(key, (0, key.shape[-1]))], dim=-2)
        return F.scaled_dot_product_attention(
            torch.cat([turned, query], dim=-1),
            keys,
            torch.cat([fixed_value, value], dim=-2),
            attn_mask=F.pad(mask, (self.persistent_tokens, 0), value=True),
            scale=1.0,
        )


__all__ = ["Softmax"]
