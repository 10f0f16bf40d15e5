"""Diagnostics of every level over time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from nestlearn.levels import Surprise
from nestlearn.levels.gradients import unwrapped
from nestlearn.levels.inspection import Optimizers, look, parameters_of
from nestlearn.levels.schedules import Schedule
from nestlearn.observing.alarms import Alarm, Alarms
from nestlearn.observing.diary import Diary, without_gradient
from nestlearn.observing.watch import Watched, opaque
from nestlearn.optim import KeyMemories

Values = dict[str, float]


class Diagnostics:
    """Follows every level of a system along a stream.

    Before and after every step of the optimizer it looks at a sample of the weights and gradients (at most
    4,096 numbers of each tensor), and changes nothing. Of every level:

    * ``update_ratio``: length of an update over that of the weights;
    * ``drift``: distance from the weights at the start of the stream, over their length;
    * ``cancel``: share of the way of the last updates that was gone in vain (0: straight, 1: in circles);
    * ``agreement``: cosine of the gradients with the mean gradient of the context before; below 0, what is
      learned now unlearns that;
    * ``surprise``: deviations by which the loss is above what the context led to expect;
    * ``dead``: share of the units whose gradient is zero;
    * ``idle``: periods since the last update;
    * ``rank``: effective rank of the key memories over their width, and ``fill``: share of a random update
      that they hold back, both when a context has ended.

    Args:
        model: The model.
        optimizer: As for :func:`nestlearn.inspect`.
        schedule: Likewise.
        every: Reports every so many updates of a level.
        window: Updates over which ``cancel`` is taken.

    Attributes:
        system: The nested system.
        alarms: What was raised so far.
        ended: Whether key memories took in a finished context in the step that was recorded last.

    Raises:
        ValueError: If ``every`` or ``window`` is below 1, and as :func:`nestlearn.inspect`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers,
        *,
        schedule: Schedule | None = None,
        every: int = 1,
        window: int = 20,
    ) -> None:
        for name, value in (("every", every), ("window", window)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is a number of updates, at least 1, got {value!r}")
        self.system, self._found = look(model, optimizer, schedule=schedule)
        members = optimizer.values() if isinstance(optimizer, Mapping) else [optimizer]
        self._optimizers = [unwrapped(member) for member in members if member is not None]
        self.every, self.alarms = every, Alarms()
        names = [component.name for component in parameters_of(self.system)]
        owners = self._found.owners
        self._watched = {n: Watched(self._found, n, opaque=n in owners and opaque(owners[n])) for n in names}
        clock = max([getattr(getattr(o, "clock", None), "tokens", 0) for o in self._optimizers], default=0)
        self._diaries = {name: Diary(self._found.live(name), window, clock) for name in names}
        self._before: dict[str, Values] = {name: {} for name in names}
        self._changed: set[str] = set()
        self._surprise, self._committed, self.ended = Surprise(), self._contexts(), False
        self._tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Look before and after every step of the optimizers, until :meth:`detach`."""
        self._handles = [
            handle
            for optimizer in self._optimizers
            for handle in (
                optimizer.register_step_pre_hook(self._pre),
                optimizer.register_step_post_hook(self._post),
            )
        ]

    def detach(self) -> None:
        """Look no more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Diagnostics:
        self.attach()
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def record(self, tokens: int, loss: float) -> tuple[dict[str, Values], list[Alarm]]:
        """What the step that has just ended did.

        Args:
            tokens: Position in the stream after it.
            loss: Its loss.

        Returns:
            Values by level, of those that were updated or have slept for long, and new alarms.
        """
        surprise = self._surprised(loss)
        contexts = self._contexts()
        self.ended, self._committed = contexts > self._committed, contexts
        found: dict[str, Values] = {}
        for name, diary in self._diaries.items():
            values = self._values(name, diary, tokens)
            if values and surprise is not None:
                values["surprise"] = surprise
            if self.ended:
                diary.end_context()
                values |= self._keys(name)
            if values:
                found[name] = values
        self._changed.clear()
        alarms = [a for name, values in found.items() for a in self.alarms.check(tokens, name, values)]
        return found, alarms

    @property
    def updated(self) -> list[str]:
        """Levels that the step under way has updated, before it is recorded."""
        return [name for name in self._diaries if name in self._changed]

    @property
    def notices(self) -> bool:
        """Whether key memories tell when a context has ended."""
        return bool(self._memories())

    def end_context(self) -> None:
        """The current context has ended; for optimizers that do not notice it themselves."""
        for diary in self._diaries.values():
            diary.end_context()

    def _values(self, name: str, diary: Diary, tokens: int) -> Values:
        """Values of a level after a step."""
        idle = self._idle(name, tokens - diary.last_update)
        if name not in self._changed:
            return {"idle": idle} if idle > 1.0 else {}
        count = diary.updates + 1
        values = diary.update([t for _, t in self._found.live(name)], tokens)
        values |= {**self._before[name], "idle": 0.0}
        self._before[name] = {}
        return (
            values if count % self.every == 0 else {name: v for name, v in values.items() if name == "cancel"}
        )

    def _idle(self, name: str, tokens: int) -> float:
        component = self._found.components[name]
        unit = 1 if component.unit == "token" else (self.system.tokens_per_step or 1)
        return tokens / (component.period * unit) if component.period and unit else 0.0

    def _pre(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for name, diary in self._diaries.items():
            if self._found.owners.get(name, optimizer) is not optimizer:
                continue
            tensors = self._found.groups[name].tensors
            if name not in self._changed and self._watched[name].look():
                diary.rebase(tensors)  # somebody has set them
            gradients = self._found.gradients(name)
            if all(gradient is None for gradient in gradients):
                continue
            self._before[name] = diary.gradients(tensors, gradients)
            # Most rows of a table of embeddings are of tokens that no batch has.
            pairs = zip(tensors, gradients, strict=True)
            share = without_gradient(g for t, g in pairs if id(t) not in self._tables)
            if share is not None:
                self._before[name]["dead"] = share

    def _post(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._changed.update(name for name, watched in self._watched.items() if watched.look())

    def _surprised(self, loss: float) -> float | None:
        """Deviations of a loss above the mean of the context; None at its beginning."""
        state = self._surprise
        spread = max(state.deviation, state.floor * abs(state.mean))
        value = (loss - state.mean) / spread if state.count >= state.warmup and spread else None
        if math.isfinite(loss):
            state(loss)
        return value

    def _memories(self) -> dict[str, KeyMemories]:
        """Key memories by the name of their level."""
        found: dict[str, KeyMemories] = {}
        for optimizer in self._optimizers:
            held = getattr(optimizer, "memories", None)
            if isinstance(held, KeyMemories):
                found |= {name: held for name in self._diaries if len(self._diaries) == 1}
            elif isinstance(held, Mapping):
                found |= {name: memory for name, memory in held.items() if name in self._diaries}
        return found

    def _contexts(self) -> int:
        """Contexts that all key memories have taken in so far."""
        return sum(memory.committed for memory in self._memories().values())

    def _keys(self, name: str) -> Values:
        memory = self._memories().get(name)
        return (
            {} if memory is None or not memory.committed else {"rank": memory.rank(), "fill": memory.fill()}
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that later values depend on."""
        return {
            "levels": {name: diary.state_dict() for name, diary in self._diaries.items()},
            "surprise": self._surprise.state_dict(),
            "committed": self._committed,
            "alarms": self.alarms.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: If it is of another model or other levels.
        """
        if set(state["levels"]) != set(self._diaries):
            raise ValueError(
                f"the diagnostics are of levels {sorted(state['levels'])}, here are {sorted(self._diaries)}"
            )
        for name, diary in self._diaries.items():
            diary.load_state_dict(state["levels"][name])
        self._surprise.load_state_dict(state["surprise"])
        self._committed = int(state["committed"])
        self.alarms.load_state_dict(state["alarms"])
        for watched in self._watched.values():
            watched.look()


__all__ = ["Diagnostics"]
