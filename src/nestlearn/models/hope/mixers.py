"""Which memory rule each mixer's name stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nestlearn.memory import MemoryRule

if TYPE_CHECKING:
    from nestlearn.models.hope.configuration import HopeConfig

#: Mixers that are one rule of :class:`~nestlearn.layers.SelfModifyingTitans` with static projections, and
#: what the rule is. All read the main memory causally unless the configuration says otherwise.
BASELINES: Mapping[str, Mapping[str, Any]] = {
    "gated_delta": {"kind": "matrix", "objective": "dot"},
    "delta": {"kind": "matrix", "objective": "dot", "retention": "none"},
    "linear_attention": {
        "kind": "matrix",
        "objective": "dot",
        "erase": "none",
        "rate": "one",
        "retention": "none",
    },
    "retention": {"kind": "matrix", "objective": "dot", "erase": "none", "rate": "one", "retention": "fixed"},
    "ttt_linear": {
        "kind": "matrix",
        "objective": "l2",
        "erase": "none",
        "retention": "none",
        "inner_norm": True,
        "main_residual": True,
    },
    "ttt_mlp": {
        "kind": "mlp",
        "objective": "l2",
        "erase": "none",
        "retention": "none",
        "inner_norm": True,
        "main_residual": True,
        "features": "plain",
        "activation": "gelu",
    },
    "titans": {"kind": "mlp", "objective": "l2", "erase": "none", "momentum": True},
}
#: Titans' memory together with attention.
COMBINATIONS = ("titans_mac", "titans_mag", "titans_mal")
MIXERS = ("self_modifying", *BASELINES, *COMBINATIONS, "attention")
#: Mixers with rotary attention in them.
ATTENTIVE = ("attention", *COMBINATIONS)


def memory_rule(config: HopeConfig, mixer: str) -> MemoryRule | None:
    """The rule by which the memories of one mixer are written; None for plain attention.

    Args:
        config: The model's configuration.
        mixer: A name of :data:`MIXERS`.

    Raises:
        ValueError: For a combination that :class:`~nestlearn.memory.MemoryRule` refuses.
    """
    if mixer == "attention":
        return None
    fields = _written(config) if mixer == "self_modifying" else _static(config, mixer)
    if config.rate_max is not None:
        fields["rate_max"] = config.rate_max
    return MemoryRule(
        **fields,
        chunk_size=config.chunk_size,
        causal_reads=config.causal_reads,
        backprop_chunks=config.backprop_chunks,
        checkpoint_chunks=config.checkpoint_chunks,
    )


def _static(config: HopeConfig, mixer: str) -> dict[str, Any]:
    fields = dict(BASELINES["titans" if mixer in COMBINATIONS else mixer])
    if fields["objective"] == "l2":
        # A chunk of equal keys takes as many steps from one snapshot: together they must not overshoot.
        fields["rate_max"] = 1.0 / config.chunk_size
    return {"rate": "gated", **fields, "adaptive": (), "rest": "zero"}


def _written(config: HopeConfig) -> dict[str, Any]:
    chosen = {
        "key": config.adaptive_key,
        "rate": config.adaptive_gates and config.rate != "one",
        "retention": config.adaptive_gates and config.retention == "gated",
        "value": config.adaptive_value,
        "query": config.adaptive_query,
    }
    return {
        "kind": config.memory,
        "activation": config.activation,
        "features": config.features,
        "inner_norm": config.inner_norm,
        "main_residual": config.main_residual,
        "objective": config.objective,
        "erase": ("layers" if config.erase_layers == "all" else "input") if config.erase else "none",
        "projection_chunk_size": config.projection_chunk_size,
        "unit_targets": config.unit_targets,
        "main_target": config.main_target,
        "adaptive": tuple(name for name, there in chosen.items() if there),
        "momentum": config.momentum,
        "rate": config.rate,
        "retention": config.retention,
        "gates": config.gates,
        "rest": config.rest,
    }


__all__ = ["ATTENTIVE", "BASELINES", "COMBINATIONS", "MIXERS", "memory_rule"]
