"""A run of one's own loop, observed: the system, its diagnostics and its alarms in one folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nestlearn.levels.gradients import unwrapped
from nestlearn.levels.inspection import Optimizers
from nestlearn.levels.schedules import Schedule
from nestlearn.observing.alarms import Alarm
from nestlearn.observing.diagnostics import Diagnostics
from nestlearn.observing.run import EVENTS, RunFolder
from nestlearn.observing.trackers import Track


def observe(
    model: nn.Module,
    optimizer: Optimizers,
    folder: Path | str,
    *,
    schedule: Schedule | None = None,
    tokens_per_step: int | None = None,
    planned_tokens: int | None = None,
    title: str | None = None,
    every: int = 1,
    state: Mapping[str, Any] | None = None,
    track: Track = "auto",
) -> Observer:
    """Follow a training loop, for ``nestlearn watch`` and ``nestlearn report``.

    ::

        with nl.observe(model, optimizer, "runs/one", tokens_per_step=1024) as run:
            for batch in batches:
                ...  # forward, backward, optimizer.step()
                run.step(loss)
            run.evaluate({"English": 1.83})

    Args:
        model: The model.
        optimizer: As for :func:`nestlearn.inspect`.
        folder: Where the run is written; it must not have one yet.
        schedule: As for :func:`nestlearn.inspect`.
        tokens_per_step: Tokens of a step, where ``step`` is not told; by default the optimizer's clock, or 1:
            positions are then steps.
        planned_tokens: Length of the stream, if known: a run of that length is finished.
        title: Heading of the report; by default the folder.
        every: Reports every so many updates of a level.
        state: What :meth:`Observer.state_dict` returned: the run in the folder goes on from there, and what
            it has beyond is cut off.
        track: Where the run goes besides its folder: ``"trackio"``, ``"tensorboard"``, ``"wandb"``, a list of
            them, ``"none"``, or ``"auto"``: trackio where it is installed (docs/tracking.md).

    Raises:
        ValueError: If the folder has a run already and no state is given, for a tracker that is not known or
            not installed, and as :func:`nestlearn.inspect`.
    """
    if state is None and (Path(folder) / EVENTS).exists():
        raise ValueError(f"{folder} has a run already: choose another folder, or delete it")
    if schedule is None and tokens_per_step is not None:
        schedule = tokens_per_step
    diagnostics = Diagnostics(model, optimizer, schedule=schedule, every=every)
    clock = getattr(unwrapped(optimizer), "clock", None) if isinstance(optimizer, Optimizer) else None
    target = RunFolder(folder, track)
    observer = Observer(diagnostics, target, clock, tokens_per_step)
    if state is not None:
        observer.load_state_dict(state)  # a foreign one is refused before anything is written
    target.begin(diagnostics.system, title or str(folder), planned_tokens)
    return observer


class Observer:
    """See :func:`observe`.

    Args:
        diagnostics: Of the levels.
        folder: Where events go.
        clock: Of the optimizer, if it has one.
        tokens_per_step: Tokens of a step, otherwise.

    Attributes:
        clock: The optimizer's, which tells positions; None if it has none.
        tokens: Position in the stream.
        steps: Steps so far.
    """

    def __init__(
        self, diagnostics: Diagnostics, folder: RunFolder, clock: Any, tokens_per_step: int | None
    ) -> None:
        self.diagnostics, self.folder = diagnostics, folder
        self.clock, self._each = clock, tokens_per_step
        self.tokens = self.steps = 0
        self._stage: str | None = None

    def __enter__(self) -> Observer:
        self.diagnostics.attach()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.diagnostics.detach()
        try:
            if kind is None:
                self.folder.write({"event": "end", "tokens": self.tokens})
        finally:
            self.folder.trackers.close()

    def stage(self, name: str) -> None:
        """What follows is another task or text; for optimizers without surprise, the context has ended."""
        if name == self._stage:
            return
        if self._stage is not None and not self.diagnostics.notices:
            self.diagnostics.end_context()
        self._stage = name

    def step(self, loss: Tensor | float, *, tokens: int | None = None) -> list[Alarm]:
        """Record the step that the optimizer has just made.

        Args:
            loss: Its loss. A tensor is read, which waits for the device.
            tokens: Tokens that it took in; by default as told at the beginning.

        Returns:
            Alarms that it raised.
        """
        self.steps += 1
        self._advance(tokens)
        value = float(loss.detach() if isinstance(loss, Tensor) else loss)
        due = self.diagnostics.updated
        values, alarms = self.diagnostics.record(self.tokens, value)
        event = {"event": "step", "step": self.steps, "tokens": self.tokens, "due": due}
        event |= {"loss": value if math.isfinite(value) else None, "surprised": self.diagnostics.ended}
        self.folder.write({**event, **({} if self._stage is None else {"stage": self._stage})})
        for entry in diagnostic_events(self.tokens, values, alarms):
            self.folder.write(entry)
        return alarms

    def evaluate(
        self, values: Mapping[str, float], *, measure: str = "loss", lower_is_better: bool = True
    ) -> None:
        """Record an evaluation.

        Args:
            values: By task; those that are not finite are left out.
            measure: What they are, with the unit.
            lower_is_better: Whether a lower value is better.
        """
        plain = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        self.folder.write(
            {
                "event": "evaluation",
                "tokens": self.tokens,
                "values": plain,
                "measure": measure,
                "lower_is_better": lower_is_better,
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the run is, and what its diagnostics depend on."""
        return {
            "tokens": self.tokens,
            "events": self.folder.events(),
            "steps": self.steps,
            "stage": self._stage,
            "diagnostics": self.diagnostics.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned; what the folder has beyond it is cut off.

        Raises:
            ValueError: If the state is of another model or other levels.
        """
        self.diagnostics.load_state_dict(state["diagnostics"])
        self.tokens, self.steps, self._stage = int(state["tokens"]), int(state["steps"]), state["stage"]
        self.folder.cut(int(state["events"]))
        self.folder.trackers.resume(self.tokens)

    def _advance(self, tokens: int | None) -> None:
        if tokens is not None:
            self.tokens += tokens
        elif self.clock is not None:
            self.tokens = self.clock.tokens
        else:
            self.tokens += self._each or 1


def diagnostic_events(
    tokens: int, values: Mapping[str, Mapping[str, float]], alarms: list[Alarm]
) -> list[dict[str, Any]]:
    """Events for what :meth:`Diagnostics.record` returned."""
    found: list[dict[str, Any]] = []
    if values:
        rounded = {
            level: {n: float(f"{value:.6g}") for n, value in own.items() if math.isfinite(value)}
            for level, own in values.items()
        }
        found.append({"event": "diagnostics", "tokens": tokens, "levels": rounded})
    return found + [{"event": "alarm", **alarm.to_json()} for alarm in alarms]


__all__ = ["Observer", "diagnostic_events", "observe"]
