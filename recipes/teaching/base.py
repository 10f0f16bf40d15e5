"""The base: a Llama of 6 million parameters, trained on the old domains until it knows them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nestlearn.streams import bits_per_byte
from recipes._runs import schedule
from recipes.teaching.material import CONTEXT, OLD, VOCABULARY, held, tokens

STEPS, BATCH, RATE = 1200, 16, 3e-3
SHAPE: Mapping[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
#: Tokens of the old text that a base has seen, and about how many bytes they stand for.
SEEN = STEPS * BATCH * CONTEXT


def folder(work: Path, seed: int) -> Path:
    """Where a base is kept."""
    return work / f"base-{seed}"


def load(work: Path, seed: int) -> Any:
    """A base that was trained before."""
    from transformers import LlamaForCausalLM  # noqa: PLC0415  (seconds to import)

    return LlamaForCausalLM.from_pretrained(folder(work, seed)).eval()


def train(work: Path, seed: int, steps: int = STEPS) -> dict[str, Any]:
    """Train a base and keep it in its folder, whole or not at all.

    Returns:
        Its bits per byte of every domain on test and validation windows, and its number of parameters.
    """
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **SHAPE))
    each = steps * BATCH * CONTEXT // len(OLD) + 1
    windows = torch.cat([tokens(name, "train", each, seed).unfold(0, CONTEXT + 1, CONTEXT) for name in OLD])
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(model.parameters(), RATE, (0.9, 0.95), weight_decay=0.1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * schedule(step, steps)
        places = torch.arange(step * BATCH, (step + 1) * BATCH) % len(windows)
        batch = windows[order[places]]
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        model.eval().save_pretrained(Path(scratch) / "made")
        shutil.rmtree(folder(work, seed), ignore_errors=True)
        (Path(scratch) / "made").replace(folder(work, seed))
    return {
        "bits": {split: evaluate(model, split) for split in ("validation", "test")},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def evaluate(model: Any, split: str) -> dict[str, float]:
    """Bits per byte of every domain."""
    own = held(split)
    return {name: bits_per_byte(model, windows, own.sizes) for name, windows in own.windows.items()}
