"""The Continuum Memory System in its three forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nestlearn.layers import ContinuumMemory, FeedForward
from tests.helpers import relative_error

D = 6


def system(variant: str, sizes: tuple[int, ...] = (8, 8, 4)) -> ContinuumMemory:
    torch.manual_seed(0)
    return ContinuumMemory(D, sizes, variant).double()


def inputs() -> torch.Tensor:
    return torch.randn(2, 5, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_block_is_swiglu_behind_a_norm() -> None:
    torch.manual_seed(0)
    block, x = FeedForward(D, 9).double(), inputs()
    torch.nn.init.normal_(block.norm.weight)
    z = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * block.norm.weight
    expected = (
        F.silu(z @ block.gate_proj.weight.mT) * (z @ block.up_proj.weight.mT)
    ) @ block.down_proj.weight.mT
    assert relative_error(expected, block(x)) < 1e-12


@pytest.mark.parametrize("variant", ["sequential", "nested"])
def test_each_block_reads_the_output_of_the_faster_one(variant: str) -> None:
    cms, x = system(variant), inputs()
    expected = x
    for block in cms.blocks:
        expected = expected + block(expected)
    assert torch.equal(expected, cms(x))


def test_independent_blocks_read_the_same_input() -> None:
    cms, x = system("independent"), inputs()
    torch.nn.init.normal_(cms.mixture)
    expected = x + sum(w * block(x) for w, block in zip(cms.mixture, cms.blocks, strict=True))
    assert relative_error(expected, cms(x)) < 1e-12
    cms.reset_parameters()
    assert torch.equal(cms.mixture, torch.ones(3).double())


@pytest.mark.parametrize("variant", ["sequential", "nested", "independent"])
def test_one_block_is_an_ordinary_feed_forward_layer(variant: str) -> None:
    cms, x = system(variant, (8,)), inputs()
    assert relative_error(x + cms.blocks[0](x), cms(x)) < 1e-12


@pytest.mark.parametrize("variant", ["sequential", "nested", "independent"])
def test_tokens_do_not_see_each_other(variant: str) -> None:
    cms, x = system(variant), inputs()
    assert relative_error(cms(x)[:, 2:3], cms(x[:, 2:3])) < 1e-12


def test_forms_differ_only_in_the_mixture() -> None:
    names = {
        variant: {n for n, _ in system(variant).named_parameters()} for variant in ("sequential", "nested")
    }
    assert names["sequential"] == names["nested"]
    assert {n for n, _ in system("independent").named_parameters()} - names["nested"] == {"mixture"}


def test_what_makes_no_system_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        ContinuumMemory(D, ())
    with pytest.raises(ValueError, match="'parallel'"):
        ContinuumMemory(D, (4,), "parallel")
