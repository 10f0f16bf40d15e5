"""On what a search is judged: stream, model, budget."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from nestlearn.continual.strategies import Comparison, Size
from nestlearn.tuning.candidate import Candidate, default_periods

#: Smaller than the demo's models, so that a trial takes less than a minute.
TUNING_SIZE = Size(96, 2, 4, 256, 280, 2048)
QUICK_SIZE = Size(32, 1, 2, 64, 72, 512)


@dataclass(frozen=True)
class TuningPlan:
    """A search: what every trial learns, and what all may cost.

    A trial learns two languages one after the other, half of the steps each, and is judged on validation
    text of both. Nothing of later languages and no test text is seen.

    Attributes:
        languages: The two languages.
        budget: Tokens of all trials together, those of pruned ones included.
        steps: Steps of one trial.
        size: Of its model.
        batch_size: Windows per step.
        context: Tokens per window.
        evaluations: How often a trial is judged on the way, and may be pruned.
        evaluation_windows: Validation windows per language.
        seed: Of models, order of the text, and the search.

    Raises:
        ValueError: If there are not two languages, the seed is out of range, or the budget does not pay for
            the defaults.
    """

    languages: tuple[str, ...] = ("en", "fr")
    budget: int = 8_000_000
    steps: int = 320
    size: Size = field(default=TUNING_SIZE)
    batch_size: int = 8
    context: int = 128
    evaluations: int = 8
    evaluation_windows: int = 32
    seed: int = 100

    def __post_init__(self) -> None:
        if len(self.languages) != 2 or len(set(self.languages)) != 2:
            raise ValueError(
                f"a search needs two different languages, got {', '.join(self.languages) or 'none'}"
            )
        if self.steps < 2 * self.evaluations:
            raise ValueError(f"{self.steps} steps are too few for {self.evaluations} evaluations")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be zero or more and below 2**31, got {self.seed}")
        if self.budget < self.trial_tokens:
            raise ValueError(
                f"a budget of {self.budget:,} tokens does not pay for one trial of {self.trial_tokens:,}: "
                "give more with --budget"
            )

    @classmethod
    def quick(cls, **changes: Any) -> TuningPlan:
        """A search of a minute with tiny models, from which nothing can be concluded."""
        small = {"steps": 48, "size": QUICK_SIZE, "budget": 300_000, "context": 64, "evaluations": 4}
        return cls(**{**small, "evaluation_windows": 8, **changes})

    @property
    def tokens_per_step(self) -> int:
        """Tokens of the stream in one step."""
        return self.batch_size * self.context

    @property
    def trial_tokens(self) -> int:
        """Tokens of a trial that is not pruned."""
        return self.steps * self.tokens_per_step

    @property
    def comparison(self) -> Comparison:
        """What a trial's run is made from."""
        return Comparison(
            languages=self.languages,
            steps=self.steps,
            seed=self.seed,
            size=self.size,
            batch_size=self.batch_size,
            context=self.context,
            evaluate_every=self.steps // self.evaluations,
            evaluation_windows=self.evaluation_windows,
            split="validation",
            sample_tokens=0,
        )

    @property
    def defaults(self) -> Candidate:
        """The first trial."""
        return Candidate(level_steps=default_periods(self.steps // 2))

    def identity(self) -> dict[str, Any]:
        """What has to be the same for a search to go on; the budget may grow."""
        return {key: value for key, value in asdict(self).items() if key != "budget"}


__all__ = ["QUICK_SIZE", "TUNING_SIZE", "TuningPlan"]
