"""Layers: memories and attention as modules, and the Continuum Memory System."""

from nestlearn.layers.attention import Attention, AttentionState, WindowState
from nestlearn.layers.batches import LayerState, ages_of, join_samples, map_samples, select_samples, trimmed
from nestlearn.layers.continuum import ContinuumMemory, FeedForward
from nestlearn.layers.convolution import CausalConvolution
from nestlearn.layers.mixer import Mixer, Projections
from nestlearn.layers.norm import RMSNorm
from nestlearn.layers.padding import Padding, mix_padded
from nestlearn.layers.self_modifying import MemoryMixer, MixerState, SelfModifyingTitans
from nestlearn.layers.softmax import Softmax
from nestlearn.layers.state import map_places, map_state, tensors_of
from nestlearn.layers.titans import GateState, LayeredState, MemoryAsGate, MemoryAsLayer
from nestlearn.layers.titans_context import ContextState, MemoryAsContext, Segment
from nestlearn.layers.window import Window

__all__ = [
    "Attention",
    "AttentionState",
    "CausalConvolution",
    "ContextState",
    "ContinuumMemory",
    "FeedForward",
    "GateState",
    "LayerState",
    "LayeredState",
    "MemoryAsContext",
    "MemoryAsGate",
    "MemoryAsLayer",
    "MemoryMixer",
    "Mixer",
    "MixerState",
    "Padding",
    "Projections",
    "RMSNorm",
    "Segment",
    "SelfModifyingTitans",
    "Softmax",
    "Window",
    "WindowState",
    "ages_of",
    "join_samples",
    "map_places",
    "map_samples",
    "map_state",
    "mix_padded",
    "select_samples",
    "tensors_of",
    "trimmed",
]
