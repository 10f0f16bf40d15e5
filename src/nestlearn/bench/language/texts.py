"""The streams of text."""

from __future__ import annotations

from nestlearn.bench.language.methods import METHODS
from nestlearn.bench.language.stream import LanguageStream
from nestlearn.bench.language.study import PARTS


def _only(*names: str) -> dict[str, str]:
    return {name: "compared on the five languages" for name in METHODS if name not in names}


_MAIN = ("ordinary", "joint", "rehearsal", "levels", "ewc", "replay, 1 %")

TEXTS = (
    LanguageStream(
        "languages", "Five languages: help pages in English, French, German, Spanish, Italian", "languages"
    ),
    LanguageStream(
        "domains", "Four domains of English: technical, legal, code, literature", "domains", seeds=1,
        left_out=_only(*_MAIN),
    ),
    LanguageStream(
        "ciphers", "Two languages that no model has seen: French and German with their letters exchanged",
        "ciphers", seeds=1, left_out=_only(*_MAIN, "in context"),
    ),
    LanguageStream(
        "drift", "Drift without tasks: technical English gives way to legal English", "drift", steps=300,
        blend=True, seeds=1, left_out=_only(*_MAIN),
    ),
    LanguageStream(
        "rehearsal", "What the parts of rehearsal do: three ciphers on which it was made, rates not searched",
        "other ciphers", seeds=1, table=PARTS,
    ),
)  # fmt: skip
