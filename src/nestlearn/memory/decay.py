"""What is left of a write after some tokens: products of gates inside one chunk.

Tokens are columns. A pair matrix ``[..., C, C]`` has the written token s as its row and the reading token t
as its column. Ratios of retentions are formed in log space, so that a small one cannot divide by zero.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from nestlearn.memory.bricks import shift

#: Tokens whose pairwise retentions per channel are formed at once.
_BLOCK = 16


class Momentum(NamedTuple):
    """The momentum's part of :class:`HeadDecay`.

    ``S_t`` is written once and added to ``W`` at every later token, hence a sum over the tokens between:
    ``D[s, t] = eta_s sum_{s <= j <= t} (beta_j / beta_s) (gamma_t / gamma_j)``.

    Attributes:
        before: ``[..., 1, C]``, what ``S_0`` contributes to ``W_{t-1}``.
        until: ``[..., 1, C]``, what it contributes to ``W_t``.
        strict: ``[..., C, C]``, ``D[s, t - 1]``.
        inclusive: ``[..., C, C]``, ``D[s, t]``.
        last: ``[..., 1, C]``, ``eta_s beta_C / beta_s``, of each write in ``S_C``.
        carry: ``[..., 1, 1]``, ``beta_C``.
    """

    before: Tensor
    until: Tensor
    strict: Tensor
    inclusive: Tensor
    last: Tensor
    carry: Tensor


class Decay(Protocol):
    """Learning rates and retentions of one chunk."""

    momentum: Momentum | None

    def system(self, keys: Tensor) -> Tensor:
        """``eta_s (gamma_{t-1} / gamma_s) <k_s, k_t>`` above the diagonal."""

    def pairs(self, keys: Tensor, queries: Tensor) -> Tensor:
        """``eta_s (gamma_t / gamma_s) <k_s, q_t>`` on and above the diagonal."""

    def before(self, weight: Tensor, keys: Tensor, outputs: Tensor | None) -> Tensor:
        """``gamma_{t-1} W_0 k_t``; ``outputs`` is ``W_0 K`` if it is known."""

    def until(self, weight: Tensor, queries: Tensor) -> Tensor:
        """``gamma_t W_0 q_t``."""

    def carry(self, weight: Tensor) -> Tensor:
        """``gamma_C W_0``."""

    def end(self, keys: Tensor) -> Tensor:
        """``eta_s (gamma_C / gamma_s) k_s``."""


class HeadDecay:
    """One learning rate and retention a token.

    Args:
        rate: ``eta_t``, ``[..., 1, C]``.
        log_retention: ``log alpha_t``, ``[..., 1, C]``.
        log_momentum: ``log b_t``, ``[..., 1, C]``; None without momentum.
    """

    def __init__(self, rate: Tensor, log_retention: Tensor, log_momentum: Tensor | None = None) -> None:
        ratio = _ratios(log_retention)
        column = rate.mT
        self.inclusive = ratio * column
        self.gamma = torch.cumsum(log_retention, -1).exp()
        self.momentum: Momentum | None = None
        if log_momentum is not None:
            since = torch.cumsum(log_momentum, -1)
            speed = _ratios(log_momentum)
            start = since.exp() @ ratio
            inclusive = (speed @ ratio) * column
            self.momentum = Momentum(
                F.pad(start[..., :-1], (1, 0)),
                start,
                shift(inclusive),
                inclusive,
                (speed * column)[..., -1:].mT,
                since[..., -1:].exp(),
            )

    def system(self, keys: Tensor) -> Tensor:
        """See :class:`Decay`."""
        return shift(self.inclusive) * (keys.mT @ keys)

    def pairs(self, keys: Tensor, queries: Tensor) -> Tensor:
        """See :class:`Decay`."""
        return self.inclusive * (keys.mT @ queries)

    def before(self, weight: Tensor, keys: Tensor, outputs: Tensor | None) -> Tensor:
        """See :class:`Decay`."""
        return F.pad(self.gamma[..., :-1], (1, 0), value=1.0) * (
            weight @ keys if outputs is None else outputs
        )

    def until(self, weight: Tensor, queries: Tensor) -> Tensor:
        """See :class:`Decay`."""
        return self.gamma * (weight @ queries)

    def carry(self, weight: Tensor) -> Tensor:
        """See :class:`Decay`."""
        return self.gamma[..., -1:] * weight

    def end(self, keys: Tensor) -> Tensor:
        """See :class:`Decay`."""
        return self.inclusive[..., -1:].mT * keys

    def each(self) -> HeadDecay:
        """The same for weights with one more axis, of the memories."""
        twin = object.__new__(HeadDecay)
        for name in ("inclusive", "gamma"):
            setattr(twin, name, getattr(self, name)[:, None])
        twin.momentum = (
            None if self.momentum is None else Momentum(*(part[:, None] for part in self.momentum))
        )
        return twin


class ChannelDecay:
    """One learning rate and retention a token and input channel (SPEC 6.9).

    ``W_t = W_{t-1} Diag(alpha_t) + u_t (eta_t * k_t)^T``.

    Args:
        rate: ``[..., i, C]``.
        log_retention: ``[..., i, C]``.
    """

    momentum: Momentum | None = None

    def __init__(self, rate: Tensor, log_retention: Tensor) -> None:
        self.rate = rate
        self.log_until = torch.cumsum(log_retention, -1)
        self.log_before = F.pad(self.log_until[..., :-1], (1, 0))

    def system(self, keys: Tensor) -> Tensor:
        """See :class:`Decay`."""
        return self._pairs(keys, keys, self.log_before).triu(1)

    def pairs(self, keys: Tensor, queries: Tensor) -> Tensor:
        """See :class:`Decay`."""
        return self._pairs(keys, queries, self.log_until)

    def before(self, weight: Tensor, keys: Tensor, outputs: Tensor | None) -> Tensor:
        """See :class:`Decay`."""
        del outputs  # without the retentions of the channels
        return weight @ (self.log_before.exp() * keys)

    def until(self, weight: Tensor, queries: Tensor) -> Tensor:
        """See :class:`Decay`."""
        return weight @ (self.log_until.exp() * queries)

    def carry(self, weight: Tensor) -> Tensor:
        """See :class:`Decay`."""
        return weight * self.log_until[..., -1:].exp().mT

    def end(self, keys: Tensor) -> Tensor:
        """See :class:`Decay`."""
        return self.rate * (self.log_until[..., -1:] - self.log_until).exp() * keys

    def _pairs(self, keys: Tensor, queries: Tensor, log_reader: Tensor) -> Tensor:
        """Pairs of writers s with readers t >= s whose retentions reach to ``log_reader[t]``.

        Within a block every pair has a ratio of its own. For readers beyond a block the retentions are
        divided at the block's end, where both parts are at most one.
        """
        length, written, rows = keys.shape[-1], self.rate * keys, []
        for start in range(0, length, _BLOCK):
            stop = min(start + _BLOCK, length)
            own, log_own = written[..., start:stop], self.log_until[..., start:stop]
            ratio = (log_reader[..., None, start:stop] - log_own[..., :, None]).clamp(max=0.0).exp()
            inside = (own[..., :, None] * queries[..., None, start:stop] * ratio).sum(-3).triu()
            edge = log_own[..., -1:]
            later = queries[..., stop:] * (log_reader[..., stop:] - edge).exp()
            beyond = (own * (edge - log_own).exp()).mT @ later
            rows.append(torch.cat([inside.new_zeros(*inside.shape[:-1], start), inside, beyond], dim=-1))
        return torch.cat(rows, dim=-2)


def _ratios(log_factor: Tensor) -> Tensor:
    """``gamma_t / gamma_s`` for s <= t, else 0: ``[..., C, C]`` from ``log alpha_t [..., 1, C]``.

    Every pair adds up its own tokens: differences of sums from the chunk's start would lose the small ones.
    """
    length = log_factor.shape[-1]
    between = log_factor.expand(*log_factor.shape[:-2], length, length).triu(1)
    return between.cumsum(-1).exp().triu()


__all__ = ["ChannelDecay", "Decay", "HeadDecay", "Momentum"]
