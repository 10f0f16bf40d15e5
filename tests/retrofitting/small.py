"""Tiny models of the architectures that people have, with random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import nestlearn as nl

VOCABULARY, WIDTH, UNITS = 64, 32, 48
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": UNITS,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
PLAIN = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 64}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}

#: Class of the configuration and of the model, and settings.
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", LLAMA),
    "llama, biases": ("LlamaConfig", "LlamaForCausalLM", {**LLAMA, "mlp_bias": True}),
    "llama, tied": ("LlamaConfig", "LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", LLAMA),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**LLAMA, "head_dim": 8}),
    "mistral": ("MistralConfig", "MistralForCausalLM", LLAMA),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {**LLAMA, "head_dim": 8}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**LLAMA, "head_dim": 8}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {**GPT2, **ENDS}),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", PLAIN),
    "phi": ("PhiConfig", "PhiForCausalLM", PLAIN),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", LLAMA),
    "olmo": ("OlmoConfig", "OlmoForCausalLM", LLAMA),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", LLAMA),
    "opt": (
        "OPTConfig",
        "OPTForCausalLM",
        {**PLAIN, "ffn_dim": UNITS, "word_embed_proj_dim": WIDTH},
    ),
}


def pretrained(name: str = "llama", dtype: torch.dtype = torch.float32) -> Any:
    """A model of an architecture, ready to be evaluated."""
    import transformers

    config_class, model_class, settings = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**settings)
    model = getattr(transformers, model_class)(config)
    with torch.no_grad():
        for parameter in model.parameters():  # biases begin at zero, where mistakes would hide
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.to(dtype).eval()


def tokens(batch: int = 4, length: int = 16, seed: int = 0) -> Tensor:
    """Token ids."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def two_levels(**settings: Any) -> list[nl.Level]:
    """One that is due at every step of 64 tokens, and one at every second."""
    settings = {"lr": 1e-2, "max_grad_norm": None, **settings}
    return [nl.Level("fast", 64, **settings), nl.Level("slow", 128, **settings)]


def train(model: Any, optimizer: Any, steps: int, first: int = 0) -> list[float]:
    """Steps on random tokens; the losses before each."""
    losses = []
    for step in range(first, first + steps):
        batch = tokens(seed=step)
        loss = model(batch, labels=batch).loss
        loss.backward()
        optimizer.step(tokens=batch.numel(), surprise=loss)
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def by_adamw(base: nn.Module, names: list[str], steps: int = 4) -> dict[str, Tensor]:
    """The weights after torch's own AdamW on some parameters, on the batches of :func:`train`."""
    twin = copy.deepcopy(base)
    optimizer = torch.optim.AdamW([twin.get_parameter(n) for n in names], 1e-2, (0.9, 0.95), weight_decay=0.0)
    for step in range(steps):
        batch = tokens(seed=step)
        twin(batch, labels=batch).loss.backward()
        optimizer.step()
        twin.zero_grad()
    return weights(twin)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether all are equal to the bit."""
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


class Plain(nn.Module):
    """A model that nobody knows, with a block of three linear layers and one in a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.first = nn.Sequential(nn.Linear(WIDTH, UNITS), nn.GELU(), nn.Linear(UNITS, WIDTH))
        self.second = nn.ModuleDict(
            {
                "a": nn.Linear(WIDTH, UNITS, bias=False),
                "b": nn.Linear(WIDTH, UNITS, bias=False),
                "c": nn.Linear(UNITS, WIDTH, bias=False),
            }
        )
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + self.first(x)
        x = x + self.second["c"](torch.tanh(self.second["a"](x)) * self.second["b"](x))
        return self.head(x)


def plain() -> Plain:
    torch.manual_seed(0)
    return Plain().eval()


Factory = Callable[[], Any]
