"""What each part of rehearsal does, taken away one at a time, at one rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from nestlearn.bench.base import JOINT, ORDINARY, Entry
from nestlearn.bench.language.methods import METHODS, ONE_PACE, make_rehearsing

#: At which the parts are compared: the middle one of those that are searched elsewhere.
RATE = 6e-3


def _without(name: str, **changes: Any) -> Entry:
    return Entry(name, partial(make_rehearsing, **changes), {"lr": (RATE,)}, ours=True)


#: The rates of ordinary and joint training are those that the search takes on five languages.
PARTS: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        replace(METHODS[ORDINARY], space={"lr": (1e-4,)}),
        replace(METHODS[JOINT], space={"lr": (3e-3,)}),
        _without("rehearsal"),
        _without("one pace", **ONE_PACE),
        _without("one subject at first", rehearsal={"subjects": 1}),
        _without("drawn as it speaks", rehearsal={"temperature": 1.0}),
        _without("a rate that rises over 20 steps", warmup=20),
        _without("one window of its own", rehearsal={"windows": 1}),
        _without("no mean", horizon=1),
    )
}
