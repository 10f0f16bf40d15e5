"""The start: SmolLM2, accustomed to plain text.

To a chat model any plain text is foreign: whatever it reads of it, in whatever language, makes all of it
easier, and that hides what is forgotten. So it first reads a little of the four old domains.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from nestlearn.continual.learner import Learner
from nestlearn.continual.methods import FineTuning
from nestlearn.models.pretrained import load_pretrained
from recipes.smollm.evaluation import CONTEXT, OLD, tokens

SEEN, RATE, BATCH = 65536, 5e-5, 2  # tokens, learning rate of AdamW, windows of a step


def folder(work: Path) -> Path:
    """Where it is kept."""
    return work / "accustomed"


def load(work: Path) -> tuple[Any, Any]:
    """The model, in bfloat16 as everything here, and its tokenizer."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  (seconds to import)

    _, tokenizer = load_pretrained("smollm2")
    return AutoModelForCausalLM.from_pretrained(folder(work)).to(torch.bfloat16), tokenizer


def accustom(work: Path) -> dict[str, Any]:
    """Let SmolLM2 read the old domains, a window of each in turn, and keep it, whole or not at all."""
    model, tokenizer = load_pretrained("smollm2")
    texts = [tokens(tokenizer, name, "train", SEEN // len(OLD)) for name in OLD]
    count = min(len(text) for text in texts) // CONTEXT * CONTEXT
    stream = torch.stack([text[:count].view(-1, CONTEXT) for text in texts], dim=1).flatten()
    learner = Learner(
        model.to(torch.bfloat16), tokenizer, method=FineTuning(lr=RATE), context=CONTEXT, batch_size=BATCH
    )
    report = learner.learn(stream, progress=False)
    learned: Any = learner.model
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        learned.save_pretrained(Path(scratch) / "made")
        shutil.rmtree(folder(work), ignore_errors=True)
        (Path(scratch) / "made").replace(folder(work))
    return {"tokens": report.tokens, "losses": report.losses[:: max(1, len(report.losses) // 16)]}
