"""Training: the loop along a stream, its configuration, checkpoints; and the loops of other libraries."""

from nestlearn.training.checkpoint import CheckpointError, load_tree, save_tree
from nestlearn.training.config import Stage, StreamConfig
from nestlearn.training.loop import Interrupted, StreamTrainer
from nestlearn.training.meter import Meter, count_tokens

__all__ = [
    "CheckpointError",
    "Interrupted",
    "Meter",
    "Stage",
    "StreamConfig",
    "StreamTrainer",
    "count_tokens",
    "load_tree",
    "save_tree",
]
