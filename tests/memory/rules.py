"""Memory rules and inputs that the tests of this room are held against."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from nestlearn.memory import MemoryParameters, MemoryRule, Streams
from nestlearn.memory.rule import PROJECTIONS
from tests.helpers import relative_error
from tests.pairwise import Row, covering

#: Every field of a rule with the values that are combined.
OPTIONS: dict[str, list[Any]] = {
    "kind": ["mlp", "matrix"],
    "activation": ["silu", "gelu", "relu"],
    "features": ["bounded", "plain"],
    "inner_norm": [False, True],
    "main_residual": [False, True],
    "objective": ["dot", "l2"],
    "erase": ["layers", "input", "none"],
    "chunk_size": [4, 1, 8],
    "projection_chunk_size": [None, 2, 8],
    "causal_reads": [True, False],
    "unit_targets": [True, False],
    "main_target": ["value", "generated"],
    "adaptive": [PROJECTIONS, (), ("key",), ("value", "query"), ("rate", "retention", "query")],
    "momentum": [False, True],
    "momentum_max": [0.9, 0.4],
    "rate": ["bound", "gated", "one"],
    "rate_max": [1.0, 0.3, 1.8],
    "retention": ["gated", "fixed", "none"],
    "gates": ["head", "channel"],
    "rest": ["initial", "zero"],
    "backprop_chunks": [None, 1, 2],
    "checkpoint_chunks": [0, 1, 3],
}
#: With one of these a partial rule is complete, if it can be.
_BASES = [
    {"kind": kind, "adaptive": adaptive}
    for kind, adaptive in itertools.product(("mlp", "matrix"), (PROJECTIONS, (), ("key",)))
]


def accepted(changes: Row) -> bool:
    """Whether the rule takes these settings together."""
    try:
        MemoryRule(**changes)
    except ValueError:
        return False
    return True


def completes(partial: Row) -> bool:
    """Whether some rule has these settings."""
    return any(accepted({**base, **partial}) for base in _BASES)


COVERING = covering(OPTIONS, completes)


def short(rule: MemoryRule) -> str:
    """What a rule changes, for test ids."""
    default = MemoryRule()
    changed = {name: getattr(rule, name) for name in OPTIONS if getattr(rule, name) != getattr(default, name)}
    return ",".join(f"{name}={value}" for name, value in changed.items()) or "default"


class Maker:
    """Random parameters and streams of one size.

    Args:
        rule: Gives the number of memories and gates.
        batch: B.
        heads: H.
        width: e.
        hidden: h of an MLP memory.
        dtype: Of everything.
        seed: Of everything.
        bfloat16: Values are representable in bfloat16.
    """

    def __init__(
        self,
        rule: MemoryRule,
        batch: int = 2,
        heads: int = 2,
        width: int = 5,
        hidden: int = 7,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        bfloat16: bool = False,
    ) -> None:
        self.rule, self.batch, self.heads, self.width, self.hidden = rule, batch, heads, width, hidden
        self.dtype, self.bfloat16 = dtype, bfloat16
        self.generator = torch.Generator().manual_seed(seed)

    def _leaf(self, value: Tensor) -> Tensor:
        value = value.to(torch.bfloat16) if self.bfloat16 else value
        return value.to(self.dtype).requires_grad_()

    def randn(self, *shape: int, scale: float = 1.0) -> Tensor:
        """A leaf."""
        return self._leaf(scale * torch.randn(*shape, generator=self.generator, dtype=torch.float64))

    def parameters(self, scale: float = 0.4) -> MemoryParameters:
        """Memories of moderate size, all gates open."""
        rule, m, g = self.rule, len(self.rule.names), len(self.rule.gate_names)
        h, e = self.heads, self.width
        weights = (
            (self.randn(m, h, e, e, scale=scale),)
            if rule.kind == "matrix"
            else (self.randn(m, h, e, self.hidden, scale=scale), self.randn(m, h, self.hidden, e, scale=0.5))
        )
        shape = torch.rand(m, h, generator=self.generator, dtype=torch.float64)
        return MemoryParameters(
            weights,
            self.randn(g, h, e, scale=0.5),
            self.randn(g, h, e if rule.gates == "channel" else 1),
            self._leaf(shape),
            (self.randn(m, h, e), self.randn(m, h, e)) if rule.inner_norm else None,
        )

    def streams(self, length: int) -> Streams:
        """``[B, H, T, e]`` each."""
        return Streams(*(self.randn(self.batch, self.heads, length, self.width) for _ in range(3)))


def leaves(parameters: MemoryParameters, streams: Streams) -> dict[str, Tensor]:
    """Everything that can have a gradient, by name."""
    named = {f"weights[{i}]": w for i, w in enumerate(parameters.weights)}
    named |= {name: getattr(parameters, name) for name in ("gate_weight", "gate_bias", "write_scale")}
    named |= {f"norm[{i}]": n for i, n in enumerate(parameters.norm or ())}
    named |= {f"{name} stream": s for name, s in streams._asdict().items()}
    return {name: tensor for name, tensor in named.items() if tensor.numel()}


def replace_leaves(
    parameters: MemoryParameters, named: dict[str, Tensor]
) -> tuple[MemoryParameters, Streams]:
    """The inverse of :func:`leaves`; what had no numbers is kept."""
    parts = {
        name: named.get(name, getattr(parameters, name))
        for name in ("gate_weight", "gate_bias", "write_scale")
    }
    weights = tuple(named[f"weights[{i}]"] for i in range(len(parameters.weights)))
    norm = None if parameters.norm is None else (named["norm[0]"], named["norm[1]"])
    streams = Streams(*(named[f"{name} stream"] for name in Streams._fields))
    return MemoryParameters(weights, **parts, norm=norm), streams


def outcome(
    twin: Any, parameters: MemoryParameters, streams: Streams, rule: MemoryRule, state: Any = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Reads and state, and the gradients of a fixed linear function of them (zero where there is none)."""
    y, end = twin.self_modifying(streams, parameters, state, rule)
    values = {"reads": y}
    for name in ("weights", "snapshot", "momentum"):
        values |= {f"{name}[{i}]": t for i, t in enumerate(getattr(end, name))}
    values["position"] = end.position.double()
    loss = sum((t.double() * _weights(t)).sum() for t in values.values() if t.requires_grad)
    by_name = leaves(parameters, streams)
    gradients = torch.autograd.grad(loss, list(by_name.values()), allow_unused=True)
    return values, {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(by_name.items(), gradients, strict=True)
    }


def _weights(like: Tensor) -> Tensor:
    """Gradients of the loss, which bfloat16 has too."""
    return torch.linspace(-1, 1, like.numel()).bfloat16().double().view_as(like)


def errors(expected: dict[str, Tensor], got: dict[str, Tensor]) -> dict[str, float]:
    """Relative errors by name."""
    assert list(expected) == list(got)
    return {name: relative_error(expected[name], got[name].to(expected[name].dtype)) for name in expected}
