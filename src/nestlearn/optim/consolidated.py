"""Any optimizer, with its updates kept out of what earlier contexts used (Def. 5, Eq. 59)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from nestlearn.levels import Group, Level
from nestlearn.optim.description import groups_with_keys
from nestlearn.optim.division import refuse_basis, refuse_decay
from nestlearn.optim.flow import NonFiniteGradientError, all_finite, refuse
from nestlearn.optim.gradient_memory import POLICIES, GradientMemory
from nestlearn.optim.hyperparameters import check
from nestlearn.optim.key_memories import KeyMemories
from nestlearn.optim.preconditioned import PreconditionedMomentum


class Consolidated(Optimizer):
    """Generalized gradient descent: a retention that measures change on the inputs of earlier contexts.

    The update ``U`` of the optimizer inside becomes ``(I + D / mu)^-1 U (I + C / lambda)^-1`` with the second
    moments of a layer's inputs and output gradients over the contexts that were committed, see
    :class:`~nestlearn.optim.KeyMemories`. Before the first :meth:`commit` nothing is changed::

        optimizer = nl.optim.Consolidated(model.named_parameters(), lr=1e-3, model=model, inner=nl.optim.M3)
        ...                      # learn
        optimizer.commit()       # from here on, what was learned is kept
        ...                      # learn something else

    :class:`~nestlearn.optim.Nested` does this per level and notices by itself when a context ends.

    A copy or an unpickled optimizer protects what was committed but takes in no further contexts; to go on,
    make a new one for the new model and load the state.

    Args:
        params: Parameters, named parameters, or groups of them.
        lr: Learning rate of the optimizer inside.
        model: Owner of the parameters, in which the layers' inputs are recorded. Without it every parameter
            has a diagonal of squared gradients instead.
        inner: The optimizer inside, called with the parameters, ``lr`` and the further settings; by default
            AdamW without weight decay.
        strength: ``lambda``; smaller protects more. See :class:`~nestlearn.levels.Level`.
        output_strength: ``mu``, likewise for output gradients.
        eigenbasis: See :class:`~nestlearn.levels.Level`; not with weight decay.
        refresh: Steps between two looks at the current context.
        horizon: Steps over which looks are averaged.
        nonfinite: See :class:`~nestlearn.optim.gradient_memory.Common`.
        settings: Further settings of the optimizer inside.

    Attributes:
        inner: The optimizer inside.
        memories: What is protected.
        skipped: Steps left out because a gradient was not finite, with ``nonfinite="skip"``.

    Raises:
        ValueError: For values outside their range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        model: nn.Module | None = None,
        inner: Callable[..., Optimizer] = PreconditionedMomentum,
        *,
        strength: float = 1.0,
        output_strength: float = 0.1,
        eigenbasis: bool = False,
        refresh: int = 1,
        horizon: int | None = None,
        nonfinite: str = "raise",
        **settings: Any,
    ) -> None:
        level = Level(
            "consolidated",
            1,
            consolidate=True,
            strength=strength,
            output_strength=output_strength,
            eigenbasis=eigenbasis,
            refresh=refresh,
            horizon=horizon,
        )
        check({"nonfinite": nonfinite}, {"nonfinite": POLICIES})
        self.inner = inner(params, lr=lr, **settings)
        if eigenbasis:
            refuse_basis(self.inner)
        if isinstance(self.inner, GradientMemory):
            for group in (self.inner.defaults, *self.inner.param_groups):
                group["nonfinite"] = "ignore"  # looked at here already
        self.nonfinite, self.steps, self.skipped = nonfinite, 0, 0
        super().__init__([{**group} for group in self.inner.param_groups], dict(self.inner.defaults))
        self._link()
        owned = [p for group in self.param_groups for p in group["params"]]
        self.memories = KeyMemories(model if model is not None else nn.Module(), owned, level)

    def _link(self) -> None:
        """Share groups and state: what schedulers and checkpoints touch here is the optimizer inside."""
        self.param_groups = self.inner.param_groups
        self.state = self.inner.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Look at the current context, and update.

        Args:
            closure: Recomputes the loss and its gradients.

        Returns:
            The closure's loss, or None.

        Raises:
            NonFiniteGradientError: If a gradient is not finite, with ``nonfinite="raise"``; nothing has
                changed then.
            ValueError: For a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        for gradient in gradients:
            refuse(gradient, "gradient")
        if self.nonfinite != "ignore" and not all_finite(gradients):
            self.memories.forget_pass()
            if self.nonfinite == "skip":
                self.skipped += 1
                return loss
            raise NonFiniteGradientError(
                "a gradient is NaN or infinite; no parameter and no memory has changed: zero_grad() and go "
                "on with the next batch, lower the learning rate, or choose nonfinite='skip'"
            )
        if gradients:
            self.memories.refresh()
            self.steps += 1
            self.memories.recording = self.steps % (self.memories.level.refresh or 1) == 0
        if self.memories.committed:
            self.memories.filtered(self.inner.step)
        else:
            self.inner.step()
        return loss

    def nested_groups(self) -> tuple[Group, ...]:
        """The groups of the optimizer inside, with key memories, for :func:`nestlearn.inspect`."""
        return groups_with_keys(self)

    def commit(self) -> bool:
        """Declare the current context finished: from the next step on it is protected.

        Returns:
            Whether there was a context to keep.
        """
        kept = self.memories.commit()
        if kept and self.memories.level.eigenbasis:
            self.inner.state.clear()  # it is in the basis of before
        return kept

    def close(self) -> None:
        """Take the hooks off the model."""
        self.memories.detach()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the optimizer inside; without a model's layers, its memories are diagonals."""
        if not hasattr(self, "memories"):
            super().add_param_group(param_group)
            return
        if self.memories.level.eigenbasis:
            refuse_decay([param_group])
        self.inner.add_param_group(param_group)
        self._link()
        self.memories.add(self.param_groups[-1]["params"])

    def state_dict(self) -> dict[str, Any]:
        """Of the optimizer inside, and the memories under ``"consolidated"``."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        own = {"steps": self.steps, **self.memories.state_dict()}
        state = {**self.inner.state_dict(), "consolidated": own}
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, state)
            state = state if changed is None else changed
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: For the state of another optimizer or model; nothing has changed then.
        """
        if "consolidated" not in state_dict:
            raise ValueError("the state has no part 'consolidated': it is another optimizer's")
        own = state_dict["consolidated"]
        sizes, saved = (
            [len(group["params"]) for group in groups]
            for groups in (self.param_groups, state_dict["param_groups"])
        )
        if sizes != saved:
            raise ValueError(f"the state has groups of {saved} parameters, this optimizer of {sizes}")
        self.memories.check_state(own)
        if self.memories.level.eigenbasis:
            refuse_decay(state_dict["param_groups"])
        self.inner.load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self._link()
        self.memories.load_state_dict(own)
        self.steps = int(own["steps"])

    def __getstate__(self) -> dict[str, Any]:
        own = ("inner", "memories", "nonfinite", "steps", "skipped")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "inner" in state:
            self._link()
