"""How each kind of edge looks: a colour, a dash and an arrowhead, so that no kind is told by colour alone."""

from __future__ import annotations

from dataclasses import dataclass

from nestlearn.reporting.style import THEME

__all__ = ["EDGES", "EdgeStyle"]


@dataclass(frozen=True, slots=True)
class EdgeStyle:
    """The look of one kind of edge.

    Attributes:
        kind: as section 3.3 names it.
        words: what goes along such an edge, for a reader who does not know the paper.
        light: colour on a light ground.
        dark: colour on a dark one.
        dash: lengths on and off, in pixels; empty for a solid line.
        head: path of an arrowhead that points down at (0, 0).
        filled: whether the arrowhead is.
    """

    kind: str
    words: str
    light: str
    dark: str
    dash: str
    head: str
    filled: bool


def _style(kind: str, words: str, theme: str, dash: str, head: str, *, filled: bool = True) -> EdgeStyle:
    return EdgeStyle(kind, words, *THEME[theme], dash, head, filled)


_TRIANGLE = "M-4.5 -9L4.5 -9L0 -0.5Z"
EDGES = (
    _style("parametric", "its weights are used by the other", "run-0", "", _TRIANGLE),
    _style("non-parametric", "the other reads its output", "run-2", "2 3.5", _TRIANGLE, filled=False),
    _style("backpropagation", "gradients go through it", "run-1", "8 4", "M-5 -10L0 -0.5L5 -10L0 -6.5Z"),
    _style(
        "initialisation", "the other starts from it", "run-3", "11 3 2 3", "M0 -11L4.5 -5.5L0 -0.5L-4.5 -5.5Z"
    ),
    _style(
        "generation",
        "it makes the other's weights or context",
        "run-4",
        "5 3",
        "M-4 -9A4 4 0 1 1 4 -9A4 4 0 1 1 -4 -9ZM-5 -4.5L0 -0.5L5 -4.5",
        filled=False,
    ),
)
