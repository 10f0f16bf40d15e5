"""Every way of learning keeps the same promises; some of them are others in disguise."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import nestlearn as nl
from nestlearn.continual.methods import (
    METHODS,
    Averaging,
    BlockTuning,
    ElasticWeights,
    FineTuning,
    L2ToStart,
    Levels,
    Lora,
    Rehearsal,
    Rehearsing,
    Replay,
)
from nestlearn.optim import NonFiniteGradientError
from tests.continual.small import learner, levels, logits, texts, tokenizer
from tests.continual.test_learner import state
from tests.helpers import difference
from tests.retrofitting.small import pretrained, same, weights

MAKE: dict[str, Any] = {
    "levels": lambda: Levels(levels()),
    "levels, layers": lambda: Levels(levels(consolidate=True), "layers"),
    "finetune": lambda: FineTuning(1e-2),
    "mlp": lambda: BlockTuning(1e-2),
    "lora": lambda: Lora(1e-2, rank=2),
    "ewc": lambda: ElasticWeights(1e-2, 1.0),
    "l2": lambda: L2ToStart(1e-2, 1e-2),
    "replay": lambda: Replay(1e-2, 200),
    "average": lambda: Averaging(1e-2),
    "rehearsal": lambda: Rehearsing(1e-2, Rehearsal(ahead=4)),
    "levels, rehearsing": lambda: Levels(levels(consolidate=True), rehearsal=Rehearsal(ahead=4)),
}
every = pytest.mark.parametrize("name", MAKE)


def made(name: str, base: Any = None, **settings: Any) -> nl.Learner:
    return learner(base, method=MAKE[name](), levels=None, **settings)


def test_every_method_is_tested() -> None:
    assert {type(make()) for make in MAKE.values()} == set(METHODS.values())
    assert all(METHODS[method.name] is method for method in METHODS.values())


@every
@pytest.mark.parametrize("architecture", ["llama, tied", "gpt2"])
def test_it_learns_and_the_base_stays(name: str, architecture: str) -> None:
    base = pretrained(architecture)
    kept, start = weights(base), logits(base)
    flags = [p.requires_grad for p in base.parameters()]
    own = made(name, base)
    assert torch.equal(logits(own.model), start)
    before = own.score(texts(seed=5))
    own.learn(texts(40))
    assert float(own.score(texts(seed=5))) < float(before) - 0.1
    assert same(weights(base), kept)
    assert [p.requires_grad for p in base.parameters()] == flags
    assert all(p.grad is None for p in base.parameters())
    assert sum(change.changed for change in own.diff()) > 0
    own.reset()
    assert torch.equal(logits(own.model), start)
    assert all(change.updates == 0 for change in own.diff())


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_memory_through_a_file(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base, path = pretrained(dtype=dtype), tmp_path / "memory.safetensors"
    own = made(name, base)
    own.learn(texts(6))
    own.save(path)
    loaded = nl.Learner.load(base, path, tokenizer())
    assert type(loaded.method) is type(own.method)
    assert loaded.method.settings == own.method.settings
    assert torch.equal(logits(loaded.model), logits(own.model))
    assert loaded.generate("red", max_new_tokens=3) == own.generate("red", max_new_tokens=3)


@every
def test_it_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    whole, cut, resumed = made(name), made(name), made(name)
    whole.learn(texts(8))
    stopped = iter(texts(8))

    class Killed(Exception):  # noqa: N818
        pass

    def dying() -> Any:
        for _ in range(5):
            yield next(stopped)
        raise Killed

    with pytest.raises(Killed):
        cut.learn(dying(), checkpoint=path, checkpoint_every=2)
    resumed.learn(texts(8), checkpoint=path)
    assert difference(state(resumed), state(whole)) is None
    assert torch.equal(logits(resumed.model), logits(whole.model))


@every
def test_two_learners_on_one_base(name: str) -> None:
    base = pretrained()
    first, second = made(name, base), made(name, base)
    start = logits(base)
    first.learn(texts(3))
    assert torch.equal(logits(second.model), start)
    kept = logits(first.model)
    second.learn(texts(3, seed=1))
    assert torch.equal(logits(first.model), kept)


@every
def test_what_is_not_finite_changes_nothing(name: str) -> None:
    own = made(name)
    own.learn(texts(2))
    own.method.finish()
    learner = getattr(own.method, "learner", own.model)
    handle = learner.get_input_embeddings().register_forward_hook(lambda *a: a[-1] * math.nan)
    before = state(own)
    with pytest.raises(NonFiniteGradientError):
        own.method.step(torch.arange(3, 20).view(1, -1))
    handle.remove()
    assert difference(state(own), before) is None
    assert all(bool(torch.isfinite(p).all()) for p in own.model.parameters())
    own.learn(texts(2))


@every
def test_what_is_kept_from_subject_to_subject_is_counted(name: str) -> None:
    own = made(name)
    own.learn(texts(4))
    numbers = sum(p.numel() for p in own.base.parameters())
    exact = {
        "finetune": 0,
        "mlp": 0,
        "lora": 0,
        "ewc": 2 * 4 * numbers,
        "l2": 4 * numbers,
        "replay": 2 * sum(len(window) for window in getattr(own.method, "store", [])),
        "average": 4 * numbers,
        "rehearsal": 2 * 4 * numbers,
    }
    kept = own.method.stored_bytes()
    if isinstance(own.method, Levels):
        memories = own.method.optimizer.memories.values()
        moments = sum(memory.stored_bytes() for memory in memories)
        assert moments > 0
        assert kept == moments + (4 * numbers if own.method.rehearsal else 0)
    else:
        assert kept == exact[name]


@pytest.mark.parametrize("name", [name for name in MAKE if not name.startswith("levels")])
def test_there_are_no_levels(name: str) -> None:
    with pytest.raises(ValueError, match="has no levels"):
        made(name).reset("fast")


def test_fine_tuning_is_adamw() -> None:
    base = pretrained()
    twin = copy.deepcopy(base)
    own = learner(base, method=FineTuning(1e-2, max_grad_norm=1e9), levels=None)
    ids = torch.arange(64) % 60
    own.learn(ids)
    adamw = torch.optim.AdamW(twin.parameters(), 1e-2, (0.9, 0.95), weight_decay=0.0)
    for start, count in ((0, 2), (32, 1), (48, 1)):
        length = 15 if start == 48 else 16
        rows = [ids[start + 16 * i : start + 16 * i + length + 1] for i in range(count)]
        batch = torch.stack(rows)
        twin(batch, labels=batch).loss.backward()
        adamw.step()
        adamw.zero_grad()
    assert same(weights(own.model), weights(twin))


DISGUISES: dict[str, tuple[Any, Any]] = {
    "l2 without strength": (lambda: L2ToStart(1e-2, 0.0), lambda: FineTuning(1e-2)),
    "ewc without strength": (lambda: ElasticWeights(1e-2, 0.0), lambda: FineTuning(1e-2)),
    "the whole average": (lambda: Averaging(1e-2, 1.0), lambda: FineTuning(1e-2)),
    "blocks in one level": (lambda: BlockTuning(1e-2), lambda: Levels([nl.Level("all", 1, lr=1e-2)])),
}


@pytest.mark.parametrize("name", DISGUISES)
def test_at_one_end_they_are_the_same(name: str) -> None:
    first, second = (learner(method=make(), levels=None) for make in DISGUISES[name])
    for own in (first, second):
        own.learn(texts(6))
    assert same(weights(first.model), weights(second.model))


def test_penalties_draw_back() -> None:
    distances = {}
    for name, method in {
        "none": FineTuning(1e-2),
        "l2": L2ToStart(1e-2, 1.0),
        "ewc": ElasticWeights(1e-2, 1e3),
    }.items():
        own = learner(method=method, levels=None)
        own.learn(texts(10))
        distances[name] = own.diff()[0].distance
    assert distances["l2"] < 0.9 * distances["none"]
    assert distances["ewc"] < 0.9 * distances["none"]


def test_the_fisher_matrix_is_the_mean_square_of_gradients_per_token() -> None:
    own = learner(method=ElasticWeights(), levels=None)
    method: Any = own.method
    batches = [torch.arange(3, 35).view(2, 16), torch.arange(20, 52).view(2, 16)]
    method.calibrate(batches, seed=1)
    generator = torch.Generator().manual_seed(1)
    model, name = own.model, "lm_head.weight"
    expected = 0.0
    for batch in batches:
        logs = model(batch).logits.flatten(0, 1)
        drawn = torch.multinomial(logs.detach().softmax(-1), 1, generator=generator).flatten()
        loss = torch.nn.functional.cross_entropy(logs, drawn)
        (gradient,) = torch.autograd.grad(loss, [model.get_parameter(name)])
        expected = expected + gradient.square() * 32 / 2
    torch.testing.assert_close(method.fisher[name], expected)


def test_the_store_has_a_size() -> None:
    for size, windows in ((1, 1), (200, 6), (10**6, 30)):
        own = learner(method=Replay(store_bytes=size), levels=None, old=[[5] * 481])
        own.calibrate()
        method: Any = own.method
        assert len(method.store) == windows


def test_old_text_in_the_loss_is_remembered() -> None:
    old, new = texts(30, seed=1), ["zyx wvu tsr qpo nml kji. " * 3] * 8
    base = learner(method=FineTuning(1e-2), levels=None)
    base.learn(old * 2)
    rises = []
    for method in (FineTuning(3e-3), Replay(3e-3, 10**4)):
        own = nl.Learner(
            base.model, tokenizer(), method=method, old=old, context=16, batch_size=2, calibration_tokens=2000
        )
        before = float(own.score(old))
        own.learn(new)
        rises.append(float(own.score(old)) - before)
    assert rises[1] < 0.5 * rises[0]


def test_averages_lie_between() -> None:
    half, whole = (learner(method=Averaging(1e-2, weight), levels=None) for weight in (0.5, 1.0))
    for own in (half, whole):
        own.learn(texts(4))
    start = weights(half.base)
    for name, value in weights(half.model).items():
        torch.testing.assert_close(value, (start[name] + weights(whole.model)[name]) / 2)


BAD: dict[str, tuple[Any, str]] = {
    "lr": (lambda: FineTuning(-1.0), "lr must be finite and zero or positive; got -1.0"),
    "norm": (lambda: FineTuning(max_grad_norm=0.0), "max_grad_norm must be finite and positive; got 0.0"),
    "strength": (lambda: L2ToStart(strength=math.nan), "strength must be finite"),
    "share": (lambda: Replay(share=1.0), "share must lie between 0 and 1; got 1.0"),
    "store": (lambda: Replay(store_bytes=0), "store_bytes must be finite and positive; got 0"),
    "weight": (lambda: Averaging(weight=0.0), r"weight must be in \(0, 1\]; got 0.0"),
    "rank": (lambda: Lora(rank=0), "rank must be finite and positive; got 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_values_outside_their_range(case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_levels_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="give one or the other"):
        learner(method=FineTuning())
    model = nl.retrofit(pretrained(), levels())
    with pytest.raises(ValueError, match="has levels already"):
        learner(model)
    own = nl.Learner(model, tokenizer(), old=texts(2), context=16)
    assert own.model is model
    assert own.base is nl.undo_retrofit(model)


def test_short_windows_are_not_stored() -> None:
    own = learner(method=Replay(1e-2, 10**4), levels=None, old=torch.arange(34) % 60)
    own.calibrate()
    method: Any = own.method
    assert {window.numel() for window in method.store} == {16}
    stored = len(method.store)
    own.learn(texts(6))
    small = learner(method=Replay(store_bytes=64), levels=None)
    small.calibrate()
    small.calibrate()
    held: Any = small.method
    assert sum(2 * window.numel() for window in held.store) <= 64
    assert stored == 2


def test_a_store_is_filled_whatever_others_look_at() -> None:
    own = learner(method=Replay(store_bytes=2000), levels=None, old=texts(40))
    own.calibrate()
    method: Any = own.method
    assert 1900 < sum(2 * window.numel() for window in method.store) <= 2000


def test_after_an_error_the_averages_are_there() -> None:
    own, whole = (learner(method=Averaging(1e-2), levels=None) for _ in range(2))

    def broken() -> Any:
        yield from texts(4)
        raise RuntimeError("the stream broke")

    with pytest.raises(RuntimeError, match="broke"):
        own.learn(broken())
    start = weights(own.base)
    method: Any = own.method
    for name, part in method.parts.items():
        expected = start[name].lerp(part.own.detach(), 0.5)
        torch.testing.assert_close(part.parameter.detach(), expected)
    whole.learn(texts(4))
