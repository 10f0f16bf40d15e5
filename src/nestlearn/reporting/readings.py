"""Numbers read out of checked results: what is stored where it is stored, computed where it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from nestlearn.continual import metrics
from nestlearn.reporting.schema import MatchedRecord, Results, Run

__all__ = [
    "FirstLanguage",
    "first_language",
    "forgetting",
    "matched_rows",
    "rise",
    "stage_ends",
    "stage_points",
    "thin",
]

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class FirstLanguage:
    """Runs compared before the stream first moves on.

    Attributes:
        language: code of the first language.
        bits_per_byte: its held-out bits per byte at the end of stage 0, by run.
        excess: by run, how much more than the Transformer's that is, as a fraction (0.03 = 3 % worse); empty
            without a run named ``transformer``.
    """

    language: str
    bits_per_byte: Mapping[str, float]
    excess: Mapping[str, float]


def first_language(results: Results) -> FirstLanguage:
    """Compare the runs at the end of stage 0."""
    values = {name: run["matrix"][0][0] for name, run in results["runs"].items()}
    reference = values.get("transformer", 0.0)
    others = (name for name in values if name != "transformer")
    excess = {name: values[name] / reference - 1 for name in others} if reference > 0 else {}
    return FirstLanguage(results["languages"][0], values, excess)


def rise(run: Run, language: int) -> float:
    """Return the bits per byte lost of a language, by index, between learning it and the end."""
    return run["matrix"][-1][language] - run["matrix"][language][language]


def forgetting(results: Results) -> dict[str, float]:
    """Return each run's mean rise of the earlier languages at the end, in bits per byte."""
    stored = results.get("forgetting") or {}
    return {
        name: stored.get(name, metrics.forgetting(run["matrix"])) for name, run in results["runs"].items()
    }


def matched_rows(results: Results) -> list[MatchedRecord]:
    """Return what every run lost at matched acquisition, for every later language with every earlier one.

    Args:
        results: checked results; ``matched_all`` is used as it stands where present.

    Returns:
        Comparisons in the order of the stream; none for one language.
    """
    stored = results.get("matched_all")
    if stored:
        return stored
    curves = {name: run["curve"] for name, run in results["runs"].items()}
    pairs = metrics.matched_pairs(curves, results["languages"])
    return [
        {
            "new": p.new,
            "old": p.old,
            "at": p.at,
            "rise": p.rise,
            "ratio": p.ratio,
            "rise_in_stage": p.rise_in_stage,
            "ratio_in_stage": p.ratio_in_stage,
        }
        for p in pairs
    ]


def stage_ends(run: Run, stages: int) -> list[int]:
    """Return the tokens at which each of the ``stages`` stages ended."""
    return [max(p["tokens"] for p in run["curve"] if p["stage"] == stage) for stage in range(stages)]


def stage_points(run: Run, stage: int) -> list[metrics.CurvePoint]:
    """Return the evaluations of a stage, preceded by the one at its start where there is one."""
    before = [point for point in run["curve"] if point["stage"] < stage]
    return before[-1:] + [point for point in run["curve"] if point["stage"] == stage]


def thin(items: Sequence[_Item], limit: int) -> list[_Item]:
    """Return at most ``limit`` items, evenly spaced, always with the first and the last."""
    if len(items) <= limit:
        return list(items)
    step = (len(items) - 1) / (limit - 1)
    return [items[round(i * step)] for i in range(limit)]
