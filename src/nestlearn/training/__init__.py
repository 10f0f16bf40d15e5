"""Training: the loop along a stream, its configuration, and checkpoints."""

from nestlearn.training.checkpoint import CheckpointError, load_tree, save_tree
from nestlearn.training.config import Stage, StreamConfig
from nestlearn.training.loop import Interrupted, StreamTrainer

__all__ = [
    "CheckpointError",
    "Interrupted",
    "Stage",
    "StreamConfig",
    "StreamTrainer",
    "load_tree",
    "save_tree",
]
