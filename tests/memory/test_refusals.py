"""Bad rules, streams and states raise a ValueError that names the value, and change nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nestlearn.memory import MemoryParameters, MemoryRule, MemoryState, Streams, chunk, naive
from tests.helpers import state_tensors
from tests.memory.rules import Maker, leaves

NAN, INF = float("nan"), float("inf")

BAD_RULES: list[tuple[dict[str, Any], str]] = [
    *(
        ({name: "odd"}, f"{name} must be one of .*'odd'")
        for name in (
            "kind",
            "activation",
            "features",
            "objective",
            "erase",
            "main_target",
            "rate",
            "retention",
            "gates",
            "rest",
        )
    ),
    *(
        ({name: value}, f"{name} must be at least 1, got {value}")
        for name in ("chunk_size", "projection_chunk_size", "backprop_chunks")
        for value in (0, -2)
    ),
    ({"checkpoint_chunks": -1}, "checkpoint_chunks must be 0 .*-1"),
    ({"chunk_size": 6, "projection_chunk_size": 4}, "projection_chunk_size 4 and chunk_size 6"),
    ({"chunk_size": 4, "projection_chunk_size": 6}, "projection_chunk_size 6 and chunk_size 4"),
    *(
        (
            {"objective": "dot", "rate_max": bad},
            f"rate_max must be in .0, 2.0. .*'dot', got {re.escape(str(bad))}",
        )
        for bad in (0.0, -1.0, 2.5, NAN, INF)
    ),
    *(
        (
            {"objective": "l2", "rate_max": bad},
            f"rate_max must be in .0, 1.0. .*'l2', got {re.escape(str(bad))}",
        )
        for bad in (0.0, 1.5, NAN, INF)
    ),
    *(({"momentum_max": bad}, f"momentum_max must be in .0, 1., got {bad}") for bad in (0.0, 1.0, -1.0, NAN)),
    ({"adaptive": ("key", "gate")}, "adaptive names each of .*'gate'"),
    ({"adaptive": ("key", "key")}, "at most once, got .'key', 'key'"),
    ({"adaptive": ("main",)}, "'main'"),
    ({"rate": "one", "adaptive": ("rate",)}, "'rate', but rate='one'"),
    ({"retention": "fixed", "adaptive": ("retention",)}, "'retention', but retention='fixed'"),
    ({"retention": "none", "adaptive": ("retention",)}, "'retention', but retention='none'"),
    ({"gates": "channel"}, "gates='channel' needs kind='matrix' .*kind='mlp'"),
    ({"gates": "channel", "kind": "matrix", "momentum": True}, "momentum=True"),
    ({"gates": "channel", "kind": "matrix", "rate": "one", "adaptive": ()}, "rate='one'"),
    ({"gates": "channel", "kind": "matrix", "retention": "fixed", "adaptive": ()}, "retention='fixed'"),
]


@pytest.mark.parametrize(("bad", "words"), BAD_RULES, ids=str)
def test_a_bad_rule_names_the_value(bad: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MemoryRule(**bad)


def test_the_ends_of_the_ranges_are_accepted() -> None:
    assert MemoryRule(objective="dot", rate_max=2.0).rate_max == 2.0
    assert MemoryRule(objective="l2", rate_max=1.0).rate_max == 1.0
    assert MemoryRule(projection_chunk_size=32).chunk_sizes == (32, 16)
    assert MemoryRule(adaptive=("query", "key")).names == ("key", "query", "main")


RULE = MemoryRule(chunk_size=4, projection_chunk_size=8, momentum=True)
Change = Callable[[Streams, MemoryParameters, MemoryState], tuple[Streams, MemoryParameters, MemoryState]]


def of_streams(change: Callable[[Streams], Streams]) -> Change:
    return lambda x, p, state: (change(x), p, state)


def of_state(**change: Callable[[Any], Any]) -> Change:
    return lambda x, p, state: (
        x,
        p,
        state._replace(**{name: function(getattr(state, name)) for name, function in change.items()}),
    )


def with_number(value: float, stream: str) -> Change:
    def change(x: Streams) -> Streams:
        bad = getattr(x, stream).detach().clone()
        bad[1, 0, 2, 3] = value
        return x._replace(**{stream: bad})

    return of_streams(change)


BAD_INPUTS: list[tuple[str, Change, str]] = [
    (
        "short value",
        of_streams(lambda x: x._replace(value=x.value[:, :, :2])),
        r"value stream is \(2, 2, 2, 5\)",
    ),
    (
        "wide query",
        of_streams(lambda x: x._replace(query=x.query[..., :4])),
        r"query stream is \(2, 2, 3, 4\)",
    ),
    ("whole numbers", of_streams(lambda x: Streams(*(s.long() for s in x))), "torch.int64"),
    (
        "heads",
        of_streams(lambda x: Streams(*(s[:, :1] for s in x))),
        "streams have 1 heads of width 5, .* 2 of 5",
    ),
    ("width", of_streams(lambda x: Streams(*(s[..., :3] for s in x))), "2 heads of width 3, .* 2 of 5"),
    ("batch", of_streams(lambda x: Streams(*(s[:1] for s in x))), r"batch need \(1, 2, 5, 5, 7\)"),
    ("type of streams", of_streams(lambda x: Streams(*(s.float() for s in x))), "need .* of torch.float32"),
    ("not a number", with_number(NAN, "key"), "key stream holds nan .1 numbers"),
    ("infinite", with_number(INF, "value"), "value stream holds inf .1 numbers"),
    ("minus infinite", with_number(-INF, "query"), "query stream holds -inf .1 numbers"),
    ("layers", of_state(weights=lambda w: w[:1]), "1 weights tensors, this layer 2"),
    ("snapshot", of_state(snapshot=lambda w: ()), "0 snapshot tensors, this layer 2"),
    ("no momentum", of_state(momentum=lambda w: ()), "0 momentum tensors, this layer 2"),
    ("memories", of_state(weights=lambda w: tuple(t[:, :, 1:] for t in w)), r"weights \(2, 2, 4, 5, 7\)"),
    ("hidden", of_state(snapshot=lambda w: (w[0][..., :6], w[1])), r"snapshot \(2, 2, 5, 5, 6\)"),
    ("type", of_state(momentum=lambda w: tuple(t.float() for t in w)), "momentum .* of torch.float32"),
    ("old position", of_state(position=lambda p: p + 8), r"positions \[13, 13\]; expected 2 .*\[0, 8\)"),
    ("negative position", of_state(position=lambda p: p - 9), r"positions \[-4, -4\]"),
    ("one position", of_state(position=lambda p: p[:1]), r"positions \[5\]; expected 2"),
]


@pytest.mark.parametrize("twin", [naive, chunk], ids=["naive", "chunk"])
@pytest.mark.parametrize(
    ("change", "words"), [bad[1:] for bad in BAD_INPUTS], ids=[bad[0] for bad in BAD_INPUTS]
)
def test_bad_inputs_are_named_and_change_nothing(twin: Any, change: Change, words: str) -> None:
    make = Maker(RULE)
    parameters, streams = make.parameters(), make.streams(3)
    _, state = chunk.self_modifying(make.streams(5), parameters, None, RULE)
    kept = [*state_tensors(state), *leaves(parameters, streams).values()]
    bits = [t.detach().clone() for t in kept]
    with pytest.raises(ValueError, match=words):
        bad = change(streams, parameters, state)
        twin.self_modifying(*bad, RULE)
    assert all(torch.equal(a, b) for a, b in zip(kept, bits, strict=True))
    twin.self_modifying(streams, parameters, state, RULE)  # and the state is still of use


def test_finite_numbers_whose_sum_overflows_are_accepted() -> None:
    rule = MemoryRule(chunk_size=4)
    make = Maker(rule, dtype=torch.float32)
    streams = make.streams(3)
    large = torch.full_like(streams.query, 1e38)
    chunk.self_modifying(streams._replace(query=large), make.parameters(), None, rule)


@pytest.mark.parametrize("twin", [naive, chunk], ids=["naive", "chunk"])
def test_a_state_of_another_rule_is_refused(twin: Any) -> None:
    make = Maker(RULE)
    parameters, streams = make.parameters(), make.streams(3)
    _, state = chunk.self_modifying(streams, parameters, None, RULE)
    for other, words in (
        (MemoryRule(chunk_size=4, projection_chunk_size=8), "2 momentum tensors, this layer 0"),
        (MemoryRule(chunk_size=2, momentum=True), r"positions \[3, 3\]; .*\[0, 2\)"),
    ):
        make = Maker(other)
        with pytest.raises(ValueError, match=words):
            twin.self_modifying(streams, make.parameters(), state, other)
