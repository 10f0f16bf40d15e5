"""Hope: self-modifying Titans followed by a Continuum Memory System (Eq. 94 to 97)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from nestlearn.layers import (
    Attention,
    CausalConvolution,
    ContinuumMemory,
    MemoryAsContext,
    MemoryAsGate,
    MemoryAsLayer,
    Mixer,
    SelfModifyingTitans,
    Softmax,
)
from nestlearn.levels import Level
from nestlearn.models.hope.cache import HopeCache, LayerState
from nestlearn.models.hope.configuration import HopeConfig

_COMBINATIONS = {"titans_mac": MemoryAsContext, "titans_mag": MemoryAsGate, "titans_mal": MemoryAsLayer}


def build_mixer(config: HopeConfig, mixer: str) -> Mixer:
    """One layer's mixer, by its name."""
    d, heads = config.hidden_size, config.num_heads
    attention: dict[str, Any] = {
        "window": config.window,
        "persistent_tokens": config.persistent_tokens,
        "rope_theta": config.rope_theta,
    }
    if mixer == "attention":
        return Attention(d, heads, conv_size=config.conv_size, **attention)
    memory: dict[str, Any] = {
        "rule": config.memory_rule(mixer),
        "memory_expansion": config.memory_expansion,
        "conv_size": config.conv_size,
        "eps": config.rms_norm_eps,
    }
    if mixer in _COMBINATIONS:
        return _COMBINATIONS[mixer](d, heads, **memory, **attention)
    return SelfModifyingTitans(d, heads, **memory)


class HopeBlock(nn.Module):
    """One layer: ``x + mixer(norm(x))``, then the Continuum Memory System.

    Args:
        config: The model's configuration.
        mixer: Name of this layer's mixer.

    Shapes: ``[B, T, d]`` in and out.
    """

    def __init__(self, config: HopeConfig, mixer: str) -> None:
        super().__init__()
        d = config.hidden_size
        self.norm = nn.RMSNorm(d, eps=config.rms_norm_eps)
        self.mixer = build_mixer(config, mixer)
        self.cms = ContinuumMemory(d, config.cms_sizes(), config.cms_variant, config.rms_norm_eps)

    def forward(self, x: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """Map ``[B, T, d]`` to ``[B, T, d]`` and return the mixer's new state."""
        x, state = self.mix(x, state)
        return self.cms(x), state

    def mix(self, x: Tensor, state: LayerState | None) -> tuple[Tensor, LayerState]:
        """The first half: ``x + mixer(norm(x))`` and the mixer's new state."""
        mixed, state = self.mixer(self.norm(x), state)
        return x + mixed, state


class HopePreTrainedModel(PreTrainedModel):
    """What Hope's models share: configuration class, initialisation, cache policy."""

    config_class = HopeConfig
    base_model_prefix = "model"
    _no_split_modules = ("HopeBlock",)
    _is_stateful = True  # a memory cannot be cropped, so assisted generation needs snapshots
    supports_gradient_checkpointing = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # Residual branches shrink with depth, so that the stream's variance does not grow with it.
            nn.init.normal_(module.weight, std=(3 * module.in_features) ** -0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, Mixer | Softmax | CausalConvolution | ContinuumMemory):
            module.reset_parameters()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False


class HopeModel(HopePreTrainedModel):
    """Embedding, blocks and final norm.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(HopeBlock(config, mixer) for mixer in config.mixers)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: HopeCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states of a piece of a sequence.

        Args:
            input_ids: ``[B, T]``; or give ``inputs_embeds``.
            attention_mask: ``[B, ...]``; must be all ones: padding is not supported, memories would learn it.
            past_key_values: Cache after the previous pieces; it is brought up to date in place.
            inputs_embeds: ``[B, T, d]`` instead of ``input_ids``.
            use_cache: Return a cache; by default the configuration's choice outside of training.
            **kwargs: Ignored arguments of transformers' generation.

        Returns:
            ``last_hidden_state`` ``[B, T, d]`` and ``past_key_values``.

        Raises:
            ValueError: If neither or both inputs are given, a sequence is empty, the mask hides a token, or
                the cache belongs to another model or batch size.
        """
        del kwargs
        x = self._embed(input_ids, inputs_embeds)
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError(
                "attention_mask hides tokens, but a memory learns from every token it is given: "
                "pass sequences of one length, or one sample at a time, without padding"
            )
        if use_cache is None:
            use_cache = past_key_values is not None or (self.config.use_cache and not self.training)
        cache = past_key_values
        if cache is None and use_cache:
            cache = HopeCache()
        states = self._states(cache)
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            if self.gradient_checkpointing and self.training:
                # In halves: only one of them has its activations at a time.
                block = cast(HopeBlock, layer)
                x, new = self._gradient_checkpointing_func(block.mix, x, state)
                x = self._gradient_checkpointing_func(block.cms, x)
            else:
                x, new = layer(x, state)
            after.append(new)
        if cache is not None:
            cache.layers, cache.seen_tokens = after, cache.seen_tokens + x.shape[1]
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x), past_key_values=cache)

    def _states(self, cache: HopeCache | None) -> list[LayerState | None]:
        """The cache's states, checked against this model; None for each layer at the start of a sequence."""
        if cache is None or not cache.layers:
            return [None] * len(self.layers)
        found = [type(state).__name__ for state in cache.layers]
        needed = [cast(HopeBlock, layer).mixer.state_type.__name__ for layer in self.layers]
        if found != needed:
            raise ValueError(
                f"past_key_values has {len(found)} layers ({', '.join(found)}), this model {len(needed)} "
                f"({', '.join(needed)}): a cache belongs to one model"
            )
        return list(cache.layers)

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, and not both")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if x.dim() != 3 or x.shape[1] == 0:
            raise ValueError(
                f"expected a batch of non-empty sequences, got a tensor of shape {tuple(x.shape)}"
            )
        return x


class HopeForCausalLM(HopePreTrainedModel, GenerationMixin):
    """Hope with a language-model head.

    Args:
        config: The model's configuration.
    """

    accepts_loss_kwargs = False  # the loss is a mean: transformers' Trainer must divide by itself
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012  (read as a class field)

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.model = HopeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: HopeCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Next-token logits, and the loss where labels are given.

        Args:
            input_ids: ``[B, T]``; or give ``inputs_embeds``.
            attention_mask: ``[B, ...]``, all ones or None.
            past_key_values: Cache after the previous pieces; it is brought up to date in place.
            inputs_embeds: ``[B, T, d]`` instead of ``input_ids``.
            labels: ``[B, T]``, the same tokens as ``input_ids`` (they are shifted here); -100 is ignored.
            use_cache: Return a cache.
            logits_to_keep: Only the last so many positions; 0 for all.
            **kwargs: Ignored arguments of transformers' generation.

        Returns:
            ``loss`` (mean negative log-likelihood in nats a token, or None), ``logits`` ``[B, T, vocab]``,
            ``past_key_values``.

        Raises:
            ValueError: For inputs that :class:`HopeModel` refuses, and labels of fewer than two tokens.
        """
        out = self.model(
            input_ids, attention_mask, past_key_values, inputs_embeds, use_cache=use_cache, **kwargs
        )
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            if labels.shape[1] < 2:
                raise ValueError("labels of one token leave nothing to predict: give at least two tokens")
            wide = torch.promote_types(logits.dtype, torch.float32)
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).to(wide), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=out.past_key_values)

    def assign_level(self, name: str, levels: Sequence[Level]) -> str:
        """The level that :class:`nestlearn.optim.Nested` puts a parameter into.

        Feed-forward block ``i`` of every layer belongs to the level whose period is ``cms_periods[i]``;
        everything else (mixers, embeddings, norms) to the fastest level.

        Args:
            name: Name of the parameter, as in ``named_parameters``.
            levels: The system's levels.

        Returns:
            A level's name.

        Raises:
            ValueError: If no level has the block's period.
        """
        found = re.search(r"\.cms\.blocks\.(\d+)\.", name)
        if found is None:
            return min(levels, key=lambda level: level.period).name
        period = self.config.cms_periods[int(found[1])]
        for level in levels:
            if level.period == period:
                return level.name
        raise ValueError(
            f"{name} is updated every {period} tokens, but the levels' periods are "
            f"{', '.join(str(level.period) for level in levels)}"
        )


__all__ = ["HopeBlock", "HopeForCausalLM", "HopeModel", "HopePreTrainedModel"]
