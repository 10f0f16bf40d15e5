"""Fine-tuning that rehearses, at two paces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nestlearn.continual.methods.base import Method, Tree
from nestlearn.continual.methods.rehearsal import Rehearsal
from nestlearn.continual.methods.tuning import FineTuning, whole
from nestlearn.continual.storage import size_of
from nestlearn.retrofitting.copies import sharing_copy
from nestlearn.retrofitting.parts import Part


class Rehearsing(FineTuning):
    """Fine-tuning that rehearses: what the model knew stays part of what it learns.

    There are two paces. The *learner* takes the steps. The model, which is evaluated, saved and copied as the
    speaker, is the mean of the learner's weights over about ``horizon`` steps,

        mean <- mean + (learner - mean) / horizon

    (Polyak & Juditsky 1992; as a teacher: Tarvainen & Valpola 2017, arXiv 1703.01780): one more level, slower
    than the weights of a step and faster than the speaker. Where a subject begins, the learner goes on from
    the mean, and its rate rises over ``warmup`` steps. A model is then where its speaker is: rehearsal has
    no gradient yet, and the first steps, which AdamW makes of the same length whatever the gradients, would
    all go where only the new text pulls.

    Args:
        lr: Learning rate.
        rehearsal: What is rehearsed, and how much.
        horizon: Steps of the mean, well below those of a text; 1 for weights without a mean.
        warmup: Steps over which the rate rises, at most half of a text's; 1 for a rate that does not.
        further: See :class:`~nestlearn.continual.methods.FineTuning`.

    Attributes:
        learner: The weights that take the steps.

    Raises:
        ValueError: For a value outside its range.
    """

    name: ClassVar[str] = "rehearsal"

    def __init__(
        self,
        lr: float = 1e-4,
        rehearsal: Rehearsal | None = None,
        horizon: int = 20,
        warmup: int = 50,
        **further: Any,
    ) -> None:
        super().__init__(lr, **further)
        for name, value in (("horizon", horizon), ("warmup", warmup)):
            whole(name, value, " of steps")
        self.rehearsal = Rehearsal() if rehearsal is None else rehearsal
        self.horizon, self.warmup, self._since = horizon, warmup, 0
        self._settings |= {"rehearsal": self.rehearsal.settings, "horizon": horizon, "warmup": warmup}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], learned: Mapping[str, Any]) -> Method:
        """The method as a file describes it."""
        own = {**settings, "betas": tuple(settings["betas"]), "rehearsal": Rehearsal(**settings["rehearsal"])}
        return cls(**own)

    def attach(self, base: nn.Module) -> None:
        """The base speaks first."""
        super().attach(base)
        self.model = sharing_copy(base, list(self.parts))
        self._means = {name: Part(self.model.get_parameter(name)) for name in self.parts}
        self.rehearsal.attach(base)
        self._pace(0)

    def loss(self, batch: Tensor) -> Tensor:
        """Of the new text, and of what the speaker says."""
        changed, new = self.rehearsal.begin(self.learner, batch, speaker=self.model)
        if changed:
            self._begin()
            new = self.rehearsal.new_loss(self.learner, batch)
        return self.rehearsal.loss(self.learner, new, batch)

    def step(self, batch: Tensor) -> float:
        """One update of the learner, and of the mean."""
        loss = super().step(batch)
        self._pace(self._since + 1)
        with torch.no_grad():
            for name, mean in self._means.items():
                mean.own.lerp_(self.parts[name].own, 1.0 / self.horizon)
                mean.scatter()
        return loss

    def keep(self) -> bool:
        """Speak for the model as it is now."""
        self.rehearsal.change(self.model)
        self._begin()
        return True

    def _begin(self) -> None:
        """Go on from the mean, slowly at first."""
        self._pace(0)
        for name, mean in self._means.items():
            self.parts[name].write(mean.own.detach())

    def _pace(self, since: int) -> None:
        """The rate of the next step, after so many of a subject."""
        self._since = since
        for group in self.optimizer.param_groups:
            group["lr"] = self._settings["lr"] * min(1.0, (since + 1) / self.warmup)

    def apply(self, learned: Mapping[str, Any]) -> None:
        """Write the values, for the learner too."""
        super().apply(learned)
        for name, value in learned.items():
            self._means[name].write(value)

    def reset(self, level: str | None = None) -> None:
        """Give all parameters the base's values."""
        super().reset(level)
        self._pace(0)
        for name, mean in self._means.items():
            mean.write(self.base.get_parameter(name).detach())

    def stored_bytes(self) -> int:
        """Of the speaker, and of the learner's weights."""
        return self.rehearsal.stored_bytes() + size_of(*(part.own for part in self.parts.values()))

    def state_dict(self) -> Tree:
        """With the rehearsal's, and the mean."""
        means = {name: mean.own.detach() for name, mean in self._means.items()}
        own = {"rehearsal": self.rehearsal.state_dict(), "means": means, "since": self._since}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore also the rehearsal, and the mean."""
        self.rehearsal.load_state_dict(state["rehearsal"])
        super().load_state_dict(state)
        for name, value in state["means"].items():
            self._means[name].write(value)
        self._pace(int(state["since"]))
