"""What each part of rehearsal does, taken away one at a time, at one rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nestlearn.bench.base import JOINT, ORDINARY, Entry
from nestlearn.bench.language.methods import METHODS, Setup
from nestlearn.continual.methods import Method, Rehearsal, Rehearsing

RATE = 6e-3


def _without(name: str, rehearsal: Mapping[str, Any], **changes: Any) -> Entry:
    def make(setup: Setup, settings: Mapping[str, Any]) -> Method:
        return setup.attached(
            Rehearsing(settings["lr"], Rehearsal(**{"seed": setup.seed, **rehearsal}), **changes)
        )

    return Entry(name, make, {"lr": (RATE,)}, ours=True)


#: Rates are those that the search takes on five languages: what is asked is what the parts do.
PARTS: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        replace(METHODS[ORDINARY], space={"lr": (1e-4,)}),
        replace(METHODS[JOINT], space={"lr": (3e-3,)}),
        _without("rehearsal", {}),
        _without("one pace", {"subjects": 1, "windows": 1, "temperature": 1.0}, horizon=1, warmup=1),
        _without("one subject at first", {"subjects": 1}),
        _without("drawn as it speaks", {"temperature": 1.0}),
        _without("a rate that rises over 20 steps", {}, warmup=20),
        _without("one window of its own", {"windows": 1}),
        _without("no mean", {}, horizon=1),
    )
}
