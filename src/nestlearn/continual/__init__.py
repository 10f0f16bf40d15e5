"""Learning that goes on: how to measure what a stream taught and what it cost."""

from nestlearn.continual.metrics import (
    CurvePoint,
    Matched,
    average,
    backward_transfer,
    chaudhry_forgetting,
    forgetting,
    matched_acquisition,
    matched_pairs,
    rise_at,
)

__all__ = [
    "CurvePoint",
    "Matched",
    "average",
    "backward_transfer",
    "chaudhry_forgetting",
    "forgetting",
    "matched_acquisition",
    "matched_pairs",
    "rise_at",
]
