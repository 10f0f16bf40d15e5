"""Tasks made of drawn tokens, each with one right answer at every place that is asked for.

Answers stand where the model gives them: ``logits[:, t]`` is held against ``targets[:, t]``, without a shift.
Whatever is asked is determined by the tokens up to that place, so a model can be right everywhere.

>>> import torch
>>> from nestlearn.streams import synthetic
>>> task = synthetic.Parity(length=6)
>>> input_ids, targets = task.sample(1, torch.Generator().manual_seed(0))
>>> bool((targets == input_ids.cumsum(1) % 2).all())
True
"""

from nestlearn.streams.synthetic.base import IGNORED, Batch, Task
from nestlearn.streams.synthetic.recall import MultiQueryRecall, OverwritingRecall
from nestlearn.streams.synthetic.sequences import Copying, Parity, PermutationTracking
from nestlearn.streams.synthetic.switching import SwitchingCipher

TASKS: dict[str, type[Task]] = {
    task.__name__: task
    for task in (MultiQueryRecall, OverwritingRecall, SwitchingCipher, PermutationTracking, Parity, Copying)
}

__all__ = [
    "IGNORED",
    "TASKS",
    "Batch",
    "Copying",
    "MultiQueryRecall",
    "OverwritingRecall",
    "Parity",
    "PermutationTracking",
    "SwitchingCipher",
    "Task",
]
