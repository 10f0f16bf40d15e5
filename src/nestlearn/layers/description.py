"""What the memories of a layer are, for :func:`nestlearn.inspect`."""

from __future__ import annotations

from nestlearn.levels import Memory
from nestlearn.memory import MemoryRule

_TOKENS = "keys and values of the tokens of a sequence"


def described(rule: MemoryRule, numbers: int, initial: tuple[str, ...]) -> tuple[Memory, ...]:
    """The memories that a rule writes, each once per chunk or once per token.

    A memory is updated once per chunk where gradients are taken at the chunk's start (Eq. 90). The main
    memory of the dot-product objective has gradients that do not depend on it: if it is a matrix and read
    causally, it changes with every token.

    Args:
        rule: The rule.
        numbers: Numbers of one memory's weights in all heads.
        initial: Names of the parameters that hold the initial states.
    """
    small, large = rule.chunk_sizes
    every_token = rule.kind == "matrix" and rule.objective == "dot" and rule.causal_reads
    main = 1 if every_token else large
    projections = "projection memories"
    found: list[tuple[str, str, int, int, tuple[str, ...]]] = []
    if len(rule.names) > 1:
        written = f"-⟨M(k), M(v)⟩ or ½||M(k) - M(v)||² of {', '.join(rule.names[:-1])} (Eq. 85)"
        found.append((projections, written, small, len(rule.names) - 1, ()))
    found.append(("main memory", _objective(rule), main, 1, tuple(name for name, *_ in found)))
    memories = []
    for name, objective, period, count, sources in found:
        size = 4 * count * numbers
        needs: tuple[str, ...] = ()
        if rule.momentum:
            needs = (f"momentum of {name}",)
            what = "⟨S, -g⟩ with decay (Titans)"
            memories.append(
                Memory(needs[0], "fast_weights", what, "writes", period, bytes=size, generated_by=())
            )
        memories.append(
            Memory(
                name,
                "fast_weights",
                objective,
                _TOKENS,
                period,
                bytes=size,
                initial=initial,
                needs=needs,
                sources=sources,
            )
        )
    return tuple(memories)


def _objective(rule: MemoryRule) -> str:
    inner = "-⟨M(k), v⟩ (Eq. 92)" if rule.objective == "dot" else "½||M(k) - v||² (Eq. 93)"
    by = "gradient descent" if rule.erase == "none" else "delta gradient descent (Eq. 88)"
    return f"{inner}, by {by}"


__all__ = ["described"]
