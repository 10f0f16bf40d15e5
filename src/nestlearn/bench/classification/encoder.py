"""Networks that are a pretrained encoder of sentences and a head, and the methods on them.

The encoder's layers are trained; its embeddings stay, half of its numbers, most of which no sentence of a
task has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nestlearn.bench.base import JOINT, Entry, Settings
from nestlearn.bench.classification import methods
from nestlearn.continual.classification import (
    Classifier,
    ElasticWeights,
    ExactHead,
    FirstSession,
    LowRank,
    adam,
    random_features,
)
from nestlearn.models.encoders import SentenceEncoder, load_encoder

if TYPE_CHECKING:
    from nestlearn.bench.classification.stream import Setup

#: Whose means are the features of exact heads: the upper half of MiniLM's layers.
LAYERS = (4, 5, 6)
#: Sentences of similar length that are computed together.
GROUP = 16
#: Length of what the head reads.
SCALE = 60.0
#: Of Adam on a pretrained encoder.
SLOW = (3e-5, 1e-4)
#: Sentences of a task that EWC looks at: each costs a pass by itself.
FISHER = 64


class ByLength(nn.Module):
    """A network of rows of tokens that computes those of similar length together, so that few are filling.

    Args:
        network: Maps tokens ``[B, L]`` to ``[B, ...]``, row by row, whatever a row is filled up with.
        pad: The token that fills up a row, at its end.
        group: Rows that are computed together.
    """

    def __init__(self, network: nn.Module, pad: int = 0, group: int = GROUP) -> None:
        super().__init__()
        self.network, self.pad, self.group = network, pad, group

    def forward(self, ids: Tensor) -> Tensor:
        """What the network makes of the rows ``[B, L]``, whole numbers of any type, in their order."""
        order = (ids != self.pad).sum(1).argsort(stable=True)
        found = torch.cat([self.network(ids[part].long()) for part in order.split(self.group)])
        return found[order.argsort()]


class Scaled(nn.Module):
    """Its inputs times a number.

    Args:
        scale: The number: the larger, the faster a linear layer behind it learns by Adam.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, values: Tensor) -> Tensor:
        """The product, of any shape."""
        return self.scale * values


@dataclass(frozen=True)
class EncoderBuilder:
    """Makes encoders with a linear head on the mean of a sentence's states, of length 60.

    Attributes:
        load: Gives an encoder of the library ``transformers``, and the token that fills up a row.
        name: Of the encoder.
    """

    load: Callable[[], tuple[nn.Module, int]]
    name: str = "minilm"

    @property
    def settings(self) -> Mapping[str, Any]:
        """See :class:`~nestlearn.bench.classification.stream.Builder`."""
        return {"encoder": self.name, "layers": LAYERS, "scale": SCALE}

    @property
    def described(self) -> str:
        """See :class:`~nestlearn.bench.classification.stream.Builder`."""
        return "a pretrained encoder, its embeddings fixed and its layers trained, with a linear head"

    def __call__(self, outputs: int) -> nn.Sequential:
        """The encoder as it was pretrained, and a new head: tokens ``[B, L]`` to ``[B, outputs]``."""
        encoder, pad = self.load()
        encoder = without_dropout(deepcopy(encoder))
        fix(encoder.embeddings)
        body, size = (
            ByLength(SentenceEncoder(encoder, pad=pad, normalise=True), pad),
            encoder.config.hidden_size,
        )
        return nn.Sequential(body, Scaled(SCALE), nn.Linear(size, outputs))


@lru_cache(maxsize=1)
def minilm() -> tuple[nn.Module, int]:
    """The encoder that a package carries, and its filling.

    Raises:
        DataError: See :func:`~nestlearn.models.encoders.load_encoder`.
    """
    encoder, tokenizer = load_encoder("minilm")
    return encoder, int(tokenizer.pad_token_id)


def fix(module: nn.Module) -> None:
    """Make all parameters within a module numbers that nobody trains, counts or draws back."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())


def without_dropout(encoder: Any) -> Any:
    """The encoder, with a dropout of 0: a task is seen too few times to be learned by heart."""
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return encoder


def upper_layers(network: nn.Module, layers: Sequence[int]) -> tuple[nn.Module, int]:
    """Several layers' means of the sentences, each of length 1, and how many numbers those are.

    Args:
        network: Of an :class:`EncoderBuilder`; its encoder is the one that the features are of.
        layers: See :class:`~nestlearn.models.encoders.SentenceEncoder`.
    """
    body: Any = network.get_submodule("0")
    own = SentenceEncoder(body.network.encoder, pad=body.pad, layers=layers, normalise=True)
    return ByLength(own, body.pad), own.size


def _expanded(setup: Setup, network: nn.Module, gain: float) -> tuple[nn.Module, int]:
    """Random features of the upper layers, and how many."""
    layers, size = upper_layers(network, LAYERS)
    spread = gain * (size / len(LAYERS)) ** 0.5  # as if a number's mean square were 1
    drawn = random_features(size, methods.FEATURES, gain=spread, seed=setup.seed)
    return nn.Sequential(layers, drawn), methods.FEATURES


def _exact(setup: Setup, settings: Settings) -> Classifier:
    features, size = _expanded(setup, setup.network(), settings["gain"])
    return ExactHead(features, size, setup.outputs, ridge=settings["ridge"])


def _first_session(setup: Setup, settings: Settings) -> Classifier:
    network = setup.network()
    features, size = _expanded(setup, network, settings["gain"])
    own = {"size": size, "classes": setup.outputs, "ridge": settings["ridge"]}
    return FirstSession(network, adam(settings["lr"]), features=features, **own)


def _low_rank(setup: Setup, settings: Settings) -> Classifier:
    return LowRank(setup.network(), adam(settings["lr"]), rank=8, seed=setup.seed)


def _elastic(setup: Setup, settings: Settings) -> Classifier:
    own = {"strength": settings["strength"], "examples": FISHER, "seed": setup.seed}
    return ElasticWeights(setup.network(), adam(settings["lr"]), **own)


def _slowly(name: str) -> Entry:
    """A method of perceptrons with the rates of a pretrained encoder."""
    return replace(methods.METHODS[name], space={**methods.METHODS[name].space, "lr": SLOW})


_RIDGE = {"gain": (1.0, 2.0), "ridge": (1e-2, 1e-1)}
ENCODER_METHODS: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        _slowly("ordinary"),
        replace(_slowly(JOINT), space={"lr": (1e-4,)}, passes=5),  # the rate that two passes chose
        Entry("exact head", _exact, _RIDGE, ours=True, passes=1),
        Entry("lora", _low_rank, {"lr": (3e-4, 1e-3)}),
        _slowly("replay, 1 %"),
        Entry("ewc", _elastic, {"lr": SLOW, "strength": (1e2, 1e4)}, told=True),
        Entry("first session", _first_session, {"lr": (3e-5, 1e-4, 3e-4), **_RIDGE}, ours=True, told=True),
        _slowly("replay, 5 %"),
    )
}
