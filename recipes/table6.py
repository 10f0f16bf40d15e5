"""The ablations of the paper's Table 6 at small scale: bits per byte of English text, three seeds.

Every preset of :data:`nestlearn.models.hope.presets.PRESETS` that belongs to the table, the default preset
and the strong Transformer train on the same English paragraphs with the same updates; the learning rate is
the best of a small grid for each, on validation paragraphs with a seed of its own. "Without CMS" has one
feed-forward block a layer, updated at every step. Writes ``results/table6.json`` after every run; finished
runs are kept.

    python -m recipes.table6 [--seeds 3] [--steps 240] [--workers 2]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import statistics
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from nestlearn.levels import Level
from nestlearn.models.hope import HopeConfig, HopeForCausalLM
from nestlearn.models.hope.presets import PRESETS
from nestlearn.optim import Nested
from nestlearn.reporting.files import write_atomically
from nestlearn.streams import load_or_train_tokenizer, load_parallel_help, token_bytes, tokenize
from nestlearn.training import Stage, StreamConfig, StreamTrainer

RESULT = Path("results/table6.json")
LANGUAGES, VOCABULARY = ("en",), 2048
SHAPE: Mapping[str, Any] = {"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 4, "chunk_size": 16}
BATCH, CONTEXT = 8, 128
TOKENS = BATCH * CONTEXT
#: Periods of the Continuum Memory System, in tokens.
PERIODS = (TOKENS, 4 * TOKENS, 16 * TOKENS)
RATES, TUNING_SEED = (4e-3, 8e-3), 1000
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "Hope, all of Table 6": PRESETS["table6"],
    "without DGD": PRESETS["table6_without_dgd"],
    "without momentum": PRESETS["table6_without_momentum"],
    "without weight decay": PRESETS["table6_without_weight_decay"],
    "without CMS": PRESETS["table6_without_cms"],
    "without inner projection k": PRESETS["table6_without_adaptive_key"],
    "without inner projection v": PRESETS["table6_without_adaptive_value"],
    "without inner projection q": PRESETS["table6_without_adaptive_query"],
    "Hope, default preset": PRESETS["default"],
    "Transformer": {"mixer": "attention", "cms_periods": (1,)},
}


@dataclass(frozen=True)
class Run:
    """One model: everything that decides its result but the code."""

    variant: str
    lr: float
    seed: int
    steps: int
    split: str

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        return json.dumps(asdict(self))

    def config(self, vocabulary: int) -> HopeConfig:
        """Configuration of the model; a period of one stands for every step."""
        fields = {**SHAPE, "cms_periods": PERIODS, **VARIANTS[self.variant]}
        if fields["cms_periods"] == (1,):
            fields["cms_periods"] = (TOKENS,)
        return HopeConfig(vocab_size=vocabulary, **fields)


def execute(run: Run) -> dict[str, Any]:
    """Train one model; bits per byte of held-out paragraphs."""
    torch.set_num_threads(1)
    started = time.process_time()
    corpus = load_parallel_help(LANGUAGES)
    tokenizer = load_or_train_tokenizer(corpus, LANGUAGES, VOCABULARY)
    torch.manual_seed(run.seed)
    config = run.config(tokenizer.get_vocab_size())
    model = HopeForCausalLM(config)
    levels = [Level(f"period {period}", period, lr=run.lr) for period in config.cms_periods]
    stream = StreamConfig(
        stages=(Stage(LANGUAGES[0], run.steps, 1.0),),
        batch_size=BATCH,
        context=CONTEXT,
        seed=run.seed,
        evaluate_every=run.steps,
        evaluation_windows=64,
        warmup=min(20, max(1, run.steps // 8)),
    )
    optimizer = Nested(levels, model, tokens_per_step=stream.tokens_per_step)
    trainer = StreamTrainer(
        model, optimizer, tokenize(corpus, tokenizer), token_bytes(tokenizer), stream, split=run.split
    )
    trainer.run()
    return {
        **asdict(run),
        "bits_per_byte": trainer.matrix[0][0],
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def main(
    seeds: Annotated[int, typer.Option(help="Seeds that are reported.")] = 3,
    steps: Annotated[int, typer.Option(help="Updates of each model.")] = 240,
    workers: Annotated[int, typer.Option(help="Processes of one thread each.")] = 2,
    result: Annotated[Path, typer.Option(help="JSON file; its finished runs are kept.")] = RESULT,
) -> None:
    """Run what is missing and print the table."""
    records: dict[str, dict[str, Any]] = {}
    if result.exists():
        records = {Run(**_fields(r)).key: r for r in json.loads(result.read_text("utf-8"))["runs"]}
    tuning = [Run(v, lr, TUNING_SEED, steps, "validation") for v in VARIANTS for lr in RATES]
    _complete(tuning, records, workers, result)
    best = {
        v: min((r for r in tuning if r.variant == v), key=lambda r: records[r.key]["bits_per_byte"]).lr
        for v in VARIANTS
    }
    reported = [Run(v, best[v], seed, steps, "test") for seed in range(seeds) for v in VARIANTS]
    _complete(reported, records, workers, result)
    table = Table(title=f"Bits per byte of English, {steps} updates of {TOKENS} tokens, {seeds} seeds")
    for column in ("variant", "mean", "lowest", "highest", "learning rate"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for variant in VARIANTS:
        figures = [records[r.key]["bits_per_byte"] for r in reported if r.variant == variant]
        row = (statistics.mean(figures), min(figures), max(figures))
        table.add_row(variant, *(f"{figure:.3f}" for figure in row), f"{best[variant]:g}")
    Console().print(table)


def _complete(runs: Iterable[Run], records: dict[str, dict[str, Any]], workers: int, result: Path) -> None:
    """Do the runs that are missing, writing the file after each."""
    missing = [run for run in runs if run.key not in records]
    context = get_context("spawn")
    with Progress() as bar, ProcessPoolExecutor(workers, mp_context=context) as pool:
        line = bar.add_task("runs", total=len(missing))
        jobs = {pool.submit(execute, run): run for run in missing}
        for job in as_completed(jobs):
            records[jobs[job].key] = job.result()
            content = {"shape": dict(SHAPE), "runs": list(records.values())}
            write_atomically(result, json.dumps(content, indent=1) + "\n")
            bar.advance(line)


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in Run.__dataclass_fields__}


if __name__ == "__main__":
    typer.run(main)
