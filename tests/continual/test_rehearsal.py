"""A model that rehearses is held to what it said at rest, on text that it drew itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nestlearn.continual.methods import FineTuning, Levels, Rehearsal, Rehearsing
from nestlearn.continual.methods.base import causal_loss
from tests.continual.small import levels
from tests.retrofitting.small import pretrained, same, weights


def windows(seed: int, low: int = 0, high: int = 20, count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, 9), generator=generator)


def attached(base: Any = None, **settings: Any) -> Rehearsal:
    made = Rehearsal(**{"ahead": 4, **settings})
    made.attach(pretrained() if base is None else base)
    return made


def moved(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            parameter.add_(noise, alpha=0.05)
    return model


def test_at_rest_there_is_nothing_to_rehearse() -> None:
    base = pretrained()
    made = attached(base)
    made.loss(base, torch.tensor(0.0), windows(0)).backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e-6 for p in base.parameters())


def test_the_loss_is_the_mean_of_both_by_subjects() -> None:
    base, batch = pretrained(), windows(0)
    model = moved(pretrained())
    made, twin = attached(base, subjects=3), attached(base, subjects=3)
    own = twin.texts(8, 8)  # two windows for each of the four
    with torch.no_grad():
        said = base(input_ids=own).logits.softmax(-1)
        heard = model(input_ids=own).logits.softmax(-1)
        divergence = (said * (said.log() - heard.log())).sum(-1).mean()
    loss = made.loss(model, torch.tensor(2.0), batch).detach()
    assert float(loss) == pytest.approx(0.25 * 2.0 + 0.75 * float(divergence), rel=1e-4)
    assert float(divergence) > 1e-3


def test_new_text_is_learned_as_the_beginning_of_a_text() -> None:
    base, batch = pretrained(), windows(0)
    _, new = attached(base).begin(base, batch)
    start = base.config.bos_token_id
    logits = base(input_ids=torch.cat([torch.full((4, 1), start), batch[:, :-2]], 1)).logits
    wanted = F.cross_entropy(logits.flatten(0, 1), batch[:, :-1].flatten())
    torch.testing.assert_close(new, wanted)
    batch[:, 0] = start  # they do already
    _, new = attached(base).begin(base, batch)
    torch.testing.assert_close(new, causal_loss(base, batch))


def test_texts_are_drawn_by_the_seed_and_none_comes_twice() -> None:
    base = pretrained()
    state = torch.get_rng_state()
    first, again, other = attached(base), attached(base), attached(base, seed=1)
    texts = torch.cat([first.texts(3, 8) for _ in range(3)])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(texts, again.texts(9, 8))
    assert not torch.equal(texts, other.texts(9, 8))
    assert len(texts.unique(dim=0)) == 9
    assert (texts[:, 0] == base.config.bos_token_id).all()
    assert first.texts(2, 6).shape == (2, 6)


def test_texts_are_drawn_as_warm_as_is_asked() -> None:
    assert len(attached(temperature=1e-3).texts(8, 8).unique(dim=0)) == 1
    assert len(attached(temperature=1.0).texts(8, 8).unique(dim=0)) == 8


def test_texts_are_no_longer_than_the_model_can_read() -> None:
    base = pretrained()
    longest = base.config.max_position_embeddings
    made = attached(base)
    assert made.texts(1, longest + 50).shape == (1, longest)
    assert made.texts(1, longest + 50).shape == (1, longest)


@pytest.mark.parametrize("kind", ["fine-tuning", "levels"])
def test_a_change_of_subject_makes_the_model_of_before_the_speaker(kind: str) -> None:
    rehearsal = Rehearsal(ahead=4)
    base = pretrained()
    own: Any = Rehearsing(1e-2, rehearsal)
    if kind == "levels":
        own = Levels(levels(consolidate=True, lr=3e-2), rest="fast", rehearsal=rehearsal)
    own.attach(base)
    if own.wants_old:
        own.calibrate([windows(9)])
    assert same(weights(rehearsal.speaker), weights(base))
    for _ in range(30):
        own.step(windows(0, high=4))
    assert rehearsal.subjects == 2
    assert same(weights(rehearsal.speaker), weights(base))
    before = weights(own.model)
    own.step(windows(1, low=10))
    assert rehearsal.subjects == 3
    assert same(weights(rehearsal.speaker), before)
    assert not same(weights(own.model), before)
    if kind == "levels":  # its own text is the one context that key memories keep
        assert {memory.committed for memory in own.optimizer.memories.values()} == {1}


def test_keep_is_a_change_that_somebody_tells() -> None:
    own = Rehearsing(1e-2, Rehearsal(ahead=4))
    own.attach(pretrained())
    own.step(windows(0))
    assert own.keep()
    assert own.rehearsal.subjects == 3
    assert same(weights(own.rehearsal.speaker), weights(own.model))


def test_the_model_is_the_mean_of_a_learner_whose_rate_rises() -> None:
    own = Rehearsing(1e-2, Rehearsal(ahead=4), horizon=3, warmup=4)
    own.attach(pretrained())
    mean, rates = weights(own.model), []
    for step in range(6):
        rates.append(own.optimizer.param_groups[0]["lr"])
        own.step(windows(step, high=4))
        mean = {name: m + (weights(own.learner)[name] - m) / 3 for name, m in mean.items()}
        assert all(torch.allclose(weights(own.model)[name], value) for name, value in mean.items())
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    assert not same(weights(own.learner), weights(own.model))
    assert own.keep()
    assert same(weights(own.learner), weights(own.model))  # where the next subject begins
    assert own.optimizer.param_groups[0]["lr"] == pytest.approx(0.0025)


def test_the_mean_of_a_model_in_half_precision_moves_by_less_than_its_weights_can() -> None:
    base = pretrained().to(torch.bfloat16)
    own = Rehearsing(1e-5, Rehearsal(ahead=4))
    own.attach(base)
    for step in range(3):
        own.step(windows(step, high=4))
    means = own.state_dict()["means"]
    assert all(value.dtype == torch.float32 for value in means.values())
    moved = [name for name, value in means.items() if not torch.equal(value, weights(base)[name].float())]
    assert len(moved) == len(means)


def test_a_horizon_and_a_warmup_of_one_are_fine_tuning_on_both_texts() -> None:
    base = pretrained()
    own, twin = Rehearsing(1e-2, Rehearsal(ahead=4), horizon=1, warmup=1), FineTuning(1e-2)
    own.attach(base)
    twin.attach(base)
    rehearsal = attached(base)

    def both(batch: Tensor) -> Tensor:
        return rehearsal.loss(twin.model, rehearsal.begin(twin.model, batch)[1], batch)

    twin.loss = both  # type: ignore[method-assign]
    for step in range(40):
        own.step(windows(0, high=4) if step < 30 else windows(1, low=10))
        twin.step(windows(0, high=4) if step < 30 else windows(1, low=10))
    assert rehearsal.subjects == 3
    assert same(weights(own.model), weights(twin.model))
    assert same(weights(own.learner), weights(twin.model))


def test_less_is_forgotten_than_by_fine_tuning() -> None:
    base = pretrained()
    first = FineTuning(1e-2)
    first.attach(base)
    old, new = windows(0, high=6, count=16), windows(1, low=30, high=36, count=16)
    for _ in range(60):
        first.step(old)
    lost, learned = {}, {}
    for name, own in {"ordinary": FineTuning(3e-3), "rehearsing": Rehearsing(3e-3, warmup=20)}.items():
        own.attach(first.model)
        with torch.no_grad():
            before = causal_loss(own.model, old)
        for _ in range(40):
            own.step(new)
        with torch.no_grad():
            lost[name] = float(causal_loss(own.model, old) - before)
            learned[name] = float(causal_loss(own.model, new))
    assert lost["rehearsing"] < 0.5 * lost["ordinary"]
    assert learned["rehearsing"] < learned["ordinary"] + 0.7  # the share that old text has of the first token


def test_bad_settings_and_states() -> None:
    with pytest.raises(ValueError, match="subjects must be a whole number, at least 1; got 0"):
        Rehearsal(subjects=0)
    with pytest.raises(ValueError, match="windows must be a whole number, at least 1; got 0"):
        Rehearsal(windows=0)
    with pytest.raises(ValueError, match=r"temperature must be finite and positive; got 0\.0"):
        Rehearsal(temperature=0.0)
    with pytest.raises(ValueError, match=r"ahead must be a whole number, at least 1; got 1\.5"):
        Rehearsal(ahead=1.5)  # type: ignore[arg-type]
    for wrong in (0, 2.5, True):
        for name in ("horizon", "warmup"):
            with pytest.raises(ValueError, match=f"{name} must be a whole number .* at least 1; got {wrong}"):
                Rehearsing(**{name: wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no speaker yet"):
        Rehearsal().texts(1, 4)
    made = attached()
    state = made.state_dict()
    state["speaker"] = {"another": torch.zeros(2)}
    with pytest.raises(ValueError, match="of a model with other parameters"):
        made.load_state_dict(state)
    assert made.subjects == 2
