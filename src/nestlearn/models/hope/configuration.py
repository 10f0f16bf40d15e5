"""Configuration of Hope, Hope-Attention and their baselines, which are one model."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from nestlearn.memory import MemoryRule

MIXERS = ("self_modifying", "gated_delta", "attention")
CMS_VARIANTS = ("sequential", "nested", "independent")


@strict
class HopeConfig(PreTrainedConfig):
    r"""Configuration of a :class:`~nestlearn.models.hope.HopeForCausalLM`.

    Known architectures are points of this space:

    ==================  ==================================================================================
    Hope                the defaults: self-modifying Titans, then a Continuum Memory System (Eq. 94 to 97)
    Hope-Attention      ``mixer="attention"``
    Transformer         ``mixer="attention", cms_periods=(n,)``: one feed-forward block per layer
    gated delta rule    ``mixer="gated_delta"``: static projections, one matrix memory, dot-product objective
    ==================  ==================================================================================

    Args:
        vocab_size: Entries of the vocabulary.
        hidden_size: Width of the residual stream; a multiple of ``num_heads``.
        num_hidden_layers: Blocks, each a mixer and a Continuum Memory System.
        num_heads: Heads of the mixer; every head has memories of its own.
        intermediate_size: Hidden units of one layer's feed-forward blocks together, divided between the
            levels (the first take the remainder). None is 8/3 of ``hidden_size``, in
            steps of 16.
        mixer: ``"self_modifying"``, ``"gated_delta"`` or ``"attention"``.
        memory: ``"mlp"`` or ``"matrix"`` (SPEC 4.2, 4.3). Read by the mixer ``"self_modifying"``.
        memory_expansion: Hidden width of an MLP memory in multiples of the head's width.
        objective: Inner loss of a write: ``"dot"``, with which a memory stays bounded for
            any keys while ``rate_max`` is at most 1, or
            ``"l2"``, the paper's, which can grow without bound in chunks (docs/decisions.md).
        erase: Delta gradient descent's erase term, in every layer of a memory (Eq. 88).
        chunk_size: Tokens per chunk (Eq. 90).
        projection_chunk_size: Tokens per chunk of the projection memories. None means ``chunk_size``, which
            is the only size built so far.
        causal_reads: Read the main memory at the running state instead of the chunk's start.
        unit_targets: Self-generated targets have unit length.
        main_target: The main memory stores ``"value"`` v or ``"generated"`` M(v).
        adaptive_query: The query projection is a memory too.
        momentum: Inner momentum; only False is built so far.
        rate_max: Upper end of the inner learning rate; see :class:`~nestlearn.memory.MemoryRule`.
        conv_size: Width of the causal convolutions; 0 for none.
        cms_variant: ``"sequential"`` (Eq. 73), ``"nested"`` (Eq. 72) or ``"independent"`` (Eq. 74).
        cms_periods: Tokens between the updates of each feed-forward block, fast to slow; each a multiple
            of the one before.
        rope_theta: Base of the rotary positions of ``mixer="attention"``.
        rms_norm_eps: Added to the mean square in normalisations.
        initializer_range: Standard deviation of initial embeddings.
        tie_word_embeddings: The output matrix is the embedding.
        use_cache: Return a cache from ``forward`` by default.

    Raises:
        ValueError: For a value outside its range or two that contradict each other, naming them.
    """

    model_type = "nestlearn_hope"
    keys_to_ignore_at_inference = ("past_key_values",)
    attribute_map = {"num_attention_heads": "num_heads"}  # noqa: RUF012  (transformers reads it as a class field)

    vocab_size: int = 32000
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_heads: int = 4
    intermediate_size: int | None = None
    mixer: str = "self_modifying"
    memory: str = "mlp"
    memory_expansion: int = 1
    objective: str = "dot"
    erase: bool = True
    chunk_size: int = 16
    projection_chunk_size: int | None = None
    causal_reads: bool = True
    unit_targets: bool = True
    main_target: str = "value"
    adaptive_query: bool = False
    momentum: bool = False
    rate_max: float = 1.0
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
        if self.intermediate_size is None:
            self.intermediate_size = round(self.hidden_size * 8 / 3 / 16) * 16
        self._check_shape()
        self._check_choices()
        self._check_periods()
        super().__post_init__(**kwargs)

    def memory_rule(self) -> MemoryRule:
        """The rule by which this configuration's memories are written.

        Raises:
            ValueError: For a combination that :class:`~nestlearn.memory.MemoryRule` refuses.
        """
        if self.mixer == "gated_delta":
            return MemoryRule(
                kind="matrix",
                objective="dot",
                adaptive=False,
                chunk_size=self.chunk_size,
                causal_reads=self.causal_reads,
                rate_max=self.rate_max,
            )
        return self._written_rule()

    def _written_rule(self) -> MemoryRule:
        return MemoryRule(
            kind=self.memory,  # type: ignore[arg-type]
            objective=self.objective,  # type: ignore[arg-type]
            erase=self.erase,
            chunk_size=self.chunk_size,
            causal_reads=self.causal_reads,
            unit_targets=self.unit_targets,
            main_target=self.main_target,  # type: ignore[arg-type]
            adaptive_query=self.adaptive_query,
            rate_max=self.rate_max,
        )

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
        if self.mixer == "attention" and (self.hidden_size // self.num_heads) % 2:
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
        if self.mixer not in MIXERS:
            raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {self.mixer!r}")
        if self.cms_variant not in CMS_VARIANTS:
            raise ValueError(
                f"cms_variant must be one of {', '.join(CMS_VARIANTS)}, got {self.cms_variant!r}"
            )
        if self.momentum:
            raise ValueError("momentum=True is not built yet: the memories are written by Eq. 88, without it")
        if self.projection_chunk_size not in (None, self.chunk_size):
            raise ValueError(
                f"projection_chunk_size {self.projection_chunk_size} differs from chunk_size "
                f"{self.chunk_size}: one chunk size for all memories is what is built so far"
            )
        self._written_rule()  # checked even where the mixer does not read it
        self.memory_rule()

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
