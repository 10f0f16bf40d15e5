"""Key memories: what earlier contexts look like to each weight, and the update that leaves it alone.

The consolidated update is a generalized gradient descent (Def. 5, Eq. 59) whose retention measures change
where it hurts. For a linear layer with inputs x and output gradients d it replaces the update ``U`` of any
optimizer by

    (I + D / mu)^-1  U  (I + C / lambda)^-1

where C is the second moment of the layer's inputs over earlier contexts and D that of its output gradients.
Layers are protected in proportion to their sensitivity: with s = mean(diag C) mean(diag D) and S the
geometric mean of s over the layers, a layer's moments are taken in units of their diagonal's mean, times
sqrt(s / S).
Both are associative memories without values, slow ones: they are refreshed on their level's clock, hold no
example, and need no task label. A bias is one more column of its weight, with one more input that is always
one. Other parameters have a diagonal in place of the two matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nestlearn.levels import Level
from nestlearn.optim.sites import find_sites, typical_sensitivity, wide


def processes() -> int:
    """Processes of torch's default group, among which data is divided; 1 without a group."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


class KeyMemories:
    """The key memories of one consolidating level.

    While :attr:`recording` is true, the passes of the model with gradients leave their moments here.
    :meth:`refresh` blends them into the current context's; :meth:`commit` ends that context, after which
    :meth:`filtered` keeps updates out of the directions that it used.

    Args:
        model: Model that owns the parameters. If it has a method ``find_sites(parameters)``, that says where
            the memories sit.
        parameters: The level's parameters.
        level: Gives the two strengths, and the tokens over which moments are averaged.

    Attributes:
        sites: One key memory per layer or lone parameter.
        recording: Whether the next passes are recorded.
        committed: Contexts that are kept.
        looks: Passes of the current context that are in its moments.
    """

    def __init__(self, model: nn.Module, parameters: Iterable[nn.Parameter], level: Level) -> None:
        self.level = level
        find = getattr(model, "find_sites", None)
        self.sites = find_sites(model, parameters) if find is None else list(find(parameters))
        for site in self.sites:
            site.eigenbasis = level.eigenbasis
        self.recording, self.committed, self.looks = True, 0, 0
        self._handles = [h for site in self.sites for h in site.hook(lambda: self.recording)]

    def add(self, parameters: Iterable[nn.Parameter]) -> None:
        """Protect further parameters, whose layers are not known, by diagonals."""
        self.sites += find_sites(nn.Module(), parameters)

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no hooks in the model: it protects what is kept and records nothing."""
        return {**self.__dict__, "_handles": [], "recording": False}

    def detach(self) -> None:
        """Remove all hooks from the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @torch.no_grad()
    def average(self) -> None:
        """Average what the pass has recorded over data-parallel processes, so that all filter alike.

        To be called by all of them, after the backward pass and before the step; gradients are averaged by
        whoever divides the data.
        """
        if (count := processes()) > 1:
            for site in self.sites:
                for key in sorted(site.fresh):
                    torch.distributed.all_reduce(site.fresh[key])
                    site.fresh[key] /= count

    @torch.no_grad()
    def refresh(self) -> None:
        """Blend what was recorded into the moments of the current context.

        They are a mean over the looks at first and, from the horizon on, one that fades.
        """
        if self.recording:
            every = self.level.refresh or self.level.period
            horizon = self.level.horizon or 32 * every
            share = max(1.0 / (self.looks + 1), 1.0 - math.exp(-every / horizon))
            self.looks += 1
            for site in self.sites:
                site.collect()
                site.refresh(share)

    def forget_pass(self) -> None:
        """Drop what the pass under way has recorded, because it was not finite."""
        for site in self.sites:
            site.fresh = {}

    def clear(self) -> None:
        """Forget all contexts, kept and current: nothing is protected then."""
        self.committed, self.looks = 0, 0
        for site in self.sites:
            site.clear()

    @torch.no_grad()
    def commit(self, common: Tensor | None = None) -> bool:
        """Keep the current context and derive the factors of the update.

        Args:
            common: Sensitivity of a typical site of the whole system; by default of this level.

        Returns:
            Whether there was a context to keep.
        """
        if not any(site.current for site in self.sites):
            return False
        self.committed, self.looks = self.committed + 1, 0
        common = typical_sensitivity(self.sites) if common is None else common
        for site in self.sites:
            site.commit(*self.strengths, common)
        return True

    @property
    def strengths(self) -> tuple[float, float]:
        """``lambda`` and ``mu`` for the sum of the kept contexts' moments (:attr:`Level.contexts`)."""
        count = max(1, self.committed) if self.level.contexts == "mean" else 1
        return count * self.level.strength, count * self.level.output_strength

    @torch.no_grad()
    def filtered(self, step: Callable[[], Any]) -> None:
        """Run an optimizer's step and filter the change that it makes to every parameter.

        With ``Level.eigenbasis`` the optimizer sees gradients in the basis of the kept moments.
        """
        before = [[p.detach().clone() for p in site.parameters] for site in self.sites]
        try:
            with self._rotated():
                step()
            for site, old in zip(self.sites, before, strict=True):
                updates = [wide(p.detach().sub_(o)) for p, o in zip(site.parameters, old, strict=True)]
                for parameter, start, update in zip(site.parameters, old, site.filter(updates), strict=True):
                    torch.add(start, update.to(start.dtype), out=parameter.detach())
        except BaseException:
            for site, old in zip(self.sites, before, strict=True):
                for parameter, start in zip(site.parameters, old, strict=True):
                    parameter.detach().copy_(start)
            raise

    @contextmanager
    def _rotated(self) -> Iterator[None]:
        """Within it, gradients are in the eigenbasis, if the level has one."""
        if not self.level.eigenbasis:
            yield
            return
        own = [(p, p.grad) for site in self.sites for p in site.parameters]
        try:
            for site in self.sites:
                gradients = [None if p.grad is None else wide(p.grad) for p in site.parameters]
                for parameter, gradient in zip(site.parameters, site.rotate(gradients), strict=True):
                    parameter.grad = None if gradient is None else gradient.to(parameter.dtype)
            yield
        finally:
            for parameter, whole in own:
                parameter.grad = whole

    @torch.no_grad()
    def fill(self) -> float:
        """Share of a random update that is held back: 0 before the first context, 1 when nothing is left.

        ``1 - mean(diag A) mean(diag B)`` with the factors of both sides, a mean over all parameters.
        """
        kept = total = 0.0
        for site in self.sites:
            numbers = sum(parameter.numel() for parameter in site.parameters)
            share = 1.0
            for factor in site.factors.values():
                share *= float((factor.diagonal() if factor.dim() == 2 else factor).mean())
            kept, total = kept + numbers * share, total + numbers
        return 1.0 - kept / total if total else 0.0

    @torch.no_grad()
    def rank(self) -> float:
        """Directions that the kept inputs use, as a share of all: a mean over layers, weighted by width.

        ``exp(-sum_i p_i log p_i) / n`` with the eigenvalues of C over their sum (Roy & Vetterli 2007).
        """
        used = total = 0.0
        for site in self.sites:
            moment = site.kept.get("input")
            if moment is None:
                continue
            values = torch.linalg.eigvalsh(moment) if moment.dim() == 2 else moment
            values = values.clamp(min=0.0)
            shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
            used, total = used + float(torch.special.entr(shares).sum().exp()), total + len(values)
        return used / total if total else 0.0

    def stored_bytes(self) -> int:
        """Bytes of the moments, of kept contexts and the current one."""
        moments = [t for site in self.sites for t in (*site.kept.values(), *site.current.values())]
        return sum(moment.numel() * moment.element_size() for moment in moments)

    def state_dict(self) -> dict[str, Any]:
        """Moments of every site, and the counters."""
        return {
            "recording": self.recording,
            "committed": self.committed,
            "looks": self.looks,
            "eigenbasis": self.level.eigenbasis,
            "sites": [site.state_dict() for site in self.sites],
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """Refuse the state of another model.

        Raises:
            ValueError: If the state has another number of sites, or is in another basis.
        """
        if len(state["sites"]) != len(self.sites):
            raise ValueError(
                f"the state has {len(state['sites'])} key memories, this model {len(self.sites)}"
            )
        if bool(state.get("eigenbasis", False)) != self.level.eigenbasis:
            raise ValueError(
                f"the state was made with eigenbasis={not self.level.eigenbasis}, level {self.level.name!r} "
                f"has {self.level.eigenbasis}: the optimizer's state is in another basis"
            )
        for site, saved in zip(self.sites, state["sites"], strict=True):
            site.check_state(saved)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the moments and derive the factors anew.

        Raises:
            ValueError: If the state has another number of sites.
        """
        self.check_state(state)
        self.recording, self.committed = bool(state["recording"]), int(state["committed"])
        self.looks = int(state["looks"])
        for site, saved in zip(self.sites, state["sites"], strict=True):
            site.load_state_dict(saved)
            site.build(*self.strengths)
