"""The benchmark's page: a table and a picture for every stream, and what was searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nestlearn.bench.base import FRESH, JOINT, SEARCHED_TASKS, BenchStream
from nestlearn.bench.figure import write_figure
from nestlearn.bench.store import Record
from nestlearn.bench.streams import STREAMS
from nestlearn.bench.summary import Figure, Row, Searched, ordered, plain, rows, searches
from nestlearn.reporting.files import write_atomically

_START = f"""# The continual-learning benchmark

Made by `nestlearn bench continual` from its results; running it again does what is missing and writes this
page anew. On a stream every method meets the same tasks, models, batches and number of steps. Its settings
come from the same search (Optuna; the number of trials is under each table), on validation examples of the
first {SEARCHED_TASKS} tasks only, with a seed that is not reported (one stream, which says so, is an
exception, for the sake of published figures). What is shown is measured on test
examples, means over seeds with 95 % confidence intervals (Student's t). No setting was chosen on later tasks
or on test examples. Three things were: that levels count in mean contexts came after looks at all tasks of
split digits, on validation examples; joint training on intents has more passes than first planned, since
it stood too low on test sentences; and where tasks come again, the rates of levels end at 0.3, since at 1
they had diverged. `log.md` says more.

**stored**: bytes kept from task to task besides weights and the optimizer's state. **operations**: of
products of matrices while learning, where they are counted. Methods in bold are this project's. *told*: is
told when a task ends. *stores*: keeps examples."""


def write_page(records: Mapping[str, Record], path: Path) -> None:
    """Write the page, and the pictures into ``images/`` beside it.

    Args:
        records: Finished searches and cells.
        path: A Markdown file, replaced if it exists.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    found = {name: own for name in STREAMS if (own := rows(name, records))}
    parts, explained = [_START, glance(found)], ""
    for name, own in found.items():
        image = path.parent / "images" / f"bench-{name}.svg"
        image.parent.mkdir(parents=True, exist_ok=True)
        write_figure(own, STREAMS[name], image)
        if STREAMS[name].measures.explained != explained:
            explained = STREAMS[name].measures.explained
            parts.append(explained)
        parts.append(section(STREAMS[name], own, searches(name, records)))
    write_atomically(path, "\n\n".join(parts) + "\n")


def glance(found: Mapping[str, Sequence[Row]]) -> str:
    """The best of each kind of method on every stream as Markdown.

    Args:
        found: The rows of every stream.
    """
    heads = ("stream", "ordinary", "best that stores nothing", "best that stores", "best of ours", "joint",
             "ours over joint")  # fmt: skip
    lines = ["## At a glance", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, own in found.items():
        stream = STREAMS[name]
        best = dict.fromkeys(("ordinary", "without", "with", "ours", JOINT)) | {
            _kind(row, stream): row for row in reversed(ordered(own, stream.measures))
        }
        entries = [
            _shown(best[kind], stream, kind) for kind in ("ordinary", "without", "with", "ours", JOINT)
        ]
        ours = best["ours"]
        over = "" if ours is None else str(ours.figures.get("over_joint", ""))
        lines.append(f"| [{name}](#{_anchor(stream.title)}) | {' | '.join([*entries, over])} |")
    return "\n".join(lines)


def _kind(row: Row, stream: BenchStream) -> str:
    """Which column of the glance a method belongs to."""
    entry = stream.entries[row.method]
    if row.method in ("ordinary", JOINT, FRESH):
        return row.method
    return "ours" if entry.ours else "with" if entry.stores else "without"


def _shown(row: Row | None, stream: BenchStream, kind: str) -> str:
    if row is None:
        return ""
    figure = f"{row.figures[stream.measures.final].mean:.3f}"
    return figure if kind in ("ordinary", JOINT) else f"{figure} ({row.method})"


def _anchor(title: str) -> str:
    """What Markdown makes of a heading, as GitHub does it."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def section(stream: BenchStream, own: Sequence[Row], searched: Sequence[Searched]) -> str:
    """A stream's part of the page."""
    parts = [
        f"## {stream.title}",
        f"`--stream {stream.name}`: {stream.described}.{_seen(stream)}",
        f"![Kept by learned, for every method](images/bench-{stream.name}.svg)",
        table(stream, own),
        costs(stream, own),
        _searched(searched),
    ]
    reasons: dict[str, list[str]] = {}
    for method, why in stream.left_out.items():
        reasons.setdefault(why, []).append(method)
    if reasons:
        left = "; ".join(f"{', '.join(methods)} ({why})" for why, methods in reasons.items())
        parts.append(f"Left out: {left}.")
    return "\n\n".join(parts)


def _seen(stream: BenchStream) -> str:
    """A warning where a search looks at other tasks than the first two."""
    if stream.searched_tasks == SEARCHED_TASKS:
        return ""
    return (
        f" **Settings are chosen on validation examples of {stream.searched_tasks} tasks**, as those of the "
        "published figures were on all of theirs: this stream is there to be compared with them, and with "
        "nothing else here."
    )


def table(stream: BenchStream, own: Sequence[Row]) -> str:
    """The measures as Markdown, the best first."""
    columns, published = stream.measures.columns, stream.published
    heads = ["method", "seeds", *columns.values(), *(["published"] if published else [])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in ordered(own, stream.measures):
        entries = [_entry(row.figures.get(name), row.method, name, stream) for name in columns]
        known = [f"{published[row.method] / 100:.3f}" if row.method in published else ""] if published else []
        lines.append(f"| {' | '.join([_named(row.method, stream), str(row.seeds), *entries, *known])} |")
    return "\n".join(lines) + (f"\n\npublished: {stream.source}." if published else "")


def costs(stream: BenchStream, own: Sequence[Row]) -> str:
    """What every method costs, and what it does to the network, as Markdown."""
    plasticity = stream.measures.plasticity
    heads = ["method", "stored", "operations", "CPU s", *plasticity.values(), "settings"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in own:
        found = row.figures
        entries = [
            f"{found['stored_bytes'].mean / 1e6:.2f} MB",
            f"{found['operations'].mean:.1e}" if "operations" in found else "",
            f"{found['seconds'].mean:.0f}",
            *(f"{found[name].mean:.3g}" if name in found else "" for name in plasticity),
            ", ".join(f"{name} {plain(value)}" for name, value in row.settings.items()),
        ]
        lines.append(f"| {' | '.join([_named(row.method, stream), *entries])} |")
    return "\n".join(lines)


def _searched(searched: Sequence[Searched]) -> str:
    parts = []
    for own in searched:
        values = "; ".join(f"{key} of {', '.join(map(plain, space))}" for key, space in own.space.items())
        parts.append(f"{own.method} ({values}; {own.trials} trials, {own.seconds:.0f} s)")
    return "<details><summary>What was searched</summary>\n\n" + ". ".join(parts) + ".\n\n</details>"


def _named(method: str, stream: BenchStream) -> str:
    entry = stream.entries[method]
    marks = [word for word, on in (("told", entry.told), ("stores", entry.stores)) if on and method != FRESH]
    name = f"**{method}**" if entry.ours else method
    return name + (f" *{', '.join(marks)}*" if marks else "")


def _entry(figure: Figure | None, method: str, name: str, stream: BenchStream) -> str:
    """A figure; of joint training and of new models only what means something there."""
    meaningful = {FRESH: stream.measures.learned, JOINT: stream.measures.final}
    if figure is None or meaningful.get(method, name) != name:
        return ""
    return str(figure)
