"""Names, numbers and colours, the same in the terminal, the report and the README."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "THEME",
    "RunStyle",
    "clean",
    "compact",
    "css_variables",
    "join_words",
    "language_name",
    "number",
    "run_styles",
    "signed",
]

_UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_LANGUAGES = {
    "en": "English",
    "fr": "French",
    "de": "German",
    "es": "Spanish",
    "it": "Italian",
}

# CSS custom property -> (light, dark). A plot is drawn in the light colours; in the report each becomes its
# custom property, so that the page can follow the reader's preference. Light colours must therefore differ.
THEME: Mapping[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#12161c"),
    "ink": ("#1c2128", "#e8edf3"),
    "muted": ("#57606b", "#a3afbd"),
    "line": ("#d3d9e0", "#343d49"),
    "band": ("#eef2f7", "#1d242d"),
    "run-0": ("#0067a6", "#5cb8f5"),
    "run-1": ("#bf4a00", "#ff9a57"),
    "run-2": ("#00795a", "#3fcf9f"),
    "run-3": ("#a03f7b", "#e58fc3"),
    "run-4": ("#7a6200", "#e0c34a"),
    "run-5": ("#4d4fc4", "#a9aaff"),
}
_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2.4), (1.6, 1.6), (8, 2, 1.6, 2), (4, 1.4), (10, 3))
_MARKERS = ("o", "s", "^", "D", "v", "P")
_KNOWN = {
    "nested": ("Hope with levels", "Hope, levels", "Hope with levels"),
    "finetune": ("Hope, ordinary training", "Hope, ordinary", "the same Hope trained the ordinary way"),
    "transformer": ("Transformer, ordinary training", "Transformer", "the Transformer"),
}


@dataclass(frozen=True, slots=True)
class RunStyle:
    """How a run is named and drawn everywhere.

    Attributes:
        label: its name in legends and tables.
        short: its name where space is scarce.
        phrase: its name inside a sentence.
        variable: its CSS custom property; `THEME` has the colours.
        dashes: lengths on and off in points; empty for a solid line.
        marker: a matplotlib marker.
    """

    label: str
    short: str
    phrase: str
    variable: str
    dashes: tuple[float, ...]
    marker: str

    @property
    def colour(self) -> str:
        """The colour on white, as ``#rrggbb``."""
        return THEME[self.variable][0]


def run_styles(runs: Iterable[str]) -> dict[str, RunStyle]:
    """Give every run its name and look: the known ones first and always alike, others after them.

    Args:
        runs: names of the runs in ``results.json``.

    Returns:
        Styles by run, in the order in which runs are shown.
    """
    names = list(runs)
    known = [name for name in _KNOWN if name in names]
    others = [name for name in names if name not in _KNOWN]
    styles = {name: _style(list(_KNOWN).index(name), *_KNOWN[name]) for name in known}
    if "nested" not in styles and "finetune" in styles:
        label, short, _ = _KNOWN["finetune"]
        styles["finetune"] = _style(1, label, short, "Hope trained the ordinary way")
    styles |= {name: _style(len(_KNOWN) + i, *[clean(name)] * 3) for i, name in enumerate(others)}
    return styles


def _style(index: int, label: str, short: str, phrase: str) -> RunStyle:
    i = index if index < len(_DASHES) else len(_KNOWN) + index % (len(_DASHES) - len(_KNOWN))
    return RunStyle(label, short, phrase, f"run-{i}", _DASHES[i], _MARKERS[i])


def css_variables(dark: bool) -> str:
    """Return the declarations of `THEME` for one colour scheme."""
    return " ".join(f"--{name}: {colours[int(dark)]};" for name, colours in THEME.items())


def clean(text: str) -> str:
    """Replace what HTML, UTF-8 or a terminal cannot hold, which a model may write, by U+FFFD."""
    return _UNSHOWABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def language_name(code: str) -> str:
    """Return the English name of a language, or its code where the name is not known."""
    return _LANGUAGES.get(code) or clean(code)


def join_words(words: Sequence[str]) -> str:
    """Return ``a``, ``a and b``, or ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign and a true minus; what rounds to zero has no sign."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def number(value: float | None, form: str = ".2f") -> str:
    """Return a number with a true minus, or a dash where there is none."""
    return "\N{EN DASH}" if value is None else format(value, form).replace("-", "\N{MINUS SIGN}")


def compact(tokens: float) -> str:
    """Return a count for an axis: ``950``, ``250k``, ``1.2M``."""
    if abs(tokens) >= 999_500:
        return f"{tokens / 1e6:.3g}M"
    return f"{tokens / 1e3:.3g}k" if abs(tokens) >= 1000 else f"{tokens:.3g}"
