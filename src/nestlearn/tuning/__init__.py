"""Choosing levels: principled defaults, and a search around them on the first two contexts of a stream."""

from nestlearn.tuning.candidate import Candidate, default_levels, default_periods
from nestlearn.tuning.plan import TuningPlan
from nestlearn.tuning.recipe import load_recipe, recipe_of, write_recipe
from nestlearn.tuning.search import Search
from nestlearn.tuning.study import Trial, open_study, trials_of

__all__ = [
    "Candidate",
    "Search",
    "Trial",
    "TuningPlan",
    "default_levels",
    "default_periods",
    "load_recipe",
    "open_study",
    "recipe_of",
    "trials_of",
    "write_recipe",
]
