"""Hope, Hope-Attention and a Transformer: one model, several configurations."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from nestlearn.models.hope.cache import HopeCache
from nestlearn.models.hope.cache_layer import NestedMemoryLayer
from nestlearn.models.hope.classification import HopeForSequenceClassification
from nestlearn.models.hope.configuration import HopeConfig
from nestlearn.models.hope.modeling import HopeForCausalLM, HopeModel

#: What transformers' Auto classes build from a :class:`HopeConfig`.
AUTO_CLASSES = {
    AutoModel: HopeModel,
    AutoModelForCausalLM: HopeForCausalLM,
    AutoModelForSequenceClassification: HopeForSequenceClassification,
}

AutoConfig.register(HopeConfig.model_type, HopeConfig, exist_ok=True)
for _auto, _model in AUTO_CLASSES.items():
    _auto.register(HopeConfig, _model, exist_ok=True)

__all__ = [
    "AUTO_CLASSES",
    "HopeCache",
    "HopeConfig",
    "HopeForCausalLM",
    "HopeForSequenceClassification",
    "HopeModel",
    "NestedMemoryLayer",
]
