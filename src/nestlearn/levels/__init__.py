"""Time: levels, their clock, surprise, which ends a context, and who is in which level."""

from nestlearn.levels.clock import Clock, crosses
from nestlearn.levels.description import Group, Memory, State
from nestlearn.levels.gradients import Kept
from nestlearn.levels.inspection import inspect
from nestlearn.levels.level import Level
from nestlearn.levels.modules import register
from nestlearn.levels.surprise import Surprise
from nestlearn.levels.system import Component, NestedLevel, NestedSystem, Transfer

__all__ = [
    "Clock",
    "Component",
    "Group",
    "Kept",
    "Level",
    "Memory",
    "NestedLevel",
    "NestedSystem",
    "State",
    "Surprise",
    "Transfer",
    "crosses",
    "inspect",
    "register",
]
