"""The examples of the pages."""

from __future__ import annotations

import pytest

from tests.pages import run_examples


def test_the_examples_of_evaluating_run() -> None:
    pytest.importorskip("lm_eval")
    run_examples("evaluating.md")


def test_the_examples_of_perplexity_run() -> None:
    run_examples("perplexity.md")
