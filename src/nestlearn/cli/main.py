"""The command line: thin, and kind to people."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve each other

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="nestlearn",
    help="Models that keep learning, and keep what they knew.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def main() -> None:
    """Models that keep learning, and keep what they knew."""


@app.command()
def native(
    force: Annotated[bool, typer.Option("--force", help="Compile again where it is built already.")] = False,
) -> None:
    """Compile the self-modifying memories for this processor: once, half a minute, then found by itself.

    They train about twice as fast with it. NESTLEARN_NATIVE=0 switches it off. Needs Linux and g++.
    """
    from nestlearn.memory.native import build  # noqa: PLC0415  (--help without torch)

    try:
        print(build(force=force))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None


@app.command()
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny models: about a minute, to see that everything works.")
    ] = False,
    languages: Annotated[
        str, typer.Option(help="Languages in the order of the stream, from: en, fr, de, es, it.")
    ] = "en,fr,de",
    steps: Annotated[
        int | None, typer.Option(help="Training steps of each model; half go to the first language.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the models and of the order of the text.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for results.json, report.html and checkpoints.", file_okay=False)
    ] = Path("out/demo"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted demo in --out stopped.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the help packages or pages, instead of fetching them.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Models trained at a time, one thread each. [default: all]")
    ] = None,
) -> None:
    """Watch three models learn English, then French, then German, and see who still knows English.

    The same text for each: Hope with levels and consolidation, the same Hope trained the ordinary way, and
    a Transformer trained the ordinary way. Prints what each has kept, and writes a report for the browser.

    Ctrl-C is safe: every model saves a checkpoint, and --resume goes on from there.
    """
    from nestlearn.cli.demo import run_demo  # noqa: PLC0415  (--help should not wait for torch)

    run_demo(
        quick=quick,
        languages=tuple(part.strip() for part in languages.split(",") if part.strip()),
        steps=steps,
        seed=seed,
        out=out,
        resume=resume,
        data=data,
        workers=workers,
    )


def run() -> None:
    """Entry point: bad input ends with one sentence and exit code 2."""
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"nestlearn: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    run()
