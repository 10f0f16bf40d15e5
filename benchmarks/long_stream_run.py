"""Models, gates and streams of :mod:`benchmarks.long_stream`, and what is measured on the way."""

# Shapes: B = batch, T = tokens, M = memories, H = heads.

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nestlearn.layers import MixerState, SelfModifyingTitans
from nestlearn.models.hope import HopeCache, HopeConfig, HopeForCausalLM
from nestlearn.streams.synthetic import IGNORED, MultiQueryRecall

SHAPE: Mapping[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "chunk_size": 64,
    "cms_periods": (1,),
}
#: Two chunks of keys, values, fillers and questions.
TASK = MultiQueryRecall(pairs=8, keys=32, values=32, gap=104)
BATCH, LEARNING_RATE = 8, 3e-3
#: Logit of a gate that is held at an end of its range: sigmoid(20) is 1 in float32, sigmoid(-20) is 2e-9.
END = 20.0
#: Logits of rate and retention; None leaves the gates as the model has them.
GATES: Mapping[str, tuple[float, float] | None] = {
    "the model's own": None,
    "rate highest, retention 1": (END, END),
    "rate highest, retention 0": (END, -END),
    "rate 0, retention 1": (-END, END),
}
MEMORIES = ("mlp", "matrix")


@dataclass(frozen=True)
class Settings:
    """What all cases share.

    Attributes:
        tokens: Tokens of each case's stream.
        piece: Tokens that are fed at a time.
        updates: Updates of the trained models.
        seed: Of initialisation, training data and streams.

    Raises:
        ValueError: A number outside its range.
    """

    tokens: int = 1_000_000
    piece: int = 2048
    updates: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("piece", 1), ("updates", 1), ("seed", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"Invalid {name}: {getattr(self, name)}. Must be at least {least}.")


@dataclass(frozen=True)
class Case:
    """One stream: which memories, trained or not, and where the gates are held."""

    memory: str
    trained: bool
    gates: str

    def describe(self) -> str:
        """For the progress bar."""
        return f"{self.memory}, {'trained' if self.trained else 'untrained'}, {self.gates}"


def cases() -> list[Case]:
    """All of them, in the order of the table."""
    return [
        Case(memory, trained, gates) for memory in MEMORIES for trained in (False, True) for gates in GATES
    ]


def stream_case(case: Case, settings: Settings, advance: Callable[[int], None]) -> dict[str, Any]:
    """Feed one stream in pieces through a cache, without gradients, batch 1.

    Args:
        case: The case.
        settings: What all cases share.
        advance: Called with the number of tokens after every piece.

    Returns:
        ``largest_norm_ratio`` and ``last_norm_ratio`` (:func:`norm_ratio` after the pieces), ``finite``,
        ``tokens`` (fewer than asked for if a number was not finite), bytes of the state after the first and
        the last piece, resident memory after a tenth and at the end, and tokens per CPU-second.
    """
    model = hold_gates(build(case.memory, case.trained, settings), GATES[case.gates])
    cache = HopeCache()
    done, ratios, finite, sizes, resident = 0, [], True, [], []
    started = time.process_time()
    with torch.inference_mode():
        for input_ids in pieces(settings):
            logits = model(input_ids, past_key_values=cache, logits_to_keep=1).logits
            done += input_ids.shape[1]
            ratios.append(norm_ratio(model, cache))
            finite = math.isfinite(ratios[-1]) and bool(logits.isfinite().all())
            sizes.append(cache.num_bytes())
            if 10 * done >= settings.tokens:
                resident.append(resident_bytes())
            advance(input_ids.shape[1])
            if not finite:
                break
    seconds = time.process_time() - started
    return {
        "largest_norm_ratio": max(ratios) if finite else None,
        "last_norm_ratio": ratios[-1] if finite else None,
        "finite": finite,
        "tokens": done,
        "state_bytes": [sizes[0], sizes[-1]],
        "resident_bytes": [resident[0], resident[-1]] if resident else None,
        "tokens_per_cpu_second": round(done / seconds),
    }


def pieces(settings: Settings) -> Iterator[Tensor]:
    """A stream, int64 ``[1, T]`` at a time.

    In turn a piece of the task's sequences, one of a single token again and again (all keys alike, the
    hardest for a memory's bounds), and one of tokens drawn at random.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    for number, start in enumerate(range(0, settings.tokens, settings.piece)):
        length = min(settings.piece, settings.tokens - start)
        if number % 3 == 0:
            ids = TASK.sample(1 + length // TASK.length, generator)[0].view(1, -1)[:, :length]
        elif number % 3 == 1:
            ids = torch.randint(TASK.vocab_size, (1, 1), generator=generator).expand(1, length)
        else:
            ids = torch.randint(TASK.vocab_size, (1, length), generator=generator)
        yield ids


def build(memory: str, trained: bool, settings: Settings) -> HopeForCausalLM:
    """A model of its own for each case, initialised or trained."""
    torch.manual_seed(settings.seed)
    model = HopeForCausalLM(HopeConfig(vocab_size=TASK.vocab_size, memory=memory, **SHAPE))
    if trained:
        model.load_state_dict(_trained(memory, settings)[0])
    model.eval()
    return model


def training_losses(memory: str, settings: Settings) -> list[float]:
    """First and last loss of the training, in nats a question."""
    losses = _trained(memory, settings)[1]
    return [round(losses[0], 4), round(losses[-1], 4)]


@cache
def _trained(memory: str, settings: Settings) -> tuple[dict[str, Tensor], list[float]]:
    """Weights after a short training on the task, and the losses."""
    model = build(memory, False, settings).train()
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    losses = []
    for _ in range(settings.updates):
        input_ids, targets = TASK.sample(BATCH, generator)
        logits = model(input_ids, use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return model.state_dict(), losses


@torch.no_grad()
def hold_gates(model: HopeForCausalLM, logits: tuple[float, float] | None) -> HopeForCausalLM:
    """Hold rate and retention of every layer at these logits, whatever the tokens; returns the model."""
    if logits is not None:
        for mixer in _mixers(model):
            for name, logit in zip(("rate", "retention"), logits, strict=True):
                gate = mixer.rule.gate_names.index(name)
                mixer.gate_weight[gate].zero_()
                mixer.gate_bias[gate].fill_(logit)
    return model


def norm_ratio(model: HopeForCausalLM, cache: HopeCache) -> float:
    """Largest Frobenius norm of a memory's matrix over that of the same matrix in the initial state.

    Over all layers, heads and memories; NaN or infinite if one of them is.
    """
    ratios = []
    for mixer, state in zip(_mixers(model), cache.states, strict=True):
        assert isinstance(state, MixerState)
        for initial, weight in zip(mixer.parameters_of_memory().weights, state.memory.weights, strict=True):
            start = initial.transpose(0, 1)  # [H, M, o, i]
            whole = weight + start if mixer.rule.rest == "initial" else weight  # [B, H, M, o, i]
            ratios.append((whole.norm(dim=(-2, -1)) / start.norm(dim=(-2, -1))).max())  # NaN stays NaN
    return torch.stack(ratios).max().item()


def _mixers(model: HopeForCausalLM) -> list[SelfModifyingTitans]:
    return [module for module in model.modules() if isinstance(module, SelfModifyingTitans)]


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM; None where the system does not say."""
    path = Path("/proc/self/statm")
    if not path.exists():
        return None
    return int(path.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
