"""Named configurations: the paper's literal choices and the ablations of its Table 6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Everything that Table 6 takes away is there (the full model has momentum and an adaptive query by the
#: table, though not by the equations; SPEC 6.2, 6.13).
_TABLE6: Mapping[str, Any] = {"momentum": True, "adaptive_query": True}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    # Projections that do not change in the context: as good on most of what was measured, and cheaper.
    "frozen": {"adaptive_key": False, "adaptive_value": False, "adaptive_gates": False},
    # Eq. 83 to 93 as printed: L2 loss, erase where it type-checks, free targets that every memory generates
    # itself, reads at the chunk's start. Bounded for no gate but small learning rates.
    "paper": {
        "memory": "mlp",
        "memory_expansion": 4,
        "activation": "gelu",
        "features": "plain",
        "objective": "l2",
        "erase_layers": "input",
        "causal_reads": False,
        "unit_targets": False,
        "main_target": "generated",
        "main_residual": True,
        "rate": "gated",
        "rest": "zero",
        "rate_max": 0.1,
    },
    "table6": _TABLE6,
    "table6_without_dgd": {**_TABLE6, "erase": False},
    "table6_without_momentum": {**_TABLE6, "momentum": False},
    "table6_without_weight_decay": {**_TABLE6, "retention": "none"},
    "table6_without_cms": {**_TABLE6, "cms_periods": (1,)},
    "table6_without_adaptive_key": {**_TABLE6, "adaptive_key": False},
    "table6_without_adaptive_value": {**_TABLE6, "adaptive_value": False},
    "table6_without_adaptive_query": {**_TABLE6, "adaptive_query": False},
}


def preset_fields(name: str) -> dict[str, Any]:
    """The fields of a preset that differ from the defaults.

    Raises:
        ValueError: For an unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return dict(PRESETS[name])


__all__ = ["PRESETS", "preset_fields"]
