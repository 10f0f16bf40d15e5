import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from nestlearn.streams import bits_per_byte


class Bigram(nn.Module):
    """Predicts from the last token only, by a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)
        self.frozen = nn.Dropout(0.5)

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.frozen(self.table[input_ids]))


def test_hand_computation() -> None:
    half, quarter = math.log(0.5), math.log(0.25)
    table = torch.tensor([[half, quarter, quarter], [quarter, half, quarter], [quarter, quarter, half]])
    windows = torch.tensor([[0, 0, 1], [2, 1, 1]])
    # Bits: 0->0 is 1, 0->1 is 2; 2->1 is 2, 1->1 is 1. Bytes of the targets 0, 1, 1, 1: 1 + 3 * 4.
    assert bits_per_byte(Bigram(table), windows, torch.tensor([1, 4, 9])) == pytest.approx(6 / 13, rel=1e-6)


@pytest.mark.parametrize("vocabulary", [2, 300])
def test_uniform_model_needs_log2_of_the_vocabulary(vocabulary: int) -> None:
    sizes = torch.randint(1, 9, (vocabulary,), generator=torch.Generator().manual_seed(0))
    windows = torch.randint(vocabulary, (7, 33), generator=torch.Generator().manual_seed(1))
    model = Bigram(torch.zeros(vocabulary, vocabulary))
    expected = math.log2(vocabulary) * 7 * 32 / int(sizes[windows[:, 1:]].sum())
    for batch_size in (1, 3, 7, 100):
        assert bits_per_byte(model, windows, sizes, batch_size=batch_size) == pytest.approx(
            expected, rel=1e-6
        )


def test_modes_are_kept_and_nothing_is_differentiated() -> None:
    model = Bigram(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))
    windows = torch.tensor([[0, 1, 2, 3]])
    ones = torch.ones(5, dtype=torch.int64)
    model.train()
    model.frozen.eval()
    value = bits_per_byte(model, windows, ones)
    assert (model.training, model.frozen.training) == (True, False)
    model.frozen.train()
    assert bits_per_byte(model, windows, ones) == value  # dropout was off
    assert model.frozen.training
    model.eval()
    assert bits_per_byte(model, windows, ones) == value
    assert not model.training
    assert model.table.grad is None
    assert torch.is_grad_enabled()


def test_modes_are_kept_when_the_model_fails() -> None:
    model = Bigram(torch.zeros(2, 2))
    with pytest.raises(IndexError):
        bits_per_byte(model, torch.tensor([[7, 0]]), torch.ones(8, dtype=torch.int64))
    assert model.training
    assert torch.is_grad_enabled()


def test_half_precision_logits_are_summed_in_double() -> None:
    model = Bigram(torch.zeros(4, 4, dtype=torch.bfloat16))
    windows = torch.zeros(2000, 9, dtype=torch.int64)
    assert bits_per_byte(model, windows, torch.ones(4, dtype=torch.int64)) == pytest.approx(2.0, rel=1e-7)


def test_nan_is_not_hidden() -> None:
    value = bits_per_byte(
        Bigram(torch.full((2, 2), math.nan)), torch.zeros(1, 3).long(), torch.ones(2).long()
    )
    assert math.isnan(value)


def test_bad_arguments() -> None:
    model, ones = Bigram(torch.zeros(2, 2)), torch.ones(2, dtype=torch.int64)
    for windows in (torch.zeros(0, 3).long(), torch.zeros(3, 1).long(), torch.zeros(3).long()):
        with pytest.raises(ValueError, match="Invalid windows"):
            bits_per_byte(model, windows, ones)
    with pytest.raises(ValueError, match="Invalid batch_size: 0"):
        bits_per_byte(model, torch.zeros(1, 3).long(), ones, batch_size=0)
