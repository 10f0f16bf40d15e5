"""Hope that gives a whole sequence one label."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from nestlearn.models.hope.configuration import HopeConfig
from nestlearn.models.hope.modeling import HopeModel, HopePreTrainedModel
from nestlearn.models.hope.outputs import as_dict


class HopeForSequenceClassification(HopePreTrainedModel):
    """Hope with a linear head on the last token of every sequence.

    The number of labels and their names are ``config.num_labels`` and ``config.id2label``. How ``labels`` are
    read is ``config.problem_type``; where it is None, the first labels decide and it is set: one output is a
    regression, integers are one label of several, other numbers are independent labels.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = HopeModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast | tuple[Any, ...]:
        """Logits of every sequence, and the loss where labels are given.

        Args:
            input_ids: ``[B, T]``; or give ``inputs_embeds``.
            attention_mask: ``[B, T]``, zero at padding, left or right of each sequence; or
                ``[B, all columns so far]``, of which the last T count. Without it, the last token of a
                sequence is its last one that is not ``config.pad_token_id``, and what is right of it changes
                nothing; padding left of a sequence needs the mask, or memories would learn it.
            past_key_values: Cache after the previous pieces; it is brought up to date in place.
            inputs_embeds: ``[B, T, d]`` instead of ``input_ids``.
            labels: ``[B]`` of int64 for one label of several; ``[B, num_labels]`` of floating point for
                independent labels; ``[B]`` or ``[B, num_labels]`` of floating point for a regression.
            use_cache: Return a cache.
            return_dict: False for a tuple.
            **kwargs: What :class:`~nestlearn.models.hope.HopeModel` takes besides.

        Returns:
            ``loss`` (cross-entropy in nats, binary cross-entropy or squared error, or None), ``logits``
            ``[B, num_labels]``, and what the model returns beside its hidden states.

        Raises:
            ValueError: For inputs that :class:`~nestlearn.models.hope.HopeModel` refuses, and for a sequence
                without a token.
        """
        out = self.model(
            input_ids,
            attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden = out.last_hidden_state
        rows = torch.arange(len(hidden), device=hidden.device)
        logits = self.score(hidden[rows, self._last(hidden, input_ids, attention_mask)])
        loss = None
        if labels is not None:
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = self.loss_function(labels=labels, logits=logits, pooled_logits=wide, config=self.config)
        # By their own names: transformers calls a cache differently from version to version.
        rest = {name: value for name, value in out.items() if name != "last_hidden_state"}
        result = SequenceClassifierOutputWithPast(loss=loss, logits=logits, **rest)
        return result if as_dict(self.config, return_dict) else result.to_tuple()

    def _last(self, hidden: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """Column of the last token of every sequence, int64 ``[B]``."""
        batch, length, _ = hidden.shape
        if attention_mask is not None:
            real = attention_mask[:, -length:] != 0
        elif input_ids is not None and self.config.pad_token_id is not None:
            real = input_ids != self.config.pad_token_id
        else:
            return torch.full((batch,), length - 1, device=hidden.device)
        empty = ~real.any(dim=1)
        if bool(empty.any()):
            raise ValueError(
                f"sequence {int(empty.nonzero()[0])} of the batch is all padding: a label needs at least one "
                "token"
            )
        columns = torch.arange(length, device=real.device)
        return (columns * real).argmax(dim=1).to(hidden.device)


__all__ = ["HopeForSequenceClassification"]
