"""What is searched: levels, their periods, rates and protection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nestlearn.continual.strategies import HORIZON_STEPS, REFRESH_STEPS, STRATEGIES, Size, Strategy
from nestlearn.levels import Level

if TYPE_CHECKING:
    from nestlearn.models.hope import HopeConfig

#: Updates that the slowest level gets at least in the stream's shortest context.
UPDATES = 8
#: Names of levels, fast to slow, by their number.
NAMES = {
    1: ("all",),
    2: ("fast", "slow"),
    3: ("fast", "middle", "slow"),
    4: ("fast", "middle", "slow", "slowest"),
}
_SETTLED = STRATEGIES[0]


def default_periods(stage_steps: int, count: int = 3) -> tuple[int, ...]:
    """Periods geometric in the stream's length, in steps: from every step to one in so many.

    The fastest level follows every step. The slowest gets :data:`UPDATES` updates in the shortest context,
    because a level with fewer learns next to nothing of it. Those between divide the way evenly on a
    logarithmic scale, as a ratio in whole numbers, so that each period is a multiple of the one before.

    Args:
        stage_steps: Steps of the stream's shortest context.
        count: Levels, 1 to 4. A context that is too short for them has fewer.

    Raises:
        ValueError: If there is no step, or another number of levels.
    """
    if isinstance(stage_steps, bool) or not isinstance(stage_steps, int) or stage_steps < 1:
        raise ValueError(f"a context has at least 1 step, got {stage_steps!r}")
    if count not in NAMES:
        raise ValueError(f"count must be 1 to {max(NAMES)} levels, got {count!r}")
    slowest = max(1, stage_steps // UPDATES)
    while count > 1:
        ratio = int(slowest ** (1 / (count - 1)) + 1e-9)
        if ratio >= 2:
            return tuple(ratio**i for i in range(count))
        count -= 1
    return (1,)


def default_levels(
    stage_tokens: int, tokens_per_step: int, count: int = 3, **changes: Any
) -> tuple[Level, ...]:
    """Levels to begin with, for a stream whose shortest context has so many tokens.

    Periods are :func:`default_periods`; rates and strengths are those of ``nestlearn demo``, which were found
    on validation text of two languages (results/tune_languages.json).

    Args:
        stage_tokens: Tokens of the stream's shortest context.
        tokens_per_step: Tokens of one step.
        count: Levels, 1 to 4.
        **changes: Fields of every :class:`~nestlearn.levels.Level` that differ.

    Raises:
        ValueError: If a context is shorter than a step, and as :func:`default_periods`.
    """
    if not 1 <= tokens_per_step <= stage_tokens:
        raise ValueError(
            f"a step of {tokens_per_step!r} tokens must fit into a context of {stage_tokens!r} tokens"
        )
    steps = default_periods(stage_tokens // tokens_per_step, count)
    return Candidate(level_steps=steps).levels(tokens_per_step, **changes)


@dataclass(frozen=True)
class Candidate(Strategy):
    """Settings of one trial; a :class:`~nestlearn.continual.strategies.Strategy` with one to four levels.

    Its defaults are those of the demo's run with levels.
    """

    name: str = "candidate"
    title: str = "Hope with levels"
    level_steps: tuple[int, ...] = _SETTLED.level_steps
    consolidate: bool = True
    lr: float = _SETTLED.lr
    later_lr_scale: float = _SETTLED.later_lr_scale
    strength: float = _SETTLED.strength
    output_strength: float = _SETTLED.output_strength

    def levels(self, tokens_per_step: int, **changes: Any) -> tuple[Level, ...]:
        """The levels, for a loop that takes ``tokens_per_step`` tokens a step."""
        return tuple(
            Level(
                **{
                    "name": name,
                    "period": steps * tokens_per_step,
                    "lr": self.lr,
                    "consolidate": self.consolidate,
                    "strength": self.strength,
                    "output_strength": self.output_strength,
                    "refresh": max(steps, REFRESH_STEPS) * tokens_per_step,
                    "horizon": HORIZON_STEPS * tokens_per_step,
                    **changes,
                }
            )
            for name, steps in zip(NAMES[len(self.level_steps)], self.level_steps, strict=True)
        )

    def model_config(self, size: Size, vocab_size: int, tokens_per_step: int) -> HopeConfig:
        """Hope with one feed-forward block per level."""
        config = super().model_config(size, vocab_size, tokens_per_step)
        return type(config)(
            **{**config.to_dict(), "cms_periods": tuple(s * tokens_per_step for s in self.level_steps)}
        )

    def settings(self) -> dict[str, Any]:
        """What is searched, as JSON values."""
        names = ("level_steps", "consolidate", "lr", "later_lr_scale")
        strengths = ("strength", "output_strength") if self.consolidate else ()
        found = {name: getattr(self, name) for name in (*names, *strengths)}
        return {**found, "level_steps": list(self.level_steps)}


def neighbourhood(start: Candidate) -> tuple[Candidate, ...]:
    """A candidate, and those that differ from it in one respect: where a search begins.

    Rates up and down by half, strengths by three, periods closer and wider, a level fewer and more, and
    without protection.
    """
    steps = start.level_steps
    ratio = steps[1] // steps[0] if len(steps) > 1 else 4
    series = [
        (ratio + 1, len(steps)),
        (ratio - 1, len(steps)),
        (ratio, len(steps) - 1),
        (ratio, len(steps) + 1),
    ]
    changes: list[dict[str, Any]] = [
        {"lr": start.lr * 1.5},
        {"lr": start.lr / 1.5},
        {"later_lr_scale": start.later_lr_scale * 1.5},
        {"later_lr_scale": start.later_lr_scale / 1.5},
        {"strength": start.strength * 3},
        {"strength": start.strength / 3},
        {"output_strength": start.output_strength * 3},
        {"output_strength": start.output_strength / 3},
        *({"level_steps": tuple(r**i for i in range(n))} for r, n in series if r >= 2 and n in NAMES),
        {"consolidate": not start.consolidate},
    ]
    return (start, *(replace(start, **change) for change in changes))


__all__ = ["NAMES", "UPDATES", "Candidate", "default_levels", "default_periods", "neighbourhood"]
