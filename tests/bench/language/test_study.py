"""The parts of rehearsal: what is taken away is what the name says, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from nestlearn.bench.base import JOINT, ORDINARY
from nestlearn.bench.language.material import SOURCES
from nestlearn.bench.language.methods import METHODS, Setup
from nestlearn.bench.language.stream import LanguageStream
from nestlearn.bench.language.study import PARTS, RATE
from nestlearn.bench.streams import STREAMS
from tests.retrofitting.small import pretrained

GONE: dict[str, dict[str, Any]] = {
    "rehearsal": {},
    "one subject at first": {"subjects": 1},
    "drawn as it speaks": {"temperature": 1.0},
    "a rate that rises over 20 steps": {"warmup": 20},
    "one window of its own": {"windows": 1},
    "no mean": {"horizon": 1},
    "one pace": {"subjects": 1, "windows": 1, "temperature": 1.0, "horizon": 1, "warmup": 1},
}


def settings(entry: Any) -> dict[str, Any]:
    made = entry.make(Setup(pretrained(), [], 0, 1024, 3), {"lr": RATE}).settings
    rehearsal = made.pop("rehearsal")
    return {**made, **rehearsal}


def test_every_part_is_one_difference() -> None:
    assert set(PARTS) == {ORDINARY, JOINT, *GONE}
    whole = settings(METHODS["rehearsal"])
    for name, gone in GONE.items():
        own = settings(PARTS[name])
        assert {key: own[key] for key in whole if own[key] != whole[key]} == gone


def test_one_pace_is_the_one_of_the_other_streams() -> None:
    assert settings(PARTS["one pace"]) == settings(METHODS["rehearsal, one pace"])


@pytest.mark.parametrize("name", ["ciphers", "languages", "domains"])
def test_it_was_made_on_text_that_no_other_stream_learns(name: str) -> None:
    own = STREAMS["rehearsal"]
    assert isinstance(own, LanguageStream)
    assert set(own.load_names()) & set(SOURCES[name][0]) <= {"en"}
