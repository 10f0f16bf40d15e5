"""Nested systems and data for the trainers of other libraries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import nestlearn as nl
from tests.helpers import VOCABULARY, copy_tree, tiny_model

LENGTH = 8
#: A step is two sequences of eight tokens: updates at every step, every second, every fourth.
PERIODS = (16, 32, 64)


class Rows(Dataset):  # type: ignore[type-arg]
    """Sequences of a language model, as dicts.

    Args:
        rows: int64 ``[N, T]``.
        mask: Whether each sequence has an attention mask.
    """

    def __init__(self, rows: Tensor, *, mask: bool = False) -> None:
        self.rows, self.mask = rows, mask

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.rows[index]
        masked = {"attention_mask": torch.ones_like(row)} if self.mask else {}
        return {"input_ids": row, "labels": row, **masked}


def rows(number: int, seed: int = 0) -> Tensor:
    """Drawn sequences, int64 ``[number, LENGTH]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (number, LENGTH), generator=generator)


def two_contexts(first: int, second: int) -> Tensor:
    """Sequences of one token that is soon known, then drawn ones, which are a surprise."""
    return torch.cat([torch.full((first, LENGTH), 7), rows(second)])


def levels(lr: float) -> list[nl.Level]:
    """Three, the slowest of which consolidates."""
    fast, middle, slow = PERIODS
    return [
        nl.Level("fast", fast, lr=lr),
        nl.Level("middle", middle, lr=lr),
        nl.Level("slow", slow, lr=lr, consolidate=True, refresh=32),
    ]


def hope(dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[nn.Module, nl.optim.Nested]:
    """A tiny Hope from scratch, and its optimizer."""
    model = tiny_model(cms_periods=PERIODS, **changes).train().to(dtype)
    return model, nl.optim.Nested(levels(3e-2), model)


def llama(dtype: torch.dtype = torch.float32, dropout: float = 0.1) -> tuple[nn.Module, nl.optim.Nested]:
    """A small retrofitted Llama, and its optimizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention_dropout=dropout,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = nl.retrofit(LlamaForCausalLM(config).to(dtype), levels(3e-2), rest="fast").train()
    return model, nl.NestedUnits(model)


def everything(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    """All that the rest of training depends on, as copies."""
    return copy_tree({"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()})
