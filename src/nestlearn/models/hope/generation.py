"""What ``generate()`` needs to know of a model with memories."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.generation.configuration_utils import GenerationMode

from nestlearn.models.hope.cache import HopeCache
from nestlearn.models.hope.outputs import CACHE_NAME

#: How a cache can be kept, as ``cache_implementation`` names it.
_IMPLEMENTATIONS = (None, "dynamic", "dynamic_full", "offloaded")


class HopeGeneration(GenerationMixin):
    """transformers' generation with a :class:`~nestlearn.models.hope.HopeCache`."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' own; a cache that is given back remembers passes only if it did so before."""
        given = kwargs.get("cache", kwargs.get("past_key_values"))
        recording = getattr(given, "recording", False)
        try:
            return super().generate(*args, **kwargs)
        finally:
            drafting = getattr(kwargs.get("generation_config"), "is_assistant", False)
            if isinstance(given, HopeCache) and not recording and not drafting:
                given.end_past_recording()

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], mode: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Make the cache of one call, and let it remember where tokens may be taken back."""
        given = model_kwargs.get(CACHE_NAME)
        kept = generation_config.cache_implementation
        if given is not None or generation_config.use_cache is False:
            super()._prepare_cache_for_generation(generation_config, model_kwargs, mode, *args, **kwargs)
            mask = model_kwargs.get("attention_mask")
            # A mask of ones has been left out by some versions, which keep its length.
            columns = getattr(generation_config, "_mask_length", None) if mask is None else mask.shape[1]
            _check_new_tokens(given, columns)
        elif kept in _IMPLEMENTATIONS:
            model_kwargs[CACHE_NAME] = HopeCache(offloading=kept == "offloaded")
        else:
            raise ValueError(
                f"cache_implementation {kept!r} is made for keys and values; memories have a constant size "
                'already: leave it out, or use "offloaded"'
            )
        cache = model_kwargs.get(CACHE_NAME)
        if cache is None:
            return
        if mode == GenerationMode.ASSISTED_GENERATION or generation_config.is_assistant:
            cache.recording = True  # also of layers that are made with the first token
            for layer in cache.layers:
                layer.activate_past_recording()
        seen_again = given is not None or generation_config.return_dict_in_generate
        cache.ends = getattr(generation_config, "_eos_token_tensor", None) if seen_again else None
        cache.prompt = None

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As transformers' own; rows that have ended are padding from their last token on.

        A row that is done gets one token after the other until all are: a session that is kept would learn
        them.
        """
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, *args, inputs_embeds=inputs_embeds, **kwargs
        )
        cache: Any = inputs.get(CACHE_NAME)
        if getattr(cache, "ends", None) is None or len(input_ids) == 1:
            return inputs
        new = inputs.get("input_ids")
        if cache.prompt is None or new is None or new.shape[1] > 1 or new.shape[1] == input_ids.shape[1]:
            read = input_ids.shape[1] if new is not None else 0
            chunk = new is not None and new.shape[1] == read  # of a prompt, perhaps
            cache.prompt = read + (cache.prompt or 0 if chunk else 0)
            return inputs
        ended = torch.isin(input_ids[:, cache.prompt :], cache.ends.to(input_ids.device)).any(1)
        inputs["attention_mask"] = (~ended[:, None]).long()  # of the one new column
        return inputs


def _check_new_tokens(cache: Any, columns: int | None) -> None:
    """Refuse a text of which a session has read everything: transformers takes it for the whole text.

    Raises:
        ValueError: Naming both lengths.
    """
    read = 0 if cache is None else cache.get_seq_length()
    if read and columns is not None and columns <= read:
        raise ValueError(
            f"the text has {columns} columns, and the cache has read {read}: give generate() the whole "
            "text, or the new tokens with an attention_mask over all columns"
        )


__all__ = ["HopeGeneration"]
