"""What ``nestlearn tune`` does."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from nestlearn.reporting.tuning import write_tuning_plot
from nestlearn.tuning import Search, Trial, TuningPlan, recipe_of, write_recipe
from nestlearn.tuning.recipe import best_of, defaults_of

_UNITS = {"k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
#: Trials that are shown.
_ROWS = 8


def run_tune(
    *,
    languages: tuple[str, ...],
    budget: str | None,
    out: Path,
    workers: int,
    seed: int,
    quick: bool,
    data: Path | None,
) -> None:
    """See ``nestlearn tune --help``.

    Raises:
        ValueError: For bad input, or another search in the folder.
        typer.Exit: With code 130 after Ctrl-C; the same command goes on.
    """
    missing = [name for name in ("optuna", "tokenizers", "transformers") if find_spec(name) is None]
    if missing:
        raise ValueError(f"a search needs {', '.join(missing)}: pip install 'nestlearn[all]'")
    changes = {"languages": languages, "seed": seed}
    changes |= {} if budget is None else {"budget": tokens(budget)}
    plan = (TuningPlan.quick if quick else TuningPlan)(**changes)  # type: ignore[arg-type]
    console = Console()
    console.print(
        f"Every trial learns {' then '.join(plan.languages)}, {plan.trial_tokens:,} tokens, and is judged on "
        f"validation text of both; the budget is {plan.budget:,} tokens.",
        soft_wrap=True,
        highlight=False,
    )
    search = Search(out, plan, workers=workers, data_dir=data)
    try:
        trials = _run(search, console)
    except KeyboardInterrupt:
        console.print(
            f"\nStopped; {out} keeps every trial, and the same command goes on.",
            soft_wrap=True,
            highlight=False,
        )
        raise typer.Exit(130) from None
    recipe = recipe_of(plan, trials)
    write_recipe(out / "recipe.json", recipe)
    console.print(_table(trials))
    console.print(verdict(plan, trials), soft_wrap=True, highlight=False)
    written = f"{out / 'recipe.json'} has the levels (nestlearn.tuning.load_recipe) and every trial"
    if find_spec("matplotlib") is not None:
        write_tuning_plot(recipe, out / "tuning.svg")
        written += f", {out / 'tuning.svg'} the picture"
    console.print(f"{written}.", soft_wrap=True, highlight=False)


def tokens(text: str) -> int:
    """A number of tokens as people write it: ``2000000``, ``2_000_000``, ``2M``, ``500k``.

    Raises:
        ValueError: If it is none.
    """
    plain = text.strip().lower().replace("_", "").replace(",", "")
    unit = _UNITS.get(plain[-1:], 1)
    number = plain[:-1] if plain[-1:] in _UNITS else plain
    try:
        found = float(number) * unit
    except ValueError:
        found = 0.0
    if not (1 <= found < 1e15):
        raise ValueError(f"--budget is a number of tokens, as 2000000, 2M or 500k; got {text!r}")
    return round(found)


def verdict(plan: TuningPlan, trials: Sequence[Trial]) -> str:
    """Whether the search has found better than the defaults, in a sentence."""
    best = best_of(trials)
    defaults = defaults_of(plan, trials)
    if defaults is None or defaults.value is None or best.value is None:
        return f"The best trial has {best.value:.3f} bits per byte; the defaults were not tried to the end."
    if best.number == defaults.number:
        return f"Nothing better than the defaults ({defaults.value:.3f} bits per byte) was found."
    gain = defaults.value - best.value
    return (
        f"The best trial has {best.value:.3f} bits per byte, the defaults {defaults.value:.3f}: {gain:.3f} "
        "less, on the text that it was chosen on."
    )


def _run(search: Search, console: Console) -> list[Trial]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f} % of the budget"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("no trial yet", total=search.plan.budget)

        def show(trials: list[Trial]) -> None:
            done = [trial for trial in trials if trial.value is not None]
            best = f", best {best_of(trials).value:.3f}" if done else ""
            under_way = sum(trial.state == "running" for trial in trials)
            spent = sum(trial.tokens for trial in trials)
            text = f"{len(trials) - under_way} trials{best}, {spent:,} tokens"
            progress.update(bar, completed=spent, description=text)

        return search.run(show)


def _table(trials: Sequence[Trial]) -> Table:
    """The best trials, and how many there were."""
    states = ("complete", "pruned", "diverged", "failed")
    counts = {state: sum(t.state == state for t in trials) for state in states}
    title = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    title += f"; {sum(t.tokens for t in trials):,} tokens"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    languages = list(next((t.values for t in trials if t.values), {}))
    for head in ("trial", "bits", *languages, "periods", "rate", "later", "tokens", "protection"):
        table.add_column(head, justify="left" if head in {"periods", "protection"} else "right")
    complete = sorted((t for t in trials if t.value is not None), key=lambda t: (t.value, t.number))
    for trial in complete[:_ROWS]:
        own = trial.settings
        strengths = (own.get("strength"), own.get("output_strength"))
        table.add_row(
            str(trial.number),
            f"{trial.value:.3f}",
            *(f"{trial.values[name]:.3f}" for name in languages),
            "/".join(map(str, own["level_steps"])),
            f"{own['lr']:.2g}",
            f"x{own['later_lr_scale']:.2g}",
            f"{trial.tokens:,}",
            f"{strengths[0]:.2g}, {strengths[1]:.2g}" if own["consolidate"] else "none",
        )
    return table
