"""The command line: thin, and kind to people."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve each other

import sys
from pathlib import Path
from typing import Annotated

import typer

from nestlearn.cli.converting import converting
from nestlearn.cli.evaluating import evaluating
from nestlearn.cli.hub import hub
from nestlearn.cli.looking import looking

app = typer.Typer(
    name="nestlearn",
    help="Models that keep learning, and keep what they knew.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


bench = typer.Typer(
    help="The benchmark: the same streams and measures for every method.", no_args_is_help=True
)
app.add_typer(bench, name="bench")
app.add_typer(looking)
app.add_typer(evaluating)
app.add_typer(hub)
app.add_typer(converting)


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


Track = Annotated[
    str,
    typer.Option(
        help="Where metrics go besides the run's folder: trackio, tensorboard, wandb, with commas; none; or "
        "auto, which is trackio where it is installed."
    ),
]


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
    track: Track = "auto",
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
        track=track,
    )


Model = Annotated[
    str,
    typer.Option("--model", help="A folder, a name on the Hugging Face hub, or smollm2 (135 M parameters)."),
]
Text = Annotated[
    list[Path],
    typer.Option(
        "--text", help="File or folder to learn from; may be repeated. JSON lines hold documents or chats."
    ),
]
Old = Annotated[
    list[Path] | None,
    typer.Option(
        "--old", help="A sample of what the model knows and shall keep; without it the model writes one."
    ),
]
Rate = Annotated[float | None, typer.Option("--lr", help="Learning rate. [default: the method's]")]
Context = Annotated[int | None, typer.Option(help="Tokens of a window. [default: 256]")]
Batch = Annotated[int | None, typer.Option("--batch-size", help="Windows of a step. [default: 4]")]


@app.command()
def learn(
    model: Model,
    text: Text,
    out: Annotated[Path, typer.Option(help="The memory file to write.", dir_okay=False)] = Path(
        "memory.safetensors"
    ),
    old: Old = None,
    memory: Annotated[
        Path | None, typer.Option(help="Go on from what this memory file holds.", dir_okay=False)
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="finetune, mlp, lora, ewc, l2, replay or average. [default: levels]"),
    ] = None,
    lr: Rate = None,
    context: Context = None,
    batch_size: Batch = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where this command was interrupted.")
    ] = False,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for what the levels do, for nestlearn watch and report. [default: none]",
            file_okay=False,
        ),
    ] = None,
    track: Track = "auto",
) -> None:
    """Teach a pretrained model your text, keeping what it knew. Writes one small memory file.

    The model itself stays as it is: what was learned is in the file, for nestlearn chat, or for
    nl.Learner.load in Python.

    Ctrl-C is safe: it saves everything, and --resume goes on from there.
    """
    from nestlearn.cli.teach import run_learn  # noqa: PLC0415  (--help should not wait for torch)

    run_learn(
        model=model, text=text, out=out, old=old or [], memory=memory, method=method, lr=lr, context=context,
        batch_size=batch_size, resume=resume, run_dir=run_dir, track=track,
    )  # fmt: skip


@app.command()
def chat(
    model: Model,
    memory: Annotated[
        Path | None, typer.Option(help="What it learned: a file that nestlearn learn wrote.", dir_okay=False)
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Ask this and end, instead of a conversation.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 200,
) -> None:
    """Talk to a model, with or without what it learned. Ends with Ctrl-D."""
    from nestlearn.cli.teach import run_chat  # noqa: PLC0415

    run_chat(model=model, memory=memory, prompt=prompt, max_new_tokens=max_new_tokens)


@app.command()
def compare(
    model: Model,
    text: Text,
    old: Annotated[
        list[Path],
        typer.Option("--old", help="What the model knows: half is shown to the methods, half tested."),
    ],
    methods: Annotated[
        str, typer.Option(help="With commas: levels, or others as for learn --method; NAME:RATE sets a rate.")
    ] = "levels,finetune,replay",
    context: Context = None,
    batch_size: Batch = None,
    result: Annotated[Path | None, typer.Option(help="JSON file for the figures.", dir_okay=False)] = None,
) -> None:
    """What each method learns from your text, and what it makes the model forget.

    One in ten of the new documents is kept back, and tells how much was learned; half of the old ones tell
    how much was forgotten.
    """
    from nestlearn.cli.teach import run_compare  # noqa: PLC0415

    run_compare(
        model=model, text=text, old=old, methods=[m.strip() for m in methods.split(",") if m.strip()],
        context=context, batch_size=batch_size, result=result,
    )  # fmt: skip


@bench.command()
def continual(
    stream: Annotated[
        str | None, typer.Option(help="Streams, with semicolons. [default: all; --list names them]")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Methods, with semicolons. [default: all; --list names them]")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="At most so many seeds. [default: the stream's own number]", min=1)
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes of one thread each; 0 for none but this one.", min=0)
    ] = 2,
    result: Annotated[
        Path,
        typer.Option(help="Folder of the finished cells, one file a stream.", file_okay=False),
    ] = Path("results/continual"),
    page: Annotated[
        Path, typer.Option(help="Markdown page to write, with pictures beside it.", dir_okay=False)
    ] = Path("docs/benchmark.md"),
    show: Annotated[bool, typer.Option("--list", help="Name the streams and methods, and end.")] = False,
) -> None:
    """Learn streams of tasks by every method, and show what each kept.

    Does what the results do not have yet: first the search for each method's settings, on validation
    examples of the first two tasks, then the whole streams, seed by seed. Prints a table, and writes a page.

    Ctrl-C is safe: finished cells are kept, and the same command goes on.
    """
    from nestlearn.cli.bench import run_continual, show_names  # noqa: PLC0415  (--help without torch)

    if show:
        show_names()
        return
    run_continual(stream=stream, method=method, seeds=seeds, workers=workers, result=result, page=page)


def run() -> None:
    """Entry point: bad input ends with one sentence and exit code 2."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"nestlearn: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    run()
