"""Our tasks in lm-eval, beside the model's own score: are the likelihoods the same, and does reading on help?

A small Hope learns English help pages (a minute or two). lm-eval then asks it questions about the messages of
a bank's customers and the likelihood of help pages: through our model, through its own model for Hugging Face
models, and through ours with a memory that goes on. Every likelihood is compared with that of
:func:`nestlearn.models.scoring.log_likelihoods`, one request at a time. Writes ``results/evaluate.json``.

    python -m recipes.evaluate                              # five minutes of one core
    python -m recipes.evaluate --model smollm2 --limit 5    # any other model; nothing is trained
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track

from nestlearn.evaluation.documents import TASKS
from nestlearn.models.hope import HopeConfig, HopeForCausalLM
from nestlearn.models.pretrained import load_pretrained
from nestlearn.models.scoring import Likelihood, is_hope, log_likelihoods
from nestlearn.reporting.files import write_atomically
from nestlearn.streams import END, BatchSampler, load_or_train_tokenizer, load_parallel_help, tokenize

RESULT = Path("results/evaluate.json")
QUESTIONS, READING = "nestlearn_banking77", "nestlearn_help_en"
#: Largest difference of two sums of log-probabilities, in nats, that batches and pieces may make.
TOLERANCE = 1e-4
VOCABULARY, BATCH, CONTEXT, RATE = 1024, 8, 256, 4e-3
SHAPE: Mapping[str, Any] = {
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_heads": 4,
    "cms_periods": (BATCH * CONTEXT,),
}


def trained(steps: int, console: Console) -> tuple[Any, Any]:
    """A small Hope that has read English help pages, and its tokenizer."""
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    corpus = load_parallel_help(["en"])
    raw = load_or_train_tokenizer(corpus, ["en"], VOCABULARY)
    tokens = tokenize(corpus, raw, ["en"])["en"].train
    torch.manual_seed(0)
    model = HopeForCausalLM(HopeConfig(vocab_size=VOCABULARY, eos_token_id=0, **SHAPE))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    sampler = BatchSampler(tokens, batch_size=BATCH, context=CONTEXT, seed=0)
    for step in track(range(steps), "learning", console=console, transient=True):
        batch = sampler.batch(step)
        model(batch[:, :-1], labels=batch[:, :-1], use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval(), PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END, pad_token=END)


def evaluated(lm: Any, task: str, limit: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What lm-eval finds on the first documents of a task: figures, and what was asked and answered."""
    from lm_eval import simple_evaluate  # noqa: PLC0415
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    started = time.process_time()
    found = simple_evaluate(lm, tasks=[task], task_manager=manager, limit=limit, bootstrap_iters=0)
    seconds = time.process_time() - started
    figures = {
        name.removesuffix(",none"): value
        for name, value in found["results"][task].items()
        if name.endswith(",none") and "stderr" not in name
    }
    return {**figures, "cpu_seconds": seconds}, found["samples"][task]


def own_score(lm: Any, samples: Sequence[Mapping[str, Any]]) -> list[Likelihood]:
    """Likelihoods of all requests by the model's own score, each by itself."""
    requests = []
    for arguments in (arguments for sample in samples for arguments in sample["arguments"]):
        if len(arguments) == 1:  # a whole text
            requests.append(([lm.prefix_token_id], lm.tok_encode(arguments[0])))
        else:
            requests.append(lm._encode_pair(*arguments))
    return [log_likelihoods(lm.model, [request])[0] for request in requests]


def answered(samples: Sequence[Mapping[str, Any]]) -> list[float]:
    """The log-likelihoods that lm-eval was given, in the same order."""
    return [
        float(answer[0] if isinstance(answer, tuple) else answer)
        for sample in samples
        for (answer,) in sample["resps"]
    ]


def compared(model: Any, tokenizer: Any, limit: Mapping[str, int]) -> dict[str, Any]:
    """Every task by every model of lm-eval's, beside the model's own score."""
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415

    from nestlearn.evaluation.harness import NestlearnLM, NestlearnStreamLM  # noqa: PLC0415

    rows: dict[str, Any] = {}
    for task, documents in limit.items():
        lm = NestlearnLM(model, tokenizer, batch_size=8)
        figures, samples = evaluated(lm, task, documents)
        own, given = own_score(lm, samples), answered(samples)
        rows[task] = {"documents": documents, "requests": len(given), "nestlearn": figures}
        figures["largest_difference"] = _largest([log for log, _ in own], given)
        theirs = HFLM(model, tokenizer=tokenizer, batch_size=8, max_length=lm.max_length)
        figures, samples = evaluated(theirs, task, documents)
        figures["largest_difference"] = _largest([log for log, _ in own], answered(samples))
        rows[task]["hf"] = figures
        if is_hope(model):
            rows[task]["nestlearn-stream"] = evaluated(NestlearnStreamLM(model, tokenizer), task, documents)[
                0
            ]
    return rows


def _largest(expected: Sequence[float], given: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(expected, given, strict=True))


def main(
    model: Annotated[str | None, typer.Option(help="A folder or name; default: a Hope is trained.")] = None,
    steps: Annotated[int, typer.Option(help="Of its training.", min=1)] = 300,
    limit: Annotated[int, typer.Option(help="Questions; of texts a fifth as many.", min=5)] = 50,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Compare lm-eval's likelihoods with the model's own."""
    console = Console(stderr=True)
    try:
        own, tokenizer = trained(steps, console) if model is None else load_pretrained(model)
        rows = compared(own, tokenizer, {QUESTIONS: limit, READING: limit // 5})
    except ValueError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        raise typer.Exit(130) from None
    named = model or f"Hope of {own.num_parameters():,} parameters after {steps} steps on English help pages"
    content = {"model": named, "tolerance": TOLERANCE, "tasks": rows}
    write_atomically(result, json.dumps(content, indent=1) + "\n")
    print(json.dumps(rows, indent=1))
    worst = max(row["nestlearn"]["largest_difference"] for row in rows.values())
    if worst > TOLERANCE:
        print(f"likelihoods differ by {worst:.1e}, more than {TOLERANCE:g}", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
