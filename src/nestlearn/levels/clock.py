"""The clock: tokens in, due levels out."""

from __future__ import annotations

from collections.abc import Iterable

from nestlearn.levels.level import Level


def crosses(before: int, after: int, period: int) -> bool:
    """Whether a multiple of ``period`` lies in ``(before, after]``."""
    return after // period > before // period


class Clock:
    """Counts the tokens of a stream and says which levels are due.

    A level is due when the stream crosses a multiple of its period, however the tokens are cut into steps:
    once per step at most, even if a step is longer than the period.

    Args:
        levels: Levels with unique names, in any order.

    Attributes:
        tokens: Tokens seen so far.

    Raises:
        ValueError: If there is no level or two share a name.
    """

    def __init__(self, levels: Iterable[Level]) -> None:
        self.levels = tuple(sorted(levels, key=lambda level: level.period))
        names = [level.name for level in self.levels]
        if not names:
            raise ValueError("a clock needs at least one level")
        if len(set(names)) < len(names):
            raise ValueError(f"levels need unique names, got {', '.join(names)}")
        self.tokens = 0

    def due(self, tokens: int) -> tuple[Level, ...]:
        """Levels that ``tokens`` more tokens would make due, fast to slow, without advancing.

        Raises:
            ValueError: If ``tokens`` is not a positive whole number.
        """
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise ValueError(f"tokens must be a whole number, at least 1, got {tokens!r}")
        return tuple(
            level for level in self.levels if crosses(self.tokens, self.tokens + tokens, level.period)
        )

    def advance(self, tokens: int) -> tuple[Level, ...]:
        """Count ``tokens`` and return the levels whose boundary was crossed, fast to slow.

        Raises:
            ValueError: If ``tokens`` is not a positive whole number.
        """
        due = self.due(tokens)
        self.tokens += tokens
        return due

    def state_dict(self) -> dict[str, int]:
        """The position in the stream."""
        return {"tokens": self.tokens}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Return to a position in the stream.

        Raises:
            ValueError: If the state holds no token count.
        """
        tokens = state.get("tokens")
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
            raise ValueError(f"a clock's state is {{'tokens': n}}, got {state}")
        self.tokens = tokens
