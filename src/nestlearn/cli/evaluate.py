"""What ``nestlearn evaluate`` and ``nestlearn perplexity`` do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from nestlearn.continual.documents import documents, encode
from nestlearn.continual.files import read_files
from nestlearn.continual.learner import Learner
from nestlearn.evaluation.documents import TASKS, task_names
from nestlearn.evaluation.long_texts import Perplexity, measure, window
from nestlearn.models.pretrained import load_pretrained
from nestlearn.reporting.files import write_atomically

#: Of what lm-eval reports, what is about the model and not about the machine.
_KEPT = ("results", "groups", "configs", "versions", "n-shot", "n-samples", "higher_is_better", "config")
#: Characters of the longest bar of the table.
_BAR = 30


def run_evaluate(
    *,
    model: str,
    tasks: Sequence[str],
    memory: Path | None,
    stream: bool,
    batch_size: int,
    limit: int | None,
    shots: int | None,
    include: Path | None,
    chat: bool,
    result: Path | None,
    samples: Path | None,
) -> None:
    """See ``nestlearn evaluate --help``.

    Raises:
        ValueError: For unknown tasks, or a missing library.
        typer.Exit: With code 130 after Ctrl-C.
    """
    try:
        from lm_eval import simple_evaluate  # noqa: PLC0415  (seconds to import)
        from lm_eval.tasks import TaskManager  # noqa: PLC0415
        from lm_eval.utils import handle_non_serializable, make_table  # noqa: PLC0415

        from nestlearn.evaluation.harness import NestlearnLM, NestlearnStreamLM  # noqa: PLC0415
    except ImportError as error:
        raise ValueError(
            f"evaluation needs lm-eval ({error}): pip install 'nestlearn[evaluation]'"
        ) from error
    if not tasks:
        raise ValueError(f"--tasks names none; ours are {', '.join(task_names())}")
    _check_targets(result, samples)
    own = [str(TASKS), *([] if include is None else [str(include)])]
    manager = TaskManager(include_path=own, include_defaults=False)
    if _unknown(manager, tasks):
        manager = TaskManager(include_path=own)  # lm-eval's thousands, which takes ten seconds
    if unknown := _unknown(manager, tasks):
        raise ValueError(
            f"there is no task {', '.join(unknown)}; ours are {', '.join(task_names())}, and lm-eval names "
            "its own by: lm-eval ls tasks"
        )
    kind = NestlearnStreamLM if stream else NestlearnLM
    try:
        found: dict[str, Any] = simple_evaluate(
            model=kind(model, memory=memory, batch_size=batch_size),
            tasks=manager.match_tasks(list(tasks)),
            num_fewshot=shots,
            limit=limit,
            apply_chat_template=chat,
            task_manager=manager,
            log_samples=samples is not None,
        )
    except KeyboardInterrupt:
        Console(stderr=True).print("\nStopped; nothing was written.")
        raise typer.Exit(130) from None
    print(make_table(found))
    for path, content in ((samples, found.get("samples")), (result, _figures(found))):
        if path is not None:
            write_atomically(path, json.dumps(content, indent=1, default=handle_non_serializable) + "\n")


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    """Of what lm-eval reports, what is kept."""
    return {key: found[key] for key in _KEPT if key in found}


def _check_targets(*paths: Path | None) -> None:
    """Refuse files that cannot be written, before the work."""
    for path in paths:
        above = None if path is None else next(p for p in path.absolute().parents if p.exists())
        if above is not None and not above.is_dir():
            raise ValueError(f"{path} cannot be written: {above} is a file and no folder")


def _unknown(manager: Any, tasks: Sequence[str]) -> list[str]:
    """Tasks that nobody knows."""
    return [name for name in tasks if not manager.match_tasks([name])]


def run_perplexity(
    *,
    model: str,
    text: Sequence[Path],
    memory: Path | None,
    context: int | None,
    stride: int | None,
    result: Path | None,
) -> None:
    """See ``nestlearn perplexity --help``.

    Raises:
        ValueError: For bad input, or no text.
        typer.Exit: With code 130 after Ctrl-C.
    """
    _check_targets(result)
    stream = list(documents(list(read_files(text))))  # a missing file shall be found before the model loads
    taught, tokenizer = load_pretrained(model)
    if memory is not None:
        taught = Learner.load(taught, memory, tokenizer).model
    window(taught, context, stride)  # before the tokens are counted
    total = sum(len(encode(tokenizer, document)) for document in stream)
    figures = Perplexity()
    try:
        with _bar() as bar:
            line = bar.add_task("reading", total=total, loss="")
            for figures in measure(taught, tokenizer, stream, context=context, stride=stride):
                if figures.tokens:
                    loss = f"perplexity {figures.perplexity:.2f}"
                    bar.update(line, completed=figures.total_tokens, loss=loss)
    except KeyboardInterrupt:
        Console(stderr=True).print(f"Stopped after {figures.total_tokens:,} of {total:,} tokens.")
        if figures.tokens:
            _show(figures, result)
        raise typer.Exit(130) from None
    _show(figures, result)


def _bar() -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,}/{task.total:,} tokens"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _show(figures: Perplexity, result: Path | None) -> None:
    """Print what was found, and write it.

    Raises:
        ValueError: If no token was predicted.
    """
    document = figures.to_json()
    seen = "all before it" if figures.context is None else f"at most {figures.context:,} tokens before it"
    table = Table(title="loss by position in the document", caption=f"every token sees {seen}")
    for column in ("position", "tokens", "bits per token", ""):
        table.add_column(column, justify="left" if column == "" else "right")
    highest = max(band.bits_per_token for band in figures.bands)
    for band in figures.bands:
        length = round(_BAR * band.bits_per_token / highest) if highest > 0 else 0
        table.add_row(
            f"{band.first:,} to {band.last:,}",
            f"{band.tokens:,}",
            f"{band.bits_per_token:.3f}",
            "#" * length,
        )
    Console().print(table)
    bits = figures.bits_per_byte
    several = "" if figures.documents == 1 else "s"
    print(
        f"{figures.total_tokens:,} tokens of {figures.documents} document{several}: perplexity "
        f"{figures.perplexity:.3f}" + ("" if bits is None else f", {bits:.4f} bits per byte")
    )
    if result is not None:
        write_atomically(result, json.dumps(document, indent=1) + "\n")


__all__ = ["run_evaluate", "run_perplexity"]
