"""One optimizer per level, one ``step()`` (Eq. 71)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nestlearn.levels import Clock, Group, Level, Surprise, crosses
from nestlearn.optim.description import groups_of_levels
from nestlearn.optim.division import Assignment, Maker, divide, level_optimizer, refuse_basis
from nestlearn.optim.flow import NonFiniteGradientError
from nestlearn.optim.key_memories import KeyMemories
from nestlearn.optim.sites import typical_sensitivity
from nestlearn.optim.state import Gradients, check_state, on_devices_of, weighted_sum


class Nested(Optimizer):
    """Every level accumulates gradients over its period and is updated only when its clock is due.

    Between its boundaries a level's parameters do not change by a bit. The gradient of an update is the
    mean over the tokens of the period (Eq. 71 with a mean in place of the sum, SPEC 6.14). A level with
    ``consolidate=True`` filters its updates through :class:`KeyMemories`.

    ``step`` takes what the backward pass left in ``.grad`` and empties it, so the usual loop is right as it
    is::

        loss = model(x, labels=x).loss
        loss.backward()
        optimizer.step(tokens=x.numel(), surprise=loss)
        optimizer.zero_grad()

    Args:
        levels: The levels, in any order.
        model: The model; its trainable parameters are divided among the levels.
        assign: Maps a parameter's name and the parameter to a level's name. By default the model's own
            ``assign_level(name, levels)`` is asked; with one level everything belongs to it.
        variant: ``"nested"``: whenever a level is updated, all parameters of every faster level start anew
            from their initial state, and that moves towards what the faster level had learned (Eq. 72, with
            a first-order meta-gradient). ``"sequential"`` and ``"independent"`` never start anew. By default
            the model's ``config.cms_variant``.
        reset_rate: Share of the way that an initial state moves, in (0, 1]; for ``variant="nested"``.
        tokens_per_step: Default of ``step(tokens=...)``.
        optimizers: By level's name, what makes its optimizer in place of ``Level.optimizer``, for example
            ``{"slow": lambda named, level: nl.optim.M3(named, lr=level.lr)}``.

    Attributes:
        clock: Position in the stream.
        surprises: Stream positions at which the key memories took in the finished context.

    Raises:
        ValueError: For unknown levels, a level without parameters, or values outside their range.
    """

    def __init__(
        self,
        levels: Iterable[Level],
        model: nn.Module,
        *,
        assign: Assignment | None = None,
        variant: str | None = None,
        reset_rate: float = 0.5,
        tokens_per_step: int | None = None,
        optimizers: Mapping[str, Maker] | None = None,
    ) -> None:
        self.clock = Clock(levels)
        self.levels = self.clock.levels
        if variant is None:
            variant = getattr(getattr(model, "config", None), "cms_variant", "sequential")
        if variant not in ("sequential", "independent", "nested"):
            raise ValueError(f"variant must be sequential, independent or nested, got {variant!r}")
        if not 0.0 < reset_rate <= 1.0:
            raise ValueError(f"reset_rate must be in (0, 1], got {reset_rate}")
        if tokens_per_step is not None:
            self.clock.due(tokens_per_step)  # raises for what is not a number of tokens
        self.variant, self.reset_rate, self.tokens_per_step = variant, reset_rate, tokens_per_step
        named = divide(self.levels, model, assign)
        makers = dict(optimizers or {})
        if unknown := set(makers) - set(named):
            raise ValueError(f"optimizers for unknown levels {sorted(unknown)}; there are {sorted(named)}")
        self._inner = {
            level.name: level_optimizer(level, named[level.name], makers.get(level.name))
            for level in self.levels
        }
        for level in self.levels:
            if level.eigenbasis:
                refuse_basis(self._inner[level.name])
        groups = [inner.param_groups[0] for inner in self._inner.values()]
        super().__init__([{**group} for group in groups], {})
        self._link()
        self.memories = {
            level.name: KeyMemories(model, [p for _, p in named[level.name]], level)
            for level in self.levels
            if level.consolidate
        }
        self._surprise = Surprise()
        self.surprises: list[int] = []
        self._pending: dict[str, tuple[int, Gradients]] = {}
        self._initial = (
            {level.name: [p.detach().clone() for p in self._parameters(level)] for level in self.levels[:-1]}
            if variant == "nested"
            else {}
        )

    def _link(self) -> None:
        """Share the group dictionaries: schedulers that set ``lr`` here then reach the inner optimizers."""
        self.param_groups = [inner.param_groups[0] for inner in self._inner.values()]

    def _parameters(self, level: Level) -> list[nn.Parameter]:
        return self._inner[level.name].param_groups[0]["params"]  # type: ignore[no-any-return]

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Tensor] | None = None,
        *,
        tokens: int | None = None,
        surprise: Tensor | float | None = None,
    ) -> Tensor | None:
        """Take in the gradients of ``tokens`` tokens and update the levels that they make due.

        Args:
            closure: Recomputes the loss and its gradients, as in torch; its loss is the surprise by default.
            tokens: Tokens of the stream that the gradients come from.
            surprise: The loss on them; needed if a level consolidates, to notice a change of context.

        Returns:
            The closure's loss, or None.

        Raises:
            ValueError: If the token count or a needed surprise is missing.
            NonFiniteGradientError: If a gradient or the surprise is not finite. Nothing has changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            surprise = loss if surprise is None else surprise
        tokens = self.tokens_per_step if tokens is None else tokens
        if tokens is None:
            raise ValueError("step needs tokens=, or set tokens_per_step when the optimizer is made")
        due = self.clock.due(tokens)
        self._begin_step()
        self._refuse_non_finite(surprise)
        before = self.clock.tokens
        self._take_in_context(surprise, before, before + tokens)
        for level in self.levels:
            gradients = self._gather(level, tokens, due=level in due)
            if gradients is not None:
                self._update(level, gradients)
        if self.variant == "nested":
            self._reset_faster(due)
        self._end_step(due)
        self.clock.advance(tokens)
        return loss

    def nested_groups(self) -> tuple[Group, ...]:
        """Every level with its memories over gradients, for :func:`nestlearn.inspect`."""
        return groups_of_levels(self)

    def _begin_step(self) -> None:
        """Called before gradients are looked at; for parameters that are copies of others."""

    def _end_step(self, due: tuple[Level, ...]) -> None:
        """Called after the parameters of these levels (and, if nested, of the faster ones) have changed."""

    def commit(self) -> None:
        """Declare the current context finished: key memories keep it from the next update on.

        For streams whose switches are known; ``step`` does it by itself when it is surprised.
        """
        common = typical_sensitivity(site for memory in self.memories.values() for site in memory.sites)
        kept = [name for name, memory in self.memories.items() if memory.commit(common)]
        for name in kept:
            if self.memories[name].level.eigenbasis:
                self._inner[name].state.clear()  # it is in the basis of before
        if kept:
            self.surprises.append(self.clock.tokens)

    def close(self) -> None:
        """Take the key memories' hooks off the model, when another optimizer is to train it."""
        for memory in self.memories.values():
            memory.detach()

    def _refuse_non_finite(self, surprise: Tensor | float | None) -> None:
        """One synchronisation for all gradients and the surprise, before anything is written."""
        if self.memories and surprise is None:
            raise ValueError(
                "a consolidating level needs step(surprise=loss): it notices a change of context by the loss"
            )
        gradients = [p.grad for level in self.levels for p in self._parameters(level) if p.grad is not None]
        norms = [norm.float() for norm in torch._foreach_norm(gradients)] if gradients else []
        if surprise is not None:
            norms.append(torch.as_tensor(surprise).detach().float().to(norms[0].device if norms else None))
        if norms and not bool(torch.isfinite(torch.stack(norms)).all()):
            for memory in self.memories.values():
                memory.forget_pass()
            raise NonFiniteGradientError(
                f"a gradient or the loss is NaN or infinite at {self.clock.tokens} tokens; no parameter, "
                "memory or clock has changed: zero_grad() and go on with the next batch, or lower the "
                "learning rate"
            )

    def _take_in_context(self, surprise: Tensor | float | None, before: int, after: int) -> None:
        """Let key memories commit the finished context, and refresh those that looked at this pass."""
        if not self.memories:
            return
        assert surprise is not None
        if self._surprise(float(surprise)):
            self.commit()
        for level in self.levels:
            if level.name in self.memories:
                memory = self.memories[level.name]
                memory.refresh()
                memory.recording = crosses(before, after, level.refresh or level.period)

    def _gather(self, level: Level, tokens: int, *, due: bool) -> Gradients | None:
        """Move ``.grad`` into the level's sum; the mean gradient if the level is due.

        A parameter that no loss reached has None, as in torch, and is then left alone.
        """
        parameters = self._parameters(level)
        fresh: Gradients = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        count, total = self._pending.pop(level.name, (0, []))
        if due and not total:
            return fresh
        total = total or [None] * len(fresh)
        summed = [weighted_sum(old, new, tokens) for old, new in zip(total, fresh, strict=True)]
        count += tokens
        if not due:
            self._pending[level.name] = (count, summed)
            return None
        return [None if value is None else value.div_(count) for value in summed]

    def _update(self, level: Level, gradients: Gradients) -> None:
        """One update of a due level, filtered by its key memories if it has some."""
        inner, parameters = self._inner[level.name], self._parameters(level)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if level.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(parameters, level.max_grad_norm)
        memory = self.memories.get(level.name)
        if memory is not None and memory.committed:
            memory.filtered(inner.step)
        else:
            inner.step()
        for parameter in parameters:
            parameter.grad = None

    def _reset_faster(self, due: tuple[Level, ...]) -> None:
        """Eq. 72: below the slowest level that was just updated, start anew from moved initial states."""
        if not due:
            return
        slowest = self.levels.index(due[-1])
        for level in self.levels[:slowest]:
            start = self._initial[level.name]
            torch._foreach_lerp_(start, [p.detach() for p in self._parameters(level)], self.reset_rate)
            for parameter, value in zip(self._parameters(level), start, strict=True):
                parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors, numbers and strings only."""
        return {
            "clock": self.clock.state_dict(),
            "surprise": self._surprise.state_dict(),
            "surprises": list(self.surprises),
            "levels": {name: inner.state_dict() for name, inner in self._inner.items()},
            "pending": {
                name: {"tokens": count, "gradients": list(total)}
                for name, (count, total) in self._pending.items()
            },
            "memories": {name: memory.state_dict() for name, memory in self.memories.items()},
            "initial": {name: list(values) for name, values in self._initial.items()},
        }

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Levels are fixed when the optimizer is made.

        Raises:
            ValueError: After construction, always.
        """
        if hasattr(self, "memories"):
            raise ValueError("a group belongs to no level and would never be updated: make a new Nested")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; training then goes on bit for bit.

        Raises:
            ValueError: If the state has other levels than this optimizer.
        """
        check_state(state_dict, self._inner, self.memories, self._initial)
        self.clock.load_state_dict(state_dict["clock"])
        self._surprise.load_state_dict(state_dict["surprise"])
        self.surprises = [int(tokens) for tokens in state_dict["surprises"]]
        for name, inner in self._inner.items():
            inner.load_state_dict(state_dict["levels"][name])
        self._link()
        self._pending = {
            name: (
                int(entry["tokens"]),
                on_devices_of(entry["gradients"], self._inner[name].param_groups[0]["params"]),
            )
            for name, entry in state_dict["pending"].items()
        }
        for name, memory in self.memories.items():
            memory.load_state_dict(state_dict["memories"][name])
        for name, values in state_dict["initial"].items():
            parameters = self._inner[name].param_groups[0]["params"]
            self._initial[name] = [v for v in on_devices_of(values, parameters) if v is not None]
