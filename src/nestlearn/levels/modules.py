"""The memories inside models: torch's own modules, Hugging Face's by their classes, ours by what they say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nestlearn.levels.description import Memory

#: Declares the memories of modules of a type that has no ``nested_memories`` itself.
Declaration = Callable[[Any], Iterable[Memory]]
_REGISTRY: dict[type[nn.Module], Declaration] = {}

_TOKENS = "the tokens of a sequence"
_DELTA = ("gated delta memory", "fast_weights", "½||S k - v||² with decay (Eq. 65)")
_HEBBIAN = ("linear attention", "fast_weights", "-⟨S k, v⟩ (Eq. 64)")
_DECAYING = ("state space", "fast_weights", "-⟨S k, v⟩ with a decay from the token (Eq. 64)")
_GATED = ("linear recurrence", "recurrent_state", "none of its own: a gated mean of what it reads")
_WINDOW = ("convolution window", "recurrent_state", "none: the last few tokens as they are")
#: Classes of transformers, flash-linear-attention and mamba-ssm by name. Patterns match the whole name.
_CLASSES: tuple[tuple[str, tuple[str, str, str]], ...] = (
    (r"\w*(Gated)?DeltaNet|\w*DeltaAttention", _DELTA),
    (r"MiniMaxLightningAttention|(Kimi|Gated|\w+Text)?LinearAttention|RwkvSelfAttention", _HEBBIAN),
    (r"RWKV\w*Attention|MultiScaleRetention|mLSTM\w*|xLSTMLayer", _HEBBIAN),
    (r"(Falcon|Zamba2?|Jamba)?Mamba2?Mixer|JambaMambaMixer|BambaMixer|FalconH1Mixer", _DECAYING),
    (r"NemotronHMamba2Mixer|GraniteMoeHybridMambaLayer|(\w*Mamba2?(Mixer|Layer))|Mamba2?", _DECAYING),
    (r"RecurrentGemmaRglru", _GATED),
    (r"Lfm2\w*ShortConv|Lfm3ShortConv|Inkling2?\w*ShortConvolution|RwkvFeedForward", _WINDOW),
)
#: A class of this name that nobody knows may keep a state.
_SUSPECT = re.compile(
    r"mamba|ssm|recurren|rwkv|delta(net|rule)|retention|hyena|rglru|mlstm|slstm|fastweight", re.I
)
_HARMLESS = re.compile(r"norm|mlp|embedding|experts?$|router|output", re.I)
_NAMED_ATTENTION = re.compile(r"attention|attn", re.I)
#: Projections to keys, values and queries, by the names that they go by.
_QUERY = re.compile(r"^(q|query|to_q|w_?q(uery)?|linear_q)(_|$)|^(q_?(proj|lin|a_proj)|query_\w+)$", re.I)
_KEY = re.compile(
    r"^(k|key|to_kv?|w_?k(ey)?|linear_k)(_|$)|^(k_?(proj|lin)|key_\w+|kv_a_proj\w*|kv_proj|kv)$", re.I
)
_TOGETHER = re.compile(
    r"^(qkv|c_attn|in_proj|query_key_value|w_?qkv|to_qkv|w_pack|qkv_proj|attn_qkv|in_proj_qkv)", re.I
)


def register(kind: type[nn.Module], declaration: Declaration) -> None:
    """Declare what modules of a type remember, for :func:`nestlearn.inspect`.

    Args:
        kind: The type; subclasses are found too.
        declaration: Maps a module to its memories. For modules of one's own, a method ``nested_memories`` is
            simpler.
    """
    _REGISTRY[kind] = declaration


def memories_of(module: nn.Module) -> tuple[Memory, ...] | None:
    """Memories that a module itself keeps; None if it is not one that is known to keep any."""
    own = getattr(module, "nested_memories", None)
    if own is not None:
        return tuple(own())
    for kind in type(module).__mro__:
        if kind in _REGISTRY:
            return tuple(_REGISTRY[kind](module))
    for kinds, function in _TORCH:
        if isinstance(module, kinds):
            return tuple(function(module))
    for pattern, (name, memory_kind, objective) in _CLASSES:
        if re.fullmatch(pattern, type(module).__name__):
            return (Memory(name, memory_kind, objective, _TOKENS),)  # type: ignore[arg-type]
    if is_attention(module):
        window = getattr(module, "sliding_window", None)
        return (attention_memory(_cached_bytes(module), window if isinstance(window, int) else None),)
    return None


def is_attention(module: nn.Module) -> bool:
    """Whether a module projects to queries and keys by itself."""
    children = [name for name, child in module.named_children() if next(child.parameters(), None) is not None]
    named = bool(_NAMED_ATTENTION.search(type(module).__name__))
    separate = any(_QUERY.match(name) for name in children) and any(_KEY.match(name) for name in children)
    together = any(_TOGETHER.match(name) for name in children)
    return separate or (named and together)


def attention_memory(bytes_per_token: int = 0, window: int | None = None) -> Memory:
    """Softmax attention: a regression solved anew for every token, without parameters (Eq. 62, 63)."""
    reach = "all earlier tokens" if window is None else f"the last {window:,} tokens"
    size = f", {bytes_per_token:,} bytes each" if bytes_per_token else ""
    return Memory(
        "attention",
        "attention",
        "½ sum_i s(k_i, q) ||y - v_i||², solved exactly (Eq. 62)",
        f"keys and values of {reach}{size}",
        period=0,
    )


def suspicious(module: nn.Module) -> bool:
    """Whether a module's class is called like something that keeps a state, and is not known."""
    name = type(module).__name__
    known = not (_SUSPECT.search(name) or _NAMED_ATTENTION.search(name)) or _HARMLESS.search(name)
    return not known and next(module.parameters(), None) is not None


def guessed(module: nn.Module) -> bool:
    """Whether a module is taken for softmax attention by its projections alone, and might be another kind."""
    known = type(module).__module__.split(".")[0] in {"torch", "transformers", "nestlearn"}
    own = hasattr(module, "nested_memories") or any(kind in _REGISTRY for kind in type(module).__mro__)
    return not known and not own and is_attention(module)


def walk(model: nn.Module) -> Iterator[tuple[str, nn.Module, tuple[Memory, ...]]]:
    """Modules with memories, by their path; what is inside one that only its class tells is not looked at."""
    covered: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(f"{outer}.") or outer == "" for outer in covered):
            continue
        found = memories_of(module)
        if found is None:
            continue
        if not hasattr(module, "nested_memories"):
            covered.append(path)
        yield path, module, found


def _cached_bytes(module: nn.Module) -> int:
    """Bytes of a token's key and value in a cache, where the projections show them."""
    total = 0
    for name in ("k_proj", "v_proj", "key", "value", "k_lin", "v_lin"):
        weight = getattr(getattr(module, name, None), "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 2:
            total += weight.shape[0] * weight.element_size()
    return total


def _multihead(module: nn.MultiheadAttention) -> Iterable[Memory]:
    weight = module.out_proj.weight
    return (attention_memory(2 * module.embed_dim * weight.element_size()),)


def _recurrent(module: nn.RNNBase | nn.RNNCellBase) -> Iterable[Memory]:
    layers = getattr(module, "num_layers", 1) * (2 if getattr(module, "bidirectional", False) else 1)
    hidden = int(module.hidden_size)
    numbers = (getattr(module, "proj_size", 0) or hidden) + hidden * isinstance(module, nn.LSTM | nn.LSTMCell)
    size = next(module.parameters()).element_size()
    yield Memory(
        "hidden state",
        "recurrent_state",
        "none of its own: its gates serve the loss",
        _TOKENS,
        bytes=layers * numbers * size,
    )


def _statistics(module: Any) -> Iterable[Memory]:
    if module.running_mean is None or not module.training:
        return ()
    named = ("running_mean", "running_var", "num_batches_tracked")
    held = [t for t in (module.running_mean, module.running_var) if t is not None]
    return (
        Memory(
            "running statistics",
            "statistics",
            "½||m - x||², one step at the rate of its momentum",
            "activations of every batch",
            unit="step",
            bytes=sum(t.numel() * t.element_size() for t in held),
            # Only the counter has a new version after a batch.
            tensors=tuple(name for name in named if getattr(module, name) is not None),
        ),
    )


_TORCH: tuple[tuple[Any, Callable[[Any], Iterable[Memory]]], ...] = (
    (nn.MultiheadAttention, _multihead),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent),
    ((torch.nn.modules.batchnorm._NormBase,), _statistics),
)

__all__ = ["attention_memory", "guessed", "is_attention", "memories_of", "register", "suspicious", "walk"]
