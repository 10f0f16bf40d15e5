"""Associative memories over gradients: optimizers."""

from nestlearn.optim.key_memories import KeyMemories
from nestlearn.optim.nested import Nested, NonFiniteGradientError

__all__ = ["KeyMemories", "Nested", "NonFiniteGradientError"]
