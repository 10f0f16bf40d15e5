"""Streams through held gates: the command's figures, and that what they say is so."""

from __future__ import annotations

import json
import math

import pytest
import torch
import typer
from benchmarks.long_stream_run import (
    GATES,
    TASK,
    Case,
    Settings,
    build,
    cases,
    hold_gates,
    norm_ratio,
    pieces,
    stream_case,
)
from typer.testing import CliRunner

from benchmarks import long_stream
from nestlearn.models.hope import HopeCache

SMALL = Settings(tokens=300, piece=128, updates=2)


def invoke(*arguments: str):
    app = typer.Typer()
    app.command()(long_stream.main)
    return CliRunner().invoke(app, list(arguments))


def test_the_command_writes_every_case(tmp_path):
    path = tmp_path / "new" / "made.json"
    done = invoke("--tokens", "300", "--piece", "128", "--updates", "2", "--result", str(path))
    assert done.exit_code == 0, done.output
    assert done.output.count("trained") >= 16
    content = json.loads(path.read_text())
    assert content["settings"] == {"tokens": 300, "piece": 128, "updates": 2, "seed": 0}
    assert len(content["cases"]) == len(cases()) == 16
    for row in content["cases"]:
        assert row["finite"]
        assert row["tokens"] == 300
        assert row["largest_norm_ratio"] >= row["last_norm_ratio"] > 0
        first, last = row["state_bytes"]
        assert first == last > 0
        assert row["resident_bytes"] is None or len(row["resident_bytes"]) == 2
    assert all(first > 0 for first, _ in content["training_losses"].values())


def test_nothing_is_written_at_rate_zero():
    figures = stream_case(Case("mlp", False, "rate 0, retention 1"), SMALL, lambda _: None)
    assert figures["largest_norm_ratio"] == pytest.approx(1.0, abs=1e-3)
    assert (
        stream_case(Case("mlp", False, "rate highest, retention 1"), SMALL, lambda _: None)[
            "largest_norm_ratio"
        ]
        > 1.1
    )


@pytest.mark.parametrize("memory", ["mlp", "matrix"])
def test_held_gates_do_not_depend_on_tokens(memory):
    model = hold_gates(build(memory, False, SMALL), GATES["rate highest, retention 0"])
    mixer = model.model.layers[0].mixer
    assert not mixer.gate_weight.any()
    assert sorted(mixer.gate_bias[:, 0, 0].tolist()) == [-20.0, 20.0]
    untouched = hold_gates(build(memory, False, SMALL), None)
    assert untouched.model.layers[0].mixer.gate_weight.any()


def test_the_norm_ratio_by_hand():
    model, cache = build("matrix", False, SMALL), HopeCache()
    with torch.no_grad():
        model(next(pieces(SMALL)), past_key_values=cache)
        for layer in cache.states:
            layer.memory.weights[0].zero_()
        assert norm_ratio(model, cache) == pytest.approx(1.0)
        start = model.model.layers[1].mixer.memory
        cache.states[1].memory.weights[0][0, 1, 2] = 2.0 * start[2, 1]
        assert norm_ratio(model, cache) == pytest.approx(3.0)
        cache.states[0].memory.weights[0][0, 0, 0, 0, 0] = math.nan
        assert math.isnan(norm_ratio(model, cache))


def test_a_number_that_is_not_finite_ends_the_case(monkeypatch):
    monkeypatch.setattr("benchmarks.long_stream_run.norm_ratio", lambda *_: math.inf)
    figures = stream_case(Case("matrix", False, "the model's own"), SMALL, lambda _: None)
    assert (figures["finite"], figures["tokens"], figures["largest_norm_ratio"]) == (False, 128, None)


def test_the_stream_has_all_its_tokens_and_kinds():
    parts = list(pieces(Settings(tokens=400, piece=128)))
    assert [part.shape[1] for part in parts] == [128, 128, 128, 16]
    assert parts[1].unique().numel() == 1
    assert all(part.min() >= 0 and part.max() < TASK.vocab_size for part in parts)


@pytest.mark.parametrize("option", ["--tokens", "--piece", "--updates"])
def test_refusals_are_one_sentence(option, tmp_path):
    path = tmp_path / "made.json"
    done = invoke(option, "0", "--result", str(path))
    assert done.exit_code == 2
    assert done.stderr.strip() == f"Invalid {option[2:]}: 0. Must be at least 1."
    assert not path.exists()


def test_ctrl_c_keeps_finished_cases(tmp_path, monkeypatch):
    path, count = tmp_path / "made.json", iter(range(99))

    def stops(case, settings, advance):
        if next(count) == 2:
            raise KeyboardInterrupt
        return stream_case(case, settings, advance)

    monkeypatch.setattr(long_stream, "stream_case", stops)
    done = invoke("--tokens", "100", "--piece", "64", "--updates", "1", "--result", str(path))
    assert done.exit_code == 130
    assert "has the cases that were finished" in done.stderr
    assert len(json.loads(path.read_text())["cases"]) == 2
