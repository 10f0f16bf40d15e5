"""One step of decoding as a program of its own: for ``torch.export``, AOTInductor and what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from nestlearn.layers import AttentionState, LayerState, map_places, tensors_of
from nestlearn.models.hope.block import HopeBlock
from nestlearn.models.hope.cache import HopeCache
from nestlearn.models.hope.modeling import HopeForCausalLM

#: States of all layers as tensors in one order.
States = tuple[Tensor, ...]


class DecodeStep(nn.Module):
    """A token and the states before it to logits and the states after it: no cache, no branch on values.

    Args:
        model: Its weights are shared.
    """

    def __init__(self, model: HopeForCausalLM) -> None:
        super().__init__()
        self.model = model
        self._form = self._initial(1)

    def forward(self, token: Tensor, states: States) -> tuple[Tensor, States]:
        """One step.

        Args:
            token: int64 ``[B, 1]``.
            states: From :meth:`initial_states`, from the last step, or of a session (:func:`states_of`).

        Returns:
            Logits of the next token ``[B, vocab]``, and the states after this one.
        """
        trunk, given = self.model.model, iter(states)
        x, after = trunk.embed_tokens(token), []
        for block, form in zip(trunk.layers, self._form, strict=True):
            state = cast(LayerState, map_places(lambda _: next(given), form))
            x, _, new = cast(HopeBlock, block)(x, state)
            after.append(new)
        return self.model.lm_head(trunk.norm(x))[:, -1], _tensors(after)

    def initial_states(self, batch_size: int = 1) -> States:
        """The states before the first token."""
        return _tensors(self._initial(batch_size))

    @torch.no_grad()
    def _initial(self, batch_size: int) -> list[LayerState]:
        trunk = self.model.model
        x = trunk.embed_tokens(torch.zeros(batch_size, 1, dtype=torch.long, device=self.model.device))
        mixers = [cast(HopeBlock, block).mixer for block in trunk.layers]
        return [cast(LayerState, mixer.initial(x)) for mixer in mixers]


def states_of(cache: HopeCache) -> States:
    """The states of a session, for a :class:`DecodeStep`.

    Raises:
        ValueError: Before the first token: :meth:`DecodeStep.initial_states` has those.
    """
    if not cache.states:
        raise ValueError("this session has seen no token: begin with DecodeStep.initial_states()")
    return _tensors(cache.states)


def export_decode_step(model: HopeForCausalLM, batch_size: int = 1) -> ExportedProgram:
    """Export one step of decoding.

    The program is called like :class:`DecodeStep`, and needs nothing of this library where it runs.

    Args:
        model: Its weights are in the program.
        batch_size: Samples; fixed in the program.

    Returns:
        A program for ``torch.export.save``, or for AOTInductor.

    Raises:
        ValueError: If the batch is empty.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    step = DecodeStep(model).eval()
    token = torch.zeros(batch_size, 1, dtype=torch.long, device=model.device)
    states = step.initial_states(batch_size)
    with torch.no_grad():
        if any(isinstance(form, AttentionState) for form in step._form):
            for _ in range(2):  # sizes 0 and 1 are special to the tracer: two tokens stand for any number
                _, states = step(token, states)
        shapes = (None, tuple(sizes for form in step._form for sizes in _growing(form)))
        return torch.export.export(step, (token, states), dynamic_shapes=shapes, strict=False)


def _tensors(states: Sequence[LayerState | None]) -> States:
    """A tensor of its own for every place, as a program's inputs must be."""
    return tuple(t.clone(memory_format=torch.contiguous_format) for t in tensors_of(states))


def _growing(form: LayerState) -> list[dict[int, object] | None]:
    """Which sizes of a state's tensors change from step to step: the tokens of full attention."""
    if isinstance(form, AttentionState):
        return [{2: Dim.AUTO}, {2: Dim.AUTO}, None, None]
    return [None] * len(tensors_of(form))


__all__ = ["DecodeStep", "States", "export_decode_step", "states_of"]
