"""A memory of gradients that is a network, trained while it is used (Eq. 50)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from nestlearn.optim.bricks import deep
from nestlearn.optim.bricks.features import rms
from nestlearn.optim.bricks.linear import average_
from nestlearn.optim.bricks.lists import Tensors
from nestlearn.optim.bricks.output import OUTPUTS, through
from nestlearn.optim.flow import Flow, Settings, State
from nestlearn.optim.gradient_memory import Common, GradientMemory
from nestlearn.optim.hyperparameters import COUNT, DECAYS, RATE, SHARE, Allowed

OBJECTIVES = ("predict", "reconstruct")


class DeepMomentum(GradientMemory):
    """A network reads the gradients of the past and is trained by an inner objective (Eq. 50, DMGD).

    Every parameter has a small network, shared by all its elements (:mod:`nestlearn.optim.bricks.deep`). Its
    keys are moving averages of the gradient, in units of its largest root mean square of late, which fades by
    1 % a step; with ``decays=(0,)`` the key is the gradient alone, as printed. Two objectives, both squared
    errors, bounded where the printed ``<m(u), 1>`` is not:

    - ``"predict"``: from the key before a gradient, that gradient. What is read is the next one, expected.
    - ``"reconstruct"``: from the key after a gradient, that gradient (key and value of one step, as printed).

    Before anything is learned the network reads the mean of its keys, and with ``inner_lr=0`` it stays that:
    momentum with one decay, an average of several with more.

    Args:
        params: Parameters, named parameters, or groups of them.
        lr: Learning rate.
        decays: What each key keeps of the gradients per step, in [0, 1).
        hidden: Hidden units of the network.
        inner_lr: Learning rate of the inner objective; the length of its steps is at most this.
        retention: Share that the network keeps of what it has learned, per step.
        objective: See above.
        samples: Elements of a parameter that the inner objective looks at per step, evenly spread.
        output: See :class:`~nestlearn.optim.Momentum`.
        common: See :class:`~nestlearn.optim.gradient_memory.Common`.

    Raises:
        ValueError: For a value outside its range.
    """

    allowed: ClassVar[dict[str, Allowed]] = {
        "decays": DECAYS,
        "hidden": COUNT,
        "inner_lr": RATE,
        "retention": SHARE,
        "objective": OBJECTIVES,
        "samples": COUNT,
        "output": OUTPUTS,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        decays: Sequence[float] = (0.9, 0.99),
        hidden: int = 8,
        inner_lr: float | Tensor = 1e-2,
        retention: float | Tensor = 0.99,
        objective: str = "predict",
        *,
        samples: int = 4096,
        output: str = "identity",
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "decays": decays,
            "hidden": hidden,
            "inner_lr": inner_lr,
            "retention": retention,
            "objective": objective,
            "samples": samples,
            "output": output,
        }
        super().__init__(params, settings, common)

    def _takes_sharded(self, settings: Settings) -> bool:
        return False

    def _start(self, parameter: Tensor, settings: Settings) -> State:
        network = deep.initial(len(settings["decays"]), settings["hidden"], parameter)
        keys = {_key(i): torch.zeros_like(parameter) for i in range(len(settings["decays"]))}
        return {**keys, "size": parameter.new_zeros(()), **network._asdict()}

    def _read(self, flow: Flow, settings: Settings) -> Tensors:
        before = settings["objective"] == "predict"
        if before:
            self._learn(flow, settings)
        for i, decay in enumerate(settings["decays"]):
            average_(flow.memory(_key(i)), flow.gradients, decay)
        if not before:
            self._learn(flow, settings)
        return through([_recall(state) for state in flow.states], settings["output"])

    def _learn(self, flow: Flow, settings: Settings) -> None:
        """One step of every network's inner objective, on some elements of its parameter."""
        for gradient, state in zip(flow.gradients, flow.states, strict=True):
            if not gradient.numel():
                continue
            # The unit is the largest root mean square of late: what is small beside it counts little.
            size = torch.maximum(rms(gradient), 0.99 * state["size"])
            # An odd stride visits all columns of a matrix whose width is even.
            stride = -(-gradient.numel() // settings["samples"]) | 1
            unit = torch.where(size > 0, size, torch.ones_like(size))
            keys = torch.stack([key.reshape(-1)[::stride] for key in _keys(state)]) / unit
            network = deep.write(
                _network(state),
                keys,
                gradient.reshape(-1)[::stride] / unit,
                settings["inner_lr"],
                settings["retention"],
            )
            state["size"].copy_(size)
            for name, weight in network._asdict().items():
                state[name].copy_(weight)


def _key(index: int) -> str:
    return f"key_{index}"


def _keys(state: State) -> Tensors:
    return [value for name, value in state.items() if name.startswith("key_")]


def _network(state: State) -> deep.Network:
    return deep.Network(*(state[name] for name in deep.Network._fields))


def _recall(state: State) -> Tensor:
    """What a network reads from its keys, in the gradient's unit."""
    keys, size = _keys(state), state["size"]
    unit = torch.where(size > 0, size, torch.ones_like(size))
    flat = torch.stack([key.reshape(-1) for key in keys]) / unit
    return (deep.read(_network(state), flat) * unit).view_as(keys[0])
