"""What all forms of a model have in common: a configuration, tensors, and files such as the tokenizer's."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor

#: Files that go along with a model.
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.spm",
    "chat_template.*",
    "preprocessor_config.json",
    "processor_config.json",
    "README.md",
    "LICENSE*",
    "*.py",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Content:
    """A model without its form.

    Attributes:
        config: As in ``config.json``.
        tensors: By the names of ``state_dict``; of tied ones only the first.
        files: Companions by name, of :data:`COMPANIONS`.
        left_out: What else the source has, in words.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    files: dict[str, bytes] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def cast(self, dtype: str) -> Content:
        """The same with floating-point tensors in another dtype.

        Raises:
            ValueError: If it is not known, or too narrow for a number.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
        cast = {
            name: tensor.to(DTYPES[dtype]) if tensor.is_floating_point() else tensor
            for name, tensor in self.tensors.items()
        }
        for name, tensor in cast.items():
            if bool((tensor.isinf() & ~self.tensors[name].isinf()).any()):
                raise ValueError(f"{name} holds numbers that {dtype} is too narrow for: take bfloat16")
        config = {key: value for key, value in self.config.items() if key != "torch_dtype"}
        return replace(self, config={**config, "dtype": dtype}, tensors=cast)


def is_companion(name: str) -> bool:
    """Whether a file of this name goes along; never one in another folder."""
    return "/" not in name and "\\" not in name and any(fnmatch(name, pattern) for pattern in COMPANIONS)


def encoded(files: Mapping[str, bytes]) -> dict[str, str]:
    """Files as text: UTF-8 under ``text:NAME``, anything else under ``base64:NAME``."""
    found = {}
    for name, content in sorted(files.items()):
        try:
            found[f"text:{name}"] = content.decode()
        except UnicodeDecodeError:
            found[f"base64:{name}"] = base64.b64encode(content).decode()
    return found


def decoded(texts: Mapping[str, str]) -> dict[str, bytes]:
    """What :func:`encoded` was given; other keys are passed over.

    Raises:
        ValueError: For a name that is no companion's.
    """
    found = {}
    for key, text in texts.items():
        form, _, name = key.partition(":")
        if form in ("text", "base64"):
            if not is_companion(name):
                raise ValueError(f"{name!r} is no file that goes along with a model")
            found[name] = text.encode() if form == "text" else base64.b64decode(text, validate=True)
    return found


def differences(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not the same in both, to the bit."""
    return [
        name
        for name in dict.fromkeys([*first, *second])
        if name not in first or name not in second or not same_bits(first[name], second[name])
    ]


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether dtype, shape and every bit agree, also those of NaN and of a negative zero."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return torch.equal(raw(first), raw(second))


def raw(tensor: Tensor) -> Tensor:
    """A tensor's bytes, uint8."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


__all__ = [
    "COMPANIONS",
    "DTYPES",
    "Content",
    "decoded",
    "differences",
    "encoded",
    "is_companion",
    "raw",
    "same_bits",
]
