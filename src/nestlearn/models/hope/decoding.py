"""One step of decoding as a program of its own: for ``torch.export``, AOTInductor and what reads them."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from nestlearn.layers import AttentionState, LayerState, map_places
from nestlearn.models.hope.block import HopeBlock
from nestlearn.models.hope.modeling import HopeForCausalLM


class DecodeStep(nn.Module):
    """A token and the states before it to logits and the states after it: no cache, no branch on values.

    Args:
        model: Its weights are shared.
    """

    def __init__(self, model: HopeForCausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, token: Tensor, states: tuple[LayerState, ...]) -> tuple[Tensor, tuple[LayerState, ...]]:
        """One step.

        Args:
            token: int64 ``[B, 1]``.
            states: One per layer, as in :attr:`~nestlearn.models.hope.HopeCache.states`.

        Returns:
            Logits of the next token ``[B, vocab]``, and the states after this one.
        """
        trunk = self.model.model
        x, after = trunk.embed_tokens(token), []
        for block, state in zip(trunk.layers, states, strict=True):
            x, _, new = cast(HopeBlock, block)(x, state)
            after.append(new)
        return self.model.lm_head(trunk.norm(x))[:, -1], tuple(after)

    @torch.no_grad()
    def initial_states(self, batch_size: int = 1) -> tuple[LayerState, ...]:
        """The states before the first token; no two tensors share memory."""
        trunk = self.model.model
        x = trunk.embed_tokens(torch.zeros(batch_size, 1, dtype=torch.long, device=self.model.device))
        return tuple(unshared(cast(HopeBlock, block).mixer.initial(x)) for block in trunk.layers)


def unshared(state: LayerState) -> LayerState:
    """The state with a tensor of its own in every place, as a program's inputs must be."""
    return cast(LayerState, map_places(torch.Tensor.clone, state))


def export_decode_step(model: HopeForCausalLM, batch_size: int = 1) -> ExportedProgram:
    """Export one step of decoding.

    The program is called like :class:`DecodeStep`, with states from :meth:`DecodeStep.initial_states`, from
    its last call, or from a :class:`~nestlearn.models.hope.HopeCache` (through :func:`unshared`).

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
    states = step.initial_states(batch_size)
    if any(isinstance(state, AttentionState) for state in states):
        # Sizes 0 and 1 are special to the tracer: two tokens stand for any number.
        with torch.no_grad():
            for _ in range(2):
                _, states = step(torch.zeros(batch_size, 1, dtype=torch.long, device=model.device), states)
        states = tuple(unshared(state) for state in states)
    token = torch.zeros(batch_size, 1, dtype=torch.long, device=model.device)
    shapes = (None, tuple(_shapes(state) for state in states))
    with torch.no_grad():
        return torch.export.export(step, (token, states), dynamic_shapes=shapes, strict=False)


def _shapes(state: LayerState) -> object:
    """Which sizes of a state change from step to step: the tokens of full attention."""
    if not isinstance(state, AttentionState):
        return map_places(lambda _: None, state)
    places = {2: Dim.AUTO}
    return AttentionState(places, places, None, None)  # type: ignore[arg-type]


__all__ = ["DecodeStep", "export_decode_step", "unshared"]
