"""Ways of learning on, behind one interface: ours and what it is compared with."""

from nestlearn.continual.methods.base import Change, Method
from nestlearn.continual.methods.levels import DEFAULT_LEVELS, Levels

#: By the name in files and on the command line.
METHODS: dict[str, type[Method]] = {Levels.name: Levels}

__all__ = ["DEFAULT_LEVELS", "METHODS", "Change", "Levels", "Method"]
