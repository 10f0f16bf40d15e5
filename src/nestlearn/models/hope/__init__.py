"""Hope, Hope-Attention and a Transformer: one model, several configurations."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from nestlearn.models.hope.cache import HopeCache
from nestlearn.models.hope.cache_layer import NestedMemoryLayer
from nestlearn.models.hope.configuration import HopeConfig
from nestlearn.models.hope.modeling import HopeForCausalLM, HopeModel

AutoConfig.register(HopeConfig.model_type, HopeConfig, exist_ok=True)
AutoModel.register(HopeConfig, HopeModel, exist_ok=True)
AutoModelForCausalLM.register(HopeConfig, HopeForCausalLM, exist_ok=True)

__all__ = ["HopeCache", "HopeConfig", "HopeForCausalLM", "HopeModel", "NestedMemoryLayer"]
