"""Associative memories over gradients: optimizers."""

from nestlearn.optim.consolidated import Consolidated
from nestlearn.optim.deep_momentum import DeepMomentum
from nestlearn.optim.delta_gradient_descent import DeltaGradientDescent
from nestlearn.optim.flow import Flow, NonFiniteGradientError
from nestlearn.optim.gradient_memory import GradientMemory
from nestlearn.optim.key_memories import KeyMemories
from nestlearn.optim.key_recorder import KeyRecorder
from nestlearn.optim.m3 import M3
from nestlearn.optim.momentum import DeltaMomentum, FeatureMomentum, Momentum, Muon
from nestlearn.optim.nested import Nested
from nestlearn.optim.preconditioned import PreconditionedMomentum
from nestlearn.optim.unroll import Unrolled, unroll

__all__ = [
    "M3",
    "Consolidated",
    "DeepMomentum",
    "DeltaGradientDescent",
    "DeltaMomentum",
    "FeatureMomentum",
    "Flow",
    "GradientMemory",
    "KeyMemories",
    "KeyRecorder",
    "Momentum",
    "Muon",
    "Nested",
    "NonFiniteGradientError",
    "PreconditionedMomentum",
    "Unrolled",
    "unroll",
]
