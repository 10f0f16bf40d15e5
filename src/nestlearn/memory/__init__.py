"""Associative memories over tokens: the equations (``naive``) and their parallel twin (``chunk``)."""

from nestlearn.memory import chunk, naive
from nestlearn.memory.functional import initial_state, unit
from nestlearn.memory.rule import MemoryRule
from nestlearn.memory.types import MemoryParameters, MemoryState, Streams

__all__ = [
    "MemoryParameters",
    "MemoryRule",
    "MemoryState",
    "Streams",
    "chunk",
    "initial_state",
    "naive",
    "unit",
]
