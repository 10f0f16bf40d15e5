"""SmolLM2-135M-Instruct learns legal English, then French help pages: what does it still know?

Writes ``results/smollm2.json`` and ``docs/smollm2.md``. One run takes about half an hour on two cores; one
that was interrupted goes on from its checkpoint in ``--work``.

    python -m recipes.smollm2                                # levels
    python -m recipes.smollm2 --method finetune --lr 1e-5    # one to compare with
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from nestlearn.cli.teach import method_of
from nestlearn.continual.learner import Learner
from nestlearn.continual.methods import DEFAULT_LEVELS, Levels
from nestlearn.models.pretrained import load_pretrained
from nestlearn.reporting.files import write_atomically
from nestlearn.training import Interrupted
from recipes._store import Store
from recipes.smollm.evaluation import CONTEXT, NEW, OLD, evaluate, held, tokens
from recipes.smollm.report import report

RESULT, PAGE, WORK = Path("results/smollm2.json"), Path("docs/smollm2.md"), Path("out/smollm2")
HEAD = "# SmolLM2 learns legal English and French\n\nMade by `python -m recipes.smollm2`.\n\n"
BATCH, CALIBRATION = 2, 8192  # windows of a step; tokens of old text that a method may look at


class Run:
    """One method with its settings.

    Args:
        method: See ``nestlearn learn --method``.
        lr: Learning rate; None for the method's own.
        amount: Tokens of each new domain.
    """

    def __init__(self, method: str, lr: float | None, amount: int) -> None:
        self.method, self.lr, self.amount = method, lr, amount

    @property
    def name(self) -> str:
        """For people."""
        return self.method if self.lr is None else f"{self.method}, rate {self.lr:g}"

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        own = method_of(self.method, self.lr)
        settings = repr(own.levels or DEFAULT_LEVELS) if isinstance(own, Levels) else repr(own.settings)
        return json.dumps([self.method, self.lr, self.amount, BATCH, CONTEXT, CALIBRATION, settings])


def main(
    method: Annotated[str, typer.Option(help="As for nestlearn learn.")] = "levels",
    lr: Annotated[float | None, typer.Option(help="Learning rate. [default: the method's]")] = None,
    amount: Annotated[int, typer.Option(help="Tokens of each new domain.", min=1024)] = 32768,
    threads: Annotated[int, typer.Option(help="Of this process.", min=1)] = 2,
    split: Annotated[str, typer.Option(help="test, or validation for choices.")] = "test",
    work: Annotated[Path, typer.Option(help="Folder of the checkpoint.")] = WORK,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
    page: Annotated[Path, typer.Option(help="Where the report goes.")] = PAGE,
) -> None:
    """Teach SmolLM2 two domains by one method."""
    torch.set_num_threads(threads)
    console = Console(stderr=True)
    try:
        run, results = Run(method, lr, amount), Store(result)
        if run not in results:
            results.add(run, {"name": run.name, "split": split, **_teach(run, split, work, console)})
    except ValueError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        raise typer.Exit(130) from None
    write_atomically(page, HEAD + report(results.records) + "\n")
    console.print(f"{page} and {result} are written", highlight=False)


def _teach(run: Run, split: str, work: Path, console: Console) -> dict[str, Any]:
    """Evaluate, learn the first domain, evaluate, learn the second, evaluate."""
    base, tokenizer = load_pretrained("smollm2")
    own = held(tokenizer, split)
    old = [tokens(tokenizer, name, "train", CALIBRATION // len(OLD)) for name in OLD]
    learner = Learner(
        base,
        tokenizer,
        method=method_of(run.method, run.lr),
        old=old,
        context=CONTEXT,
        batch_size=BATCH,
        calibration_tokens=CALIBRATION,
    )
    stages: dict[str, Any] = {}
    started = time.perf_counter()

    def note(stage: str) -> None:
        minutes = (time.perf_counter() - started) / 60
        stages[stage] = {**evaluate(learner, own), "minutes": minutes}
        bits = ", ".join(f"{name} {value:.3f}" for name, value in stages[stage]["bits"].items())
        console.print(f"{stage}: {bits}; {stages[stage]['right']} of 20 answers", highlight=False)

    note("before")
    for name in NEW:
        stream = tokens(tokenizer, name, "train", run.amount + 1)
        file = work / f"{run.method}-{run.lr}-{run.amount}-{name}.safetensors"
        learner.learn(stream, checkpoint=file, checkpoint_every=100)
        note(name)
    changes = [{"name": c.name, "updates": c.updates, "relative": c.relative} for c in learner.diff()]
    return {"stages": stages, "changes": changes}


if __name__ == "__main__":
    typer.run(main)
