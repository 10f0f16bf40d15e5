"""One layer of Hope: self-modifying Titans followed by a Continuum Memory System (Eq. 94 to 97)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from nestlearn.layers import (
    Attention,
    ContinuumMemory,
    LayerState,
    MemoryAsContext,
    MemoryAsGate,
    MemoryAsLayer,
    Mixer,
    Padding,
    RMSNorm,
    SelfModifyingTitans,
    map_state,
    mix_padded,
)
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
        self.norm = RMSNorm(d, eps=config.rms_norm_eps)
        self.mixer = build_mixer(config, mixer)
        self.cms = ContinuumMemory(d, config.cms_sizes(), config.cms_variant, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        state: LayerState | None = None,
        padding: Padding | None = None,
        keep: bool = True,
        checkpoint: Callable[..., Any] | None = None,
    ) -> tuple[Tensor, Tensor, LayerState | None]:
        """Map ``[B, T, d]`` to ``[B, T, d]``.

        Args:
            x: ``[B, T, d]``.
            state: The mixer's state before the piece; None at the start of a sequence.
            padding: Which columns are tokens; None for all.
            keep: Whether the state afterwards is asked for.
            checkpoint: Calls a function so that its activations are computed again in the backward pass;
                each half by itself, so that only one of them has its activations at a time.

        Returns:
            The output, what the mixer read ``[B, T, d]``, and its state afterwards.
        """
        if checkpoint is None:
            x, read, state = self.mix(x, state, padding, keep)
            return self.cms(x), read, state
        x, read, state = checkpoint(self.mix, x, state, padding, keep)
        return checkpoint(self.cms, x), read, state

    def mix(
        self, x: Tensor, state: LayerState | None, padding: Padding | None, keep: bool
    ) -> tuple[Tensor, Tensor, LayerState | None]:
        """The first half: ``x + mixer(norm(x))``, and what :meth:`forward` returns besides."""
        read = self.norm(x)
        if state is not None and x.device.type != "cpu":
            # Counters stay on the CPU, also where something has sent all arguments to the layer's device.
            state = map_state(lambda t: t if t.is_floating_point() else t.cpu(), [state])
        mixed, after = mix_padded(self.mixer, read, state, padding, keep)
        return x + mixed, read, after


__all__ = ["HopeBlock", "build_mixer"]
