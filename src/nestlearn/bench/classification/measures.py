"""What is shown of a stream of classification tasks."""

from __future__ import annotations

from dataclasses import replace

from nestlearn.bench.base import Measures

MEASURES = Measures(
    final="accuracy",
    learned="learned",
    unit="accuracy",
    rising=True,
    columns={
        "accuracy": "accuracy",
        "over_joint": "of joint",
        "learned": "learned",
        "forgetting": "forgetting",
        "backward": "backward",
        "forward": "forward",
        "minimum": "minimum",
        "worst": "worst",
    },
    plasticity={"dead": "dead", "rank": "rank", "weight": "norm"},
    explained=(
        "**accuracy**: mean over all tasks at the end. **of joint**: over that of joint training on all "
        "tasks at once. **learned**: mean accuracy on each task right after it. **forgetting**: from the "
        "best a task ever was (Chaudhry et al. 2018). **backward**, **forward**: transfer (Lopez-Paz & "
        "Ranzato 2017). **minimum**: mean over tasks of the least accuracy at any evaluation after the task, "
        "the stability gap (De Lange et al. 2023); **worst**: what is known of all tasks at any moment. "
        "**dead**: hidden units that are zero on all of 1,000 test inputs; **rank**: effective rank of the "
        "last hidden layer over its width; **norm**: mean size of a weight."
    ),
)
#: Where tasks come again.
MEASURES_OF_ROUNDS = replace(
    MEASURES,
    columns={"accuracy": "accuracy", "over_joint": "of joint", "learned": "learned", "once": "one round"},
    explained=(
        "**accuracy**: mean over all tasks after the last round; **one round**: after the first. **of "
        "joint**: over that of joint training on all tasks at once. **learned**: mean accuracy on each task "
        "right after its first visit. **dead**, **rank**, **norm**: as above."
    ),
)
