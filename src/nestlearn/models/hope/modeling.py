"""Hope as a model of transformers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from nestlearn.layers import CausalConvolution, ContinuumMemory, LayerState, Mixer, Padding, RMSNorm, Softmax
from nestlearn.levels import Level
from nestlearn.models.hope.block import HopeBlock
from nestlearn.models.hope.cache import HopeCache
from nestlearn.models.hope.cache_layer import NestedMemoryLayer
from nestlearn.models.hope.configuration import HopeConfig
from nestlearn.models.hope.generation import HopeGeneration
from nestlearn.models.hope.initialization import reset_missing
from nestlearn.models.hope.inputs import check_packing, columns_of, given_cache, layers_of, padding_of
from nestlearn.models.hope.outputs import as_dict, cache_of, with_cache
from nestlearn.models.scoring import Likelihood, Request, log_likelihoods


class HopePreTrainedModel(PreTrainedModel):
    """What Hope's models share: configuration class, initialisation, cache policy."""

    config_class = HopeConfig
    base_model_prefix = "model"
    _no_split_modules = ("HopeBlock",)
    _is_stateful = False  # a memory can be taken back: the cache remembers what it was
    _skip_keys_device_placement = ("past_key_values", "cache")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean: transformers' Trainer must divide by itself

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
            reset_missing(module)

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


class HopeModel(HopePreTrainedModel):
    """Embedding, blocks and final norm.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(HopeBlock(config, mixer) for mixer in config.mixers)
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Hidden states of a piece of a sequence.

        Args:
            input_ids: ``[B, T]``; or give ``inputs_embeds``.
            attention_mask: ``[B, T]``, or ``[B, all columns so far]``, of which the last T count: zero at
                padding, left or right of each sequence. Padding is not read, and what is put out there means
                nothing. None for no padding.
            past_key_values: Cache after the previous pieces; it is brought up to date in place.
            inputs_embeds: ``[B, T, d]`` instead of ``input_ids``.
            use_cache: Return a cache; by default the configuration's choice outside of training.
            output_hidden_states: Return the stream before, between and after the blocks.
            return_dict: False for a tuple.
            cache: ``past_key_values`` by the name it has from transformers 5.24 on.
            **kwargs: Ignored arguments of transformers' generation.

        Returns:
            ``last_hidden_state`` ``[B, T, d]``, ``past_key_values`` and ``hidden_states``.

        Raises:
            ValueError: If neither or both inputs are given, a sequence is empty, several are packed into one
                row, the mask hides a token between others, the cache belongs to another model or batch size,
                or checkpoints are reentrant where there is a cache.
        """
        x = self._embed(input_ids, inputs_embeds)
        check_packing(attention_mask, kwargs)
        cache = given_cache(past_key_values, cache)
        padding = padding_of(attention_mask, x, 0 if cache is None else cache.get_seq_length())
        if use_cache is None:
            use_cache = cache is not None or (self.config.use_cache and not self.training)
        if cache is None and use_cache:
            cache = HopeCache()
        kept = [None] * len(self.layers) if cache is None else layers_of(cache, self._mixers(), x)
        streams, after = [x], []
        for block, layer in zip(self.layers, kept, strict=True):
            x, new = self._block(cast(HopeBlock, block), layer, x, padding)
            after.append(new)
            streams.append(x)
        if cache is not None:
            self._commit(cast(list[NestedMemoryLayer], kept), after, padding, cache)
        x = self.norm(x)
        shown = (*streams[:-1], x) if self._shows(output_hidden_states) else None
        out = with_cache(BaseModelOutputWithPast, cache, last_hidden_state=x, hidden_states=shown)
        return out if as_dict(self.config, return_dict) else out.to_tuple()

    def _block(
        self, block: HopeBlock, layer: NestedMemoryLayer | None, x: Tensor, padding: Padding | None
    ) -> tuple[Tensor, tuple[Tensor, LayerState | None]]:
        """One layer: its output, and what its cache takes."""
        state, keep = None if layer is None else layer.state_on(x.device), layer is not None
        x, read, new = block(x, state, padding, keep, self._checkpoint(keep))
        return x, (read, new)

    def _checkpoint(self, keep: bool) -> Any:
        """The function that checkpoints, or None."""
        if not (self.gradient_checkpointing and self.training):
            return None
        if keep and getattr(self._gradient_checkpointing_func, "keywords", {}).get("use_reentrant"):
            raise ValueError(
                "reentrant checkpoints lose the gradients that go through a cache: leave out use_reentrant, "
                "or pass use_cache=False"
            )
        return self._gradient_checkpointing_func

    def _commit(
        self,
        layers: list[NestedMemoryLayer],
        after: list[tuple[Tensor, LayerState | None]],
        padding: Padding | None,
        cache: Cache,
    ) -> None:
        """All layers take their new states at once, when nothing can fail any more."""
        for layer, mixer, (read, state) in zip(layers, self._mixers(), after, strict=True):
            assert state is not None
            layer.commit(mixer, read, padding, state)
            if cache.offloading:
                layer.offload()

    def _mixers(self) -> list[Mixer]:
        return [cast(HopeBlock, block).mixer for block in self.layers]

    def _shows(self, hidden_states: bool | None) -> bool:
        return bool(self.config.output_hidden_states if hidden_states is None else hidden_states)

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, and not both")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if x.dim() != 3 or x.shape[1] == 0:
            raise ValueError(
                f"expected a batch of non-empty sequences, got a tensor of shape {tuple(x.shape)}"
            )
        return x


class HopeForCausalLM(HopePreTrainedModel, HopeGeneration, GenerationMixin):  # by name: transformers looks
    """Hope with a language-model head.

    Args:
        config: The model's configuration.
    """

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
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Next-token logits, and the loss where labels are given.

        Args:
            input_ids: ``[B, T]``; or give ``inputs_embeds``.
            attention_mask: Zero at padding, left or right of each sequence; see :class:`HopeModel`.
            past_key_values: Cache after the previous pieces; it is brought up to date in place.
            inputs_embeds: ``[B, T, d]`` instead of ``input_ids``.
            labels: ``[B, T]``, the same tokens as ``input_ids`` (they are shifted here); -100 is ignored, and
                so is what would be predicted at padding.
            use_cache: Return a cache.
            logits_to_keep: Only the last so many positions, 0 for all; or the positions, int64 ``[N]``.
            return_dict: False for a tuple.
            cache: ``past_key_values`` by the name it has from transformers 5.24 on.
            **kwargs: What :class:`HopeModel` takes besides.

        Returns:
            ``loss`` (mean negative log-likelihood in nats a token, or None), ``logits`` ``[B, T, vocab]``,
            ``past_key_values``, ``hidden_states``.

        Raises:
            ValueError: For inputs that :class:`HopeModel` refuses, and labels of fewer than two tokens.
        """
        out = self.model(
            input_ids,
            attention_mask,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cache=given_cache(past_key_values, cache),
            return_dict=True,
            **kwargs,
        )
        logits = self.lm_head(out.last_hidden_state[:, columns_of(logits_to_keep)])
        loss = None if labels is None else _loss(logits, labels, attention_mask)
        result = with_cache(
            CausalLMOutputWithPast, cache_of(out), loss=loss, logits=logits, hidden_states=out.hidden_states
        )
        return result if as_dict(self.config, return_dict) else result.to_tuple()

    def score(self, requests: Sequence[Request], **settings: Any) -> list[Likelihood]:
        """How likely continuations are, given their contexts.

        Args:
            requests: Token ids of each context and of its continuation.
            **settings: ``batch_size``, ``past_key_values`` (a session that every request goes on from) and
                what else :func:`~nestlearn.models.scoring.log_likelihoods` takes.

        Returns:
            For each request the sum of the continuation's log-probabilities in nats, and whether greedy
            decoding would give it.

        Raises:
            ValueError: For an empty context or continuation, and a cache of another model.
        """
        return log_likelihoods(self, requests, **settings)


def _loss(logits: Tensor, labels: Tensor, attention_mask: Tensor | None) -> Tensor:
    if labels.shape[1] < 2:
        raise ValueError("labels of one token leave nothing to predict: give at least two tokens")
    if logits.shape[1] != labels.shape[1]:
        raise ValueError(
            f"labels are of {labels.shape[1]} positions, logits_to_keep left {logits.shape[1]}: leave it out"
        )
    following = labels[:, 1:]
    if attention_mask is not None:
        # Nothing is predicted at padding, not even the first token behind it.
        seen = attention_mask[:, -labels.shape[1] : -1].to(labels.device) != 0
        following = following.masked_fill(~seen, -100)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).to(wide), following.flatten())


__all__ = ["HopeForCausalLM", "HopeModel", "HopePreTrainedModel"]
