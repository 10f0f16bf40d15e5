"""What learning in levels costs beside ordinary fine-tuning of the same parameters, and a memory file.

    python -m benchmarks.learner [--model smollm2] [--result results/learner_cost.json]

Without a model's name: random weights in SmolLM2-135M's shape. The methods take turns step by step on the
same batches, so that a change of the machine's speed meets all of them. Ratios are medians over rounds of as
many steps as lie between two looks of the key memories, as looks and the slow level's update are part of the
price. One thread, CPU time.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from nestlearn.continual.learner import Learner
from nestlearn.continual.methods import DEFAULT_LEVELS, DEFAULT_REST, BlockTuning, FineTuning, Levels, Method
from nestlearn.reporting.files import write_atomically

#: SmolLM2-135M's shape.
SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
}


def model_of(name: str | None, layers: int | None) -> Any:
    """The model that learns."""
    if name is not None:
        from nestlearn.models.pretrained import load_pretrained  # noqa: PLC0415

        return load_pretrained(name)[0]
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    torch.manual_seed(0)
    shape = {**SHAPE, **({} if layers is None else {"num_hidden_layers": layers})}
    return LlamaForCausalLM(LlamaConfig(**shape)).eval()


def methods() -> dict[str, tuple[str, Method]]:
    """Who takes turns, and whose parameters are the same."""
    plain = {"consolidate": False, "eigenbasis": False, "optimizer": "adamw", "lr": 1e-5}
    unprotected = [replace(level, **plain) for level in DEFAULT_LEVELS]  # type: ignore[arg-type]
    return {
        "blocks, AdamW": ("blocks, AdamW", BlockTuning(1e-5)),
        "levels of the blocks, AdamW, nothing protected": ("blocks, AdamW", Levels(unprotected)),
        "levels of the blocks": ("blocks, AdamW", Levels(DEFAULT_LEVELS)),
        "everything, AdamW": ("everything, AdamW", FineTuning(1e-5)),
        "levels": ("everything, AdamW", Levels(DEFAULT_LEVELS, rest=DEFAULT_REST)),
    }


def state_bytes(method: Any) -> int:
    """Bytes that a method keeps beside the base: own weights, optimizer, sums of gradients, key memories."""
    seen: dict[int, int] = {}

    def walk(tree: Any) -> None:
        if isinstance(tree, Tensor):
            seen[tree.untyped_storage().data_ptr()] = tree.untyped_storage().nbytes()
        elif isinstance(tree, dict):
            for value in tree.values():
                walk(value)
        elif isinstance(tree, list | tuple):
            for value in tree:
                walk(value)

    walk(method.state_dict())
    for memory in getattr(getattr(method, "optimizer", None), "memories", {}).values():
        walk([[site.factors, site.bases] for site in memory.sites])
    walk([parameter.detach() for parameter in method.model.parameters() if parameter.requires_grad])
    return sum(seen.values())


def rounds_of(
    made: dict[str, Method], batches: Iterator[Tensor], rounds: int, steps: int
) -> dict[str, list[float]]:
    """CPU seconds of every round, by method."""
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for turn in track(range(rounds + 1), description="rounds"):
        spent = dict.fromkeys(made, 0.0)
        for _ in range(steps):
            batch = next(batches)
            for name, method in made.items():
                started = time.process_time()
                method.step(batch)
                spent[name] += time.process_time() - started
        for name in made:
            if turn:  # the first round warms up
                seconds[name].append(spent[name] / steps)
    return seconds


def measure(base: Any, batch: int, context: int, rounds: int) -> dict[str, Any]:
    """Step times, bytes, and the memory file."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    vocabulary = base.config.vocab_size

    def draw() -> Iterator[Tensor]:
        while True:
            yield torch.randint(vocabulary, (batch, context + 1), generator=generator)

    chosen, batches = methods(), draw()
    made = {name: method for name, (_, method) in chosen.items()}
    for method in made.values():
        method.attach(base)
        if method.wants_old:
            method.calibrate([next(batches)[:, :-1]])
    steps = max(1, max(level.refresh or level.period for level in DEFAULT_LEVELS) // (batch * context))
    seconds = rounds_of(made, batches, rounds, steps)
    rows = {
        name: {
            "seconds_a_step": statistics.median(own),
            "over": chosen[name][0],
            "ratio": statistics.median(a / b for a, b in zip(own, seconds[chosen[name][0]], strict=True)),
            "tokens_per_second": batch * context / statistics.median(own),
            "bytes_beside_the_base": state_bytes(made[name]),
        }
        for name, own in seconds.items()
    }
    return {"methods": rows, "file": _file(base, made["levels"])}


def _file(base: Any, method: Method) -> dict[str, float]:
    """Bytes of a memory file over those of the parameters that changed, and the seconds to load it."""
    learner = object.__new__(Learner)  # with what the method has learned; a tokenizer is not needed to save
    learner.method, learner.model, learner._base = method, method.model, base
    learner.context, learner.batch_size, learner.seed, learner._identity = 16, 1, 0, None
    changed = sum(change.parameters for change in method.changes()) * next(base.parameters()).element_size()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.safetensors"
        learner.save(path)
        started = time.perf_counter()
        Learner.load(base, path, tokenizer=object())
        seconds = time.perf_counter() - started
        return {"bytes": path.stat().st_size, "over_changed": path.stat().st_size / changed, "load": seconds}


def show(content: dict[str, Any]) -> None:
    """The tables in the terminal."""
    table = Table(title=f"One step of {content['batch']} x {content['context']} tokens, one thread")
    for column in ("method", "CPU s", "over AdamW on the same", "tokens per s", "MB beside the base"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, row in content["methods"].items():
        table.add_row(
            name,
            f"{row['seconds_a_step']:.2f}",
            f"{row['ratio']:.3f}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['bytes_beside_the_base'] / 1e6:.0f}",
        )
    Console().print(table)
    file = content["file"]
    print(
        f"memory file: {file['bytes'] / 1e6:.0f} MB, {file['over_changed']:.3f} of the changed parameters; "
        f"loaded in {file['load']:.2f} s"
    )


def main(
    model: Annotated[str | None, typer.Option(help="A path, a name on the hub, or smollm2.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Layers, instead of 30.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Windows of a step.")] = 4,
    context: Annotated[int, typer.Option(min=2, help="Tokens of a window.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds.")] = 3,
    result: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Measure the cost of learning in levels."""
    base = model_of(model, layers)
    content = {
        "model": model or "random weights",
        "layers": base.config.num_hidden_layers,
        "batch": batch,
        "context": context,
        "rounds": rounds,
        "torch": torch.__version__,
        **measure(base, batch, context, rounds),
    }
    if result is not None:
        write_atomically(result, json.dumps(content, indent=1) + "\n")
    show(content)


if __name__ == "__main__":
    typer.run(main)
