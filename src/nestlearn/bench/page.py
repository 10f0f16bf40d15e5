"""The benchmark's page: a table and a picture for every stream, and what was searched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nestlearn.bench.cells import SEARCHED_TASKS, TRIALS
from nestlearn.bench.figure import write_figure
from nestlearn.bench.methods import ENTRIES, FRESH, JOINT
from nestlearn.bench.store import Record
from nestlearn.bench.streams import STREAMS, VAN_DE_VEN
from nestlearn.bench.summary import Figure, Row, left_out, rows, searches, streams
from nestlearn.reporting.files import write_atomically

_START = f"""# The continual-learning benchmark

Made by `nestlearn bench continual` from its results; running it again does what is missing and writes this
page anew. Every method meets the same streams, networks, batches and number of steps. Its settings come from
the same search: {TRIALS} trials at most (Optuna), on validation examples of the first {SEARCHED_TASKS} tasks
only, with a seed that is not reported. What is shown is measured on test examples, means over seeds with 95 %
confidence intervals (Student's t). Nothing was chosen on later tasks or on test examples.

**accuracy**: mean over all tasks at the end. **of joint**: over that of joint training on all tasks at once.
**learned**: mean accuracy on each task right after it. **forgetting**: from the best a task ever was
(Chaudhry et al. 2018). **backward**, **forward**: transfer (Lopez-Paz & Ranzato 2017). **minimum**: mean over
tasks of the least accuracy at any evaluation after the task, the stability gap (De Lange et al. 2023);
**worst**: what is known of all tasks at any moment. **stored**: bytes kept from task to task besides weights
and the optimizer's state. **operations**: of products of matrices while learning. **dead**: hidden units that
are zero on all of 1,000 test inputs; **rank**: effective rank of the last hidden layer over its width;
**norm**: mean size of a weight.

Methods in bold are this project's. *told*: is told when a task ends. *stores*: keeps examples."""
_COLUMNS = {
    "accuracy": "accuracy",
    "over_joint": "of joint",
    "learned": "learned",
    "forgetting": "forgetting",
    "backward": "backward",
    "forward": "forward",
    "minimum": "minimum",
    "worst": "worst",
}


def write_page(records: Mapping[str, Record], path: Path) -> None:
    """Write the page, and the pictures into ``images/`` beside it.

    Args:
        records: Finished searches and cells.
        path: A Markdown file, replaced if it exists.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    parts = [_START]
    for name in streams(records):
        own = rows(name, records)
        image = path.parent / "images" / f"bench-{name}.svg"
        image.parent.mkdir(parents=True, exist_ok=True)
        write_figure(own, STREAMS[name].title, image)
        parts.append(section(name, own, records))
    write_atomically(path, "\n\n".join(parts) + "\n")


def section(name: str, own: list[Row], records: Mapping[str, Record]) -> str:
    """A stream's part of the page."""
    stream = STREAMS[name]
    hidden = " and ".join(map(str, stream.hidden))
    passes = "one pass" if stream.epochs == 1 else f"{stream.epochs} passes"
    setting = (
        f"`--stream {name}`: hidden layers of {hidden}, batches of {stream.batch_size}, {passes} over each "
        f"task's examples, evaluated every {stream.every} batches."
    )
    parts = [
        f"## {stream.title}",
        setting,
        f"![Kept by learned, for every method](images/bench-{name}.svg)",
        table(own, stream.published),
        costs(own),
        _searched(name, records),
    ]
    missing = left_out(name)
    if missing:
        parts.append("Left out: " + "; ".join(f"{method}: {why}" for method, why in missing.items()) + ".")
    return "\n\n".join(parts)


def table(own: list[Row], published: Mapping[str, float]) -> str:
    """The measures as Markdown, the best accuracy first."""
    heads = ["method", "seeds", *_COLUMNS.values(), *(["published"] if published else [])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in sorted(own, key=lambda row: -row.figures["accuracy"].mean):
        entries = [_entry(row.figures.get(name), row.method, name) for name in _COLUMNS]
        known = [f"{published[row.method] / 100:.3f}" if row.method in published else ""] if published else []
        lines.append(f"| {' | '.join([_named(row.method), str(row.seeds), *entries, *known])} |")
    note = f"\n\npublished: {VAN_DE_VEN} (arXiv 1904.07734), 60,000 digits." if published else ""
    return "\n".join(lines) + note


def costs(own: list[Row]) -> str:
    """What every method costs, and what it does to the network, as Markdown."""
    heads = ["method", "stored", "operations", "CPU s", "dead", "rank", "norm", "settings"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in own:
        found = row.figures
        entries = [
            f"{found['stored_bytes'].mean / 1e6:.2f} MB",
            f"{found['operations'].mean:.1e}",
            f"{found['seconds'].mean:.0f}",
            *(f"{found[name].mean:.3f}" if name in found else "" for name in ("dead", "rank")),
            f"{found['weight'].mean:.4f}" if "weight" in found else "",
            ", ".join(f"{name} {value:g}" for name, value in row.settings.items()),
        ]
        lines.append(f"| {' | '.join([_named(row.method), *entries])} |")
    return "\n".join(lines)


def _searched(name: str, records: Mapping[str, Record]) -> str:
    parts = []
    for own in searches(name, records):
        values = "; ".join(
            f"{key} of {', '.join(f'{value:g}' for value in space)}" for key, space in own.space.items()
        )
        parts.append(f"{own.method} ({values}; {own.trials} trials, {own.seconds:.0f} s)")
    return "<details><summary>What was searched</summary>\n\n" + ". ".join(parts) + ".\n\n</details>"


def _named(method: str) -> str:
    entry = ENTRIES[method]
    marks = [word for word, on in (("told", entry.told), ("stores", entry.stores)) if on and method != FRESH]
    name = f"**{method}**" if entry.ours else method
    return name + (f" *{', '.join(marks)}*" if marks else "")


def _entry(figure: Figure | None, method: str, name: str) -> str:
    """A figure; of joint training and of new networks only what means something there."""
    if figure is None or (method == FRESH and name != "learned") or (method == JOINT and name != "accuracy"):
        return ""
    return str(figure)
