"""Losses, and inputs that are refused with a sentence that names the value."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nestlearn.models.hope import HopeCache
from tests.helpers import random_tokens, tiny_model
from tests.models.variants import FEW, Changes, over


@over(FEW)
def test_the_loss_is_the_cross_entropy_of_the_next_token(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(3, 11)
    out = model(tokens, labels=tokens)
    by_hand = [-out.logits[b, t].log_softmax(-1)[tokens[b, t + 1]] for b in range(3) for t in range(10)]
    assert out.loss.item() == pytest.approx(torch.stack(by_hand).mean().item(), rel=1e-6)


def test_a_label_of_minus_100_is_left_out() -> None:
    model, tokens = tiny_model(), random_tokens(2, 9)
    labels = tokens.clone()
    labels[0, 3:] = -100
    out = model(tokens, labels=labels)
    kept = torch.cat([out.logits[0, :2], out.logits[1, :-1]])
    expected = F.cross_entropy(kept, torch.cat([tokens[0, 1:3], tokens[1, 1:]]))
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_without_labels_there_is_no_loss() -> None:
    assert tiny_model()(random_tokens(1, 3)).loss is None


@over(FEW)
@torch.no_grad()
def test_embeddings_in_place_of_tokens(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(2, 9)
    inputs = model.get_input_embeddings()(tokens)
    assert torch.equal(model(tokens).logits, model(inputs_embeds=inputs).logits)


@torch.no_grad()
def test_logits_to_keep() -> None:
    model, tokens = tiny_model(), random_tokens(2, 9)
    whole = model(tokens).logits
    for keep in (1, 4, 9):
        assert torch.allclose(whole[:, -keep:], model(tokens, logits_to_keep=keep).logits, atol=1e-6)


def test_a_tuple_on_request() -> None:
    tokens = random_tokens(1, 3)
    loss, logits, cache = tiny_model()(tokens, labels=tokens, use_cache=True).to_tuple()
    assert loss.dim() == 0
    assert logits.shape == (1, 3, 50)
    assert isinstance(cache, HopeCache)


@over(FEW)
@torch.no_grad()
def test_a_mask_of_ones_changes_nothing(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(2, 9)
    plain = model(tokens).logits
    for mask in (torch.ones(2, 9), torch.ones(2, 9, dtype=torch.long), torch.ones(2, 9, dtype=torch.bool)):
        assert torch.equal(plain, model(tokens, attention_mask=mask).logits)


@over(FEW)
@pytest.mark.parametrize("row", [0, 1])
def test_a_mask_that_hides_a_token_between_others_is_refused(changes: Changes, row: int) -> None:
    mask = torch.ones(2, 9)
    mask[row, 4] = 0
    with pytest.raises(ValueError, match=rf"attention_mask hides tokens between others in row {row}"):
        tiny_model(**changes)(random_tokens(2, 9), attention_mask=mask)


@pytest.mark.parametrize("shape", [(2, 8), (3, 9), (2, 1, 9, 9), (9,)])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"attention_mask is .* expected \(2, 9\)"):
        tiny_model()(random_tokens(2, 9), attention_mask=torch.ones(shape))


@over(FEW)
def test_an_empty_sequence_is_refused(changes: Changes) -> None:
    with pytest.raises(ValueError, match=r"non-empty.*\(2, 0, 16\)"):
        tiny_model(**changes)(torch.empty(2, 0, dtype=torch.long))


@over([c for c in FEW if c.get("mixer") != "attention"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@torch.no_grad()
def test_embeddings_that_are_not_finite_are_refused_and_the_session_goes_on(
    changes: Changes, value: float
) -> None:
    model, tokens = tiny_model(**changes), random_tokens(2, 12)
    cache = model(tokens[:, :5], use_cache=True).past_key_values
    inputs = model.get_input_embeddings()(tokens[:, 5:])
    bad = inputs.clone()
    bad[1, 3, 2] = value
    with pytest.raises(ValueError, match=r"stream holds (nan|inf|-inf)"):
        model(inputs_embeds=bad, past_key_values=cache)
    assert cache.seen_tokens == 5
    assert torch.isfinite(model(inputs_embeds=inputs, past_key_values=cache).logits).all()


def test_a_batch_without_its_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(5, 16\)"):
        tiny_model()(random_tokens(1, 5)[0])


def test_both_or_neither_inputs_are_refused() -> None:
    model, tokens = tiny_model(), random_tokens(1, 5)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(tokens, inputs_embeds=model.get_input_embeddings()(tokens))


@over([*FEW, {"conv_size": 0}, {"conv_size": 0, "mixer": "attention"}])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_cache_of_another_batch_size_is_refused(changes: Changes, batch: int) -> None:
    model = tiny_model(**changes)
    cache = model(random_tokens(2, 5), use_cache=True).past_key_values
    with pytest.raises(ValueError, match=rf"{batch}(.|\n)*2|2(.|\n)*{batch}"):
        model(random_tokens(batch, 5), past_key_values=cache)


MATRIX: Changes = {"memory": "matrix"}
MLP: Changes = {"memory": "mlp"}
ATTENTION: Changes = {"mixer": "attention"}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (ATTENTION, MLP),
        (MLP, ATTENTION),
        (MLP, MATRIX),
        (MATRIX, MLP),
        (MLP, {"num_hidden_layers": 2}),
        ({"num_hidden_layers": 2}, MLP),
        (MLP, {"hidden_size": 32}),
        (MLP, {"num_heads": 4}),
        (MATRIX, {"memory": "matrix", "adaptive_query": True}),
        ({"conv_size": 3}, MLP),
        ({"conv_size": 0}, MLP),
        ({"chunk_size": 16}, MLP),
    ],
    ids=str,
)
def test_a_cache_of_another_model_is_refused(source: Changes, target: Changes) -> None:
    cache = tiny_model(**source)(random_tokens(2, 7), use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"state|cache|pending"):
        tiny_model(**target)(random_tokens(2, 5), past_key_values=cache)


def test_packed_sequences_are_refused() -> None:
    model, tokens = tiny_model(), random_tokens(1, 6)
    with pytest.raises(ValueError, match="packed into one row"):
        model(tokens, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]))
    with pytest.raises(ValueError, match="packed into one row"):
        model(tokens, cu_seq_lens_q=torch.tensor([0, 3, 6]))
    assert torch.equal(model(tokens).logits, model(tokens, position_ids=torch.arange(6)[None]).logits)


def test_labels_need_all_positions() -> None:
    tokens = random_tokens(1, 6)
    with pytest.raises(ValueError, match=r"labels are of 6 positions, logits_to_keep left 2"):
        tiny_model()(tokens, labels=tokens, logits_to_keep=2)


def test_a_tuple_by_configuration() -> None:
    model, tokens = tiny_model(return_dict=False), random_tokens(1, 6)
    assert isinstance(model(tokens), tuple)
    assert torch.equal(model(tokens)[0], model(tokens, return_dict=True).logits)
    assert torch.equal(model(tokens)[0], model(tokens, return_dict=False)[0])


@torch.no_grad()
def test_a_mask_is_of_the_piece_or_of_all_columns() -> None:
    model, tokens = tiny_model(), random_tokens(2, 9)
    cache = model(tokens[:, :5], use_cache=True).past_key_values
    for wide in (4, 9):
        model(tokens[:, 5:], attention_mask=torch.ones(2, wide), past_key_values=cache.copy())
    with pytest.raises(ValueError, match=r"\(2, 7\), expected \(2, 4 or 9\)"):
        model(tokens[:, 5:], attention_mask=torch.ones(2, 7), past_key_values=cache)
