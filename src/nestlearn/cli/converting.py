"""``nestlearn convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

converting = typer.Typer()


@converting.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="A Hugging Face folder, a file that this command wrote, a training checkpoint or its run's "
            "folder, or a memory file. Which, is found out by its content."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="What to write.")],
    to: Annotated[
        str | None,
        typer.Option(
            help="folder, file, checkpoint or memory. [default: file for a TARGET that ends in .safetensors, "
            "otherwise folder]"
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="For memories: the model that it was learned on; a folder, hub name, or smollm2."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. [default: as each tensor is]")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest file of weights in a folder.")] = "5GB",
    force: Annotated[bool, typer.Option("--force", help="Replace TARGET if it exists.")] = False,
) -> None:
    """Turn a model into another form: checkpoint, Hugging Face folder, one file, or memory.

    What is written is read back and compared bit for bit before it is put in place. Tokenizer files go along.
    """
    from nestlearn.converting import convert as convert_  # noqa: PLC0415  (--help should not wait for torch)

    done = convert_(source, target, to=to, base=base, dtype=dtype, force=force, max_shard_size=max_shard_size)
    typer.echo(str(done))
