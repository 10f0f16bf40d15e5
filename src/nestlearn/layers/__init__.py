"""Layers: memories and attention as modules, and the Continuum Memory System."""

from nestlearn.layers.attention import Attention, AttentionState
from nestlearn.layers.continuum import ContinuumMemory, FeedForward
from nestlearn.layers.convolution import CausalConvolution
from nestlearn.layers.mixer import Mixer
from nestlearn.layers.self_modifying import MixerState, SelfModifyingTitans

__all__ = [
    "Attention",
    "AttentionState",
    "CausalConvolution",
    "ContinuumMemory",
    "FeedForward",
    "Mixer",
    "MixerState",
    "SelfModifyingTitans",
]
