"""The model that a stream of texts begins with: a small Llama that has learned the first task."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from nestlearn.continual.methods.base import causal_loss
from nestlearn.streams import DataError
from nestlearn.streams.cache import cache_folder, write_atomic

SHAPE: Mapping[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
BATCH, RATE, WARM_UP = 16, 3e-3, 0.05


def new_model(vocabulary: int, seed: int) -> nn.Module:
    """An untrained model."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415  (seconds to import)

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: nn.Module = LlamaForCausalLM(
            LlamaConfig(vocab_size=vocabulary, bos_token_id=0, eos_token_id=0, **SHAPE)
        )
    return made.eval()


def learned_first(windows: Tensor, vocabulary: int, steps: int, seed: int) -> nn.Module:
    """The model after ``steps`` of AdamW on the first task, out of the cache folder where it is there.

    Args:
        windows: Of the first task, ``[n, T + 1]``; passed over in an order of the seed.
        vocabulary: Tokens.
        steps: Batches of 16 windows.
        seed: Of weights and order.

    Raises:
        DataError: The cached file is damaged.
    """
    model = new_model(vocabulary, seed)
    digest = hashlib.sha256(json.dumps([dict(SHAPE), BATCH, RATE, WARM_UP, vocabulary, steps, seed]).encode())
    digest.update(windows.contiguous().numpy().tobytes())
    path = cache_folder() / f"bench-start-{digest.hexdigest()[:16]}.safetensors"
    if path.is_file():
        try:
            model.load_state_dict(load_tensors(path.read_bytes()))
        except Exception as error:  # safetensors has its own kind for every damage
            raise DataError(f"{path} is damaged ({error}): delete it and run again.") from error
        return model
    _train(model, windows, steps, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Tied weights are one tensor under two names, which the format does not hold.
    write_atomic(path, save_tensors({name: value.clone() for name, value in model.state_dict().items()}))
    return model


def _train(model: nn.Module, windows: Tensor, steps: int, seed: int) -> None:
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(model.parameters(), RATE, (0.9, 0.95), weight_decay=0.1)
    for step in range(steps):
        rise = min(1.0, (step + 1) / max(1.0, WARM_UP * steps))
        factor = rise * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = RATE * factor
        places = torch.arange(step * BATCH, (step + 1) * BATCH) % len(windows)
        causal_loss(model, windows[order[places]]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
