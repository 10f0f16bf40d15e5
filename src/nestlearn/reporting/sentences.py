"""The result in words: every sentence is made from the numbers and says what they say, however they fall."""

from __future__ import annotations

from nestlearn.reporting import readings
from nestlearn.reporting.schema import MatchedRecord, Results
from nestlearn.reporting.style import RunStyle, compact, join_words, language_name, run_styles

__all__ = ["first_language_sentence", "headline", "learned_sentence", "matched_sentence", "sentences"]

_SMALL = 0.005  # bits per byte; below it, two decimals would show 0.00


def headline(results: Results) -> str:
    """Say in one sentence what became of the first language.

    Args:
        results: checked results.

    Returns:
        Plain text, to be escaped by whoever puts it into HTML.
    """
    languages = [language_name(code) for code in results["languages"]]
    runs, styles = results["runs"], run_styles(results["runs"])
    first = languages[0]
    if len(languages) == 1:
        values = [f"{style.phrase} {runs[run]['matrix'][0][0]:.2f}" for run, style in styles.items()]
        return f"Bits per byte after {first} alone: {', '.join(values)}. There was nothing to forget yet."
    shown: list[str] = [run for run in ("nested", "finetune") if run in styles]
    clauses: list[str] = []
    for run in shown or styles:
        change = _change(readings.rise(runs[run], 0), "" if clauses else first)
        clauses.append(f"{styles[run].phrase} {change}")
    return f"After learning {join_words(languages[1:])}, {'; '.join(clauses)}."


def sentences(results: Results) -> list[str]:
    """Say what a reader of the headline should know next, in order of importance.

    Args:
        results: checked results.

    Returns:
        Plain sentences; fewer of them when runs are missing or there is one language.
    """
    said = [matched_sentence(row) for row in readings.matched_rows(results)[:1]]
    runs, styles = results["runs"], run_styles(results["runs"])
    if len(results["languages"]) > 1 and "transformer" in styles and len(styles) > 1:
        change = _change(readings.rise(runs["transformer"], 0), language_name(results["languages"][0]))
        said.append(f"The Transformer {change}.")
    said.append(learned_sentence(results))
    said.append(first_language_sentence(results))
    if results.get("quick"):
        said.append("This was a quick run of tiny models: it shows that everything works, not how well.")
    return [sentence for sentence in said if sentence]


def matched_sentence(row: MatchedRecord) -> str:
    """Say what levels kept when both Hopes had learned the new language equally well.

    Args:
        row: a comparison at matched acquisition.

    Returns:
        A plain sentence; empty unless both runs are in it.
    """
    rise = row["rise"]
    if "nested" not in rise or "finetune" not in rise:
        return ""
    new, old, ratio = language_name(row["new"]), language_name(row["old"]), row.get("ratio")
    with_levels, without = _change(rise["nested"], old), _change(rise["finetune"], "")
    start = (
        f"At equal {new} ({row['at']:.2f}), Hope with levels {with_levels} and ordinary training {without}"
    )
    if ratio is None or ratio < 0:
        return f"{start}."
    verdict = "less" if ratio < 1 else "more"
    return f"{start}: {ratio:.2f} times as much, {abs(1 - ratio):.0%} {verdict}."


def learned_sentence(results: Results) -> str:
    """Say how well the later languages were learned with and without levels.

    Args:
        results: checked results.

    Returns:
        A plain sentence or two; empty unless both runs and a second language are there.
    """
    runs, languages = results["runs"], results["languages"]
    if "nested" not in runs or "finetune" not in runs or len(languages) == 1:
        return ""
    parts, gaps = [], []
    for j, code in enumerate(languages[1:], start=1):
        nested, finetune = runs["nested"]["matrix"][j][j], runs["finetune"]["matrix"][j][j]
        parts.append(f"{language_name(code)} to {nested:.2f} ({finetune:.2f} without)")
        gaps.append(nested - finetune)
    said = f"With levels, Hope learned {join_words(parts)}."
    if all(gap > _SMALL for gap in gaps):
        said += " That is less well, which by itself makes it easier to keep what was there before;"
        said += " the comparison at equal learning allows for it."
    elif all(gap < _SMALL for gap in gaps):
        said += " It did not learn less."
    return said


def first_language_sentence(results: Results) -> str:
    """Say how Hope compares with the Transformer before the stream first moves on.

    Args:
        results: checked results.

    Returns:
        A plain sentence; empty unless a Hope and the Transformer are there.
    """
    first, styles = readings.first_language(results), run_styles(results["runs"])
    hopes = [run for run in ("nested", "finetune") if run in first.excess]
    if not hopes:
        return ""
    name, tokens = language_name(first.language), readings.stage_ends(results["runs"][hopes[0]], 1)[0]
    parts = "; ".join(_excess(run, first, styles) for run in hopes)
    return (
        f"After the first {compact(tokens)} tokens, all {name}, the Transformer stood at "
        f"{first.bits_per_byte['transformer']:.3f} bits per byte; {parts}."
    )


def _excess(run: str, first: readings.FirstLanguage, styles: dict[str, RunStyle]) -> str:
    """Say where one Hope stood against the Transformer."""
    excess = first.excess[run]
    verdict = f"{abs(excess):.1%} {'worse' if excess > 0 else 'better'}"
    if abs(excess) < 0.0005:
        verdict = "the same"
    return f"{styles[run].phrase} at {first.bits_per_byte[run]:.3f}, {verdict}"


def _change(rise: float, language: str) -> str:
    """Say what a rise did to a language; without one, to the language of the clause before."""
    unit = f" bits per byte of {language}" if language else ""
    if abs(rise) < _SMALL:
        return f"lost less than 0.01{unit}"
    if rise > 0:
        return f"lost {rise:.2f}{unit}"
    return (
        f"improved its {language} by {-rise:.2f} bits per byte" if language else f"improved it by {-rise:.2f}"
    )
