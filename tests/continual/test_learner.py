"""A learner learns from a stream, keeps, forgets, saves and loads what it learned."""

from __future__ import annotations

import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import nestlearn as nl
from nestlearn.continual.memory_file import MemoryFileError
from nestlearn.continual.methods import FineTuning
from nestlearn.optim import NonFiniteGradientError
from nestlearn.training import CheckpointError, Interrupted
from tests.continual.small import learner, levels, logits, texts, tokenizer
from tests.helpers import copy_tree, difference
from tests.retrofitting.small import pretrained, same, weights


def state(own: nl.Learner) -> Any:
    return listed(own.method.state_dict())


def listed(tree: Any) -> Any:
    """Tuples as lists: that is what a file makes of them."""
    if isinstance(tree, dict):
        return {key: listed(value) for key, value in tree.items()}
    return [listed(value) for value in tree] if isinstance(tree, list | tuple) else tree


def test_it_learns_and_the_base_stays() -> None:
    base = pretrained()
    kept = weights(base)
    own = learner(base)
    before = own.score(texts(seed=5))
    report = own.learn(texts(60))
    after = own.score(texts(seed=5))
    assert after.bits_per_byte < before.bits_per_byte - 0.3
    assert report.finished
    assert report.documents == 60
    assert report.tokens == sum(len(text) + 1 for text in texts(60)) - 1
    assert report.steps == len(report.losses)
    assert report.losses[-1] < report.losses[0]
    assert same(weights(base), kept)
    assert own.base is base


def test_levels_are_updated_by_their_clocks() -> None:
    own = learner()
    report = own.learn(texts(20))
    fast, slow = own.diff()
    assert fast.updates == report.tokens // 32
    assert slow.updates == report.tokens // 64
    assert fast.changed
    assert slow.changed
    assert not own.model.training


def test_one_pass_is_two_passes() -> None:
    """A stream that is learned in two calls of whole windows is the same stream."""
    ids = torch.randint(3, 60, (1 + 16 * 8,), generator=torch.Generator().manual_seed(0))
    once, twice = learner(), learner()
    once.learn(ids)
    twice.learn(ids[: 1 + 16 * 4])
    twice.learn(ids[16 * 4 :])
    assert difference(state(once), state(twice)) is None


def test_two_learners_on_one_base() -> None:
    base = pretrained()
    before, first, second = logits(base), learner(base), learner(base)
    first.learn(texts(6))
    assert torch.equal(logits(second.model), before)
    second.learn(texts(6, seed=3))
    kept = logits(first.model)
    second.reset()
    assert torch.equal(logits(first.model), kept)
    assert torch.equal(logits(second.model), before)
    assert torch.equal(logits(base), before)


def test_old_text_is_protected() -> None:
    """For what is learned, less of what was calibrated on is forgotten than without consolidation."""
    old, new = texts(40, seed=1), ["zyx wvu tsr qpo nml kji. " * 3] * 12
    base = learner(levels=[nl.Level("all", 32, lr=5e-3)])
    base.learn(old * 3)
    prices = []
    for consolidate, rate in ((False, 2e-3), (True, 1e-2)):
        method = again([nl.Level("all", 32, lr=rate, consolidate=consolidate)])
        own = nl.Learner(base.model, tokenizer(), method=method, old=old, context=16, batch_size=2)
        known, unknown = float(own.score(old)), float(own.score(new))
        own.learn(new)
        learned = unknown - float(own.score(new))
        assert learned > 0.3
        prices.append((float(own.score(old)) - known) / learned)
    assert prices[1] < 0.5 * prices[0]


def again(made: list[nl.Level]) -> Any:
    """Levels on a model that was retrofitted and trained: a copy without its levels."""
    from nestlearn.continual.methods import Levels

    class Fresh(Levels):
        def attach(self, base: Any) -> None:
            plain = type(base)(base.config)
            plain.load_state_dict(base.state_dict())
            super().attach(plain.eval())

    return Fresh(made)


def test_without_old_text_the_model_writes_its_own() -> None:
    own = learner(old=None)
    own.learn(texts(2))
    memories = own.method.optimizer.memories  # type: ignore[attr-defined]
    assert list(memories) == ["slow"]
    assert memories["slow"].committed == 1
    assert all({"input", "output"} <= set(site.kept) for site in memories["slow"].sites)


def test_what_was_learned_is_kept_when_one_says_so() -> None:
    own = learner()
    assert not own.keep()  # nothing seen yet
    own.learn(texts(6))
    assert own.keep()
    assert not own.keep()
    (memory,) = own.method.optimizer.memories.values()  # type: ignore[attr-defined]
    assert memory.committed == 2  # the old text, and this
    before = [site.kept["input"].clone() for site in memory.sites]
    own.learn(texts(6, seed=2))
    assert own.keep()
    assert all(not torch.equal(site.kept["input"], b) for site, b in zip(memory.sites, before, strict=True))


def test_methods_that_protect_nothing_keep_nothing() -> None:
    own = learner(levels=None, method=FineTuning())
    own.learn(texts(2))
    assert not own.keep()


def test_nothing_is_written_where_nothing_protects() -> None:
    own = learner(levels=levels(consolidate=False), old=None)
    assert not own.method.wants_old
    own.learn(texts(2))


def test_snapshots_and_resets() -> None:
    own = learner()
    start = logits(own.model)
    own.learn(texts(6))
    own.snapshot("six")
    six, kept = logits(own.model), copy_tree(state(own))
    own.learn(texts(6, seed=2))
    assert not torch.equal(logits(own.model), six)
    twelve = logits(own.model)
    own.restore("six")
    assert torch.equal(logits(own.model), six)
    assert difference(state(own), kept) is None
    own.learn(texts(6, seed=2))
    assert torch.equal(logits(own.model), twelve)
    own.reset("fast")
    fast, slow = own.diff()
    assert (fast.changed, fast.updates) == (0, 0)
    assert slow.changed
    own.reset()
    assert torch.equal(logits(own.model), start)
    with pytest.raises(ValueError, match="there is no snapshot 'seven'; there are: 'six'"):
        own.restore("seven")
    with pytest.raises(ValueError, match="no level 'middle'; there are fast, slow"):
        own.reset("middle")


# Files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("how", ["units", "layers"])
def test_a_memory_through_a_file(how: str, dtype: torch.dtype, tmp_path: Path) -> None:
    own, path = learner(pretrained(dtype=dtype), how=how), tmp_path / "memory.safetensors"
    own.learn(texts(6))
    own.save(path)
    loaded = nl.Learner.load(pretrained(dtype=dtype), path, tokenizer())
    assert torch.equal(logits(loaded.model), logits(own.model))
    assert loaded.context == 16
    assert [c.changed for c in loaded.diff()] == [c.changed for c in own.diff()]
    assert loaded.generate("red tree", max_new_tokens=5) == own.generate("red tree", max_new_tokens=5)
    loaded.reset()
    assert torch.equal(logits(loaded.model), logits(own.base))


def test_only_what_changed_is_in_the_file(tmp_path: Path) -> None:
    slow = [nl.Level("fast", 32, lr=1e-2), nl.Level("slow", 10**6)]
    own, path = learner(levels=slow, shares=[1, 7]), tmp_path / "memory.safetensors"
    own.learn(texts(3))
    own.save(path)
    fast, _ = own.diff()
    names = [name for name in load_file(path) if "/values/" in name]
    assert names
    assert all("/fast/" in name for name in names)
    assert sum(load_file(path)[name].numel() for name in names) == fast.parameters


@pytest.mark.parametrize("model", [lambda: pretrained("mistral"), lambda: pretrained(dtype=torch.bfloat16)])
def test_another_base_is_refused_with_both_names(model: Any, tmp_path: Path) -> None:
    own, path = learner(), tmp_path / "memory.safetensors"
    own.learn(texts(2))
    own.save(path)
    other = model()
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1.0
    with pytest.raises(MemoryFileError, match=r"was learned on \w+ \(\w{12}\), not on \w+ \(\w{12}\)"):
        nl.Learner.load(other, path, tokenizer())


@pytest.mark.parametrize("damage", ["truncated", "foreign", "changed", "other", "missing", "text"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    own, path = learner(), tmp_path / "memory.safetensors"
    own.learn(texts(2))
    own.save(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("no memory")
    elif damage == "other":
        nl.training.save_tree(path, {"a": torch.zeros(2)})
    else:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        if damage == "foreign":
            tensors["further"] = torch.zeros(3)
        else:
            name = next(name for name in tensors if "/values/" in name)
            tensors[name] = tensors[name] + 1
        save_file(tensors, path, metadata=metadata)
    with pytest.raises(MemoryFileError) as error:
        nl.Learner.load(pretrained(), path, tokenizer())
    assert str(path) in str(error.value)


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    own, path = learner(), tmp_path / "memory.safetensors"
    own.learn(texts(2))
    own.save(path)
    tree = nl.training.load_tree(path)
    tree["learned"]["values"]["fast"]["model.layers.9.mlp.up_proj.weight"] = torch.zeros(2)
    nl.training.save_tree(path, tree)
    with pytest.raises(MemoryFileError, match="does not fit this model: level 'fast' has no part of"):
        nl.Learner.load(pretrained(), path, tokenizer())


# What goes wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stream", [[], "", ["", ""], iter(())], ids=["list", "string", "strings", "iterator"]
)
def test_an_empty_stream_changes_nothing(stream: Any, tmp_path: Path) -> None:
    own, path = learner(), tmp_path / "c"
    before = logits(own.model)
    with pytest.raises(ValueError, match="the stream is empty: nothing was learned"):
        own.learn(stream, checkpoint=path)
    assert torch.equal(logits(own.model), before)
    assert not path.exists()
    own.learn(texts(1))


def test_a_loss_that_is_not_finite_keeps_what_was_learned() -> None:
    own, twin = learner(), learner()
    steps = 4
    broken = own.method.model.lm_head  # type: ignore[operator, union-attr]
    calls = 0

    def spoil(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return output * (math.nan if calls > looks + steps else 1.0)

    own.calibrate()
    twin.calibrate()
    looks = 0
    handle = broken.register_forward_hook(spoil)
    with pytest.raises(NonFiniteGradientError, match=r"after 4 steps of the stream; what was learned before"):
        own.learn(texts(20))
    handle.remove()
    ids = [token for text in texts(20) for token in [*tokenizer()(text)["input_ids"], 2]]
    twin.learn(torch.tensor(ids[: 1 + steps * 32]))
    assert torch.equal(logits(own.model), logits(twin.model))
    assert all(bool(torch.isfinite(p).all()) for p in own.model.parameters())
    own.learn(texts(2))


def test_ctrl_c_saves_and_the_same_call_goes_on(tmp_path: Path) -> None:
    whole, own, path = learner(), learner(), tmp_path / "c.safetensors"
    whole.learn(texts(20))
    inner = own.method.step
    steps = 0

    def step(batch: torch.Tensor) -> float:
        nonlocal steps
        steps += 1
        if steps == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(batch)

    own.method.step = step  # type: ignore[method-assign]
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=r"stopped after 5 steps .* goes on from there"):
        own.learn(texts(20), checkpoint=path)
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = learner()
    report = resumed.learn(texts(20), checkpoint=path)
    assert difference(state(resumed), state(whole)) is None
    assert report.steps == len(report.losses)
    assert report.documents == 20
    again = learner()
    assert again.learn(texts(20), checkpoint=path).steps == report.steps
    assert difference(state(again), state(whole)) is None


def test_learning_in_another_thread() -> None:
    own, found = learner(), []
    thread = threading.Thread(target=lambda: found.append(own.learn(texts(2))))
    thread.start()
    thread.join()
    assert found[0].finished


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    learner().learn(texts(4), checkpoint=path, checkpoint_every=1)
    with pytest.raises(CheckpointError, match="written with another context"):
        learner(context=8).learn(texts(4), checkpoint=path)
    with pytest.raises(CheckpointError, match="written with another base"):
        learner(pretrained("mistral")).learn(texts(4), checkpoint=path)
    with pytest.raises(ValueError, match="another stream"):
        learner().learn(texts(4, seed=1), checkpoint=path)
    with pytest.raises(ValueError, match="in another way"):
        learner(seed=3).learn(texts(4), checkpoint=path)
    nl.training.save_tree(path, {"a": 1})
    with pytest.raises(CheckpointError, match="no checkpoint of learning"):
        learner().learn(texts(4), checkpoint=path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": 0}, "context must be a whole number, at least 1; got 0"),
        ({"context": 64}, "context must be at most 63, the model has 64 positions; got 64"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"how": "heads"}, "how must be one of"),
        ({"levels": []}, "at least one level"),
    ],
    ids=str,
)
def test_values_outside_their_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learner(**settings)


def test_score_counts_bits_of_every_token() -> None:
    own, text = learner(), texts(3)
    model, total, size = own.model, 0.0, 0
    for one in text:
        ids = [1, *own.tokenizer(one)["input_ids"], 2]
        size += len(one.encode())
        for start in range(0, len(ids) - 1, 16):
            window = torch.tensor([ids[start : start + 17]])
            log = model(window[:, :-1]).logits.log_softmax(-1)
            total -= float(log[0].gather(-1, window[0, 1:, None]).sum().detach())
    score = own.score(text)
    assert score.bytes == size
    assert score.tokens == sum(len(one) + 1 for one in text)
    assert float(score) == pytest.approx(total / math.log(2) / size, rel=1e-5)
    with pytest.raises(ValueError, match="no text to score"):
        own.score([])


def test_a_chat_is_answered() -> None:
    own = learner()
    turns = [{"role": "user", "content": "red"}]
    text = own.tokenizer.apply_chat_template(turns, tokenize=False)
    assert own.generate(turns, max_new_tokens=4) == own.generate(text, max_new_tokens=4)


def test_what_a_reader_found_in_files(tmp_path: Path) -> None:
    """A model that was retrofitted before, with blocks of one's own choice, is saved and loaded."""
    base, path = pretrained(), tmp_path / "memory.safetensors"
    model = nl.retrofit(base, levels(), blocks=["model.layers.1.mlp"])
    own = nl.Learner(model, tokenizer(), old=texts(3), context=16, batch_size=2)
    own.learn(texts(6))
    own.save(path)
    loaded = nl.Learner.load(base, path, tokenizer())
    assert torch.equal(logits(loaded.model), logits(own.model))
    with pytest.raises(ValueError, match="another learner has this model"):
        nl.Learner(model, tokenizer())
    with pytest.raises(ValueError, match="has a model already"):
        nl.Learner(base, tokenizer(), method=own.method)


def test_a_refused_stream_changes_nothing(tmp_path: Path) -> None:
    own, path = learner(), tmp_path / "c.safetensors"
    own.learn(texts(4), checkpoint=path)
    own.learn(texts(4, seed=1))
    before = copy_tree(state(own))
    with pytest.raises(ValueError, match="another stream"):
        own.learn(texts(4, seed=2), checkpoint=path)
    assert difference(state(own), before) is None


def test_a_stream_may_have_grown(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    learner().learn(texts(6)[:4], checkpoint=path)
    own = learner()
    report = own.learn(texts(6), checkpoint=path)
    assert report.documents == 6
    assert own.learn(texts(6), checkpoint=path).tokens == report.tokens


def test_an_error_in_the_stream_leaves_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    own, whole = learner(), learner()
    with pytest.raises(ValueError, match="a document is"):
        own.learn([*texts(8)[:5], 3.5], checkpoint=path)
    whole.learn(texts(8))
    resumed = learner()
    resumed.learn(texts(8), checkpoint=path)
    assert difference(state(resumed), state(whole)) is None


def test_behind_a_batch_that_is_not_finite_it_goes_on(tmp_path: Path) -> None:
    own, path = learner(), tmp_path / "c.safetensors"
    inner, calls = own.method.step, 0

    def step(batch: torch.Tensor) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise NonFiniteGradientError("not finite")
        return inner(batch)

    own.method.step = step  # type: ignore[method-assign]
    with pytest.raises(NonFiniteGradientError, match="goes on behind this batch"):
        own.learn(texts(8), checkpoint=path)
    report = own.learn(texts(8), checkpoint=path)
    assert report.finished
    assert report.tokens == sum(len(text) + 1 for text in texts(8)) - 1 - 32


def test_padding_and_ids_that_are_none() -> None:
    own = learner()
    ids = own.tokenizer(texts(2), padding=True)
    masked, plain = learner(), learner()
    masked.learn([dict(zip(ids, row, strict=True)) for row in zip(*ids.values(), strict=True)])
    plain.learn([torch.tensor(own.tokenizer(text)["input_ids"]) for text in texts(2)])
    assert difference(state(masked), state(plain)) is None
    for bad, words in ((torch.ones(40), "whole numbers"), (torch.full((40,), 63), "must be from 0 to 62")):
        with pytest.raises(ValueError, match=words):
            own.learn(bad)


def test_an_empty_prompt_begins_anew() -> None:
    own = learner()
    assert own.generate("", max_new_tokens=3) == own.generate("<s>", max_new_tokens=3)


def test_a_failed_calibration_loses_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error between the first windows and their step must not leave a checkpoint behind them."""
    path, whole, own = tmp_path / "c.safetensors", learner(), learner()

    def refuse(*_: Any) -> None:
        raise ValueError("no old text")

    with monkeypatch.context() as broken:
        broken.setattr(own, "calibrate", refuse)
        with pytest.raises(ValueError, match="no old text"):
            own.learn(texts(4), checkpoint=path)
    assert not path.exists()
    own.learn(texts(4), checkpoint=path)
    whole.learn(texts(4))
    assert difference(state(own), state(whole)) is None
