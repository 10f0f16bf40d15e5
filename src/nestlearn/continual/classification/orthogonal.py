"""Learning at right angles to what earlier tasks put into every layer: OWM and GPM."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestlearn.continual.classification.base import (
    Classifier,
    Network,
    OptimizerMaker,
    pieces,
    sgd,
)
from nestlearn.continual.storage import size_of
from nestlearn.streams.tasks import Labelled


class _Projected(Classifier):
    """Cross-entropy, with gradients that are projected layer by layer.

    A bias is the weight of one more input that is always 1. The optimizer's steps have to be sums of
    multiples of gradients, as those of gradient descent with or without momentum are: what divides every
    number by a size of its own (Adam), or draws weights to 0, leaves the subspace that gradients were
    projected onto. Its state is cleared when a task ends, for a momentum of gradients from before would leave
    it, too.
    """

    needs_boundaries: ClassVar[bool] = True

    def __init__(self, network: Network, optimizer: OptimizerMaker | None, *, seed: int) -> None:
        self.layers = _linear_layers(network)
        super().__init__(network, sgd() if optimizer is None else optimizer)
        self.generator = torch.Generator().manual_seed(seed)
        self.kept: dict[str, Tensor] = {}

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        return self.entropy(self.network(inputs), labels)

    @torch.no_grad()
    def before_step(self, inputs: Tensor, labels: Tensor) -> None:
        """Project the gradients."""
        for name, kept in self.kept.items():
            weight, bias = self.layers[name].weight, self.layers[name].bias
            if weight.grad is None:
                continue
            if bias is None or bias.grad is None:
                weight.grad = self.project(weight.grad, kept)
                continue
            both = self.project(torch.cat([weight.grad, bias.grad[:, None]], dim=1), kept)
            weight.grad, bias.grad = both[:, :-1].contiguous(), both[:, -1].contiguous()

    @abstractmethod
    def project(self, gradient: Tensor, kept: Tensor) -> Tensor:
        """A gradient ``[outputs, inputs]`` without what would change the answers to old inputs."""

    def end_task(self, data: Labelled) -> None:
        """Clear the optimizer's state."""
        super().end_task(data)
        self.optimizer.state.clear()

    def sample(self, data: Labelled, count: int | None = None) -> Labelled:
        """Examples in an order that is drawn, all of them or ``count``."""
        return data[torch.randperm(len(data), generator=self.generator)[:count]]

    @torch.no_grad()
    def layer_inputs(self, data: Labelled) -> dict[str, Tensor]:
        """What every layer reads ``[n, inputs]``, a column of ones behind it where there is a bias."""
        found: dict[str, list[Tensor]] = {name: [] for name in self.layers}

        def keep(name: str, layer: nn.Linear, x: Tensor) -> None:
            rows = x.flatten(0, -2)
            found[name].append(rows if layer.bias is None else F.pad(rows, (0, 1), value=1.0))

        hooks = [
            layer.register_forward_pre_hook(lambda layer, given, name=name: keep(name, layer, given[0]))
            for name, layer in self.layers.items()
        ]
        self.network.eval()
        try:
            for part in pieces(data):
                self.network(part.inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: torch.cat(parts) for name, parts in found.items() if parts}

    def stored_bytes(self) -> int:
        """What gradients are projected by."""
        return size_of(*self.kept.values())


class OrthogonalWeights(_Projected):
    """OWM (Zeng et al. 2019, arXiv 1810.01256): gradients lose the directions of earlier mean inputs.

    A layer's gradient is multiplied by ``P = (I + sum_i x_i x_i^T / alpha_i)^-1``, where the ``x_i`` are the
    layer's mean inputs on blocks of the examples of earlier tasks. P is updated when a task ends, with the
    network as it is then, by recursive least squares, and kept in double precision.

    Args:
        network: All parameters that are not frozen belong to ``nn.Linear`` layers.
        optimizer: Its steps are sums of multiples of gradients; ``sgd()`` by default.
        alpha: The smaller, the less is left of a direction that was used; infinite for ordinary learning. To
            be compared with a sum of squared inputs over blocks: more examples want a larger one.
        decay: What alpha is multiplied with by the end of a task's blocks, little by little, in every task.
        block: Examples that are averaged.
        seed: Of the order in which they are.

    Raises:
        ValueError: If another module has parameters to learn, or for a value outside its range.
    """

    name = "owm"

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerMaker | None = None,
        *,
        alpha: float = 30.0,
        decay: float = 1.0,
        block: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, seed=seed)
        if not alpha > 0.0:
            raise ValueError(f"alpha must be positive, got {alpha}")
        if not 0.0 < decay <= 1.0:
            raise ValueError(f"decay must lie above 0 and not above 1, got {decay}")
        if block < 1:
            raise ValueError(f"block must be at least 1, got {block}")
        self.alpha, self.decay, self.block = alpha, decay, block

    def project(self, gradient: Tensor, kept: Tensor) -> Tensor:
        """``G P``."""
        return gradient @ kept.to(gradient.dtype)

    @torch.no_grad()
    def end_task(self, data: Labelled) -> None:
        """Take the task's inputs out of the projectors."""
        super().end_task(data)
        for name, rows in self.layer_inputs(self.sample(data)).items():
            means = torch.stack([part.mean(0) for part in rows.double().split(self.block)])
            progress = torch.arange(len(means), device=means.device) / len(means)
            scaled = means / (self.alpha * self.decay**progress).sqrt()[:, None]
            projector = self.kept.get(name, torch.eye(means.shape[1]).to(means))
            for part in scaled.split(256):
                projector = _without(projector, part)
            self.kept[name] = projector


class GradientProjection(_Projected):
    """GPM (Saha et al. 2021, arXiv 2103.09762): gradients lose the subspace that earlier inputs filled.

    When a task ends, the layer's inputs on some of its examples are decomposed. The basis of the subspace
    gets as many of the first singular vectors of what lies outside of it as it takes until ``threshold`` of
    the squared length of the inputs lies inside (Eq. 9). Gradients become ``G - G M M^T``.

    Args:
        network: All parameters that are not frozen belong to ``nn.Linear`` layers.
        optimizer: Its steps are sums of multiples of gradients; ``sgd()`` by default.
        threshold: 0 for ordinary learning, 1 for all that the examples fill.
        examples: Of a task, that are decomposed; None for all.
        seed: Of which ones.

    Raises:
        ValueError: If another module has parameters to learn, or for a value outside its range.
    """

    name = "gpm"

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerMaker | None = None,
        *,
        threshold: float = 0.95,
        examples: int | None = 300,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, seed=seed)
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
        if examples is not None and examples < 1:
            raise ValueError(f"examples must be at least 1, got {examples}")
        self.threshold, self.examples = threshold, examples

    def project(self, gradient: Tensor, kept: Tensor) -> Tensor:
        """``G - G M M^T``."""
        return gradient - (gradient @ kept) @ kept.mT

    @torch.no_grad()
    def end_task(self, data: Labelled) -> None:
        """Extend the bases."""
        super().end_task(data)
        for name, rows in self.layer_inputs(self.sample(data, self.examples)).items():
            basis = self.kept.get(name, rows.new_zeros(rows.shape[1], 0))
            self.kept[name] = torch.cat([basis, self.directions(rows, basis)], dim=1)

    def directions(self, rows: Tensor, basis: Tensor) -> Tensor:
        """What a basis ``[inputs, m]`` lacks for inputs ``[n, inputs]``: orthonormal columns."""
        exact, inside = rows.double(), basis.double()
        outside = exact - (exact @ inside) @ inside.mT
        _, lengths, vectors = torch.linalg.svd(outside, full_matrices=False)
        total = exact.square().sum()
        # Of the inputs' squared length, what lies inside before each further vector is taken in.
        covered = total - lengths.square().sum() + lengths.square().cumsum(0) - lengths.square()
        covered = covered.clamp(min=0.0)  # rounding makes it less, and a threshold of 0 shall take in nothing
        # The basis is rounded; what is left of inputs inside of it is no direction.
        there = lengths > torch.finfo(rows.dtype).eps * max(rows.shape) * total.sqrt()
        count = int(((covered < self.threshold * total) & there).sum())
        found: Tensor = vectors[:count].mT.to(rows)
        return found


def _without(projector: Tensor, rows: Tensor) -> Tensor:
    """``(P^-1 + X^T X)^-1``, of P ``[d, d]`` and X ``[n, d]``, without an inverse of that size."""
    reached = projector @ rows.mT
    inner = torch.eye(len(rows)).to(rows) + rows @ reached
    smaller = projector - reached @ torch.cholesky_solve(reached.mT, torch.linalg.cholesky(inner))
    return (smaller + smaller.mT) / 2


def _linear_layers(network: Network) -> dict[str, nn.Linear]:
    """The linear layers by name, or a ValueError if they are not all that learns."""
    found = {}
    for name, module in network.named_modules():
        learned = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
        if isinstance(module, nn.Linear) and all(learned):
            found[name] = module
        elif any(learned):
            raise ValueError(
                "gradients are projected in nn.Linear layers that learn as a whole, and in no others: freeze "
                f"all parameters of {name or 'the network'} ({type(module).__name__})"
            )
    return found
