"""Puts the figures of ``results/`` into the README, between its markers.

    python -m recipes.readme

A test holds the README against the results, so that no figure can grow old.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
START, END = "<!-- figures: python -m recipes.readme -->", "<!-- end of figures -->"
NAMES = {"en": "English", "fr": "French", "de": "German", "es": "Spanish", "it": "Italian"}
RUNS = {
    "nested": "**Hope with levels**",
    "finetune": "the same Hope, AdamW",
    "transformer": "Transformer, AdamW",
}


def render(languages: dict[str, Any], speed: dict[str, Any]) -> str:
    """The README's figures as Markdown.

    Args:
        languages: Content of ``results/languages.json``.
        speed: Content of ``results/speed.json``.
    """
    total = languages["aggregate"]
    return "\n\n".join(
        [_retention(total), _matched(total), _first(total), _cost(total, languages["seeds"], speed)]
    )


def _retention(total: dict[str, Any]) -> str:
    codes = total["languages"]
    head = "| " + " | ".join(["", *(f"{NAMES[c]}, learned → at the end" for c in codes)]) + " |"
    lines = [head, "|---" * (len(codes) + 1) + "|"]
    for run, title in RUNS.items():
        matrix = total["runs"][run]["matrix"]
        cells = [f"{matrix[j][j]['mean']:.2f} → {matrix[-1][j]['mean']:.2f}" for j in range(len(codes))]
        cells[-1] = f"{matrix[-1][-1]['mean']:.2f}"
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    seeds = len(total["seeds"])
    return (
        f"Held-out bits per byte (lower is better), mean of {seeds} seeds, right after learning a "
        "language and at the end of the stream:\n\n" + "\n".join(lines)
    )


def _matched(total: dict[str, Any]) -> str:
    lines = [
        "| lost of | when all know | with levels | AdamW | ratio (range) | ratio in that stage alone |",
        "|---|---|---|---|---|---|",
    ]
    for pair in total["matched"]:
        rise, ratio, inside = pair["rise"], pair["ratio"], pair["ratio_in_stage"]
        lines.append(
            f"| {NAMES[pair['old']]} | {NAMES[pair['new']]} at {pair['at']['mean']:.2f} "
            f"| {rise['nested']['mean']:+.2f} | {rise['finetune']['mean']:+.2f} "
            f"| **{ratio['mean']:.2f}** ({ratio['min']:.2f} to {ratio['max']:.2f}) | {inside['mean']:.2f} |"
        )
    return (
        "Forgetting less by learning less earns nothing, so the runs are compared at the moment each knows "
        "the new language equally well (the level at which the worst of the three ends):\n\n"
        + "\n".join(lines)
    )


def _first(total: dict[str, Any]) -> str:
    first = total["first_language"]
    values, ratios = first["bits_per_byte"], first["to_transformer"]
    return (
        f"Before the stream moves on, {NAMES[first['language']]} stands at "
        f"{values['nested']['mean']:.3f} (Hope with levels, {100 * (ratios['nested']['mean'] - 1):+.1f} % "
        f"against the Transformer), {values['finetune']['mean']:.3f} (Hope, AdamW, "
        f"{100 * (ratios['finetune']['mean'] - 1):+.1f} %) and {values['transformer']['mean']:.3f} (a strong "
        "Transformer: rotary positions, normalised queries and keys, SwiGLU, the same convolution and gate)."
    )


def _cost(total: dict[str, Any], seeds: list[dict[str, Any]], speed: dict[str, Any]) -> str:
    runs = total["runs"]
    sizes = ", ".join(f"{runs[run]['params']['mean'] / 1e6:.2f} M" for run in RUNS)
    minutes = max(one["runs"][run]["seconds"] for one in seeds for run in RUNS) / 60
    memory = max(sum(run["peak_memory_mb"] for run in one["runs"].values()) for one in seeds) / 1024
    models = speed["models"]
    hope, transformer = models["Hope, levels and consolidation"], models["Transformer, AdamW"]
    return (
        f"Parameters: {sizes}; {runs['nested']['tokens']['mean'] / 1e3:.0f} thousand tokens each. The "
        f"longest of the three runs, side by side on two cores, took {minutes:.1f} minutes; together they "
        f"held at most {memory:.1f} GB. Training speed on one core: "
        f"{hope['train_tokens_per_cpu_second']:.0f} tokens per CPU-second for Hope with levels and "
        f"consolidation, {transformer['train_tokens_per_cpu_second']:.0f} for the Transformer; "
        f"decoding {hope['decode_tokens_per_cpu_second']:.0f} and "
        f"{transformer['decode_tokens_per_cpu_second']:.0f} (`make bench`)."
    )


def rendered() -> str:
    """The figures from the files in ``results/``."""
    languages = json.loads((ROOT / "results" / "languages.json").read_text(encoding="utf-8"))
    speed = json.loads((ROOT / "results" / "speed.json").read_text(encoding="utf-8"))
    return render(languages, speed)


def main() -> None:
    """Replace what stands between the markers."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(START)
    _, after = rest.split(END)
    README.write_text(f"{before}{START}\n{rendered()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
