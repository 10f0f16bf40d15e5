"""Continual backpropagation: hidden units of little use are made anew."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nestlearn.continual.classification.base import Classifier, Network, OptimizerMaker
from nestlearn.continual.storage import size_of

#: What may stand between two linear layers: a number of each unit from that unit alone.
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh, nn.Sigmoid)


class ContinualBackprop(Classifier):
    """Continual backpropagation (Dohare et al. 2024, Nature 632; arXiv 2306.13812, Algorithm 1).

    After every step a unit's utility becomes ``decay u + (1 - decay) mean|h| sum_k |w_k|``, of its outputs
    ``h`` on the batch and its outgoing weights ``w``. Of the units that are older than ``maturity`` steps a
    share of ``rate`` is renewed in every layer, those of least utility: their incoming weights and bias are
    drawn as torch draws those of a linear layer, their outgoing weights become 0, utility and age begin anew.
    So does the optimizer's state of these numbers. The steps that Adam counts belong to a whole parameter and
    go on: its steps with new weights are at first up to seven times as long.

    Args:
        network: ``nn.Sequential`` of ``nn.Linear`` layers with activations between them; ``nn.Flatten`` may
            come first.
        optimizer: See :class:`~nestlearn.continual.classification.Classifier`.
        rate: Share of the mature units that is renewed in a step; 0 for ordinary learning.
        maturity: Steps before a unit may be renewed.
        decay: Of utilities, for a step.
        seed: Of new weights.

    Raises:
        ValueError: For another network, or a value outside its range.
    """

    name = "continual backprop"

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerMaker | None = None,
        *,
        rate: float = 1e-4,
        maturity: int = 100,
        decay: float = 0.99,
        seed: int = 0,
    ) -> None:
        self.modules, self.layers = _chain(network)
        super().__init__(network, optimizer)
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"rate must lie between 0 and 1, got {rate}")
        if maturity < 0:
            raise ValueError(f"maturity must not be negative, got {maturity}")
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must lie at 0 or above and below 1, got {decay}")
        self.rate, self.maturity, self.decay = rate, maturity, decay
        self.generator = torch.Generator().manual_seed(seed)
        hidden = [layer.weight for layer in self.layers[:-1]]
        self.utilities = [weight.new_zeros(len(weight)) for weight in hidden]
        self.ages = [weight.new_zeros(len(weight), dtype=torch.long) for weight in hidden]
        self.due = [0.0 for _ in hidden]
        self.outputs: list[Tensor] = []
        self.renewed = 0

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy; what hidden units say is remembered."""
        self.outputs = []
        values = inputs
        for module in self.modules:
            if isinstance(module, nn.Linear):
                self.outputs.append(values.detach())
            values = module(values)
        return self.entropy(values, labels)

    @torch.no_grad()
    def after_step(self, inputs: Tensor, labels: Tensor) -> None:
        """Update ages and utilities, and renew the units whose turn it is."""
        for place, utility in enumerate(self.utilities):
            size = self.outputs[place + 1].abs().mean(0)
            outgoing = self.layers[place + 1].weight.abs().sum(0)
            utility.lerp_(size * outgoing, 1.0 - self.decay)
            self.ages[place] += 1
            mature = (self.ages[place] > self.maturity).nonzero().flatten()
            self.due[place] += self.rate * len(mature)
            count = int(self.due[place])
            if count:
                self.due[place] -= count
                self.renew(place, mature[utility[mature].argsort(stable=True)[:count]])

    @torch.no_grad()
    def renew(self, place: int, units: Tensor) -> None:
        """Make units anew.

        Args:
            place: Of their hidden layer, from 0 on.
            units: Which ones.
        """
        own, following = self.layers[place], self.layers[place + 1]
        bound = own.in_features**-0.5
        for parameter in [own.weight] if own.bias is None else [own.weight, own.bias]:
            drawn = torch.rand(len(units), *parameter.shape[1:], generator=self.generator)
            parameter[units] = (bound * (2.0 * drawn - 1.0)).to(parameter)
            for value in self._moments(parameter):
                value[units] = 0.0
        following.weight[:, units] = 0.0
        for value in self._moments(following.weight):
            value[:, units] = 0.0
        self.utilities[place][units] = 0.0
        self.ages[place][units] = 0
        self.renewed += len(units)

    def _moments(self, parameter: Tensor) -> list[Tensor]:
        """What the optimizer keeps for every number of a parameter."""
        state = self.optimizer.state.get(parameter, {})
        return [v for v in state.values() if isinstance(v, Tensor) and v.shape == parameter.shape]

    def stored_bytes(self) -> int:
        """Utilities and ages."""
        return size_of(*self.utilities, *self.ages)


def _chain(network: Network) -> tuple[list[nn.Module], list[nn.Linear]]:
    """The modules of a perceptron in order, and its linear layers; or a ValueError."""
    if not isinstance(network, nn.Sequential):
        raise ValueError(f"units can be renewed in an nn.Sequential only, got {type(network).__name__}")
    modules = list(network)
    core = modules[1:] if modules and isinstance(modules[0], nn.Flatten) else modules
    for place, module in enumerate(core):
        if not isinstance(module, ACTIVATIONS if place % 2 else nn.Linear):
            wanted = "an activation" if place % 2 else "nn.Linear"
            raise ValueError(
                f"linear layers and activations have to take turns: {wanted} is missing where "
                f"{type(module).__name__} stands"
            )
    layers = [module for module in core if isinstance(module, nn.Linear)]
    if len(layers) < 2 or len(core) % 2 == 0:
        raise ValueError("there must be a hidden layer, and a linear layer at the end")
    return modules, layers
