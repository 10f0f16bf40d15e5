"""The three runs of the language comparison: what is trained, in which levels, at which learning rates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nestlearn.levels import Level
from nestlearn.training import Stage, StreamConfig

if TYPE_CHECKING:
    from nestlearn.models.hope import HopeConfig

#: Periods of the levels of a nested run, in steps of the training loop.
NESTED_STEPS = (1, 4, 16)
#: Tokens between two looks of the fastest level's key memories, in steps; see docs/decisions.md.
REFRESH_STEPS = 4
#: Steps over which those looks are averaged.
HORIZON_STEPS = 128
LEVEL_NAMES = ("fast", "middle", "slow")


@dataclass(frozen=True)
class Size:
    """How large the models of a comparison are.

    Attributes:
        hidden_size: Width of the residual stream.
        num_hidden_layers: Blocks.
        num_heads: Heads of the mixer.
        intermediate_size: Hidden units of Hope's feed-forward blocks together.
        transformer_intermediate_size: The Transformer's, larger to make up for the memories' parameters.
        vocab_size: Entries of the tokenizer.
    """

    hidden_size: int = 192
    num_hidden_layers: int = 3
    num_heads: int = 6
    intermediate_size: int = 512
    transformer_intermediate_size: int = 560
    vocab_size: int = 4096


DEMO_SIZE = Size()
QUICK_SIZE = Size(64, 2, 4, 160, 176, 1024)


@dataclass(frozen=True)
class Strategy:
    """One run of a comparison.

    Attributes:
        name: Key in ``results.json``.
        title: For people.
        mixer: Mixer of the model.
        level_steps: Periods of its levels, in steps. One level of period 1 without consolidation is AdamW.
        consolidate: Whether the levels protect what earlier languages wrote.
        lr: Peak learning rate on the first language.
        later_lr_scale: Factor on it for the later languages.
        strength: Of the key memories over inputs, ``Level.strength``.
        output_strength: Over output gradients.
    """

    name: str
    title: str
    mixer: str = "self_modifying"
    level_steps: tuple[int, ...] = (1,)
    consolidate: bool = False
    lr: float = 8e-3
    later_lr_scale: float = 1.0
    strength: float = 1.0
    output_strength: float = 0.1

    def levels(self, tokens_per_step: int) -> tuple[Level, ...]:
        """The run's levels for a loop that takes ``tokens_per_step`` tokens a step."""
        names = LEVEL_NAMES if len(self.level_steps) > 1 else ("all",)
        return tuple(
            Level(
                name,
                steps * tokens_per_step,
                lr=self.lr,
                consolidate=self.consolidate,
                strength=self.strength,
                output_strength=self.output_strength,
                refresh=max(steps, REFRESH_STEPS) * tokens_per_step,
                horizon=HORIZON_STEPS * tokens_per_step,
            )
            for name, steps in zip(names, self.level_steps, strict=True)
        )

    def model_config(self, size: Size, vocab_size: int, tokens_per_step: int) -> HopeConfig:
        """The run's model."""
        from nestlearn.models.hope import HopeConfig  # noqa: PLC0415  (transformers is imported late)

        attention = self.mixer == "attention"
        steps = (1,) if attention else NESTED_STEPS
        return HopeConfig(
            vocab_size=vocab_size,
            hidden_size=size.hidden_size,
            num_hidden_layers=size.num_hidden_layers,
            num_heads=size.num_heads,
            intermediate_size=size.transformer_intermediate_size if attention else size.intermediate_size,
            mixer=self.mixer,
            memory="matrix",
            objective="dot",
            chunk_size=32,
            rate="gated",
            rest="zero",  # with which the rates and strengths below were chosen
            cms_periods=tuple(s * tokens_per_step for s in steps),
        )


#: Learning rates and strengths were chosen on validation paragraphs of the first two languages by
#: ``recipes/tune_languages.py``; results/tune_languages.json holds the grid.
STRATEGIES = (
    Strategy(
        "nested",
        "Hope with levels",
        level_steps=NESTED_STEPS,
        consolidate=True,
        lr=8e-3,
        later_lr_scale=2.0,
        strength=1.0,
        output_strength=0.1,
    ),
    Strategy("finetune", "Hope, ordinary fine-tuning", lr=8e-3, later_lr_scale=0.125),
    Strategy(
        "transformer", "Transformer, ordinary fine-tuning", mixer="attention", lr=8e-3, later_lr_scale=0.125
    ),
)


@dataclass(frozen=True)
class Comparison:
    """A whole comparison: languages in order, steps, seed and size.

    Attributes:
        languages: In the order of the stream.
        steps: Optimizer steps of each run; the first language gets half, the others share the rest.
        seed: Of the models and of the order of the text.
        size: Of the models.
        strategies: The runs.
        batch_size: Windows per step.
        context: Tokens per window.
        evaluate_every: Steps between evaluations.
        evaluation_windows: Held-out windows per language.
        split: ``"test"`` for reports, ``"validation"`` for tuning.
        sample_tokens: Tokens by which each model continues the prompts after each stage; 0 for none.
        quick: Tiny models, from which nothing can be concluded; the report says so.

    Raises:
        ValueError: If there are fewer steps than languages.
    """

    languages: tuple[str, ...] = ("en", "fr", "de")
    steps: int = 640
    seed: int = 0
    size: Size = DEMO_SIZE
    strategies: tuple[Strategy, ...] = STRATEGIES
    batch_size: int = 8
    context: int = 128
    evaluate_every: int = 20
    evaluation_windows: int = 40
    split: str = "test"
    sample_tokens: int = 48
    quick: bool = False

    def __post_init__(self) -> None:
        if self.steps < 2 * len(self.languages):
            raise ValueError(
                f"{self.steps} steps are too few for {len(self.languages)} languages: give at least "
                f"{2 * len(self.languages)}"
            )

    @classmethod
    def quick_demo(cls, **changes: Any) -> Comparison:
        """The same comparison with tiny models: seconds instead of minutes, nothing to conclude from."""
        base = cls(
            steps=80, size=QUICK_SIZE, evaluate_every=10, evaluation_windows=16, sample_tokens=16, quick=True
        )
        return replace(base, **changes)

    def stages(self, strategy: Strategy) -> tuple[Stage, ...]:
        """Languages with their steps and learning-rate scales."""
        later = len(self.languages) - 1
        first = self.steps if later == 0 else self.steps // 2
        each, rest = divmod(self.steps - first, max(1, later))
        return tuple(
            Stage(language, first, 1.0)
            if i == 0
            else Stage(language, each + (i <= rest), strategy.later_lr_scale)
            for i, language in enumerate(self.languages)
        )

    def stream(self, strategy: Strategy) -> StreamConfig:
        """The training loop's configuration for one run."""
        return StreamConfig(
            stages=self.stages(strategy),
            batch_size=self.batch_size,
            context=self.context,
            seed=self.seed,
            evaluate_every=self.evaluate_every,
            evaluation_windows=self.evaluation_windows,
            warmup=min(20, max(1, self.steps // 16)),
        )

    def strategy(self, name: str) -> Strategy:
        """The run with this name.

        Raises:
            ValueError: If there is none.
        """
        for strategy in self.strategies:
            if strategy.name == name:
                return strategy
        raise ValueError(f"there is no run {name!r}; there are {', '.join(s.name for s in self.strategies)}")
