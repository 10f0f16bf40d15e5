"""In context: the same as one pass over what was read and what is asked."""

from __future__ import annotations

import pytest
import torch

from nestlearn.bench.language.context import InContext, Reading
from nestlearn.bench.language.methods import METHODS
from nestlearn.bench.language.stream import LanguageStream, batches, learn
from nestlearn.streams import bits_per_byte
from tests.bench.language.made import TASKS, stream
from tests.retrofitting.small import pretrained, same, weights

__all__ = ["stream"]


def windows(seed: int) -> torch.Tensor:
    return torch.randint(0, 20, (3, 6), generator=torch.Generator().manual_seed(seed))


def test_reading_first_is_one_pass() -> None:
    model = pretrained()
    reading, asked = Reading(model), windows(0)
    torch.testing.assert_close(reading(asked).logits, model(asked).logits)
    reading.text = torch.tensor([3, 1, 4])
    whole = torch.cat([reading.text.expand(3, -1), asked], dim=1)
    torch.testing.assert_close(reading(asked).logits, model(whole).logits[:, 3:])


def test_it_reads_the_newest_text_and_trains_nothing() -> None:
    model = pretrained()
    before, own = weights(model), InContext(model, 7)
    first, second = windows(1), windows(2)
    own.step(first[:1])
    assert own.model.text.tolist() == first[0, :-1].tolist() and own.stored_bytes() == 10
    own.step(second)
    assert own.model.text.tolist() == second[:, :-1].flatten()[-7:].tolist() and own.stored_bytes() == 14
    assert same(weights(model), before)
    sizes = torch.ones(model.config.vocab_size, dtype=torch.long)
    assert bits_per_byte(own.model, second, sizes) != bits_per_byte(model, second, sizes)


def test_on_a_stream_it_has_the_end_of_the_last_task(stream: LanguageStream) -> None:
    own, _, _ = learn(stream, METHODS["in context"], TASKS, {"tokens": 40}, 0, "test")
    last = [batch for _, batch, _ in batches(stream, "in context", TASKS, 0)][-2:]
    assert isinstance(own, InContext)
    assert torch.equal(own.model.text, torch.cat([batch[:, :-1].flatten() for batch in last])[-40:])


@pytest.mark.parametrize("tokens", [0, 128])
def test_bad_numbers_of_tokens(tokens: int) -> None:
    model = pretrained()
    model.config.max_position_embeddings = 128
    with pytest.raises(
        ValueError, match=f"at least 1 and fewer than the model's 128 positions, got {tokens}"
    ):
        InContext(model, tokens)
