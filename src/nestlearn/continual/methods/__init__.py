"""Ways of learning on, behind one interface: ours and what it is compared with."""

from nestlearn.continual.methods.base import Change, Method
from nestlearn.continual.methods.levels import DEFAULT_LEVELS, DEFAULT_REST, Levels, default_levels
from nestlearn.continual.methods.lora import Lora
from nestlearn.continual.methods.penalties import ElasticWeights, L2ToStart
from nestlearn.continual.methods.rehearsal import Rehearsal
from nestlearn.continual.methods.rehearsing import Rehearsing
from nestlearn.continual.methods.replay import Averaging, Replay
from nestlearn.continual.methods.tuning import BlockTuning, FineTuning

#: By the name in files and on the command line.
METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Levels,
        FineTuning,
        BlockTuning,
        Lora,
        ElasticWeights,
        L2ToStart,
        Replay,
        Averaging,
        Rehearsing,
    )
}

__all__ = [
    "DEFAULT_LEVELS",
    "DEFAULT_REST",
    "METHODS",
    "Averaging",
    "BlockTuning",
    "Change",
    "ElasticWeights",
    "FineTuning",
    "L2ToStart",
    "Levels",
    "Lora",
    "Method",
    "Rehearsal",
    "Rehearsing",
    "Replay",
    "default_levels",
]
