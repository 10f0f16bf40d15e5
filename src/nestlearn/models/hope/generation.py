"""What ``generate()`` needs to know of a model with memories."""

from __future__ import annotations

from typing import Any

from transformers import GenerationMixin
from transformers.generation.configuration_utils import GenerationMode

from nestlearn.models.hope.cache import HopeCache
from nestlearn.models.hope.outputs import CACHE_NAME

#: How a cache can be kept, as ``cache_implementation`` names it.
_IMPLEMENTATIONS = (None, "dynamic", "dynamic_full", "offloaded")


class HopeGeneration(GenerationMixin):
    """transformers' generation with a :class:`~nestlearn.models.hope.HopeCache`."""

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Make the cache of one call, and let it remember where tokens may be taken back."""
        given = model_kwargs.get(CACHE_NAME) is not None
        kept = generation_config.cache_implementation
        if given or generation_config.use_cache is False:
            super()._prepare_cache_for_generation(
                generation_config, model_kwargs, generation_mode, *args, **kwargs
            )
        elif kept in _IMPLEMENTATIONS:
            model_kwargs[CACHE_NAME] = HopeCache(offloading=kept == "offloaded")
        else:
            raise ValueError(
                f"cache_implementation {kept!r} is made for keys and values; memories have a constant size "
                'already: leave it out, or use "offloaded"'
            )
        drafts = generation_mode == GenerationMode.ASSISTED_GENERATION or generation_config.is_assistant
        if drafts and model_kwargs.get(CACHE_NAME) is not None:
            model_kwargs[CACHE_NAME].activate_past_recording()


__all__ = ["HopeGeneration"]
