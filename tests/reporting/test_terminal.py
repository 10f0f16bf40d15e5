"""The table and summary in a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nestlearn.reporting import print_summary, retention_table
from tests.reporting.builder import build_results


def printed(results: dict[str, object], encoding: str = "utf-8", width: int = 80) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print_summary(results, Console(file=file, width=width))
    file.seek(0)
    return file.read()


def test_the_table_shows_every_run_and_language() -> None:
    results = build_results()
    text = printed(results)
    for word in ("English", "French", "German", "Hope, levels", "Hope, ordinary", "Transformer", "ratio"):
        assert word in text
    matrix = results["runs"]["nested"]["matrix"]
    assert f"{matrix[0][0]:.2f}→{matrix[2][0]:.2f}" in text
    assert f"{results['matched']['ratio']:.2f}" in text
    assert f"+{results['forgetting']['finetune']:.2f}" in text


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_it_fits_in_80_columns(count: int) -> None:
    results = build_results(("en", "fr", "de", "es", "it")[:count])
    text = printed(results)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    assert retention_table(results).row_count == 3
    assert len(retention_table(results).columns) == 1 + count + 3 * (count > 1)


@pytest.mark.parametrize("runs", [("nested",), ("transformer", "mine[bold]"), ("finetune", "nested")])
def test_missing_and_unknown_runs(runs: tuple[str, ...]) -> None:
    text = printed(build_results(runs=runs))
    assert retention_table(build_results(runs=runs)).row_count == len(runs)
    assert ("mine[bold]" in text) == ("mine[bold]" in runs)


def test_a_console_without_unicode() -> None:
    text = printed(build_results(), encoding="ascii")
    assert text.isascii()
    assert "->" in text
    assert "?" not in text


def test_figures_are_computed_where_they_are_not_stored() -> None:
    assert printed(build_results(derived=False)) == printed(build_results())


def test_malformed_results_are_refused() -> None:
    with pytest.raises(ValueError, match="missing key 'metric'"):
        retention_table({})
    with pytest.raises(ValueError, match="missing key 'metric'"):
        print_summary({})
