"""The commands that say how good a model is: ``nestlearn evaluate`` and ``perplexity``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

evaluating = typer.Typer()

Model = Annotated[
    str,
    typer.Option("--model", help="A folder, a name on the Hugging Face hub, or smollm2 (135 M parameters)."),
]
Memory = Annotated[
    Path | None,
    typer.Option(help="What it has learned: a file that nestlearn learn wrote.", dir_okay=False),
]


def _listed(wanted: bool) -> None:
    """Name our tasks and end, before anything else is asked for."""
    if wanted:
        from nestlearn.evaluation.documents import task_names  # noqa: PLC0415

        typer.echo("\n".join(task_names()))
        raise typer.Exit


@evaluating.command()
def evaluate(
    model: Model,
    tasks: Annotated[str, typer.Option(help="Names of tasks, with commas; --list names ours.")],
    memory: Memory = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="The memory of a Hope goes on from document to document: another score, which depends on "
            "their order.",
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Requests at a time.", min=1)] = 8,
    limit: Annotated[int | None, typer.Option(help="Only the first so many documents.", min=1)] = None,
    shots: Annotated[int | None, typer.Option(help="Examples before a question.", min=0)] = None,
    include: Annotated[
        Path | None,
        typer.Option(help="Folder with descriptions of further tasks.", exists=True, file_okay=False),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put questions by the chat template.")] = False,
    result: Annotated[Path | None, typer.Option(help="JSON file for the figures.", dir_okay=False)] = None,
    samples: Annotated[
        Path | None, typer.Option(help="JSON file for every answer with its likelihoods.", dir_okay=False)
    ] = None,
    show: Annotated[
        bool,
        typer.Option(
            "--list", help="Name the tasks that come with us, and end.", is_eager=True, callback=_listed
        ),
    ] = False,
) -> None:
    """Score a model on tasks of lm-eval: its own, ours, or yours.

    Ours are made of texts from packages or a local folder, and need no hub; all of them together are named
    nestlearn. The model starts every request afresh, unless --stream is given.

    lm-eval's whole command line, with our models and tasks: python -m nestlearn.evaluation
    """
    del show  # _listed has seen to it
    from nestlearn.cli.evaluate import run_evaluate  # noqa: PLC0415  (--help without torch)

    run_evaluate(
        model=model, tasks=[name.strip() for name in tasks.split(",") if name.strip()], memory=memory,
        stream=stream, batch_size=batch_size, limit=limit, shots=shots, include=include, chat=chat,
        result=result, samples=samples,
    )  # fmt: skip


@evaluating.command()
def perplexity(
    model: Model,
    text: Annotated[
        list[Path],
        typer.Option("--text", help="File or folder; may be repeated. JSON lines hold documents or chats."),
    ],
    memory: Memory = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Tokens that a prediction sees at most. [default: all that the model takes]", min=1
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Tokens by which a window goes on: smaller is fairer and slower. [default: half of it]",
            min=1,
        ),
    ] = None,
    result: Annotated[Path | None, typer.Option(help="JSON file for the figures.", dir_okay=False)] = None,
) -> None:
    """How well a model predicts long documents, and whether it gains from what came before.

    A Hope reads each document once, in constant memory; other models, and a Hope with --context, see a window
    that slides along. Prints perplexity, bits per byte, and the loss by position in the document.

    Ctrl-C ends it with the figures up to there.
    """
    from nestlearn.cli.evaluate import run_perplexity  # noqa: PLC0415

    run_perplexity(model=model, text=text, memory=memory, context=context, stride=stride, result=result)


__all__ = ["evaluating"]
