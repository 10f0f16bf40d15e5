"""The contestants of :mod:`benchmarks.peers`: this project's models, a plain Transformer, other packages.

A contestant is built as a function that takes token ids ``[B, T]``, runs forward and backward once and leaves
gradients in the parameters of the module beside it. Packages of others are imported only where they are used
and may be missing.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[Tensor], None]
Built = tuple[nn.Module, Step]
INSTALL = "`make peers` installs it"


class UnavailableError(Exception):
    """A contestant cannot take part; the message says why."""


@dataclass(frozen=True)
class Size:
    """The common shape of all contestants."""

    dim: int = 256
    layers: int = 4
    heads: int = 4
    vocab: int = 256
    chunk: int = 64

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.dim // self.heads


@dataclass(frozen=True)
class Contestant:
    """One entry.

    Attributes:
        what: A sentence for the reader of the result.
        build: Makes module and training step from a size and the sequence length.
        package: Import name of the package that is needed, and its name in the registry; None for our own.
        config: Changes to ``HopeConfig``, for this project's models.
    """

    what: str
    build: Callable[[Size, int], Built]
    package: tuple[str, str] | None = None
    config: dict[str, Any] | None = None

    def missing(self) -> str | None:
        """Why this contestant cannot take part here, or None."""
        if self.package is None or importlib.util.find_spec(self.package[0]) is not None:
            return None
        return f"{self.package[1]} is not installed here; {INSTALL}"


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross entropy of ``logits [B, T, V]`` with the next tokens of ``ids [B, T]``."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def from_loss(module: nn.Module, loss: Callable[[Tensor], Tensor]) -> Built:
    """Module and step of a contestant whose training is one backward pass of a loss."""

    def step(ids: Tensor) -> None:
        module.zero_grad(set_to_none=True)
        loss(ids).backward()

    return module, step


def hope(*, checkpointing: bool = False, what: str = "", **changes: Any) -> Contestant:
    """This project's model with changes to its configuration."""

    def build(size: Size, length: int) -> Built:
        model = hope_model(size, changes)
        if checkpointing:
            if not model.supports_gradient_checkpointing:
                raise UnavailableError("this version has no gradient checkpointing")
            # Newer versions of transformers have another name for it.
            enable = getattr(model, "activation_checkpointing_enable", None)
            (enable or model.gradient_checkpointing_enable)()
        model.train()
        return from_loss(model, lambda ids: model(ids, labels=ids).loss)

    return Contestant(what, build, config=changes)


def hope_model(size: Size, changes: dict[str, Any]) -> Any:
    """A ``HopeForCausalLM`` of a size, with one feed-forward block per layer."""
    hope_module = importlib.import_module("nestlearn.models.hope")
    settings: dict[str, Any] = {
        "vocab_size": size.vocab,
        "hidden_size": size.dim,
        "num_hidden_layers": size.layers,
        "num_heads": size.heads,
        "chunk_size": size.chunk,
        "cms_periods": (2048,),
        **changes,
    }
    return hope_module.HopeForCausalLM(hope_module.HopeConfig(**settings))


def feed_forward(dim: int) -> nn.Sequential:
    """Pre-norm feed-forward block of four times the width, GELU."""
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))


class Decoder(nn.Module):
    """Embedding, blocks of a mixer and a feed-forward block, tied output.

    Args:
        size: The shape.
        mixers: One per layer, each with its norm inside, ``[B, T, d]`` to ``[B, T, d]``.
        positions: Learned positions; 0 for none.
    """

    def __init__(self, size: Size, mixers: list[nn.Module], positions: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.vocab, size.dim)
        self.positions = nn.Parameter(0.02 * torch.randn(positions, size.dim)) if positions else None
        self.mixers = nn.ModuleList(mixers)
        self.feed_forward = nn.ModuleList(feed_forward(size.dim) for _ in mixers)
        self.norm = nn.LayerNorm(size.dim)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits ``[B, T, V]`` of ids ``[B, T]``."""
        x = self.embedding(ids)
        if self.positions is not None:
            x = x + self.positions[: ids.shape[1]]
        for mixer, feed in zip(self.mixers, self.feed_forward, strict=True):
            x = x + mixer(x)
            x = x + feed(x)
        return F.linear(self.norm(x), self.embedding.weight)


class CausalAttention(nn.Module):
    """Pre-norm multi-head attention through PyTorch's fused kernel."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.norm = nn.LayerNorm(size.dim)
        self.inputs = nn.Linear(size.dim, 3 * size.dim, bias=False)
        self.output = nn.Linear(size.dim, size.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, d]`` to ``[B, T, d]``."""
        B, T, d = x.shape
        query, key, value = self.inputs(self.norm(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(B, T, d))  # type: ignore[no-any-return]


def transformer(size: Size, length: int) -> Built:
    """A plain Transformer: learned positions, pre-norm, fused attention, GELU."""
    model = Decoder(size, [CausalAttention(size) for _ in range(size.layers)], positions=length)
    return from_loss(model, lambda ids: next_token_loss(model(ids), ids))


class _First(nn.Module):
    """The first output of a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)[0]  # type: ignore[no-any-return]


def titans_memory(size: Size, length: int) -> Built:
    """NeuralMemory (which norms its input itself) and the feed-forward blocks of :func:`transformer`."""
    titans = importlib.import_module("titans_pytorch")
    memories: list[nn.Module] = [
        _First(titans.NeuralMemory(dim=size.dim, chunk_size=size.chunk, heads=size.heads, dim_head=size.head))
        for _ in range(size.layers)
    ]
    model = Decoder(size, memories)
    return from_loss(model, lambda ids: next_token_loss(model(ids), ids))


def titans_context(size: Size, length: int) -> Built:
    """MemoryAsContextTransformer with the segment and the extra tokens of its README."""
    titans = importlib.import_module("titans_pytorch")
    model = titans.MemoryAsContextTransformer(
        num_tokens=size.vocab,
        dim=size.dim,
        depth=size.layers,
        heads=size.heads,
        dim_head=size.head,
        segment_len=2 * size.chunk,
        num_persist_mem_tokens=4,
        num_longterm_mem_tokens=16,
        neural_memory_kwargs={"heads": size.heads, "dim_head": size.head},
    )
    return from_loss(model, lambda ids: model(ids, return_loss=True))


def nested_learning(size: Size, length: int) -> Built:
    """The self-modifying Hope of nested-learning with its trainer's online step.

    The step goes through the sequence in chunks with fast states: forward and backward, then a second pass
    without gradients that writes the memories with each layer's error signal. One level of the Continuum
    Memory System and the same chunk size for all memories, which is less work than its own presets.
    """
    package = importlib.import_module("nested_learning.model")
    levels = importlib.import_module("nested_learning.levels")
    model = package.HOPEModel(
        package.ModelConfig(
            vocab_size=size.vocab,
            dim=size.dim,
            num_layers=size.layers,
            heads=size.heads,
            titan_level=levels.LevelSpec(name="titan", update_period=size.chunk),
            cms_levels=[levels.LevelSpec(name="cms", update_period=size.chunk)],
            block_variant="hope_selfmod",
            self_mod_chunk_size=size.chunk,
            qk_l2_norm=True,
        )
    )
    return model, lambda ids: _online_step(model, ids, size.chunk)


def _online_step(model: Any, ids: Tensor, chunk: int) -> None:
    model.zero_grad(set_to_none=True)
    state = model.init_fast_state()
    for piece in ids.split(chunk, dim=1):
        logits, _, outputs = model.forward_with_block_outputs(piece, fast_state=state)
        loss = next_token_loss(logits, piece)
        signals = torch.autograd.grad(loss, outputs, retain_graph=True)
        loss.backward()
        with torch.no_grad():
            model(piece, teach_signals=[s.detach() for s in signals], fast_state=state)


TITANS = ("titans_pytorch", "titans-pytorch")
#: Name -> contestant. Ratios are those of the first two to all others.
CONTESTANTS: dict[str, Contestant] = {
    "Hope": hope(memory="mlp", what="self-modifying memories that are MLPs, plain backward"),
    "Hope, checkpointed": hope(memory="mlp", checkpointing=True, what="the same, activations recomputed"),
    "Hope, matrix memories": hope(memory="matrix", what="self-modifying memories that are matrices"),
    "gated delta rule": hope(mixer="gated_delta", what="static projections, one matrix memory per head"),
    "Transformer, rotary": hope(mixer="attention", what="the same model with softmax attention"),
    "Transformer, plain": Contestant("learned positions, fused attention, GELU", transformer),
    "titans-pytorch NeuralMemory": Contestant(
        "its default memory (MLP, 2 layers, 4 x), chunks of 64, and feed-forward blocks",
        titans_memory,
        TITANS,
    ),
    "titans-pytorch MAC": Contestant(
        "MemoryAsContextTransformer, README's segment 128, 4 + 16 tokens", titans_context, TITANS
    ),
    "nested-learning Hope": Contestant(
        "hope_selfmod, its online training step", nested_learning, ("nested_learning", "nested-learning")
    ),
}


def floor_operations(contestant: Contestant, module: nn.Module, size: Size, length: int) -> float | None:
    """Operations per trained token that the definition needs, forward and backward; None for others' models.

    Products with weights and with memories, three times the forward pass; attention reads half the sequence.
    """
    # The embedding is tied and counted once, as the output layer; positions are not multiplied.
    weights = sum(p.numel() for n, p in module.named_parameters() if p.dim() == 2 and n != "positions")
    config = contestant.config
    attention = 6.0 * size.layers * size.dim * length
    if config is None:
        return 6.0 * weights + attention if contestant.package is None else None
    if config.get("mixer") == "attention":
        return 6.0 * weights + attention
    # Products of a token with a head's square block: four reads, four targets, five outputs, one query, five
    # writes, and the change's own outputs and query; in the gated delta rule one, one and one.
    uses = 3 if config.get("mixer") == "gated_delta" else 25
    blocks = 2 if config.get("memory") == "mlp" else 1
    return 6.0 * (weights + size.layers * uses * blocks * size.dim * size.head)
