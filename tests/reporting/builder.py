"""Synthetic results that look like a demo's: a stream learned by three runs, one of which forgets less."""

from __future__ import annotations

import math
from typing import Any

PERIODS = {"fast": 2048, "middle": 16384, "slow": 131072}
STAGE_TOKENS = 400_000
START = {"nested": 1.81, "finetune": 1.80, "transformer": 1.74}
FORGETS = {"nested": 0.16, "finetune": 1.0, "transformer": 0.95}
LEARNS = {"nested": 2.05, "finetune": 1.92, "transformer": 1.86}


def build_results(
    languages: tuple[str, ...] = ("en", "fr", "de"),
    runs: tuple[str, ...] = ("nested", "finetune", "transformer"),
    *,
    seed: int = 0,
    evaluations: int = 12,
    derived: bool = True,
) -> dict[str, Any]:
    """Results of a stream; ``derived`` adds what can also be computed from the matrices and curves."""
    results: dict[str, Any] = {
        "metric": "bits_per_byte",
        "languages": list(languages),
        "seed": seed,
        "corpus": {"name": "libreoffice-help 7.4.7", "checksum": "9f2c" * 16},
        "environment": {"torch": "2.13.0", "threads": 1, "platform": "Linux x86_64"},
        "runs": {run: _run(run, languages, seed, evaluations) for run in runs},
    }
    if derived:
        _add_derived(results)
    return results


def _add_derived(results: dict[str, Any]) -> None:
    from nestlearn.continual import forgetting, matched_pairs

    runs = results["runs"]
    pairs = matched_pairs({run: record["curve"] for run, record in runs.items()}, results["languages"])
    results["forgetting"] = {run: forgetting(record["matrix"]) for run, record in runs.items()}
    results["matched_all"] = [pair.to_dict() for pair in pairs]
    results["matched"] = pairs[0].to_dict() if pairs else None


def _run(run: str, languages: tuple[str, ...], seed: int, evaluations: int) -> dict[str, Any]:
    curve = _curve(run, languages, seed, evaluations)
    ends = {point["stage"]: point for point in curve}
    total = STAGE_TOKENS * len(languages)
    nested = run == "nested"
    return {
        "matrix": [[ends[i]["bits_per_byte"][code] for code in languages] for i in range(len(languages))],
        "curve": curve,
        "params": 2_104_320 + 1000 * (run == "transformer"),
        "tokens": total,
        "seconds": 201.5,
        "tokens_per_cpu_second": 3012.4,
        "peak_memory_mb": 904.0,
        "config": {"hidden_size": 192, "cms_periods": [2048, 16384], "tie": True, "nested": {"a": None}},
        "training": {"learning_rate": 3e-3, "weight_decay": 0.1, "batch_size": 16},
        "levels": [
            {"name": name, "period": period, "lr": 0.002, "consolidate": name != "fast", "params": 700_000}
            for name, period in PERIODS.items()
        ]
        if nested
        else [],
        "updates": {name: list(range(period, total + 1, period)) for name, period in PERIODS.items()}
        if nested
        else {},
        "commits": [STAGE_TOKENS * (i + 1) for i in range(len(languages) - 1)] if nested else [],
        "samples": _samples(run, languages),
    }


def _curve(run: str, languages: tuple[str, ...], seed: int, evaluations: int) -> list[dict[str, Any]]:
    """Each language falls exponentially while it is learned and rises while others are."""
    now = {code: 8.0 + 0.1 * i for i, code in enumerate(languages)}
    curve: list[dict[str, Any]] = [{"tokens": 0, "stage": 0, "bits_per_byte": dict(now)}]
    for stage in range(len(languages)):
        begin = dict(now)
        for step in range(1, evaluations + 1):
            share = step / evaluations
            now = {
                code: _value(run, i, stage, begin[code], share) + 0.004 * math.sin(7 * step + 3 * i + seed)
                for i, code in enumerate(languages)
            }
            tokens = int(STAGE_TOKENS * (stage + share))
            curve.append({"tokens": tokens, "stage": stage, "bits_per_byte": dict(now)})
    return curve


def _value(run: str, language: int, stage: int, begin: float, share: float) -> float:
    fall = 1 - math.exp(-5 * share)
    if language == stage:
        target = START.get(run, 1.8) if stage == 0 else LEARNS.get(run, 2.0) + 0.05 * stage
        return begin + (target - begin) * fall
    if language > stage:
        target = 3.4 - 0.25 * stage + 0.1 * language
        return begin + (target - begin) * fall if stage == 0 else begin - 0.1 * share
    return begin + FORGETS.get(run, 0.5) * (1 - math.exp(-2.5 * share)) / (1 + 0.5 * (stage - 1))


def _samples(run: str, languages: tuple[str, ...]) -> list[dict[str, Any]]:
    words = {
        "en": " the dialog and click the Options button to open the list of available styles.",
        "fr": " la boîte de dialogue et cliquez sur le bouton Options pour ouvrir la liste.",
        "de": " das Dialogfeld und klicken Sie auf die Schaltfläche Optionen, um die Liste zu öffnen.",
    }
    return [
        {
            "stage": stage,
            "language": "en",
            "prompt": prompt,
            "text": words.get("en" if run == "nested" else languages[stage], " lorem ipsum"),
        }
        for prompt in ("To open", "If you want to change")
        for stage in range(len(languages))
    ]
