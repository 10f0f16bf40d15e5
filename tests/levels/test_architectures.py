"""Real architectures: every parameter in exactly one place, every memory found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nestlearn as nl

_BASE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**_BASE, "intermediate_size": 48, "num_key_value_heads": 1}
BERT = {**_BASE, "intermediate_size": 48}
VISION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
VISION |= {"image_size": 32, "patch_size": 8}
STATE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
EXPERTS = {"num_experts_per_tok": 1, "moe_intermediate_size": 16}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8}
DELTA |= {"linear_value_head_dim": 8, "num_experts": 2, "shared_expert_intermediate_size": 16}
MIXED = ["linear_attention", "full_attention"]
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
WHISPER = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
WHISPER |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0}
WHISPER |= {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}

#: Configuration, model, settings, and the modules that remember, by the name of their component.
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any], dict[str, int]]] = {
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2},
        {"attention": 2},
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", LLAMA, {"attention": 2}),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {
            **LLAMA,
            "head_dim": 16,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        {"attention": 1, "attention 2": 1},
    ),
    "phi3": (
        "Phi3Config",
        "Phi3ForCausalLM",
        {**LLAMA, "num_key_value_heads": 2, "pad_token_id": 0, "sliding_window": None},
        {"attention": 2},
    ),
    "bloom": (
        "BloomConfig",
        "BloomForCausalLM",
        {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 2},
        {"attention": 2},
    ),
    "deepseek_v3": (
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        {
            **LLAMA,
            **EXPERTS,
            **LATENT,
            "num_key_value_heads": 2,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
        },
        {"attention": 2},
    ),
    "bert": ("BertConfig", "BertForMaskedLM", BERT, {"attention": 2}),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
        {"attention": 2},
    ),
    "deberta_v2": ("DebertaV2Config", "DebertaV2ForMaskedLM", BERT, {"attention": 2}),
    "t5": (
        "T5Config",
        "T5ForConditionalGeneration",
        {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 2},
        {"attention": 6},
    ),
    "whisper": (
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        {"vocab_size": 64, "d_model": 32, **WHISPER},
        {"attention": 3},
    ),
    "vit": ("ViTConfig", "ViTForImageClassification", VISION, {"attention": 1}),
    "clip": ("CLIPConfig", "CLIPModel", {"text_config": BERT, "vision_config": VISION}, {"attention": 3}),
    "resnet": (
        "ResNetConfig",
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        {"running statistics": 8},
    ),
    "mamba": ("MambaConfig", "MambaForCausalLM", STATE, {"state space": 2}),
    "mamba2": (
        "Mamba2Config",
        "Mamba2ForCausalLM",
        {**STATE, "num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8},
        {"state space": 2},
    ),
    "falcon_mamba": ("FalconMambaConfig", "FalconMambaForCausalLM", STATE, {"state space": 2}),
    "rwkv": (
        "RwkvConfig",
        "RwkvForCausalLM",
        {**STATE, "attention_hidden_size": 32},
        {"linear attention": 2, "convolution window": 2},
    ),
    "jamba": (
        "JambaConfig",
        "JambaForCausalLM",
        {
            **LLAMA,
            "num_experts": 2,
            "use_mamba_kernels": False,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
        },
        {"state space": 1, "attention": 1},
    ),
    "qwen3_next": (
        "Qwen3NextConfig",
        "Qwen3NextForCausalLM",
        {**LLAMA, **EXPERTS, **DELTA, "head_dim": 16, "layer_types": MIXED},
        {"gated delta memory": 1, "attention": 1},
    ),
    "minimax": (
        "MiniMaxConfig",
        "MiniMaxForCausalLM",
        {**LLAMA, "num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 16, "layer_types": MIXED},
        {"linear attention": 1, "attention": 1},
    ),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        "RecurrentGemmaForCausalLM",
        {**BERT, "num_hidden_layers": 3, "intermediate_size": 96, "lru_width": 32},
        {"linear recurrence": 2, "attention": 1},
    ),
    "xlstm": (
        "xLSTMConfig",
        "xLSTMForCausalLM",
        {"vocab_size": 64, "hidden_size": 32, "num_blocks": 2, "num_heads": 2},
        {"linear attention": 2},
    ),
    "lfm2": (
        "Lfm2Config",
        "Lfm2ForCausalLM",
        {**LLAMA, "layer_types": ["conv", "full_attention"]},
        {"convolution window": 1, "attention": 1},
    ),
}


def check(model: nn.Module, memories: dict[str, int]) -> nl.NestedSystem:
    system = nl.inspect(model, torch.optim.AdamW(model.parameters()))
    held = [t for c in system.components if c.kind == "parameters" for t in c.tensors]
    assert sorted(held) == sorted(name for name, _ in model.named_parameters())
    total = sum(p.numel() for p in model.parameters())
    assert sum(c.parameters for c in system.components) == total
    assert {c.name: len(c.where) for c in system.components if c.where} == memories
    assert system.unplaced == ()
    assert nl.NestedSystem.from_json(system.to_json()) == system
    return system


@pytest.mark.filterwarnings("ignore")  # transformers on kernels that are not installed
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_of_transformers(name):
    import transformers

    config, model, settings, memories = ARCHITECTURES[name]
    torch.manual_seed(0)
    made = getattr(transformers, model)(getattr(transformers, config)(**settings))
    system = check(made, memories)
    infinite = [c for c in system.components if c.kind == "attention"]
    assert all(c in system.levels[0].components for c in infinite)


class CausalSelfAttention(nn.Module):
    """As it is written in small teaching code: one projection for all three."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = CausalSelfAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class SmallGpt(nn.Module):
    def __init__(self, vocabulary: int = 32, width: int = 16, context: int = 8) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.h = nn.ModuleList(Block(width, 2) for _ in range(2))
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(x)


def test_a_small_gpt():
    model = SmallGpt()
    assert model(torch.zeros(1, 8, dtype=torch.long)).shape == (1, 8, 32)
    assert check(model, {"attention": 2})["attention"].where == ("h.0.attn", "h.1.attn")


class Head(nn.Module):
    """A head that is not called attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))


def test_attention_by_its_projections():
    check(nn.ModuleList([Head(4), Head(4), nn.Linear(4, 4)]), {"attention": 2})


class SmallViT(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).mT
        return self.head(self.encoder(torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1))[:, 0])


def test_a_small_vision_transformer():
    model = SmallViT()
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
    check(model, {"attention": 2})


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(16, 8), nn.LSTM(8, 8, 2, batch_first=True)
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.rnn(self.embedding(ids))[0].mT).mT)


def test_an_lstm():
    model = Tagger()
    assert model(torch.zeros(2, 5, dtype=torch.long)).shape == (2, 5, 3)
    system = check(model, {"hidden state": 1, "running statistics": 1})
    assert system["hidden state"].bytes == 2 * 2 * 8 * 4
