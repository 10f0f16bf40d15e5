"""What a tracker costs beside a training step of the demo's model.

    OMP_NUM_THREADS=1 python -m benchmarks.trackers [--result results/trackers.json]

The demo's Hope takes a few steps on random tokens, with diagnostics. Then every tracker that is installed
gets the events of these steps again and again, with 10 ms between two steps so that its own thread can work.
Counted is the processor time of the whole process, threads included, until the tracker is closed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from nestlearn.continual.strategies import Comparison
from nestlearn.models.hope import HopeForCausalLM
from nestlearn.observing.backends import BACKENDS
from nestlearn.observing.trackers import Trackers, installed
from nestlearn.optim import Nested
from nestlearn.reporting.files import write_atomically
from nestlearn.streams import TokenizedLanguage
from nestlearn.training import Stage, StreamConfig, StreamTrainer


def trained(comparison: Comparison, steps: int, folder: Path) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of a step, and the events of all steps."""
    strategy = comparison.strategy("nested")
    stream, vocabulary = comparison.stream(strategy), comparison.size.vocab_size
    torch.manual_seed(0)
    tokens = stream.tokens_per_step
    model = HopeForCausalLM(strategy.model_config(comparison.size, vocabulary, tokens))
    optimizer = Nested(strategy.levels(tokens), model, tokens_per_step=tokens)
    long, short = torch.randint(vocabulary, (20 * tokens,)), torch.randint(vocabulary, (2 * tokens,))
    config = StreamConfig(
        (Stage("en", steps),),
        batch_size=stream.batch_size,
        context=stream.context,
        evaluation_windows=1,
        evaluate_every=steps,
    )
    data = {"en": TokenizedLanguage("en", long, short, short)}
    weights = torch.ones(vocabulary)
    run = StreamTrainer(model, optimizer, data, weights, config, run_dir=folder, diagnose=True, track="none")
    run.run()
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return run.cpu_seconds / steps, [json.loads(line) for line in lines]


def cost(name: str, events: list[dict[str, Any]], rounds: int, folder: Path) -> tuple[float, float]:
    """Seconds until a tracker has taken its first number, and processor seconds a step from then on."""
    folder.mkdir(parents=True)
    trackers, started = Trackers(folder, name), time.perf_counter()
    for position in (0, 1):
        trackers.write({"event": "step", "tokens": position, "loss": 1.0})
    start, used, steps = time.perf_counter() - started, time.process_time(), 0
    for _ in range(rounds):
        for event in events:
            if event["event"] == "step":
                time.sleep(0.01)
                steps += 1
            trackers.write({**event, "tokens": steps + 2})
    trackers.close()
    if name not in trackers.names:
        raise RuntimeError(f"{name} failed")
    return start, (time.process_time() - used) / steps


def main(
    steps: Annotated[int, typer.Option(help="Training steps that are timed.", min=1)] = 12,
    rounds: Annotated[int, typer.Option(help="Times that their events are tracked.", min=1)] = 50,
    quick: Annotated[bool, typer.Option("--quick", help="The tiny model of the quick demo.")] = False,
    result: Annotated[Path, typer.Option(help="JSON file for the figures.")] = Path("results/trackers.json"),
) -> None:
    """Time the trackers that are installed."""
    torch.set_num_threads(1)
    comparison = Comparison.quick_demo() if quick else Comparison()
    content: dict[str, Any] = {"torch": torch.__version__, "quick": quick, "trackers": {}}
    with tempfile.TemporaryDirectory() as scratch:
        step, events = trained(comparison, steps, Path(scratch) / "run")
        content["step_milliseconds"] = 1e3 * step
        for name in filter(installed, BACKENDS):
            start, each = cost(name, events, rounds, Path(scratch) / name / "run")
            content["trackers"][name] = {
                "start_seconds": start,
                "step_milliseconds": 1e3 * each,
                "share_of_step": each / step,
            }
            print(
                f"{name}: {start:.2f} s to open, {1e3 * each:.2f} ms a step, {100 * each / step:.2f} % of it"
            )
    write_atomically(result, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
