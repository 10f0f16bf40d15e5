"""What all optimizers here share: an ordinary ``torch.optim.Optimizer`` around a memory of gradients."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # as torch.optim: torch.compiler.disable imports for seconds
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from nestlearn.levels import Kept
from nestlearn.optim.bricks.lists import Tensors, add_, added, differentiable_bricks, scale_
from nestlearn.optim.bricks.sharded import is_sharded
from nestlearn.optim.description import kept_by
from nestlearn.optim.flow import Flow, NonFiniteGradientError, Settings, State, all_finite, refuse
from nestlearn.optim.hyperparameters import RATE, SWITCH, Allowed, check

#: What to do with a gradient that is NaN or infinite.
POLICIES = ("raise", "skip", "ignore")


class Common(TypedDict, total=False):
    """What every optimizer takes besides its own hyper-parameters.

    Attributes:
        weight_decay: Weight decay; 0 by default.
        decoupled: Whether the weights decay by themselves (``W = W - lr weight_decay W``); otherwise
            ``weight_decay W`` is added to the gradient and goes through the memory.
        maximize: Ascend.
        foreach: False to update parameter by parameter instead of lists of them. The result is the same.
        differentiable: Let gradients flow through ``step``.
        nonfinite: For gradients that are NaN or infinite: ``"raise"`` (default) and ``"skip"`` leave out the
            step before anything is written; ``"ignore"`` saves the look at all gradients.
    """

    weight_decay: float | Tensor
    decoupled: bool
    maximize: bool
    foreach: bool | None
    differentiable: bool
    nonfinite: str


_DEFAULTS = Common(
    weight_decay=0.0, decoupled=True, maximize=False, foreach=None, differentiable=False, nonfinite="raise"
)


class GradientMemory(Optimizer):
    """Base of the optimizers: a memory is written with each gradient and read for the update.

    ``W = W - lr * read(memory)``, with the memory of each parameter in ``state``.

    Args:
        params: Parameters, named parameters, or groups of them.
        settings: Defaults of ``lr`` and of an optimizer's own hyper-parameters.
        common: See :class:`Common`.

    Attributes:
        span: Elements that are updated together on a CPU: what many operations pass over should stay in its
            caches.
        allowed: Range of each hyper-parameter.
        skipped: Steps left out because a gradient was not finite, with ``nonfinite="skip"``.

    Raises:
        ValueError: For a value outside its range, and for complex or sparse parameters.
    """

    span: ClassVar[int] = 2**17
    allowed: ClassVar[Mapping[str, Allowed]] = {}
    _common: ClassVar[Mapping[str, Allowed]] = {
        "lr": RATE,
        "weight_decay": RATE,
        "decoupled": SWITCH,
        "maximize": SWITCH,
        "foreach": (True, False, None),
        "differentiable": SWITCH,
        "nonfinite": POLICIES,
    }

    def __init__(self, params: ParamsT, settings: Mapping[str, Any], common: Common) -> None:
        unknown = set(common) - set(_DEFAULTS)
        if unknown:
            raise TypeError(f"{type(self).__name__} takes no {', '.join(sorted(unknown))}")
        defaults = {**settings, **_DEFAULTS, **common}
        self.check(defaults)
        self.skipped = 0
        super().__init__(params, defaults)

    def nested_states(self, settings: Settings) -> tuple[Kept, ...]:
        """The memories of a group with these settings, for :func:`nestlearn.inspect`."""
        return kept_by(self, settings)

    def check(self, settings: Settings) -> None:
        """Refuse hyper-parameters outside their ranges.

        Raises:
            ValueError: Naming the first such value.
        """
        check(settings, {**self._common, **self.allowed})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "skipped": self.skipped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.skipped = state.get("skipped", getattr(self, "skipped", 0))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its own settings are checked like the defaults.

        Raises:
            ValueError: For a value outside its range, and for complex or sparse parameters.
        """
        self.check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        try:
            for parameter in self.param_groups[-1]["params"]:
                refuse(parameter, "parameter")
        except ValueError:
            del self.param_groups[-1]
            raise

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Write the gradients into the memories and update the parameters.

        Args:
            closure: Recomputes the loss and its gradients.

        Returns:
            The closure's loss, or None.

        Raises:
            NonFiniteGradientError: If a gradient is not finite, with ``nonfinite="raise"``. Nothing has
                changed then.
            ValueError: For a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        differentiable = bool(self.defaults["differentiable"])
        with torch.set_grad_enabled(differentiable):
            self._refuse_gradients()
            if self._finite():
                with differentiable_bricks() if differentiable else nullcontext():
                    self._write()
        return loss

    def _write(self) -> None:
        for group in self.param_groups:
            for flow in self._flows(group):
                self._update(flow, group)

    def pure_step(
        self,
        parameters: Tensors,
        gradients: Tensors,
        states: list[State],
        settings: Settings,
        names: Sequence[str] | None = None,
    ) -> tuple[Tensors, list[State]]:
        """The same update as a function: nothing that is given is overwritten, and everything differentiable.

        Args:
            parameters: Parameters of one group.
            gradients: Their gradients.
            states: Their memories; an empty one is started.
            settings: Hyper-parameters, any of which may be a tensor that needs a gradient.
            names: Names of the parameters, for a rule that goes by them.

        Returns:
            New parameters and new memories.
        """
        if names is not None:
            settings = self._by_name(settings, parameters, names)
        states = [
            {name: value.clone() for name, value in (state or self._start(p, settings)).items()}
            for p, state in zip(parameters, states, strict=True)
        ]
        parameters = [parameter.clone() for parameter in parameters]
        with differentiable_bricks():
            self._update(Flow(parameters, list(gradients), states), settings)
        return parameters, states

    def _by_name(self, settings: Settings, parameters: Tensors, names: Sequence[str]) -> Settings:
        """Settings with what follows from the parameters' names."""
        del parameters, names
        return settings

    def _takes_sharded(self, settings: Settings) -> bool:
        """Whether parameters that are split over devices (FSDP2) can be updated."""
        return True

    @abstractmethod
    def _start(self, parameter: Tensor, settings: Settings) -> State:
        """Memories of a parameter before its first gradient."""

    @abstractmethod
    def _read(self, flow: Flow, settings: Settings) -> Tensors:
        """Write the flow's gradients into its memories and read what to subtract, times the rate."""

    def _update(self, flow: Flow, settings: Settings) -> None:
        """One update of a flow's parameters, in place."""
        if settings["maximize"]:
            flow.gradients = list(torch._foreach_neg(flow.gradients))
        decay, rate = settings["weight_decay"], settings["lr"]
        if settings["decoupled"]:
            if isinstance(decay, Tensor) or decay:
                scale_(flow.parameters, 1 - rate * decay)
        elif isinstance(decay, Tensor) or decay:
            flow.gradients = added(flow.gradients, flow.parameters, decay)
        self._apply(flow, settings)

    def _apply(self, flow: Flow, settings: Settings) -> None:
        rate = settings["lr"]
        add_(flow.parameters, self._read(flow, settings), -rate)

    def _refuse_gradients(self) -> None:
        """Refuse what no rule can take, before anything is written."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                refuse(parameter.grad, "gradient")
                if is_sharded(parameter) and not self._takes_sharded(group):
                    raise ValueError(
                        f"{type(self).__name__} with these settings needs whole parameters, and this one is "
                        "split over several devices"
                    )

    def _finite(self) -> bool:
        """Whether to go on; one synchronisation for all gradients, none with ``nonfinite="ignore"``."""
        policies = {group["nonfinite"] for group in self.param_groups}
        return policies == {"ignore"} or self._look(policies)

    @_disable_dynamo  # what happens next depends on the values
    def _look(self, policies: set[str]) -> bool:
        gradients = [
            p.grad.detach()
            for group in self.param_groups
            if group["nonfinite"] != "ignore"
            for p in group["params"]
            if p.grad is not None
        ]
        if all_finite(gradients):
            return True
        if "raise" in policies:
            raise NonFiniteGradientError(
                "a gradient is NaN or infinite; no parameter and no memory has changed: zero_grad() and go "
                "on with the next batch, lower the learning rate, or choose nonfinite='skip'"
            )
        self.skipped += 1
        return False

    def _flows(self, group: dict[str, Any]) -> Iterator[Flow]:
        """The group's parameters that have gradients, in lists of one device and dtype, or one by one."""
        flows: dict[object, Flow] = defaultdict(lambda: Flow([], [], []))
        # An inner loop that is differentiated gains nothing from lists.
        single = group["foreach"] is False or bool(group["differentiable"])
        for index, parameter in enumerate(group["params"]):
            if parameter.grad is None:
                continue
            if not self.state[parameter]:
                self.state[parameter].update(self._start(parameter, group))
            flow = flows[index if single else (parameter.device, parameter.dtype, parameter.grad.dtype)]
            flow.parameters.append(parameter)
            flow.gradients.append(parameter.grad)
            flow.states.append(self.state[parameter])
        for flow in flows.values():
            yield from flow.within(self.span) if flow.on_cpu() else (flow,)
