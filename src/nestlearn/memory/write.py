"""One weight over one chunk: delta gradient descent as a low-rank change (SPEC 4.4).

Tokens are columns. Inside a chunk every key, gate and gradient comes from the snapshots, so a write is a
linear recurrence with known coefficients. With ``u_t = -(W_{t-1} k_t + g_t)`` and ``gamma_t`` the product of
the first t retentions,

    U (I + L) = -(G + W_0 K Diag(gamma_{t-1})),     L[s, t] = (gamma_{t-1} / gamma_s) eta_s <k_s, k_t>, s < t
    W_t q = gamma_t W_0 q + sum_{s <= t} (gamma_t / gamma_s) eta_s <k_s, q> u_s

and with momentum, where ``p_t = W_{t-1} k_t`` and ``D`` are the sums of ``nestlearn.memory.decay.Momentum``,

    P (I + L) = W_0 K Diag(gamma_{t-1}) + S_0 K Diag(before) - G (D_{t-1} * K^T K)
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from nestlearn.memory.bricks import delta, solve
from nestlearn.memory.decay import Decay, HeadDecay


class Change(NamedTuple):
    """What one chunk does to one weight (or a stack of weights that share their input).

    Attributes:
        keys: ``[..., i, C]``.
        erased: ``[..., o, C]``, the part that is written once: ``u_t``, or ``-p_t`` with momentum; None if
            there is nothing.
        stepped: ``[..., o, C]``, ``-g_t`` where it goes through the momentum; None without momentum.
        decay: Gates.
        after: The weight after the chunk, where it is known already.
    """

    keys: Tensor
    erased: Tensor | None
    stepped: Tensor | None
    decay: Decay
    after: Tensor | None = None

    def rows(self, start: int, stop: int | None = None) -> Change:
        """The change of some output rows only."""
        erased, stepped = (None if p is None else p[..., start:stop, :] for p in (self.erased, self.stepped))
        return Change(self.keys, erased, stepped, self.decay)

    def memory(self, i: int, decay: Decay) -> Change:
        """The change of one of stacked memories with keys of their own; ``decay`` is without their axis."""
        erased, stepped = (None if p is None else p[:, i] for p in (self.erased, self.stepped))
        return Change(self.keys[:, i], erased, stepped, decay)

    def read(self, weight: Tensor, momentum: Tensor | None, queries: Tensor) -> Tensor:
        """``W_t q_t`` of every token, ``[..., o, C]``, from the state before the chunk."""
        out = self.decay.until(weight, queries)
        if self.erased is not None:
            out = out + self.erased @ self.decay.pairs(self.keys, queries)
        if self.stepped is not None:
            speed = self.decay.momentum
            assert speed is not None and momentum is not None
            out = out + speed.until * (momentum @ queries)
            out = out + self.stepped @ (speed.inclusive * (self.keys.mT @ queries))
        return out

    def end(self, weight: Tensor, momentum: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight and momentum after the chunk."""
        if self.after is not None:
            return self.after, None
        weight = self.decay.carry(weight)
        if self.erased is not None:
            weight = weight + self.erased @ self.decay.end(self.keys).mT
        if self.stepped is None:
            return weight, None
        speed = self.decay.momentum
        assert speed is not None and momentum is not None
        weight = weight + speed.until[..., -1:] * momentum
        weight = weight + self.stepped @ (speed.inclusive[..., -1:].mT * self.keys).mT
        return weight, speed.carry * momentum + self.stepped @ (speed.last * self.keys).mT


def write(
    weight: Tensor,
    momentum: Tensor | None,
    keys: Tensor,
    step: Tensor,
    decay: Decay,
    erase: bool,
    outputs: Tensor | None = None,
) -> Change:
    """Solve for one chunk's change.

    Args:
        weight: Before the chunk, ``[..., o, i]``.
        momentum: The same shape, or None.
        keys: ``[..., i, C]``.
        step: ``-g_t``, ``[..., o, C]``.
        decay: Gates.
        erase: Whether the term ``eta k k^T`` is there.
        outputs: ``weight @ keys`` if it is known.

    Returns:
        The change.
    """
    if momentum is None:
        if not erase:
            return Change(keys, step, None, decay)
        if isinstance(decay, HeadDecay):
            erased, after = delta(weight, keys, step, decay.inclusive, decay.gamma, outputs)
            return Change(keys, erased, None, decay, after)
        erased = solve(decay.system(keys), step - decay.before(weight, keys, outputs))
        return Change(keys, erased, None, decay)
    if not erase:
        return Change(keys, None, step, decay)
    speed = decay.momentum
    assert speed is not None
    products = keys.mT @ keys
    right = decay.before(weight, keys, outputs) + speed.before * (momentum @ keys)
    right = right + step @ (speed.strict * products)
    return Change(keys, -solve(decay.system(keys), right), step, decay)


def delta_write(
    weight: Tensor,
    keys: Tensor,
    gradients: Tensor,
    rate: Tensor,
    log_retention: Tensor,
    queries: Tensor | None = None,
    *,
    erase: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Delta gradient descent with weight decay over one chunk (Eq. 88, 121; SPEC 4.4).

    Same arguments and results as :func:`nestlearn.memory.naive.delta_write`.

    Args:
        weight: State before the first token, ``[..., o, i]``.
        keys: ``[..., T, i]``, unit length.
        gradients: Gradient of the inner loss by the output at the snapshot, ``[..., T, o]``.
        rate: ``eta_t >= 0``, ``[..., T]``.
        log_retention: ``log alpha_t <= 0``, ``[..., T]``.
        queries: ``[..., T, i]``, or None for no reads.
        erase: Whether the term ``eta k k^T`` is there.

    Returns:
        The state after the last token ``[..., o, i]`` and the reads ``[..., T, o]`` (or None).
    """
    decay = HeadDecay(rate[..., None, :], log_retention[..., None, :])
    change = write(weight, None, keys.mT, -gradients.mT, decay, erase)
    reads = None if queries is None else change.read(weight, None, queries.mT).mT
    return change.end(weight, None)[0], reads


__all__ = ["Change", "delta_write", "write"]
