"""The comparison with other packages: our own contestants train, others may be missing, figures add up."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
import typer
from benchmarks.peers_models import CONTESTANTS, Size, UnavailableError, floor_operations
from benchmarks.peers_run import Plan, Remote, WorkerError, _hopeless, available_bytes, ratio
from benchmarks.peers_worker import Worker

from benchmarks import peers

SIZE = Size(dim=32, layers=1, heads=2, vocab=17, chunk=8)
OURS = [name for name, contestant in CONTESTANTS.items() if contestant.package is None]


@pytest.mark.parametrize("name", OURS)
def test_a_contestant_gives_every_parameter_a_gradient(name):
    ids = torch.randint(SIZE.vocab, (2, 24))
    try:
        module, step = CONTESTANTS[name].build(SIZE, 24)
    except UnavailableError as error:
        pytest.skip(str(error))
    step(ids)
    first = {key: p.grad.clone() for key, p in module.named_parameters()}
    assert all(grad.any() for grad in first.values())
    step(ids)  # gradients start from zero at every step
    assert all(torch.equal(p.grad, first[key]) for key, p in module.named_parameters())
    assert floor_operations(CONTESTANTS[name], module, SIZE, 24) > 0


def test_the_plain_transformer_is_causal():
    module, _ = CONTESTANTS["Transformer, plain"].build(SIZE, 24)
    ids = torch.randint(SIZE.vocab, (1, 24))
    changed = torch.cat([ids[:, :12], (ids[:, 12:] + 1) % SIZE.vocab], dim=1)
    before, after = module(ids), module(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert (before[:, 12:] - after[:, 12:]).abs().min() > 0


def test_one_run_writes_speed_memory_and_what_is_missing(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "titans_pytorch" else real(name, *rest),
    )
    monkeypatch.setitem(peers.QUICK, "lengths", (32,))
    result = tmp_path / "new" / "peers.json"
    peers.main(
        result=result, rounds=1, only=["Transformer, plain", "NeuralMemory"], quick=True, decoding=False
    )
    content = json.loads(result.read_text())
    row = content["contestants"]["Transformer, plain"]["lengths"]["32"]
    tokens = content["batch"] * 32
    assert row["tokens_per_cpu_second"] == pytest.approx(tokens / row["turns"][0])
    assert row["of_floor"] == pytest.approx(
        row["tokens_per_cpu_second"] * row["floor_operations"] / content["peak_gflops"] / 1e9
    )
    missing = content["contestants"]["titans-pytorch NeuralMemory"]["lengths"]["32"]
    assert missing == {"skipped": "titans-pytorch is not installed here; `make peers` installs it"}
    assert content["decoding"] == {}


def test_decoding_feeds_every_session_in_turn():
    worker, changes = Worker(), CONTESTANTS["Hope"].config
    request = {"changes": changes, "size": vars(SIZE), "prompts": [16, 48], "piece": 16}
    prefill = worker.answer({"do": "prefill", **request})
    assert [cache.seen_tokens for cache in worker.sessions] == [16, 48]
    decoded = worker.answer({"do": "decode", "count": 8})
    assert [cache.seen_tokens for cache in worker.sessions] == [24, 56]
    assert min(prefill["seconds"] + decoded["seconds"]) > 0
    short, long = decoded["bytes"]
    assert short == long > 0


def test_a_failing_worker_becomes_a_reason():
    worker = Remote(keep=False)
    try:
        with pytest.raises(WorkerError, match="KeyError: 'nobody'"):
            worker.ask(60, do="build", name="nobody", length=8, batch=1, size=vars(SIZE))
        worker.process.kill()
        worker.process.wait()
        with pytest.raises(WorkerError, match="ended with code -9"):
            worker.ask(60, do="steps", times=1)
    finally:
        worker.stop()


def test_what_is_too_slow_or_too_big_is_not_tried():
    plan = Plan(step_limit=10, memory_limit=2**30)
    assert _hopeless(plan, 1024, {}) is None
    assert _hopeless(plan, 1024, {"512": {"step_seconds": 4.9, "peak_bytes": 2**28}}) is None
    assert "12 s" in _hopeless(plan, 1024, {"512": {"step_seconds": 6.0, "peak_bytes": 0}})
    assert "2.0 GiB" in _hopeless(plan, 1024, {"512": {"step_seconds": 1.0, "peak_bytes": 2**30}})
    assert "why" in _hopeless(plan, 1024, {"512": {"skipped": "why"}})


def test_ratios_compare_the_same_rounds():
    assert ratio({"turns": [1.0, 2.0, 4.0]}, {"turns": [2.0, 8.0]}) == 3.0
    assert ratio({"turns": [1.0]}, {"skipped": "why"}) is None


def test_memory_of_the_machine_is_known():
    assert available_bytes() > 2**20


def test_nobody_is_called_so():
    with pytest.raises(typer.BadParameter, match="Transformer, plain"):
        peers.main(only=["nobody"])


@pytest.mark.parametrize("text", ["", "512;1024", "0,512", "-8"])
def test_lengths_that_are_none_are_refused(text):
    with pytest.raises(typer.BadParameter, match="such as 512,2048"):
        peers.main(lengths=text)
