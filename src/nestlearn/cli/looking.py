"""Commands that look at levels, and the one that chooses them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

looking = typer.Typer()


@looking.command(name="inspect")
def inspect_(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|CHECKPOINT",
            help="A model's folder, a name on the hub, smollm2, module:function (which makes a model, or a "
            "model and its optimizer), a run's folder or checkpoint, or a system.json.",
        ),
    ],
    optimizer: Annotated[
        str | None, typer.Option(help="What would train it: adamw, sgd, m3, ... [default: nothing does]")
    ] = None,
    levels: Annotated[
        str | None, typer.Option(help="Levels with their periods in tokens, as fast=512,slow=4096.")
    ] = None,
    tokens_per_step: Annotated[
        int | None, typer.Option(help="Tokens of one optimizer step, to compare steps with tokens.", min=1)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write an interactive page, one file.", dir_okay=False)
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Write a picture.", dir_okay=False)] = None,
    mermaid: Annotated[Path | None, typer.Option(help="Write a Mermaid flowchart.", dir_okay=False)] = None,
    out: Annotated[
        Path | None, typer.Option("--json", help="Write the system as JSON.", dir_okay=False)
    ] = None,
) -> None:
    """Show the levels of a model and its optimizer: what is updated by what, and how often.

    Nothing is trained and no weights are read: a model's configuration is enough.
    """
    from nestlearn.cli.observe import run_inspect  # noqa: PLC0415  (--help should not wait for torch)

    run_inspect(
        target=target, optimizer=optimizer, levels=levels, tokens_per_step=tokens_per_step, html=html,
        svg=svg, mermaid=mermaid, out=out,
    )  # fmt: skip


RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="Folder of a training run, such as out/demo/nested.")
]


@looking.command()
def report(
    run_dir: RunFolder,
    html: Annotated[
        Path | None, typer.Option(help="The page. [default: report.html in the folder]", dir_okay=False)
    ] = None,
) -> None:
    """Show what a training run did: levels, losses, diagnostics and alarms, here and as one page."""
    from nestlearn.cli.observe import run_report  # noqa: PLC0415

    run_report(run_dir=run_dir, html=html)


@looking.command()
def watch(
    run_dir: RunFolder,
    page: Annotated[bool, typer.Option("--page", help="Also serve a page on this machine.")] = False,
    port: Annotated[int, typer.Option(help="Port of the page; 0 for any that is free.", min=0)] = 8765,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 2.0,
) -> None:
    """Follow a training run in the terminal, and as a page on this machine, until it is finished.

    Only reads: the run may be going on in another process, and goes on when this ends.
    """
    from nestlearn.cli.observe import run_watch  # noqa: PLC0415

    run_watch(run_dir=run_dir, port=port, page=page, every=every)


@looking.command()
def tune(
    languages: Annotated[str, typer.Option(help="The two languages that every trial learns.")] = "en,fr",
    budget: Annotated[
        str | None, typer.Option(help="Tokens of all trials together: 2000000, 2M, 500k. [default: 8M]")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the search and what it found.", file_okay=False)
    ] = Path("out/tune"),
    workers: Annotated[
        int, typer.Option(help="Processes of one thread each; 0 for none but this one.", min=0)
    ] = 2,
    seed: Annotated[int, typer.Option(help="Seed of models, text and search.", min=0)] = 100,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny models, about a minute.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the help packages or pages, instead of fetching them.")
    ] = None,
) -> None:
    """Search the number of levels, their periods, rates and protection, within a budget of tokens.

    Begins with the defaults, judges on validation text of the first two languages, gives up early on what is
    worse than the median, and writes recipe.json: the levels, and every trial.

    Ctrl-C is safe: the same command goes on.
    """
    from nestlearn.cli.tune import run_tune  # noqa: PLC0415  (--help should not wait for torch)

    chosen = tuple(part.strip() for part in languages.split(",") if part.strip())
    run_tune(languages=chosen, budget=budget, out=out, workers=workers, seed=seed, quick=quick, data=data)
