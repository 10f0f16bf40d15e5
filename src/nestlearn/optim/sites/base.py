"""What all sites of key memories share, see :mod:`nestlearn.optim.key_memories` for what they are for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nestlearn.optim.spectra import eigen, inverse

Moments = dict[str, Tensor]


class Site:
    """A parameter (or several that act as one) with its key memory.

    Moments are kept three times: ``fresh`` from the pass under way, ``current`` for the running context,
    ``kept`` for the contexts before it, in float32 at least. Input moments and token frequencies are means
    over tokens, output moments sums, a diagonal's squares of a pass's gradient; only their ratios within a
    site and, for linear layers, between sites matter.

    Attributes:
        parameters: The parameters whose updates this site filters.
        eigenbasis: Whether :meth:`filter` is given updates in the eigenbasis of the kept moments.
        factors: What multiplies each side of an update: a matrix, or a vector where a moment is a diagonal or
            has a basis.
        bases: Eigenvectors ``[n, n]`` of the sides that have some, and ``spectra``, their eigenvalues.
    """

    def __init__(self, parameters: tuple[nn.Parameter, ...]) -> None:
        self.parameters = parameters
        self.eigenbasis = False
        self.fresh: Moments = {}
        self.current: Moments = {}
        self.kept: Moments = {}
        self.factors: Moments = {}
        self.bases: Moments = {}
        self.spectra: Moments = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the modules, whose hooks cannot be copied and would belong to the original."""
        return {key: value for key, value in self.__dict__.items() if not isinstance(value, nn.Module)}

    def hook(self, recording: Callable[[], bool]) -> Iterable[RemovableHandle]:
        """Attach whatever records moments while ``recording()`` is true."""
        del recording
        return ()

    def collect(self) -> None:
        """Add what is read from ``.grad`` to the fresh moments (after the backward pass)."""

    def refresh(self, share: float) -> None:
        """Blend the fresh moments into the current context's, with weight ``share``, and clear them."""
        for key, value in self.fresh.items():
            old = self.current.get(key)
            self.current[key] = value if old is None else old.lerp(value, share)
        self.fresh = {}

    def clear(self) -> None:
        """Forget all moments and what was derived from them."""
        self.fresh, self.current, self.kept = {}, {}, {}
        self.factors, self.bases, self.spectra = {}, {}, {}

    def sensitivity(self) -> Tensor | None:
        """``mean(diag C) mean(diag D)``, the mean of the Kronecker-factored curvature's diagonal.

        None where the current context has not both.
        """
        if not {"input", "output"} <= set(self.current):
            return None
        return self.scale(self.current["input"]) * self.scale(self.current["output"])

    def commit(self, strength: float, output_strength: float, common: Tensor | None = None) -> None:
        """Add the current context to the kept ones and derive the update's factors.

        Args:
            strength: lambda in units of the mean of a moment's diagonal.
            output_strength: mu, likewise.
            common: Sensitivity of a typical site. One that is more sensitive is protected more.
        """
        own = self.sensitivity()
        weight = 1.0 if own is None or common is None else (own / common).sqrt()
        for key, value in self.current.items():
            scaled = value * (weight / self.scale(value))
            self.kept[key] = self.kept[key] + scaled if key in self.kept else scaled
        self.current, self.bases, self.spectra = {}, {}, {}
        self.build(strength, output_strength)

    def state_dict(self) -> dict[str, Moments]:
        """The moments; with a basis that too, which another machine would find in another form."""
        state = {"current": dict(self.current), "kept": dict(self.kept)}
        if self.eigenbasis:
            state |= {"bases": dict(self.bases), "spectra": dict(self.spectra)}
        return state

    def load_state_dict(self, state: Mapping[str, Moments]) -> None:
        """Restore what :meth:`state_dict` returned; :meth:`build` has to follow."""
        device = self.parameters[0].device
        self.fresh = {}
        self.current, self.kept, self.bases, self.spectra = (
            {key: value.to(device, copy=True) for key, value in state.get(name, {}).items()}
            for name in ("current", "kept", "bases", "spectra")
        )

    def scale(self, moment: Tensor) -> Tensor:
        """Mean of a moment's diagonal: contexts are compared in units of it."""
        diagonal = moment.diagonal() if moment.dim() == 2 else moment
        return diagonal.mean().clamp_min(torch.finfo(moment.dtype).tiny)

    def build(self, strength: float, output_strength: float) -> None:
        """Derive :attr:`factors` from :attr:`kept`, and :attr:`bases` with :attr:`eigenbasis`."""
        raise NotImplementedError

    def factor(self, key: str, strength: float) -> Tensor:
        """``(I + M / strength)^-1`` of a kept moment: a vector, if that is a diagonal or has a basis."""
        moment = self.kept[key]
        if moment.dim() == 2 and not self.eigenbasis:
            return inverse(moment, strength)
        if moment.dim() == 2:
            if key not in self.bases:
                self.spectra[key], self.bases[key] = eigen(moment)
            moment = self.spectra[key]
        return 1.0 / (1.0 + moment / strength)

    def sides(self) -> Moments:
        """The matrices that :func:`turn` brings an update back with.

        The inverses, which are symmetric; with a basis its vectors times their factors, so that no factor
        needs a pass over the update.
        """
        with_basis = {key: basis * self.factors[key] for key, basis in self.bases.items()}
        return {
            key: with_basis.get(key, own)
            for key, own in self.factors.items()
            if key in with_basis or own.dim() == 2
        }

    def check_state(self, state: Mapping[str, Moments]) -> None:
        """Refuse what :meth:`state_dict` returned for another model.

        Raises:
            ValueError: If that can be seen.
        """

    def rotate(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """One gradient per parameter in the eigenbasis, None where there is none; as it is without one."""
        return list(gradients)

    def filter(self, updates: list[Tensor]) -> list[Tensor]:
        """Apply the factors to one update per parameter, and rotate it back from the eigenbasis."""
        raise NotImplementedError


def typical_sensitivity(sites: Iterable[Site]) -> Tensor | None:
    """Geometric mean of the sites' sensitivities; None if no site knows its own."""
    known = [s for site in sites if (s := site.sensitivity()) is not None]
    return torch.stack(known).log().mean().exp() if known else None


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least: factorisations have no kernel for shorter types."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def add_moment(moments: Moments, key: str, value: Tensor) -> None:
    """Add a value to what a pass has recorded under a key."""
    moments[key] = moments[key] + value if key in moments else value


def rows(tensor: Tensor) -> Tensor:
    """``[N, width]`` of whatever a layer was called with, one token without a batch included."""
    return tensor.reshape(-1, tensor.shape[-1])
