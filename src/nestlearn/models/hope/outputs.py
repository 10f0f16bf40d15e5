"""One name for what transformers calls differently from version to version.

Until 5.23 a model takes and returns its cache as ``past_key_values``; from 5.24 on as ``cache``, where the
old name still works and is logged as deprecated.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

#: What this version of transformers calls the cache, in outputs and in generation.
CACHE_NAME = next(
    field.name
    for field in dataclasses.fields(CausalLMOutputWithPast)
    if field.name in ("past_key_values", "cache")
)

Output = TypeVar("Output")


def with_cache(kind: type[Output], cache: Cache | None, **fields: Any) -> Output:
    """An output of transformers with a cache in it.

    Args:
        kind: Class of the output.
        cache: The cache, or None.
        **fields: The output's other fields.
    """
    return kind(**{CACHE_NAME: cache}, **fields)


def as_dict(config: Any, return_dict: bool | None) -> bool:
    """Whether a model gives its output as an object and not as a tuple."""
    return bool(getattr(config, "return_dict", True) if return_dict is None else return_dict)


def cache_of(output: Any) -> Any:
    """The cache of an output of transformers, or None."""
    return getattr(output, CACHE_NAME)


__all__ = ["CACHE_NAME", "as_dict", "cache_of", "with_cache"]
