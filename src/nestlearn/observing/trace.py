"""What really changes while a program runs, beside what was declared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from nestlearn.levels import NestedSystem, crosses
from nestlearn.levels.gradients import unwrapped
from nestlearn.levels.inspection import Optimizers, look
from nestlearn.levels.schedules import Schedule
from nestlearn.observing.report import Row, TraceReport, row
from nestlearn.observing.watch import Watched, changed, marks, opaque

#: Kinds whose tensors can be watched from outside; the others live within a sequence.
WATCHED = ("parameters", "optimizer_state", "key_memory", "accumulator", "statistics")


def trace(
    model: nn.Module,
    optimizer: Optimizers = None,
    *,
    schedule: Schedule | None = None,
    tokens: int | Callable[[], int] | None = None,
) -> Trace:
    """Watch a training loop and compare what changes with the declared frequencies.

    ::

        with nl.trace(model, optimizer) as watched:
            ...  # some steps of the loop as it is
        print(watched.report())

    Changes are seen by the versions that torch counts for every tensor, and the loop runs as it would
    without. Values are looked at when the trace is made and when it reports (a few of each tensor, and the
    sum), and after every step only where an optimizer may write without a new version.

    Args:
        model: The model; gradients of its parameters tell one step from the next.
        optimizer: As for :func:`nestlearn.inspect`.
        schedule: Likewise; what the report holds the loop against.
        tokens: Tokens of a step, or a function that returns those read so far. By default the optimizer's
            clock, or the whole numbers that are the model's input are counted.

    Raises:
        ValueError: As :func:`nestlearn.inspect`.
    """
    return Trace(model, optimizer, schedule=schedule, tokens=tokens)


class Trace:
    """See :func:`trace`. Use it as a context manager, once.

    Attributes:
        system: What is declared.
        steps: Steps seen.
        tokens: Tokens seen; 0 where nothing tells them.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers = None,
        *,
        schedule: Schedule | None = None,
        tokens: int | Callable[[], int] | None = None,
    ) -> None:
        self.system: NestedSystem
        self.system, self._found = look(model, optimizer, schedule=schedule)
        self.model, self._count = model, tokens
        self._clock = (
            getattr(unwrapped(optimizer), "clock", None) if isinstance(optimizer, Optimizer) else None
        )
        self.steps = self.tokens = self.passes = self._read = self._depth = self.unseen = 0
        self._last: dict[int, int] = {}
        self._steps: dict[int, int] = {}
        self.watched = [
            Watched(self._found, c.name, opaque=self._opaque(c.name))
            for c in self.system.components
            if c.kind in WATCHED and (c.period is not None or c.kind == "parameters")
        ]
        held = {id(t) for w in self.watched for _, t in self._found.live(w.name)}
        self._constants = [(n, b) for n, b in model.named_buffers() if id(b) not in held]
        self._constant_marks = marks(self._constants)
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Trace:
        self._offset = self._clock.tokens if self._clock is not None else 0
        self._handles = [
            self.model.register_forward_pre_hook(self._forward, with_kwargs=True),
            register_optimizer_step_pre_hook(self._begin),
            register_optimizer_step_post_hook(self._end),
            *(
                parameter.register_post_accumulate_grad_hook(self._gradient)
                for parameter in self.model.parameters()
                if parameter.requires_grad
            ),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._outside()

    def report(self) -> TraceReport:
        """What was declared, what happened, and what does not agree."""
        rows: list[Row] = [row(watched, self._steps_of(watched)) for watched in self.watched]
        constants = changed(self._constant_marks, marks(self._constants))
        return TraceReport(self.steps, self.tokens, tuple(rows), tuple(constants), self.unseen)

    def _opaque(self, name: str) -> bool:
        owner = self._found.owners.get(name)
        return owner is not None and opaque(owner)

    def _steps_of(self, watched: Watched) -> int:
        """Steps of the optimizer that a component belongs to; of all, if it belongs to none."""
        owner = self._found.owners.get(watched.name)
        return self.steps if owner is None else self._steps.get(id(owner), 0)

    def _forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A pass inside a step is a closure's: what changes around it is that step's.
        if torch.is_grad_enabled() and not self._depth:
            self._outside()
        if torch.is_grad_enabled() and module.training:
            self._read += next((x.numel() for x in _whole_numbers((args, kwargs))), 0)

    def _gradient(self, parameter: Tensor) -> None:
        """A gradient has come: what is updated now is not updated twice."""
        self.passes += 1

    def _begin(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._depth:
            self._outside()
        self._depth += 1

    def _end(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """After a step; an optimizer inside another one is part of that one's step."""
        self._depth = max(0, self._depth - 1)
        if self._depth:
            return
        optimizer, before = unwrapped(optimizer), self.tokens
        new = not self.passes or self._last.get(id(optimizer)) != self.passes
        self._last[id(optimizer)] = self.passes
        if new:
            self._steps[id(optimizer)] = self._steps.get(id(optimizer), 0) + 1
            self.steps = max(self._steps.values())
            self._advance()
        for watched in self.watched:
            owner = self._found.owners.get(watched.name)
            if new and (owner is None or owner is optimizer) and self._is_due(watched, optimizer, before):
                watched.due += 1
            self._look(watched)

    def _look(self, watched: Watched) -> None:
        names = watched.look()
        if not names:
            return
        again = [name for name in names if watched.passes.get(name) == self.passes and self.passes]
        watched.twice += bool(again)
        watched.passes.update(dict.fromkeys(names, self.passes))
        if not again:
            watched.updates.append(self.tokens or self.steps)

    def _outside(self) -> None:
        """Look for changes since the last look that no optimizer made."""
        for watched in self.watched:
            if watched.component.kind == "parameters" and watched.look():
                watched.outside += 1

    def _advance(self) -> None:
        if callable(self._count):
            self.tokens = self._count()
        elif self._count is not None:
            self.tokens += self._count
        elif self._clock is not None:
            self.tokens = self._clock.tokens - self._offset
        else:
            self.tokens = self._read

    def _is_due(self, watched: Watched, optimizer: Optimizer, before: int) -> bool:
        component = watched.component
        if component.period is None:
            return False
        if component.unit == "step":
            steps = self._steps[id(optimizer)]
            return crosses(steps - 1, steps, component.period)
        if not self.tokens:
            self.unseen += 1
            return False
        return crosses(before + self._offset, self.tokens + self._offset, component.period)


def _whole_numbers(value: Any) -> Iterator[Tensor]:
    """Tensors of whole numbers in nested arguments, in their order."""
    if isinstance(value, Tensor):
        if not value.is_floating_point() and not value.is_complex() and value.dtype != torch.bool:
            yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _whole_numbers(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _whole_numbers(entry)


__all__ = ["Trace", "trace"]
