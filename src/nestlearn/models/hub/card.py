"""A model card: what a model is, read off the model, and what its owner says of its training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData

import nestlearn
from nestlearn.levels import inspect
from nestlearn.models.hope import HopeCache, HopeForCausalLM, HopeForSequenceClassification
from nestlearn.models.hope.modeling import HopePreTrainedModel

#: The hub's word for what a model does, and the Auto class that loads it.
_TASKS = {
    HopeForCausalLM: ("text-generation", "AutoModelForCausalLM"),
    HopeForSequenceClassification: ("text-classification", "AutoModelForSequenceClassification"),
}
_OTHER_TASK = ("feature-extraction", "AutoModel")
_PAPER = "[Nested Learning](https://arxiv.org/abs/2512.24695)"


def model_card(
    model: HopePreTrainedModel,
    *,
    name: str | None = None,
    licence: str | None = None,
    facts: Mapping[str, Any] | None = None,
    exported: bool = False,
) -> ModelCard:
    """The card of a Hope. Everything in it is counted or measured on the model, or given by the caller.

    Args:
        model: The model, on a device where it can read two tokens (its state is measured).
        name: Title of the card and what to load: a folder or ``"owner/name"``. None for ``"."``, this folder.
        licence: Of the weights, as the hub names it (``"apache-2.0"``, ``"other"``); None says nothing.
        facts: What was done to it: words and values, such as ``{"Tokens": 1_000_000}``. Left out if empty.
        exported: The folder has the model's source too, see :func:`nestlearn.models.hub.export`.

    Returns:
        A card that ``huggingface_hub`` can validate, save and push.

    Raises:
        ValueError: If the model is no Hope.
    """
    check_hope(model)
    task, auto = next((value for kind, value in _TASKS.items() if isinstance(model, kind)), _OTHER_TASK)
    tags = ["nestlearn", "nested-learning", "hope", *(["custom_code"] if exported else [])]
    data = ModelCardData(library_name="transformers", pipeline_tag=task, tags=tags, license=licence)
    parts = [
        f"# {name or 'Hope'}",
        _summary(model),
        "## Load",
        *_loading(auto, name or ".", exported),
        "## Levels",
        *_levels(model),
        "## Memory of a session",
        _state(model),
    ]
    if facts:
        rows = [(_cell(key), _cell(value)) for key, value in facts.items()]
        parts += ["## Training", "As its owner states it:", _table(("fact", "value"), rows)]
    parts.append(f"*This card was written by nestlearn {nestlearn.__version__}.*")
    return ModelCard("---\n" + data.to_yaml() + "\n---\n\n" + "\n\n".join(parts) + "\n")


def check_hope(model: object) -> None:
    """Refuse what is no Hope.

    Raises:
        ValueError: Naming the class and what to do instead.
    """
    if not isinstance(model, HopePreTrainedModel):
        raise ValueError(
            f"{type(model).__name__} is no Hope: a retrofitted model keeps its class and is saved by its own "
            "save_pretrained"
        )


def _summary(model: HopePreTrainedModel) -> str:
    config = model.config
    numbers = sum(parameter.numel() for parameter in model.parameters())
    types = ", ".join(
        sorted({str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()})
    )
    mixers = ", ".join(f"{name} ({config.mixers.count(name)})" for name in dict.fromkeys(config.mixers))
    labels = ""
    if isinstance(model, HopeForSequenceClassification):
        labels = f" It gives a sequence {config.num_labels} numbers: {', '.join(config.id2label.values())}."
    return (
        f"A `{type(model).__name__}` ({_PAPER}) with {numbers:,} parameters in {types}: "
        f"{config.num_hidden_layers} layers of width {config.hidden_size} with {config.num_heads} heads and "
        f"a vocabulary of {config.vocab_size:,}. Mixers, and in how many layers: {mixers}. "
        f"Feed-forward blocks: {config.cms_variant}, {len(config.cms_periods)} a layer.{labels}"
    )


def _loading(auto: str, place: str, exported: bool) -> Iterator[str]:
    place = json.dumps(place)
    start = f"from transformers import {auto}\n\nmodel = {auto}.from_pretrained"
    yield "With nestlearn installed:"
    yield _code(f"import nestlearn\n{start}({place})")
    if exported:
        yield "Without it, from the source in this folder, which transformers then runs:"
        yield _code(f"{start}({place}, trust_remote_code=True)")


def _levels(model: HopePreTrainedModel) -> Iterator[str]:
    yield "Within a sequence, memories change while the model reads:"
    memories = [
        (_cell(component.name), level.frequency)
        for level in inspect(model).levels
        for component in level.components
        if component.kind != "parameters"
    ]
    yield _table(("memory", "changes"), memories)
    yield "When it is trained by `nestlearn.optim.Nested`, weights change by these clocks:"
    periods = model.config.cms_periods
    counts = [0] * (len(periods) + 1)
    for name, parameter in model.named_parameters():
        found = re.search(r"\.cms\.blocks\.(\d+)\.", f".{name}")
        counts[int(found[1]) if found else -1] += parameter.numel()
    rows = [
        (f"feed-forward block {index} of each layer", f"every {period:,} tokens", f"{count:,}")
        for index, (period, count) in enumerate(zip(periods, counts, strict=False), start=1)
    ]
    rows.append(("everything else", "with the fastest level", f"{counts[-1]:,}"))
    yield _table(("weights", "updated", "parameters"), rows)


@torch.no_grad()
def _state(model: HopePreTrainedModel) -> str:
    """Bytes of a session, measured."""
    cache, sizes = HopeCache(), []
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    for _ in range(2):
        model.base_model(token, past_key_values=cache)
        sizes.append(cache.num_bytes())
    if sizes[1] == sizes[0]:
        return f"{sizes[0]:,} bytes for each sequence, however long it is."
    return (
        f"{sizes[0]:,} bytes for each sequence, and {sizes[1] - sizes[0]:,} more with every further token "
        "(full attention)."
    )


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _cell(value: object) -> str:
    """A value in one cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


__all__ = ["check_hope", "model_card"]
