"""The words follow the numbers, whichever way these fall."""

from __future__ import annotations

from typing import Any

import pytest

from nestlearn.reporting import validate
from nestlearn.reporting.sentences import (
    first_language_sentence,
    headline,
    learned_sentence,
    matched_sentence,
    sentences,
)
from tests.reporting.builder import build_results


def with_matrices(**matrices: list[list[float]]) -> Any:
    size = len(next(iter(matrices.values())))
    results = build_results(("en", "fr", "de")[:size], tuple(matrices), derived=False)
    for run, matrix in matrices.items():
        results["runs"][run]["matrix"] = matrix
    return validate(results)


def test_the_headline_of_a_win() -> None:
    results = with_matrices(
        nested=[[1.9, 3, 3], [1.95, 2, 3], [2.0, 2.1, 2.1]],
        finetune=[[1.9, 3, 3], [2.5, 2, 3], [2.85, 2.1, 2.1]],
    )
    assert headline(results) == (
        "After learning French and German, Hope with levels lost 0.10 bits per byte of English; "
        "the same Hope trained the ordinary way lost 0.95."
    )


def test_the_headline_of_a_defeat() -> None:
    results = with_matrices(nested=[[1.9, 3], [2.9, 2]], finetune=[[1.9, 3], [2.0, 2]])
    assert headline(results) == (
        "After learning French, Hope with levels lost 1.00 bits per byte of English; "
        "the same Hope trained the ordinary way lost 0.10."
    )


def test_the_headline_of_an_improvement_and_of_nothing() -> None:
    results = with_matrices(nested=[[1.9, 3], [1.8, 2]], finetune=[[1.9, 3], [1.9, 2]])
    assert headline(results) == (
        "After learning French, Hope with levels improved its English by 0.10 bits per byte; "
        "the same Hope trained the ordinary way lost less than 0.01."
    )


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("nested", "Hope with levels"),
        ("finetune", "Hope trained the ordinary way"),
        ("transformer", "the Transformer"),
        ("other", "other"),
    ],
)
def test_the_headline_of_one_run(run: str, name: str) -> None:
    results = with_matrices(**{run: [[1.9, 3], [2.9, 2]]})
    assert headline(results) == f"After learning French, {name} lost 1.00 bits per byte of English."


def test_one_language_has_nothing_to_forget() -> None:
    results = with_matrices(nested=[[1.9]], transformer=[[1.8]])
    assert headline(results) == (
        "Bits per byte after English alone: Hope with levels 1.90, the Transformer 1.80. "
        "There was nothing to forget yet."
    )
    assert len(sentences(results)) == 1


@pytest.mark.parametrize(
    ("nested", "finetune", "ratio", "said"),
    [
        (0.1, 0.4, 0.25, "and ordinary training lost 0.40: 0.25 times as much, 75% less."),
        (0.6, 0.4, 1.5, "and ordinary training lost 0.40: 1.50 times as much, 50% more."),
        (0.1, -0.2, None, "and ordinary training improved it by 0.20."),
        (-0.1, 0.4, -0.25, "improved its English by 0.10 bits per byte and ordinary training lost 0.40."),
    ],
)
def test_the_matched_comparison(nested: float, finetune: float, ratio: float | None, said: str) -> None:
    rise = {"nested": nested, "finetune": finetune}
    sentence = matched_sentence({"new": "fr", "old": "en", "at": 2.3, "rise": rise, "ratio": ratio})
    assert sentence.startswith("At equal French (2.30), Hope with levels ")
    assert sentence.endswith(said)


def test_no_comparison_without_both_runs() -> None:
    assert matched_sentence({"new": "fr", "old": "en", "at": 2.3, "rise": {"nested": 0.1}}) == ""
    assert learned_sentence(with_matrices(nested=[[1.9, 3], [2.9, 2]])) == ""
    assert first_language_sentence(with_matrices(nested=[[1.9, 3], [2.9, 2]])) == ""


@pytest.mark.parametrize(
    ("french", "said"), [(2.2, "That is less well"), (2.0, "did not learn less"), (1.8, "did not learn less")]
)
def test_learning_less_is_said(french: float, said: str) -> None:
    results = with_matrices(nested=[[1.9, 3], [2, french]], finetune=[[1.9, 3], [2, 2.0]])
    assert said in learned_sentence(results)


@pytest.mark.parametrize(
    ("english", "said"), [(1.03, "3.0% worse"), (0.98, "2.0% better"), (1.0, "at 1.000, the same")]
)
def test_the_transformer_is_the_reference_for_the_first_language(english: float, said: str) -> None:
    results = with_matrices(nested=[[english, 3], [2, 2]], transformer=[[1.0, 3], [2, 2]])
    assert said in first_language_sentence(results)
    assert "400k tokens, all English" in first_language_sentence(results)
