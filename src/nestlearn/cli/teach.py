"""``nestlearn learn``, ``chat`` and ``compare``: a pretrained model learns from files."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nestlearn.continual.documents import documents
from nestlearn.continual.files import read_files
from nestlearn.continual.learner import Learner
from nestlearn.continual.methods import DEFAULT_REST, METHODS, Levels, Method, default_levels
from nestlearn.models.pretrained import load_pretrained
from nestlearn.observing import chosen_trackers
from nestlearn.reporting.files import write_atomically
from nestlearn.training import Interrupted

#: Of every so many documents one is kept from learning, to compare methods by.
HELD_OUT = 10


def method_of(name: str, lr: float | None) -> Method:
    """A method by its name, with a learning rate of one's own if it is given.

    Raises:
        ValueError: For an unknown name or a learning rate outside its range.
    """
    if name not in METHODS:
        raise ValueError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    if lr is None:
        return METHODS[name]()
    if name == Levels.name:
        return Levels(default_levels(lr), rest=DEFAULT_REST)
    return METHODS[name](lr=lr)  # type: ignore[call-arg]


def run_learn(
    *,
    model: str,
    text: Sequence[Path],
    out: Path,
    old: Sequence[Path],
    memory: Path | None,
    method: str | None,
    lr: float | None,
    context: int | None,
    batch_size: int | None,
    resume: bool,
    run_dir: Path | None,
    track: str,
) -> None:
    """See ``nestlearn learn --help``."""
    chosen_trackers(track, run_dir)  # before a model is loaded
    console = Console(stderr=True)
    checkpoint = out.with_suffix(".resume.safetensors")
    if checkpoint.exists() and not resume:
        raise ValueError(
            f"{checkpoint} is of learning that was interrupted: add --resume to go on with it, or delete it"
        )
    stream = list(read_files(text))  # a missing file shall not be found after the model was loaded
    sample = list(read_files(old)) or None
    if old and sample is None:
        raise ValueError(f"there is no text in {', '.join(map(str, old))}: leave out --old, or give some")
    if memory is not None and (method is not None or lr is not None):
        raise ValueError("a memory file says how it was learned: leave out --method and --lr")
    made = method_of(method or Levels.name, lr)
    given = {"context": context, "batch_size": batch_size}
    settings: dict[str, Any] = {
        "old": sample,
        **{name: value for name, value in given.items() if value is not None},
    }
    base, tokenizer = load_pretrained(model)
    if memory is None:
        learner = Learner(base, tokenizer, method=made, **settings)
    else:
        learner = Learner.load(base, memory, tokenizer, **settings)
    console.print(
        f"{model} learns from {len(stream)} documents, method {learner.method.name}", highlight=False
    )
    try:
        report = learner.learn(stream, checkpoint=checkpoint, run_dir=run_dir, track=track)
    except Interrupted as stopped:
        console.print(f"{stopped}; add --resume", highlight=False, markup=False)
        sys.exit(130)
    learner.save(out)
    checkpoint.unlink(missing_ok=True)
    console.print(str(report), highlight=False)
    for change in learner.diff():
        console.print(str(change), highlight=False)
    console.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB", highlight=False)


def run_chat(*, model: str, memory: Path | None, prompt: str | None, max_new_tokens: int) -> None:
    """See ``nestlearn chat --help``."""
    base, tokenizer = load_pretrained(model)
    learner = Learner(base, tokenizer) if memory is None else Learner.load(base, memory, tokenizer)
    turns: list[dict[str, str]] = []
    chats = getattr(tokenizer, "chat_template", None) is not None
    while True:
        asked = prompt if prompt is not None else _asked()
        if asked is None:
            return
        turns.append({"role": "user", "content": asked})
        answer = learner.generate(turns if chats else asked, max_new_tokens)
        print(answer, flush=True)
        turns.append({"role": "assistant", "content": answer})
        if prompt is not None:
            return


def _asked() -> str | None:
    """The next line of the user; None at the end."""
    try:
        line = input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return None
    return line or _asked()


def run_compare(
    *,
    model: str,
    text: Sequence[Path],
    old: Sequence[Path],
    methods: Sequence[str],
    context: int | None,
    batch_size: int | None,
    result: Path | None,
) -> None:
    """See ``nestlearn compare --help``."""
    made = dict(map(_named, methods))
    stream, known = list(documents(list(read_files(text)))), list(documents(list(read_files(old))))
    if len(stream) < HELD_OUT or len(known) < 2:
        raise ValueError(
            f"a comparison needs at least {HELD_OUT} new documents and 2 old ones, of which it holds some "
            f"back; got {len(stream)} and {len(known)}"
        )
    new, held = stream[:], stream[HELD_OUT - 1 :: HELD_OUT]
    del new[HELD_OUT - 1 :: HELD_OUT]
    sample, remembered = known[0::2], known[1::2]
    base, tokenizer = load_pretrained(model)
    rows: dict[str, dict[str, float]] = {}
    settings: dict[str, Any] = {"old": sample, "context": context}
    if batch_size is not None:
        settings["batch_size"] = batch_size
    for name in list(made):
        # Taken out: what one has learned shall not stand beside the next.
        learner = Learner(base, tokenizer, method=made.pop(name), **settings)
        started = time.process_time()
        before = {"new": float(learner.score(held)), "old": float(learner.score(remembered))}
        scored = time.process_time()
        learner.learn(new)
        seconds = time.process_time() - scored
        rows[name] = {
            "new_before": before["new"],
            "new_after": float(learner.score(held)),
            "old_before": before["old"],
            "old_after": float(learner.score(remembered)),
            "cpu_seconds": seconds,
            "score_seconds": scored - started,
        }
        learner.close()
        if result is not None:
            write_atomically(result, json.dumps({"model": model, "methods": rows}, indent=1) + "\n")
    _show(rows)


def _show(rows: dict[str, dict[str, float]]) -> None:
    table = Table(title="bits per byte of held-out documents, before and after learning")
    for column in ("method", "new text", "old text", "learned", "forgotten", "CPU s"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['new_before']:.3f} -> {row['new_after']:.3f}",
            f"{row['old_before']:.3f} -> {row['old_after']:.3f}",
            f"{row['new_before'] - row['new_after']:+.3f}",
            f"{row['old_after'] - row['old_before']:+.3f}",
            f"{row['cpu_seconds']:.0f}",
        )
    Console().print(table)
    print("Who learns more forgets more: give rates, as in finetune:3e-5, so that all learn as much.")


def _named(given: str) -> tuple[str, Method]:
    """A method out of ``NAME`` or ``NAME:RATE``.

    Raises:
        ValueError: For an unknown name, or a rate that is no number.
    """
    name, colon, rate = given.partition(":")
    try:
        return given, method_of(name, float(rate) if colon else None)
    except ValueError as error:
        raise ValueError(f"--methods {given}: {error}") from error
