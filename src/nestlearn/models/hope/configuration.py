"""Configuration of Hope, Hope-Attention and their baselines, which are one model."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from nestlearn.memory import MemoryRule
from nestlearn.models.hope.mixers import ATTENTIVE, MIXERS, memory_rule
from nestlearn.models.hope.presets import preset_fields

CMS_VARIANTS = ("sequential", "nested", "independent")


@strict
class HopeConfig(PreTrainedConfig):
    r"""Configuration of a :class:`~nestlearn.models.hope.HopeForCausalLM`.

    Known architectures are points of this space; a mixer may be named per layer:

    ======================  ==============================================================================
    Hope                    the defaults: self-modifying Titans, then a Continuum Memory System (Eq. 94 to 97)
    Hope-Attention          ``mixer="attention"``
    Transformer             ``mixer="attention", cms_periods=(n,)``: one feed-forward block per layer
    Samba-style hybrid      ``mixer=("self_modifying", "attention", ...), window=n``
    Titans                  ``"titans"``, the memory; ``"titans_mac"``, ``"titans_mag"``, ``"titans_mal"``
    delta rule              ``"gated_delta"``; ``"delta"`` (DeltaNet)
    linear attention        ``"linear_attention"``; ``"retention"`` (RetNet)
    test-time training      ``"ttt_linear"``, ``"ttt_mlp"``
    ======================  ==============================================================================

    The fields from ``memory`` to ``gates`` that are marked * are read by the mixer ``"self_modifying"`` only;
    :meth:`preset` has the paper's literal choices and the ablations of its Table 6 by name.

    Args:
        vocab_size: Entries of the vocabulary.
        hidden_size: Width of the residual stream; a multiple of ``num_heads``.
        num_hidden_layers: Blocks, each a mixer and a Continuum Memory System.
        num_heads: Heads of the mixer; every head has memories of its own.
        intermediate_size: Hidden units of one layer's feed-forward blocks together, divided between the
            levels (the first take the remainder). None is 8/3 of ``hidden_size``, in
            steps of 16.
        mixer: One name for all layers or one per layer, of the table above.
        memory: * ``"mlp"`` or ``"matrix"`` (SPEC 4.2, 4.3).
        memory_expansion: Hidden width of an MLP memory in multiples of the head's width.
        activation: * ``"silu"``, ``"gelu"`` or ``"relu"`` in an MLP memory.
        features: * ``"bounded"`` or ``"plain"`` hidden features of an MLP memory.
        inner_norm: * LayerNorm on what a memory adds to its input.
        main_residual: * The main memory adds its query to what it reads (Eq. 89).
        objective: * Inner loss of a write: ``"dot"``, with which a memory stays bounded for any keys while
            ``rate_max`` is at most 1, or ``"l2"``, the paper's, which can grow without bound in chunks
            (docs/decisions.md).
        erase: * Delta gradient descent's erase term (Eq. 88).
        erase_layers: * ``"all"`` layers of an MLP memory or its ``"input"`` matrix only.
        chunk_size: Tokens per chunk (Eq. 90).
        projection_chunk_size: * Tokens per chunk of the projection memories; None means ``chunk_size``. One
            of the two is a multiple of the other.
        causal_reads: Read the main memory at the running state instead of the chunk's start.
        unit_targets: * Self-generated targets have unit length.
        main_target: * The main memory stores ``"value"`` v or ``"generated"`` M(v).
        adaptive_key: * The key projection is a memory.
        adaptive_value: * The value projection is a memory.
        adaptive_gates: * The learning rate and the retention are read from memories.
        adaptive_query: * The query projection is a memory.
        momentum: * Inner momentum, as in Titans.
        rate: * The learning rate is ``"bound"`` by the retention, ``"gated"`` freely, or ``"one"``.
        retention: * ``"gated"``, ``"fixed"`` per head, or ``"none"``.
        gates: * One learning rate and retention per ``"head"`` or per ``"channel"`` (matrix memories).
        rest: * Retention and erase return a memory to its ``"initial"`` state or to ``"zero"``.
        rate_max: Upper end of the inner learning rate; see :class:`~nestlearn.memory.MemoryRule`. None is 1,
            or one over ``chunk_size`` for "l2" without the erase.
        backprop_chunks: Cut the graph after every so many chunks of a pass; None for none.
        checkpoint_chunks: Keep only the state after every so many chunks for the backward pass; 0 keeps all.
        window: Tokens that attention sees, this one included; None for all, and for 64 in ``"titans_mag"``
            and ``"titans_mal"``. ``"titans_mac"`` attends within segments of ``chunk_size`` tokens.
        persistent_tokens: Learned keys and values that attention always sees.
        conv_size: Width of the causal convolutions; 0 for none.
        cms_variant: ``"sequential"`` (Eq. 73), ``"nested"`` (Eq. 72) or ``"independent"`` (Eq. 74).
        cms_periods: Tokens between the updates of each feed-forward block, fast to slow; each a multiple
            of the one before.
        rope_theta: Base of the rotary positions of attention.
        rms_norm_eps: Added to the mean square in normalisations.
        initializer_range: Standard deviation of initial embeddings.
        tie_word_embeddings: The output matrix is the embedding.
        use_cache: Return a cache from ``forward`` by default.

    Raises:
        ValueError: For a value outside its range or two that contradict each other, naming them.
    """

    model_type = "nestlearn_hope"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012  (Trainer adds to a list)
    attribute_map = {"num_attention_heads": "num_heads"}  # noqa: RUF012  (transformers reads it as a class field)

    vocab_size: int = 32000
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_heads: int = 4
    intermediate_size: int | None = None
    mixer: str | tuple[str, ...] | list[str] = "self_modifying"
    memory: str = "mlp"
    memory_expansion: int = 1
    activation: str = "silu"
    features: str = "bounded"
    inner_norm: bool = False
    main_residual: bool = False
    objective: str = "dot"
    erase: bool = True
    erase_layers: str = "all"
    chunk_size: int = 16
    projection_chunk_size: int | None = None
    causal_reads: bool = True
    unit_targets: bool = True
    main_target: str = "value"
    adaptive_key: bool = True
    adaptive_value: bool = True
    adaptive_gates: bool = True
    adaptive_query: bool = False
    momentum: bool = False
    rate: str = "bound"
    retention: str = "gated"
    gates: str = "head"
    rest: str = "initial"
    rate_max: float | None = None
    backprop_chunks: int | None = None
    checkpoint_chunks: int = 0
    window: int | None = None
    persistent_tokens: int = 0
    conv_size: int = 4
    cms_variant: str = "sequential"
    cms_periods: tuple[int, ...] | list[int] = (2048, 16384, 131072)
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = 0
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: object) -> None:
        """Fill in what is derived and check everything before a model is built."""
        self.cms_periods = tuple(self.cms_periods)
        if not isinstance(self.mixer, str):
            self.mixer = tuple(self.mixer)
        if self.intermediate_size is None:
            self.intermediate_size = round(self.hidden_size * 8 / 3 / 16) * 16
        self._check_mixers()
        self._check_shape()
        self._check_choices()
        self._check_periods()
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "HopeConfig":
        """A named configuration with some fields changed.

        Args:
            name: ``"default"``, ``"paper"`` (the literal equations), ``"table6"`` (with everything that the
                paper's Table 6 takes away) or ``"table6_without_..."``; see :data:`PRESETS`.
            **changes: Fields of the configuration; they win over the preset's.

        Raises:
            ValueError: For an unknown name, listing the known ones.
        """
        return cls(**{**preset_fields(name), **changes})

    @property
    def mixers(self) -> tuple[str, ...]:
        """The mixer of every layer."""
        return (self.mixer,) * self.num_hidden_layers if isinstance(self.mixer, str) else tuple(self.mixer)

    @property
    def layer_types(self) -> list[str]:
        """What a cache holds for every layer: :class:`~nestlearn.models.hope.NestedMemoryLayer`."""
        return ["nested_memory"] * self.num_hidden_layers

    def validate_layer_type(self) -> None:
        """Nothing: transformers knows its own layer types only."""

    def memory_rule(self, mixer: str | None = None) -> MemoryRule:
        """The rule by which the memories of one mixer are written.

        Args:
            mixer: A mixer with memories; the first layer's if None.

        Raises:
            ValueError: For a combination that :class:`~nestlearn.memory.MemoryRule` refuses, and for
                attention, which has no memories.
        """
        mixer = mixer or self.mixers[0]
        rule = memory_rule(self, mixer)
        if rule is None:
            raise ValueError(f"mixer {mixer!r} has no memories")
        return rule

    def cms_sizes(self) -> tuple[int, ...]:
        """Hidden units of each feed-forward block, fast to slow."""
        assert self.intermediate_size is not None
        each, rest = divmod(self.intermediate_size, len(self.cms_periods))
        return tuple(each + (i < rest) for i in range(len(self.cms_periods)))

    def _check_shape(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_heads", "memory_expansion"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}"
            )
        if set(self.mixers) & set(ATTENTIVE) and (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"rotary positions need an even head width, got {self.hidden_size // self.num_heads}"
            )
        if self.conv_size < 0:
            raise ValueError(f"conv_size must be 0 (none) or more, got {self.conv_size}")
        assert self.intermediate_size is not None
        if self.intermediate_size < len(self.cms_periods):
            raise ValueError(
                f"intermediate_size {self.intermediate_size} cannot be divided between "
                f"{len(self.cms_periods)} levels"
            )

    def _check_choices(self) -> None:
        for name in ("rope_theta", "rms_norm_eps", "initializer_range"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and positive, got {value}")
        if self.memory not in ("mlp", "matrix"):
            raise ValueError(f"memory must be mlp or matrix, got {self.memory!r}")
        if self.erase_layers not in ("all", "input"):
            raise ValueError(f"erase_layers must be all or input, got {self.erase_layers!r}")
        if self.cms_variant not in CMS_VARIANTS:
            raise ValueError(
                f"cms_variant must be one of {', '.join(CMS_VARIANTS)}, got {self.cms_variant!r}"
            )
        memory_rule(self, "self_modifying")  # checked even where no layer reads it
        for mixer in set(self.mixers):
            memory_rule(self, mixer)

    def _check_mixers(self) -> None:
        for mixer in self.mixers:
            if mixer not in MIXERS:
                raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {mixer!r}")
        if len(self.mixers) != self.num_hidden_layers:
            raise ValueError(
                f"mixer names {len(self.mixers)} layers, num_hidden_layers is {self.num_hidden_layers}"
            )
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1 or None, got {self.window}")
        if self.persistent_tokens < 0:
            raise ValueError(f"persistent_tokens must be 0 (none) or more, got {self.persistent_tokens}")

    def _check_periods(self) -> None:
        if not self.cms_periods:
            raise ValueError("cms_periods is empty: give at least one period, in tokens")
        if min(self.cms_periods) < 1:
            raise ValueError(f"cms_periods must be positive, got {self.cms_periods}")
        for fast, slow in zip(self.cms_periods, self.cms_periods[1:], strict=False):
            if slow <= fast or slow % fast:
                raise ValueError(
                    f"cms_periods go from fast to slow, each a multiple of the one before; "
                    f"got {self.cms_periods}"
                )


__all__ = ["CMS_VARIANTS", "MIXERS", "HopeConfig"]
