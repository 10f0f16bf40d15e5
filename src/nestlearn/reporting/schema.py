"""What ``results.json`` holds, and the check that it holds it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from nestlearn.continual.metrics import CurvePoint

__all__ = ["LevelRecord", "MatchedRecord", "Results", "Run", "Sample", "load_results", "validate"]


class LevelRecord(TypedDict):
    """One level of a run: its name, its period in tokens per stream, and its settings."""

    name: str
    period: int
    lr: NotRequired[float]
    consolidate: NotRequired[bool]
    params: NotRequired[int]


class Sample(TypedDict):
    """What a model wrote after a prompt at the end of a stage; ``text`` excludes the prompt."""

    stage: int
    language: str
    prompt: str
    text: str


class MatchedRecord(TypedDict):
    """What each run had lost of ``old`` (bits per byte) when ``new`` was first down to ``at`` bits per byte.

    ``rise`` counts since ``old`` was learned, ``rise_in_stage`` since the learning of ``new`` began.
    """

    new: str
    old: str
    at: float
    rise: Mapping[str, float]
    ratio: NotRequired[float | None]
    rise_in_stage: NotRequired[Mapping[str, float]]
    ratio_in_stage: NotRequired[float | None]


class Run(TypedDict):
    """One model's way through the stream.

    ``matrix`` is bits per byte, shape ``(T, T)``: row = after stage, column = language. ``updates`` and
    ``commits`` are counted in tokens since the start; speed is in tokens per second of CPU time.
    """

    matrix: list[list[float]]
    curve: list[CurvePoint]
    params: int
    tokens: int
    seconds: float
    tokens_per_cpu_second: NotRequired[float]
    peak_memory_mb: NotRequired[float]
    config: NotRequired[Mapping[str, Any]]
    training: NotRequired[Mapping[str, Any]]
    levels: NotRequired[list[LevelRecord]]
    updates: NotRequired[Mapping[str, list[int]]]
    commits: NotRequired[list[int]]
    samples: NotRequired[list[Sample]]


class Results(TypedDict):
    """The whole of ``results.json``: ``T`` languages in the order they are learned, and the runs by name."""

    metric: str
    languages: list[str]
    seed: int
    runs: Mapping[str, Run]
    corpus: NotRequired[Mapping[str, Any]]
    environment: NotRequired[Mapping[str, Any]]
    command: NotRequired[str]
    quick: NotRequired[bool]
    forgetting: NotRequired[Mapping[str, float]]
    matched: NotRequired[MatchedRecord | None]
    matched_all: NotRequired[list[MatchedRecord]]


def load_results(path: Path | str) -> Results:
    """Read and check a ``results.json``.

    Args:
        path: the file to read.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or a key is missing or malformed; the message names the file and the key.
    """
    path = Path(path)
    try:
        return validate(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def validate(results: Mapping[str, Any]) -> Results:
    """Check results before anything is drawn from them.

    Args:
        results: the content of a ``results.json``.

    Returns:
        The same object, typed.

    Raises:
        ValueError: a key is missing or malformed; the message names it, as in ``runs.nested.matrix``.
    """
    _require(isinstance(results, Mapping), f"results must be an object, got {type(results).__name__}")
    _keys(results, "", ("metric", "languages", "seed", "runs"))
    metric, languages, runs = results["metric"], results["languages"], results["runs"]
    _require(metric == "bits_per_byte", f"metric must be 'bits_per_byte', got {metric!r}")
    _require(
        isinstance(languages, list)
        and bool(languages)
        and all(isinstance(language, str) for language in languages)
        and len(set(languages)) == len(languages),
        f"languages must be a list of different language codes, got {languages!r}",
    )
    _require(isinstance(runs, Mapping) and bool(runs), f"runs must name at least one run, got {runs!r}")
    for name, run in runs.items():
        _check_run(run, f"runs.{name}", languages)
    matched: list[tuple[str, Any]] = [("matched", results.get("matched"))]
    every = _optional_list(results, "matched_all", "results")
    matched += [(f"matched_all[{i}]", row) for i, row in enumerate(every)]
    for where, row in matched:
        if row is not None:
            _check_matched(row, where, languages, runs)
    return cast(Results, results)


def _check_run(run: Any, where: str, languages: list[str]) -> None:
    """Check one run; every part that is not always written is checked where it is present."""
    _keys(run, where, ("matrix", "curve", "params", "tokens", "seconds"))
    for key in ("params", "tokens", "seconds"):
        _number(run[key], f"{where}.{key}")
    stages = len(languages)
    matrix = run["matrix"]
    square = isinstance(matrix, list) and len(matrix) == stages
    square = square and all(isinstance(row, list) and len(row) == stages for row in matrix)
    _require(square, f"{where}.matrix must have {stages} rows of {stages} numbers, got {matrix!r}")
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            _number(value, f"{where}.matrix[{i}][{j}]")
    _check_curve(run["curve"], f"{where}.curve", languages)
    _check_levels(run, where)
    for i, sample in enumerate(_optional_list(run, "samples", where)):
        _keys(sample, f"{where}.samples[{i}]", ("stage", "language", "prompt", "text"))
        stage = sample["stage"]
        _require(stage in range(stages), f"{where}.samples[{i}].stage must be below {stages}, got {stage!r}")
        for key in ("language", "prompt", "text"):
            text = sample[key]
            _require(isinstance(text, str), f"{where}.samples[{i}].{key} must be text, got {text!r}")


def _check_levels(run: Mapping[str, Any], where: str) -> None:
    """Check levels, the tokens at which each updated, and the tokens at which key memories were committed."""
    for i, level in enumerate(_optional_list(run, "levels", where)):
        _keys(level, f"{where}.levels[{i}]", ("name", "period"))
        _number(level["period"], f"{where}.levels[{i}].period")
    updates = run.get("updates") or {}
    _keys(updates, f"{where}.updates", ())
    for level in updates:
        for i, tokens in enumerate(_optional_list(updates, level, f"{where}.updates")):
            _number(tokens, f"{where}.updates.{level}[{i}]")
    for i, tokens in enumerate(_optional_list(run, "commits", where)):
        _number(tokens, f"{where}.commits[{i}]")


def _check_curve(curve: Any, where: str, languages: list[str]) -> None:
    """Check that a curve is ordered, complete in every point, and visits every stage."""
    _require(isinstance(curve, list) and bool(curve), f"{where} must be a list of evaluations, got {curve!r}")
    tokens, stage = -math.inf, 0
    for i, point in enumerate(curve):
        _keys(point, f"{where}[{i}]", ("tokens", "stage", "bits_per_byte"))
        _keys(point["bits_per_byte"], f"{where}[{i}].bits_per_byte", languages)
        for language in languages:
            _number(point["bits_per_byte"][language], f"{where}[{i}].bits_per_byte.{language}")
        _number(point["tokens"], f"{where}[{i}].tokens")
        ordered = point["tokens"] >= tokens and point["stage"] in range(stage, len(languages))
        got = f"stage {point['stage']!r} at {point['tokens']} tokens"
        _require(ordered, f"{where}[{i}] is out of order: {got} after stage {stage} at {tokens}")
        tokens, stage = point["tokens"], point["stage"]
    missing = sorted(set(range(len(languages))) - {point["stage"] for point in curve})
    _require(not missing, f"{where} has no evaluation in stage {missing}")


def _check_matched(row: Any, where: str, languages: list[str], runs: Mapping[str, Any]) -> None:
    """Check one comparison at matched acquisition."""
    _keys(row, where, ("new", "old", "at", "rise"))
    for key in ("new", "old"):
        _require(row[key] in languages, f"{where}.{key} must be one of {languages}, got {row[key]!r}")
    _number(row["at"], f"{where}.at")
    for run, value in row["rise"].items():
        _require(run in runs, f"{where}.rise names an unknown run {run!r}")
        _number(value, f"{where}.rise.{run}")


def _keys(record: Any, where: str, keys: Iterable[str]) -> None:
    """Raise ValueError unless ``record`` is an object with these keys."""
    name = where or "results"
    _require(isinstance(record, Mapping), f"{name} must be an object, got {type(record).__name__}")
    for key in keys:
        _require(key in record, f"missing key {f'{where}.{key}' if where else key!r}")


def _optional_list(record: Mapping[str, Any], key: str, where: str) -> list[Any]:
    """Return a list that may be absent or null."""
    value = record.get(key)
    _require(value is None or isinstance(value, list), f"{where}.{key} must be a list, got {value!r}")
    return value or []


def _number(value: Any, where: str) -> None:
    """Raise ValueError unless ``value`` is a finite number."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    _require(good, f"{where} must be a finite number, got {value!r}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
