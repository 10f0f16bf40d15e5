"""The grid of configurations covers what it says."""

from __future__ import annotations

import inspect

from nestlearn.models.hope import HopeConfig
from nestlearn.models.hope.mixers import MIXERS
from tests.models.variants import ALL, OPTIONS, ROWS, completes
from tests.pairwise import covered, pairs_of

#: Fields that are no options of the memories: sizes, and what is combined or tested elsewhere.
ELSEWHERE = {
    "vocab_size", "hidden_size", "num_hidden_layers", "num_heads", "intermediate_size", "mixer", "rate_max",
    "backprop_chunks", "window", "persistent_tokens", "cms_variant", "cms_periods", "rope_theta",
    "rms_norm_eps", "initializer_range", "tie_word_embeddings", "use_cache",
    "bos_token_id", "eos_token_id", "pad_token_id",
}  # fmt: skip


def test_every_field_is_combined_or_tested_elsewhere() -> None:
    fields = set(inspect.get_annotations(HopeConfig))
    assert set(OPTIONS) | ELSEWHERE == fields
    defaults = HopeConfig()
    for name, values in OPTIONS.items():
        assert len(values) >= 2
        assert getattr(defaults, name) in values


def test_every_allowed_pair_of_options_is_covered() -> None:
    found = covered(ROWS, OPTIONS)
    for pair in pairs_of(OPTIONS):
        partial = {name: OPTIONS[name][i] for name, i in pair}
        impossible = partial.get("gates") == "channel" and (
            partial.get("memory") == "mlp"
            or partial.get("momentum")
            or partial.get("retention", "gated") != "gated"
            or partial.get("rate") == "one"
        )
        assert (pair in found) is not impossible, partial
        assert completes(partial) is not impossible, partial


def test_every_mixer_is_there() -> None:
    mixers = [changes.get("mixer", "self_modifying") for changes in ALL]
    assert set(MIXERS) <= {
        name for mixer in mixers for name in ((mixer,) if isinstance(mixer, str) else mixer)
    }
