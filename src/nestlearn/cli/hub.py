"""The command that makes a model's folder ready for people who lack this library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

hub = typer.Typer()


@hub.command()
def export(
    model: Annotated[Path, typer.Argument(help="Folder of a Hope, as save_pretrained writes it.")],
    folder: Annotated[Path, typer.Argument(help="New folder to write.", file_okay=False)],
    name: Annotated[
        str | None, typer.Option(help="Title of the model card, and what to load: OWNER/NAME.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the weights, as the hub names it, such as apache-2.0.")
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option(help="JSON file for the model card: an object of what was done to it.", dir_okay=False),
    ] = None,
) -> None:
    """Write a Hope with its source and a model card, to be loaded on machines that lack nestlearn.

    There it loads with trust_remote_code=True. A tokenizer in the model's folder comes along.
    """
    print(_export(model, folder, name=name, licence=licence, facts=facts))


def _export(model: Path, folder: Path, *, name: str | None, licence: str | None, facts: Path | None) -> Path:
    from nestlearn.models import hub as models_hub  # noqa: PLC0415  (--help without torch)

    told = None if facts is None else _facts(facts)
    tokenizer = None
    if (model / "tokenizer_config.json").is_file():
        from transformers import AutoTokenizer  # noqa: PLC0415

        tokenizer = AutoTokenizer.from_pretrained(model)
    return models_hub.export(
        _model(model), folder, tokenizer=tokenizer, name=name, licence=licence, facts=told
    )


def _model(folder: Path) -> Any:
    """The model of a folder, of the class that was saved."""
    from transformers import AutoConfig  # noqa: PLC0415

    from nestlearn.models.hope import AUTO_CLASSES, HopeConfig  # noqa: PLC0415

    if not (folder / "config.json").is_file():
        raise ValueError(f"there is no model in {folder}: give a folder that save_pretrained wrote")
    config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, HopeConfig):
        raise ValueError(
            f"{folder} holds a {config.model_type}, which transformers loads everywhere; export is for Hope"
        )
    classes = {kind.__name__: kind for kind in AUTO_CLASSES.values()}
    saved = (config.architectures or ["HopeForCausalLM"])[0]
    if saved not in classes:
        raise ValueError(f"{folder} holds a {saved}; this version knows {', '.join(classes)}")
    return classes[saved].from_pretrained(folder, dtype="auto")


def _facts(file: Path) -> dict[str, Any]:
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{file} holds a {type(facts).__name__}: it needs an object of names and values")
    return facts


__all__ = ["hub"]
