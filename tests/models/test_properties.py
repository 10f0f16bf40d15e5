"""What must hold for every mixer and Continuum Memory System: causality, independence, purity, gradients."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import copy_tree, difference, random_tokens, relative_error, tiny_model
from tests.models.variants import ALL, FEW, SOME, Changes, over

LENGTH = 22  # five chunks of 4 and a rest; one chunk of 16 and a rest


@over(ALL)
def test_a_token_never_changes_logits_before_it(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(2, LENGTH)
    with torch.no_grad():
        before = model(tokens).logits
        for position in (3, 4, 16):
            other = tokens.clone()
            other[:, position] = (other[:, position] + 17) % 50
            after = model(other).logits
            assert torch.equal(before[:, :position], after[:, :position])
            assert not torch.equal(before[:, position], after[:, position])


@over(FEW)
def test_gradients_do_not_flow_into_the_future(changes: Changes) -> None:
    model = tiny_model(**changes)
    inputs = model.get_input_embeddings()(random_tokens(1, LENGTH)).detach().requires_grad_()
    logits = model(inputs_embeds=inputs).logits
    (gradient,) = torch.autograd.grad(logits[:, 9].square().sum(), inputs)
    assert torch.equal(gradient[:, 10:], torch.zeros_like(gradient[:, 10:]))
    assert (gradient[:, :10].abs().sum(-1) > 0).all()  # and everything before it counts


@over(SOME)
def test_a_row_is_unaffected_by_other_rows(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(3, LENGTH)
    other = random_tokens(3, LENGTH, seed=1)
    other[1] = tokens[1]
    with torch.no_grad():
        together, elsewhere = model(tokens).logits, model(other).logits
        alone = model(tokens[1:2]).logits
    assert torch.equal(together[1], elsewhere[1])
    assert not torch.equal(together[0], elsewhere[0])
    assert relative_error(together[1:2], alone) < 1e-6


@over(SOME)
def test_forward_is_pure(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(2, LENGTH)
    kept = copy_tree(model.state_dict())
    with torch.no_grad():
        first = model(tokens, labels=tokens)
        cached = model(tokens, use_cache=True)
        second = model(tokens, labels=tokens)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.logits, cached.logits)
    assert torch.equal(first.loss, second.loss)
    assert difference(kept, dict(model.state_dict())) is None


@over(FEW)
def test_training_mode_computes_the_same(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(2, LENGTH)
    assert torch.equal(model.eval()(tokens).logits, model.train()(tokens).logits)


@over(ALL)
def test_every_parameter_gets_a_gradient_from_the_language_model_loss(changes: Changes) -> None:
    # More than two chunks: what is written in the first is read in the second, and generated there anew.
    model = tiny_model(**changes).train()
    largest = max(changes.get("chunk_size", 4), changes.get("projection_chunk_size", None) or 0)
    tokens = random_tokens(2, max(LENGTH, 2 * largest + 3))
    model(tokens, labels=tokens).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"
        assert parameter.grad.norm() > 1e-8, f"the gradient of {name} is zero"
    # Five or six memories are stacked in one tensor: none of them may hide behind the others.
    stacked = ("memory", "memory_in", "memory_out", "gate_weight", "gate_bias", "write_logit", "inner_scale")
    for layer in model.model.layers:
        for name in stacked:
            parameter = getattr(layer.mixer, name, None)
            if parameter is not None:
                norms = (
                    parameter.grad.flatten(2).norm(dim=-1) if parameter.dim() > 2 else parameter.grad.abs()
                )
                assert (norms > 0).all(), f"{name} by memory and head: {norms}"


@over(FEW)
def test_the_gradient_is_the_slope_of_the_loss(changes: Changes) -> None:
    """Every write is differentiated: a finite difference along a random direction agrees, in float64."""
    model = tiny_model(**changes).train().double()
    tokens = random_tokens(1, LENGTH)
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(model(tokens, labels=tokens).loss.double(), parameters)
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    losses = []
    for step in (1e-7, -2e-7):
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=step)
            logits = model(tokens).logits
            losses.append(torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:]))
    assert ((losses[0] - losses[1]) / 2e-7).item() == pytest.approx(float(slope), rel=1e-3)


@over(FEW)
def test_bfloat16_works(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(2, LENGTH)
    with torch.no_grad():
        exact = model(tokens).logits
        model = model.to(torch.bfloat16)
        out = model(tokens, labels=tokens, use_cache=True)
        following = model(tokens[:, :3], past_key_values=out.past_key_values).logits
    assert out.logits.dtype == following.dtype == torch.bfloat16
    assert torch.isfinite(out.logits).all()
    assert torch.isfinite(out.loss)
    assert torch.isfinite(following).all()
    assert relative_error(exact, out.logits.float()) < 0.1


@over(FEW)
def test_bfloat16_trains(changes: Changes) -> None:
    model, tokens = tiny_model(**changes).train().to(torch.bfloat16), random_tokens(2, LENGTH)
    model(tokens, labels=tokens).loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch's slow RMSNorm
@over(FEW)
def test_autocast_to_bfloat16_works(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(2, LENGTH)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(model(tokens).logits).all()


@over(FEW)
def test_one_seed_gives_one_model(changes: Changes) -> None:
    assert (
        difference(dict(tiny_model(3, **changes).state_dict()), dict(tiny_model(3, **changes).state_dict()))
        is None
    )


@over([{"memory": "matrix"}, {"memory": "mlp", "rest": "zero"}, {"momentum": True}, {"mixer": "gated_delta"}])
def test_rate_zero_and_retention_one_never_change_a_memory(changes: Changes) -> None:
    model = tiny_model(**changes, num_hidden_layers=2)
    for layer in model.model.layers:
        with torch.no_grad():
            layer.mixer.gate_weight.zero_()
            ends = {"rate": -1e9, "retention": 1e9, "momentum": 0.0}
            for bias, gate in zip(layer.mixer.gate_bias, layer.mixer.rule.gate_names, strict=True):
                bias.fill_(ends[gate])
    with torch.no_grad():
        cache = model(random_tokens(2, 101), use_cache=True).past_key_values
    for layer, state in zip(model.model.layers, cache.states, strict=True):
        for start, now in zip(layer.mixer.parameters_of_memory().weights, state.memory.weights, strict=True):
            rest = start.transpose(0, 1).expand_as(now)
            assert torch.equal(now, torch.zeros_like(now) if layer.mixer.rule.rest == "initial" else rest)


def test_the_independent_variant_weighs_its_blocks() -> None:
    model, tokens = tiny_model(cms_variant="independent", mixer="attention"), random_tokens(1, 5)
    with torch.no_grad():
        before = model(tokens).logits
        model.model.layers[0].cms.mixture[1] = 0.0
        model.model.layers[0].cms.blocks[0].down_proj.weight.zero_()
        silent = model(tokens).logits
        model.model.layers[0].cms.blocks[1].down_proj.weight.zero_()
        assert torch.equal(silent, model(tokens).logits)
    assert not torch.equal(before, silent)
