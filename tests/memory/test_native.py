"""The compiled form equals the equations, and is what runs where it can."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nestlearn.memory import MemoryParameters, MemoryRule, MemoryState, Streams, chunk, fused, naive, native
from nestlearn.memory.functional import initial_state
from tests.helpers import relative_error, state_tensors
from tests.memory.rules import Maker, errors, leaves, outcome, replace_leaves, short


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    """Build it once; another run finds it."""
    if os.environ.get(native.SWITCH) == "0":
        pytest.skip(f"{native.SWITCH}=0")
    if not native.available():
        try:
            native.build()
        except native.UnavailableError as error:
            pytest.skip(str(error))


def make(rule: MemoryRule, **changes: Any) -> Maker:
    return Maker(rule, **{"width": 16, "hidden": 32, **changes})


def supported(maker: Maker, rule: MemoryRule) -> bool:
    streams, parameters = maker.streams(3), maker.parameters()
    return fused.supports(streams, initial_state(parameters, streams, rule), parameters, rule)


RESTS = itertools.product(("mlp", "matrix"), ("initial", "zero"), ("bound", "gated"))
READERS: list[dict[str, Any]] = [
    {"chunk_size": 4},
    {"chunk_size": 1, "rate_max": 0.3},
    {"chunk_size": 8, "rate_max": 1.8, "adaptive": ("key", "value"), "retention": "fixed"},
    {"chunk_size": 4, "adaptive": ("rate",), "retention": "none"},
    {"chunk_size": 8, "adaptive": (), "checkpoint_chunks": 3},
    {"chunk_size": 2, "checkpoint_chunks": 4},
]
RULES = [
    MemoryRule(kind=kind, rest=rest, rate=rate, **changes)
    for (kind, rest, rate), changes in itertools.product(RESTS, READERS)
]


@pytest.mark.parametrize("length", [1, 11, 24])
@pytest.mark.parametrize("rule", RULES, ids=short)
def test_the_compiled_form_equals_the_equations(rule: MemoryRule, length: int) -> None:
    maker = make(rule)
    assert supported(maker, rule)
    parameters, streams = maker.parameters(), maker.streams(length)
    expected, by_naive = outcome(naive, parameters, streams, rule)
    got, by_native = outcome(chunk, parameters, streams, rule)
    found = errors(expected, got) | errors(by_naive, by_native)
    assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize("sizes", [[1] * 15, [7, 8], [13, 2], [4, 4, 7], [2, 1, 6, 6]], ids=str)
@pytest.mark.parametrize("rest", ["initial", "zero"])
@pytest.mark.parametrize("kind", ["mlp", "matrix"])
def test_pieces_equal_one_pass_with_their_gradients(kind: Any, rest: Any, sizes: list[int]) -> None:
    rule = MemoryRule(kind=kind, chunk_size=4, rest=rest)
    maker = make(rule)
    parameters, streams = maker.parameters(), maker.streams(15)
    state, reads = None, []
    for piece in zip(*(s.split(sizes, dim=2) for s in streams), strict=True):
        y, state = chunk.self_modifying(Streams(*piece), parameters, state, rule)
        reads.append(y)
    whole, end = chunk.self_modifying(streams, parameters, None, rule)
    assert state is not None
    pairs = [
        (whole, torch.cat(reads, 2)),
        *zip(state_tensors(end), state_tensors(state), strict=True),
    ]
    assert max(relative_error(a, b) for a, b in pairs) < 1e-11
    inputs = list(leaves(parameters, streams).values())
    losses = [
        sum((t * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t)).sum() for t in outputs)
        for outputs in zip(*((a, b) for a, b in pairs if a.requires_grad), strict=True)
    ]
    for a, b in zip(*(torch.autograd.grad(loss, inputs) for loss in losses), strict=True):  # type: ignore[arg-type]
        assert relative_error(a, b) < 1e-10


@pytest.mark.parametrize(
    ("chunk_size", "length"), [(1, 65), (8, 100), (16, 63), (64, 2), (64, 65), (64, 1000)]
)
@pytest.mark.parametrize("kind", ["mlp", "matrix"])
def test_both_precisions(kind: Any, chunk_size: int, length: int) -> None:
    rule = MemoryRule(kind=kind, chunk_size=chunk_size)
    maker = make(rule, batch=1, dtype=torch.float32, bfloat16=True)
    parameters, streams = maker.parameters(0.2), maker.streams(length)
    bias = parameters.gate_bias.data[rule.gate_names.index("retention")]
    bias.copy_((bias + 3.0).bfloat16())
    expected, by_naive = outcome(naive, parameters, streams, rule)
    for dtype, forward, backward in ((torch.float32, 1e-5, 1e-5), (torch.bfloat16, 0.006, 0.008)):
        named = leaves(parameters, streams).items()
        cast = {name: leaf.detach().to(dtype).requires_grad_() for name, leaf in named}
        got, by_native = outcome(chunk, *replace_leaves(parameters, cast), rule)
        assert got["reads"].dtype == dtype
        assert max(errors(expected, got).values()) < forward, (dtype, errors(expected, got))
        assert max(errors(by_naive, by_native).values()) < backward, (dtype, errors(by_naive, by_native))


@pytest.mark.parametrize("rest", ["initial", "zero"])
@pytest.mark.parametrize("kind", ["mlp", "matrix"])
def test_gradcheck_through_two_chunks(kind: Any, rest: Any) -> None:
    rule = MemoryRule(kind=kind, chunk_size=2, rest=rest)
    maker = make(rule, batch=1, heads=1, hidden=16)
    parameters, streams = maker.parameters(), maker.streams(4)
    named = leaves(parameters, streams)

    def reads(*tensors: torch.Tensor) -> Any:
        p, s = replace_leaves(parameters, dict(zip(named, tensors, strict=True)))
        y, state = chunk.self_modifying(s, p, None, rule)
        return y, *state.weights

    assert torch.autograd.gradcheck(reads, tuple(named.values()), fast_mode=True)


@pytest.mark.parametrize(
    ("width", "hidden", "chunk_size", "length"), [(256, 512, 4, 5), (16, 16, 300, 301), (48, 80, 16, 33)]
)
def test_wide_memories_and_long_chunks(width: int, hidden: int, chunk_size: int, length: int) -> None:
    rule = MemoryRule(chunk_size=chunk_size)
    maker = make(rule, batch=1, heads=1, width=width, hidden=hidden)
    parameters, streams = maker.parameters(0.05), maker.streams(length)
    expected, by_naive = outcome(naive, parameters, streams, rule)
    got, by_native = outcome(chunk, parameters, streams, rule)
    found = errors(expected, got) | errors(by_naive, by_native)
    assert max(found.values()) < 1e-8, found


def test_samples_do_not_meet_and_threads_do_not_matter() -> None:
    rule = MemoryRule(chunk_size=4)
    maker = make(rule, batch=3)
    parameters, streams = maker.parameters(), maker.streams(9)
    values, gradients = outcome(chunk, parameters, streams, rule)
    for row in range(3):
        one = Streams(*(s[row : row + 1].detach() for s in streams))
        y, state = chunk.self_modifying(one, parameters, None, rule)
        assert torch.equal(y[0], values["reads"][row])
        assert torch.equal(state.weights[0][0], values["weights[0]"][row])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        again, others = outcome(chunk, parameters, streams, rule)
    finally:
        torch.set_num_threads(threads)
    for a, b in ((values, again), (gradients, others)):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_nothing_is_changed_and_a_graph_changes_nothing() -> None:
    rule = MemoryRule(chunk_size=4)
    maker = make(rule)
    parameters, streams = maker.parameters(), maker.streams(6)
    _, state = chunk.self_modifying(streams, parameters, None, rule)
    tensors = [*leaves(parameters, streams).values(), *state.weights, *state.snapshot]
    before = [t.detach().clone() for t in tensors]
    y, _ = chunk.self_modifying(streams, parameters, state, rule)
    with torch.no_grad():
        quiet, _ = chunk.self_modifying(streams, parameters, state, rule)
    assert torch.equal(y, quiet)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_streams_are_read_where_they_are() -> None:
    """Slices of a convolution's output, with what must not be read around them."""
    rule = MemoryRule(chunk_size=4)
    maker = make(rule)
    parameters, streams = maker.parameters(), maker.streams(6)
    expected, by_dense = outcome(chunk, parameters, streams, rule)
    store = torch.full((2, 6, 16, 9), torch.nan, dtype=torch.float64)
    with torch.no_grad():
        for place, stream in enumerate(streams):
            store[:, 2 * place : 2 * place + 2, :, 2:8] = stream.mT
    slices = Streams(*(store[:, 2 * i : 2 * i + 2, :, 2:8].mT.requires_grad_() for i in range(3)))
    assert slices.key.mT.stride(-1) == 1
    assert not slices.key.mT.is_contiguous()
    got, by_slices = outcome(chunk, parameters, slices, rule)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert all(torch.equal(by_dense[name], by_slices[name]) for name in by_dense)


@pytest.mark.parametrize("size", [100.0, 1e4])
def test_large_streams_stay_finite(size: float) -> None:
    """Far out, where an exponential of single precision ends."""
    rule = MemoryRule(chunk_size=4)
    maker = make(rule, dtype=torch.float32)
    parameters = maker.parameters()
    streams = Streams(*((size * s).detach().requires_grad_() for s in maker.streams(7)))
    expected, by_naive = outcome(naive, parameters, streams, rule)
    got, by_native = outcome(chunk, parameters, streams, rule)
    assert max(errors(expected, got).values()) < 1e-4
    assert max(errors(by_naive, by_native).values()) < 1e-2


def test_what_is_kept_for_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    run = torch.ops.nestlearn.self_modifying_forward

    def spy(*args: Any) -> Any:
        results = run(*args)
        kept.append(results[-1].shape[1])
        return results

    monkeypatch.setattr(torch.ops.nestlearn, "self_modifying_forward", spy)
    for checkpoints, expected in ((0, 5), (1, 5), (2, 3), (5, 1), (64, 1)):
        rule = MemoryRule(chunk_size=4, checkpoint_chunks=checkpoints)
        maker = make(rule)
        parameters, streams = maker.parameters(), maker.streams(18)
        chunk.self_modifying(streams, parameters, None, rule)
        assert kept.pop() == expected
        with torch.no_grad():
            chunk.self_modifying(streams, parameters, None, rule)
        assert kept.pop() == 0


CLOSED = {
    "rate highest, all kept": (1e4, 1e4),
    "rate highest, all forgotten": (1e4, -1e4),
    "no rate": (-1e4, 1e4),
}


@pytest.mark.parametrize("ends", CLOSED.values(), ids=CLOSED.keys())
def test_gates_at_their_ends_are_finite_and_as_in_the_equations(ends: tuple[float, float]) -> None:
    rule = MemoryRule(chunk_size=8)
    maker = make(rule, dtype=torch.float32)
    parameters, streams = maker.parameters(), maker.streams(20)
    bias = torch.tensor(ends).view(2, 1, 1).expand(2, 2, 1).clone().requires_grad_()
    closed = MemoryParameters(*parameters[:2], bias, *parameters[3:])
    expected, by_naive = outcome(naive, closed, streams, rule)
    got, by_native = outcome(chunk, closed, streams, rule)
    assert all(torch.isfinite(t).all() for t in (*got.values(), *by_native.values()))
    assert max(errors(expected, got).values()) < 1e-4
    assert max(errors(by_naive, by_native).values()) < 1e-3


#: One value outside of what is known, for every field that is looked at.
UNKNOWN: list[dict[str, Any]] = [
    {"inner_norm": True},
    {"main_residual": True},
    {"objective": "l2"},
    {"causal_reads": False},
    {"unit_targets": False},
    {"main_target": "generated"},
    {"momentum": True},
    {"rate": "one", "adaptive": ("key",)},
    {"kind": "matrix", "gates": "channel"},
    {"backprop_chunks": 2},
    {"activation": "gelu"},
    {"features": "plain"},
    {"erase": "input"},
    {"kind": "matrix", "erase": "none"},
    {"adaptive": ("query",)},
    {"projection_chunk_size": 2, "chunk_size": 4},
]


def test_every_field_that_is_known_has_an_unknown_value_here() -> None:
    known = {**fused._KNOWN, **fused._KNOWN_OF["mlp"]}
    assert set(known) - {"retention"} <= {name for changes in UNKNOWN for name in changes}


@pytest.mark.parametrize("changes", UNKNOWN, ids=str)
def test_what_it_does_not_know_is_computed_without_it(changes: dict[str, Any]) -> None:
    rule = MemoryRule(**changes)
    maker = make(rule)
    assert not supported(maker, rule)
    parameters, streams = maker.parameters(), maker.streams(7)
    expected, by_naive = outcome(naive, parameters, streams, rule)
    got, by_chunk = outcome(chunk, parameters, streams, rule)
    assert max((errors(expected, got) | errors(by_naive, by_chunk)).values()) < 1e-9


def test_other_widths_ages_and_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = MemoryRule()
    assert supported(make(rule), rule)
    assert not supported(make(rule, width=20), rule)
    streams, parameters = make(rule).streams(3), make(rule).parameters()
    state = initial_state(parameters, streams, rule)
    mixed = MemoryState(*state[:3], torch.tensor([0, 1]))
    assert not fused.supports(streams, mixed, parameters, rule)
    monkeypatch.setenv(native.SWITCH, "0")
    assert not supported(make(rule), rule)


@pytest.mark.parametrize("content", [b"", b"no library"])
def test_a_broken_library_is_left_out_with_a_warning(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "broken.so"
    path.write_bytes(content)
    monkeypatch.setattr(native, "library", lambda: path)
    monkeypatch.setattr(native, "_registered", lambda: False)
    native._load.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="left out"):
            assert not native.available()
        assert not native.available()  # said once
    finally:
        monkeypatch.undo()
        native._load.cache_clear()
    assert native.available()


def test_wrong_shapes_are_refused_where_the_pointers_begin() -> None:
    rule = MemoryRule(chunk_size=4)
    maker = make(rule)
    parameters, streams = maker.parameters(), maker.streams(5)
    for wrong in (
        parameters._replace(write_scale=parameters.write_scale[:2]),
        parameters._replace(gate_weight=parameters.gate_weight[:1]),
        parameters._replace(weights=(parameters.weights[0][:1], parameters.weights[1])),
    ):
        with pytest.raises(RuntimeError, match="self_modifying"):
            chunk.self_modifying(streams, wrong, initial_state(parameters, streams, rule), rule)


def test_denormal_numbers_of_other_code_are_left_alone() -> None:
    rule = MemoryRule(chunk_size=4)
    maker = make(rule)
    chunk.self_modifying(maker.streams(5), maker.parameters(), None, rule)
    assert float(torch.tensor([1e-40]) * 0.5) > 0.0


def test_the_command_names_the_library_and_says_what_is_missing(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "nestlearn.cli.main", "native"]
    environment = {"PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "install g++" in done.stderr
    assert not list(tmp_path.rglob("*.so"))
