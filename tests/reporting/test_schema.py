"""What is checked before anything is drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nestlearn.reporting import load_results, validate
from tests.reporting.builder import build_results

Change = Callable[[dict[str, Any]], None]


def delete(*keys: Any) -> Change:
    def change(results: dict[str, Any]) -> None:
        record: Any = results
        for key in keys[:-1]:
            record = record[key]
        del record[keys[-1]]

    return change


def put(value: Any, *keys: Any) -> Change:
    def change(results: dict[str, Any]) -> None:
        record: Any = results
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results = build_results()
    path.write_text(json.dumps(results))
    assert load_results(path) == results
    assert load_results(str(path)) == results


def test_only_what_is_always_written_is_required() -> None:
    results = build_results(derived=False)
    for run in results["runs"].values():
        for key in ("config", "training", "levels", "updates", "commits", "samples", "peak_memory_mb"):
            del run[key]
    for key in ("corpus", "environment"):
        del results[key]
    assert validate(results) is results


@pytest.mark.parametrize(
    "keys",
    [
        ("metric",),
        ("languages",),
        ("seed",),
        ("runs",),
        ("runs", "nested", "matrix"),
        ("runs", "finetune", "curve"),
        ("runs", "transformer", "params"),
        ("runs", "nested", "tokens"),
        ("runs", "nested", "seconds"),
        ("runs", "nested", "curve", 3, "stage"),
        ("runs", "nested", "curve", 3, "bits_per_byte", "fr"),
        ("runs", "nested", "levels", 1, "period"),
        ("runs", "nested", "samples", 0, "prompt"),
        ("matched", "rise"),
        ("matched_all", 2, "at"),
    ],
)
def test_a_missing_key_is_named(keys: tuple[Any, ...], tmp_path: Path) -> None:
    results = build_results()
    delete(*keys)(results)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    with pytest.raises(ValueError, match="missing key") as caught:
        load_results(path)
    assert str(keys[-1]) in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("accuracy", "metric"), "'accuracy'"),
        (put([], "languages"), r"languages .*\[\]"),
        (put(["en", "en", "de"], "languages"), "different"),
        (put({}, "runs"), "at least one run"),
        (put([[1.0]], "runs", "nested", "matrix"), "3 rows of 3"),
        (put(None, "runs", "nested", "matrix"), "got None"),
        (put(math.nan, "runs", "nested", "matrix", 1, 2), r"matrix\[1\]\[2\] .* got nan"),
        (put("2.0", "runs", "nested", "matrix", 1, 2), "got '2.0'"),
        (put(True, "runs", "nested", "params"), "got True"),
        (put([], "runs", "nested", "curve"), r"got \[\]"),
        (put(math.inf, "runs", "nested", "curve", 2, "bits_per_byte", "de"), "bits_per_byte.de .* inf"),
        (put(-1, "runs", "nested", "curve", 2, "tokens"), "out of order"),
        (put(2, "runs", "nested", "curve", 2, "stage"), "out of order"),
        (put(9, "runs", "nested", "samples", 0, "stage"), "below 3, got 9"),
        (put(7, "runs", "nested", "samples", 0, "text"), "must be text, got 7"),
        (put("x", "runs", "nested", "levels"), "levels must be a list"),
        (put([1, None], "runs", "nested", "updates", "fast"), r"updates.fast\[1\] .* None"),
        (put([1], "runs", "nested", "updates"), "updates must be an object"),
        (put(["?"], "runs", "nested", "commits"), r"commits\[0\]"),
        (put("es", "matched", "new"), "'es'"),
        (put({"else": 1.0}, "matched", "rise"), "unknown run 'else'"),
    ],
)
def test_a_malformed_value_is_shown(change: Change, said: str) -> None:
    results = build_results()
    change(results)
    with pytest.raises(ValueError, match=said):
        validate(results)


def test_every_stage_must_have_been_evaluated() -> None:
    results = build_results()
    curve = results["runs"]["nested"]["curve"]
    results["runs"]["nested"]["curve"] = [point for point in curve if point["stage"] != 1]
    with pytest.raises(ValueError, match=r"no evaluation in stage \[1\]"):
        validate(results)


@pytest.mark.parametrize("content", ["{", "[1, 2]", "3", '{"metric": NaN}'])
def test_a_file_that_is_something_else_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other\.json"):
        load_results(path)


def test_a_file_of_bytes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a JSON file"):
        load_results(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_results(tmp_path / "none.json")
