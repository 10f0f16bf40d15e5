"""Text that a model writes by itself, where none is given to calibrate it with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def own_samples(
    model: nn.Module,
    tokens: int,
    length: int = 128,
    *,
    batch_size: int = 16,
    seed: int = 0,
    temperature: float = 1.0,
) -> list[Tensor]:
    """Token ids that a language model generates from its beginning-of-text token.

    Args:
        model: A model with ``generate`` and ``config``, as Hugging Face's.
        tokens: At least so many, over all samples.
        length: Tokens of a sample; fewer where the model has fewer positions.
        batch_size: Samples that are drawn together.
        seed: Of the draws; the global random state is left as it was.
        temperature: 1 draws what the model says as often as it says it; above, the rare more often.

    Returns:
        Batches ``[B, length]``.

    Raises:
        ValueError: If the model cannot generate, or for a temperature that is no positive number.
    """
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite; got {temperature!r}")
    if not callable(getattr(model, "generate", None)):
        raise ValueError(
            f"{type(model).__name__} has no generate method to draw its own samples: give it text, "
            "calibration=[token ids, ...]"
        )
    anything: Any = model
    start = start_token(anything)
    length = min(length, positions(model) or length)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    batches: list[Tensor] = []
    try:
        own: Any = {"device_type": device.type} if device.type != "cpu" else {"devices": []}
        with torch.random.fork_rng(**own):
            torch.manual_seed(seed)
            while sum(batch.numel() for batch in batches) < tokens:
                first = torch.full((batch_size, 1), start, dtype=torch.long, device=device)
                drawn = anything.generate(
                    first,
                    attention_mask=torch.ones_like(first),
                    do_sample=True,
                    top_k=0,
                    top_p=1.0,
                    temperature=float(temperature),
                    min_new_tokens=length - 1,
                    max_new_tokens=length - 1,
                    pad_token_id=start,
                )
                batches.append(drawn)
    finally:
        model.train(training)
    return batches


def positions(model: Any) -> int | None:
    """Tokens that a model can have in one window; None where its configuration does not say."""
    longest = getattr(model.config, "max_position_embeddings", None)
    return longest if isinstance(longest, int) else None


def start_token(model: Any) -> int:
    """The token that a text begins with; the one that ends it where there is none."""
    for config in (getattr(model, "generation_config", None), model.config):
        for name in ("bos_token_id", "decoder_start_token_id", "eos_token_id"):
            value = getattr(config, name, None)
            if isinstance(value, list | tuple) and value:
                value = value[0]
            if isinstance(value, int) and 0 <= value < model.config.vocab_size:
                return value
    return 0
