"""Where key memories sit: one site per layer or lone parameter, with the moments it keeps.

See :mod:`nestlearn.optim.key_memories` for what they are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nestlearn.optim.recording import OwnHook, products
from nestlearn.optim.spectra import eigen, inverse, turn

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
        bases: Eigenvectors ``[n, n]`` of the sides that have some.
    """

    def __init__(self, parameters: tuple[nn.Parameter, ...]) -> None:
        self.parameters = parameters
        self.eigenbasis = False
        self.fresh: Moments = {}
        self.current: Moments = {}
        self.kept: Moments = {}
        self.factors: Moments = {}
        self.bases: Moments = {}

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
        self.current = {}
        self.build(strength, output_strength)

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
            moment, self.bases[key] = eigen(moment)
        return 1.0 / (1.0 + moment / strength)

    def rotate(self, gradients: list[Tensor]) -> list[Tensor]:
        """One gradient per parameter in the eigenbasis; as it is without one."""
        return gradients

    def filter(self, updates: list[Tensor]) -> list[Tensor]:
        """Apply the factors to one update per parameter, and rotate it back from the eigenbasis."""
        raise NotImplementedError


class LinearSite(Site):
    """A linear layer: C over its inputs and D over its output gradients.

    Above ``largest`` outputs D is a diagonal: the inverse of the full matrix would cost more than it gives.
    With ``reduced`` products of matrices take their factors in bfloat16 and add up in float32, where a CPU
    can: a moment stays positive then, and an update is off by less than a hundredth.
    """

    largest = 1024
    reduced = False

    def __init__(self, module: nn.Module, parameters: tuple[nn.Parameter, ...] | None = None) -> None:
        own = tuple(p for p in module.parameters() if p.requires_grad) if parameters is None else parameters
        super().__init__(own)
        self.module = module

    def inputs(self, x: Tensor) -> Tensor:
        """The inputs that the site's weight multiplies, of all ``[N, in]``."""
        return x

    def outputs(self, gradient: Tensor) -> Tensor:
        """The gradients of the outputs that it gives, of all ``[N, out]``."""
        return gradient

    def hook(self, recording: Callable[[], bool]) -> Iterable[RemovableHandle]:
        """Record inputs in the forward pass and output gradients in the backward pass."""

        def forward(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if not (recording() and output.requires_grad):
                return
            x = wide(self.inputs(_rows(args[0].detach())))
            with products(self.reduced):
                add_moment(self.fresh, "input", x.mT @ x / x.shape[0])
            output.register_hook(backward)

        def backward(gradient: Tensor) -> None:
            g = wide(self.outputs(_rows(gradient)))
            small = g.shape[-1] <= self.largest
            with products(self.reduced):
                add_moment(self.fresh, "output", g.mT @ g if small else g.square().sum(0))

        return (self.module.register_forward_hook(OwnHook(forward)),)

    def build(self, strength: float, output_strength: float) -> None:
        """``(I + C / lambda)^-1`` and ``(I + D / mu)^-1``."""
        strengths = {"input": strength, "output": output_strength}
        self.factors = {key: self.factor(key, strengths[key]) for key in self.kept}

    def rotate(self, gradients: list[Tensor]) -> list[Tensor]:
        """``Q_D^T G Q_C``; a bias sees the output side only."""
        with products(self.reduced):
            return [turn(gradient, self.bases) for gradient in gradients]

    def filter(self, updates: list[Tensor]) -> list[Tensor]:
        """``(I + D / mu)^-1 U (I + C / lambda)^-1``; a bias sees the output side only."""
        with products(self.reduced):
            return [turn(self._filtered(update), self.bases, back=True) for update in updates]

    def _filtered(self, update: Tensor) -> Tensor:
        into, out = self.factors.get("input"), self.factors.get("output")
        if update.dim() == 2 and into is not None:
            update = update @ into if into.dim() == 2 else update * into
        if out is not None:
            update = out @ update if out.dim() == 2 else update * out.view(-1, *[1] * (update.dim() - 1))
        return update


class EmbeddingSite(Site):
    """An embedding: rows of tokens that earlier contexts used move less.

    A tied output layer adds the second moment of its inputs on the other side.
    """

    def __init__(
        self, module: nn.Embedding, head: nn.Linear | None, parameters: tuple[nn.Parameter, ...] | None = None
    ) -> None:
        super().__init__(tuple(module.parameters()) if parameters is None else parameters)
        self.module, self.head = module, head

    def hook(self, recording: Callable[[], bool]) -> Iterable[RemovableHandle]:
        """Record token frequencies, and the inputs of a tied output layer."""

        def tokens(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if recording() and output.requires_grad:
                ids = args[0].flatten()
                counts = torch.bincount(ids, minlength=self.module.num_embeddings)
                add_moment(self.fresh, "rows", counts.to(wide(output).dtype) / ids.numel())

        def hidden(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if recording() and output.requires_grad:
                x = wide(_rows(args[0].detach()))
                add_moment(self.fresh, "input", x.mT @ x / x.shape[0])

        handles = [self.module.register_forward_hook(OwnHook(tokens))]
        if self.head is not None:
            handles.append(self.head.register_forward_hook(OwnHook(hidden)))
        return handles

    def build(self, strength: float, output_strength: float) -> None:
        """Row factors ``1 / (1 + frequency / mu)`` and the inverse of ``I + C / lambda``."""
        strengths = {"input": strength, "rows": output_strength}
        self.factors = {key: self.factor(key, strengths[key]) for key in strengths if key in self.kept}

    def rotate(self, gradients: list[Tensor]) -> list[Tensor]:
        """``G Q_C``, if there is a tied output layer."""
        return [turn(gradient, self.bases) for gradient in gradients]

    def filter(self, updates: list[Tensor]) -> list[Tensor]:
        """Damp rows by their use, and directions that a tied output layer reads."""
        (update,) = updates
        if "rows" in self.factors:
            update = update * self.factors["rows"][:, None]
        into = self.factors.get("input")
        if into is not None:
            update = update @ into if into.dim() == 2 else update * into
        return [turn(update, self.bases, back=True)]


class DiagonalSite(Site):
    """Any other parameter: its squared gradient, element by element.

    A diagonal knows nothing of directions, so it protects more: its strength is ``share`` of a matrix's.
    What earlier contexts used hardly moves, what they never used is free.
    """

    share = 0.01

    def scale(self, moment: Tensor) -> Tensor:
        """Mean over all elements: the moment has the parameter's own shape."""
        return moment.mean().clamp_min(torch.finfo(moment.dtype).tiny)

    def collect(self) -> None:
        """Square the gradient of the pass."""
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                add_moment(self.fresh, str(i), wide(parameter.grad).square())

    def build(self, strength: float, output_strength: float) -> None:
        """``1 / (1 + F / (share lambda mu))``, both sides of a matrix in one number."""
        least = self.share * strength * output_strength
        self.factors = {key: 1.0 / (1.0 + kept / least) for key, kept in self.kept.items()}

    def filter(self, updates: list[Tensor]) -> list[Tensor]:
        """Damp every element by what earlier contexts made of it."""
        return [
            update * self.factors[str(i)] if str(i) in self.factors else update
            for i, update in enumerate(updates)
        ]


def find_sites(model: nn.Module, parameters: Iterable[nn.Parameter]) -> list[Site]:
    """Give each of ``parameters`` the site that fits the module it belongs to.

    Args:
        model: Model that owns the parameters.
        parameters: The parameters to protect.

    Returns:
        Sites that hold every one of ``parameters`` exactly once.
    """
    wanted = {id(p): p for p in parameters}
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    sites: list[Site] = []

    def add(site: Site) -> None:
        sites.append(site)
        for parameter in site.parameters:
            del wanted[id(parameter)]

    for module in model.modules():
        if isinstance(module, nn.Embedding) and id(module.weight) in wanted:
            add(EmbeddingSite(module, tied_head(model, module)))
    for linear in linears:
        bias = linear.bias
        if id(linear.weight) in wanted and (bias is None or id(bias) in wanted or not bias.requires_grad):
            add(LinearSite(linear))
    for parameter in list(wanted.values()):
        add(DiagonalSite((parameter,)))
    return sites


def tied_head(model: nn.Module, embedding: nn.Embedding) -> nn.Linear | None:
    """The output layer that shares an embedding's weight, if there is one."""
    tied = (m for m in model.modules() if isinstance(m, nn.Linear) and m.weight is embedding.weight)
    return next(tied, None)


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


def _rows(tensor: Tensor) -> Tensor:
    """``[N, width]`` of whatever a layer was called with, one token without a batch included."""
    return tensor.reshape(-1, tensor.shape[-1])
