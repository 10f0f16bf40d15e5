"""One run of a comparison, in a process of its own."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from nestlearn.continual.strategies import Comparison, Strategy
from nestlearn.observing import Track
from nestlearn.optim import Nested
from nestlearn.streams import load_or_train_tokenizer, load_parallel_help, token_bytes, tokenize
from nestlearn.training import StreamTrainer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from nestlearn.models.hope import HopeForCausalLM

#: Held-out paragraphs whose beginnings the models continue.
_PROMPTS = 2
_PROMPT_TOKENS = 12


class Setup(NamedTuple):
    """A run before its first step.

    Attributes:
        trainer: The training loop with model, optimizer and data.
        model: The model.
        tokenizer: Of the corpus.
        prompts: Token ids that the model continues after each stage.
    """

    trainer: StreamTrainer
    model: HopeForCausalLM
    tokenizer: Tokenizer
    prompts: list[list[int]]


def prepare(
    comparison: Comparison,
    strategy: Strategy,
    run_dir: Path | None = None,
    *,
    data_dir: Path | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    track: Track = "auto",
) -> Setup:
    """Build model, optimizer and data of one run.

    Args:
        comparison: What is compared.
        strategy: Which run.
        run_dir: Folder for its metrics and checkpoint; None keeps them in memory.
        data_dir: Folder with the corpus, see :func:`nestlearn.streams.load_parallel_help`.
        on_event: Called with every step and evaluation.
        track: Where metrics go besides the folder, see :func:`nestlearn.observe`.

    Raises:
        DataError: If the corpus cannot be had.
    """
    from nestlearn.models.hope import HopeForCausalLM  # noqa: PLC0415  (transformers is imported late)

    corpus = load_parallel_help(comparison.languages, data_dir=data_dir)
    tokenizer = load_or_train_tokenizer(corpus, comparison.languages, comparison.size.vocab_size)
    stream = comparison.stream(strategy)
    torch.manual_seed(comparison.seed)
    model = HopeForCausalLM(
        strategy.model_config(comparison.size, tokenizer.get_vocab_size(), stream.tokens_per_step)
    )
    optimizer = Nested(strategy.levels(stream.tokens_per_step), model, tokens_per_step=stream.tokens_per_step)
    trainer = StreamTrainer(
        model,
        optimizer,
        tokenize(corpus, tokenizer),
        token_bytes(tokenizer),
        stream,
        run_dir=run_dir,
        split=comparison.split,
        on_event=on_event,
        diagnose=run_dir is not None,
        track=track,
        identity={"run": asdict(strategy), "size": asdict(comparison.size), "corpus": corpus.checksum},
    )
    paragraphs = corpus.paragraphs[comparison.languages[0]][comparison.split]
    return Setup(trainer, model, tokenizer, _prompts(paragraphs, tokenizer))


def execute(
    comparison: Comparison,
    name: str,
    run_dir: Path,
    *,
    data_dir: Path | None = None,
    stop: threading.Event | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    track: Track = "auto",
) -> dict[str, Any]:
    """Train one run to its end, from its checkpoint if there is one.

    Args:
        comparison: What is compared.
        name: Which run.
        run_dir: Folder for its metrics and checkpoint.
        data_dir: Folder with the corpus.
        stop: When set, save and raise :class:`nestlearn.training.Interrupted`.
        on_event: Called with every step and evaluation.
        track: Where metrics go besides the folder, see :func:`nestlearn.observe`.

    Returns:
        The run's entry in ``results.json``.

    Raises:
        DataError: If the corpus cannot be had.
        CheckpointError: If the folder's checkpoint is damaged or belongs to other settings.
        NonFiniteGradientError: If training diverges.
    """
    strategy = comparison.strategy(name)
    setup = prepare(comparison, strategy, run_dir, data_dir=data_dir, on_event=on_event, track=track)
    setup.trainer.resume()
    setup.trainer.run(stop=stop, after_stage=lambda stage: _sample(setup, comparison, stage))
    return _entry(setup, strategy)


def _prompts(paragraphs: Any, tokenizer: Any) -> list[list[int]]:
    """Beginnings of the first held-out paragraphs that are long enough to have one."""
    encoded = (tokenizer.encode(text).ids for text in paragraphs)
    long = (ids[:_PROMPT_TOKENS] for ids in encoded if len(ids) > 2 * _PROMPT_TOKENS)
    return [ids for ids, _ in zip(long, range(_PROMPTS), strict=False)]


def _sample(setup: Setup, comparison: Comparison, stage: int) -> None:
    """Continue each prompt; the training's random numbers are left as they were."""
    if not comparison.sample_tokens:
        return
    trainer, model, tokenizer, prompts = setup
    samples = trainer.notes.setdefault("samples", [])
    model.eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(comparison.seed)
        for ids in prompts:
            out = model.generate(
                torch.tensor([ids], device=model.device),
                max_new_tokens=comparison.sample_tokens,
                do_sample=True,
                temperature=0.7,
                top_k=20,
                pad_token_id=0,
            )
            samples.append(
                {
                    "stage": stage,
                    "language": comparison.languages[0],
                    "prompt": tokenizer.decode(ids),
                    "text": tokenizer.decode(out[0, len(ids) :].tolist()),
                }
            )


def _entry(setup: Setup, strategy: Strategy) -> dict[str, Any]:
    """The run as ``results.json`` shows it."""
    trainer, model = setup.trainer, setup.model
    levels = [
        {
            "name": level.name,
            "period": level.period,
            "lr": level.lr,
            "consolidate": level.consolidate,
            "params": sum(p.numel() for p in group["params"]),
        }
        for level, group in zip(trainer.optimizer.levels, trainer.optimizer.param_groups, strict=True)
    ]
    return {
        "title": strategy.title,
        "matrix": trainer.matrix,
        "curve": trainer.curve,
        "params": sum(p.numel() for p in model.parameters()),
        "tokens": trainer.tokens,
        "seconds": trainer.seconds,
        "tokens_per_cpu_second": trainer.tokens / trainer.cpu_seconds,
        "peak_memory_mb": _peak_memory_mb(),
        "config": model.config.to_diff_dict(),
        "training": {**trainer.config.to_dict(), **asdict(strategy)},
        "levels": levels if strategy.consolidate else [],
        "updates": trainer.updates if strategy.consolidate else {},
        "commits": list(trainer.optimizer.surprises),
        "samples": trainer.notes.get("samples", []),
    }


def _peak_memory_mb() -> float:
    """Largest resident size of this process; the unit of ``ru_maxrss`` is bytes on macOS, else KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
