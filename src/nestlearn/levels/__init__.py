"""Time: levels, the clock that makes them due, and surprise, which marks the end of a context."""

from nestlearn.levels.clock import Clock, crosses
from nestlearn.levels.level import Level
from nestlearn.levels.surprise import Surprise

__all__ = ["Clock", "Level", "Surprise", "crosses"]
