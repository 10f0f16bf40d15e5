"""Pretrained models become levels: the same function at first, and a part that learns at each frequency."""

from nestlearn.retrofitting.anatomy import Block, find_blocks, find_rest
from nestlearn.retrofitting.division import Division, divide, measure_usage
from nestlearn.retrofitting.parts import Parts
from nestlearn.retrofitting.retrofit import (
    NestedUnits,
    Retrofit,
    retrofit,
    retrofit_of,
    undo_retrofit,
)
from nestlearn.retrofitting.samples import own_samples, positions, start_token

__all__ = [
    "Block",
    "Division",
    "NestedUnits",
    "Parts",
    "Retrofit",
    "divide",
    "find_blocks",
    "find_rest",
    "measure_usage",
    "own_samples",
    "positions",
    "retrofit",
    "retrofit_of",
    "start_token",
    "undo_retrofit",
]
