"""The report's sections that show words: the models' own, and how to get the same result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nestlearn.reporting.markup import Content, Html, h, table
from nestlearn.reporting.schema import Results, Sample
from nestlearn.reporting.style import language_name, run_styles

__all__ = ["reproduce", "samples"]

_LONGEST = 600  # characters of a continuation
_PROMPTS = 40


def samples(results: Results) -> Html:
    """Show the same prompt continued by each run after each stage, side by side."""
    texts: dict[tuple[str, str], dict[tuple[int, str], Sample]] = {}
    for run in run_styles(results["runs"]):
        for sample in results["runs"][run].get("samples") or []:
            key = sample["language"], sample["prompt"]
            texts.setdefault(key, {})[sample["stage"], run] = sample
    if not texts:
        return Html()
    blocks = [_prompt(results, *key, found) for key, found in list(texts.items())[:_PROMPTS]]
    left = len(texts) - len(blocks)
    heading = h("h2", "The same prompt, after each stage", id="samples-heading")
    text = "What each model wrote, unedited. These models are small: look for which language they write, and "
    text += f"whether the words are words.{f' {left} more prompts are in results.json.' if left else ''}"
    return h("section", heading, h("p", text), blocks, aria_labelledby="samples-heading")


def _prompt(results: Results, language: str, prompt: str, found: Mapping[tuple[int, str], Sample]) -> Html:
    """Show one prompt's continuations: a row of cards per stage."""
    names, styles = [language_name(code) for code in results["languages"]], run_styles(results["runs"])
    stages = []
    for stage, name in enumerate(names):
        cards = [
            _card(style.label, style.variable, found[stage, run])
            for run, style in styles.items()
            if (stage, run) in found
        ]
        if cards:
            stages += [h("h4", f"After {name}"), h("div", cards, class_="cards")]
    title = h("h3", f"{language_name(language)}: ", h("q", prompt, lang=language))
    return h("div", title, stages, class_="prompt")


def _card(label: str, variable: str, sample: Sample) -> Html:
    """Show one continuation."""
    text = sample["text"]
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    words = h("blockquote", h("span", sample["prompt"], class_="said"), text, lang=sample["language"])
    return h("figure", h("figcaption", label), words, style=f"border-color:var(--{variable})")


def reproduce(results: Results) -> Html:
    """Show what was run, what it cost, and the command that runs it again."""
    corpus, environment = results.get("corpus") or {}, results.get("environment") or {}
    facts = [("seed", results["seed"]), *((f"corpus {key}", value) for key, value in corpus.items())]
    facts += list(environment.items())
    listed = [(h("dt", key), h("dd", _value(value))) for key, value in facts]
    everything = h("details", h("summary", "Every setting of every run"), _settings(results))
    return h(
        "footer",
        h("h2", "What was run, and what it cost"),
        h("p", "To run it again:"),
        h("pre", h("code", _command(results)), tabindex=0, aria_label="Command"),
        _cost(results),
        h("dl", listed),
        everything,
    )


def _command(results: Results) -> str:
    """Return the command line that makes these results."""
    stored = results.get("command")
    if stored:
        return stored
    languages = results["languages"]
    other = "" if languages == ["en", "fr", "de"] else f" --languages {','.join(languages)}"
    quick = " --quick" if results.get("quick") else ""
    return f"nestlearn demo --seed {results['seed']}{other}{quick}"


def _cost(results: Results) -> Html:
    """Show size, time and memory of every run."""
    runs, styles = results["runs"], run_styles(results["runs"])
    rows: list[Sequence[Content]] = []
    for key, name in (
        ("params", "parameters"),
        ("tokens", "tokens trained on"),
        ("seconds", "seconds"),
        ("tokens_per_cpu_second", "tokens per CPU-second"),
        ("peak_memory_mb", "peak memory, MB"),
    ):
        values: list[Any] = [runs[run].get(key) for run in styles]
        if any(value is not None for value in values):
            rows.append([name, *("–" if value is None else f"{value:,.0f}" for value in values)])
    header = ["", *(style.short for style in styles.values())]
    return table("What each run cost", header, rows, class_="numbers")


def _settings(results: Results) -> Html:
    """Show configuration and training settings, one row per key that any run has."""
    styles, flat = run_styles(results["runs"]), {}
    for run in styles:
        record = results["runs"][run]
        flat[run] = _flatten("training", record.get("training") or {})
        flat[run] |= _flatten("model", record.get("config") or {})
    keys = dict.fromkeys(key for settings in flat.values() for key in settings)
    rows = [[key, *(_value(flat[run].get(key)) for run in styles)] for key in keys]
    return table("Settings", ["", *(style.short for style in styles.values())], rows, class_="settings wide")


def _flatten(name: str, value: Any) -> dict[str, Any]:
    """Return nested settings as one level, with dots in the names."""
    if not isinstance(value, Mapping):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flatten(f"{name}.{key}", inner)
    return flat


def _value(value: Any) -> str:
    """Return a setting as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return str(value)
