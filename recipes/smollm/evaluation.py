"""What a chat model knows: bits per byte of six domains, twenty answers, and how it goes on."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nestlearn.streams import bits_per_byte, token_bytes
from nestlearn.streams.domains import load_domain

OLD = ("technical", "code", "literature", "dictionary")
NEW = ("legal", "french")
WINDOWS, CONTEXT = 8, 256
ANSWER, CONTINUATION = 32, 40  # tokens

#: A question that everybody can answer, and a word of the answer.
QUESTIONS: tuple[tuple[str, str], ...] = (
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Italy?", "Rome"),
    ("What is the capital of Japan?", "Tokyo"),
    ("What is the capital of Egypt?", "Cairo"),
    ("Which planet is closest to the sun?", "Mercury"),
    ("What is the largest planet of the solar system?", "Jupiter"),
    ("What is the largest ocean on Earth?", "Pacific"),
    ("How many days does a week have?", "7|seven"),
    ("How many months does a year have?", "12|twelve"),
    ("How many legs does a spider have?", "8|eight"),
    ("What is 2 plus 3?", "5|five"),
    ("What is the chemical symbol of water?", "H2O|H₂O"),
    ("At how many degrees Celsius does water boil?", "100"),
    ("Who wrote Romeo and Juliet?", "Shakespeare"),
    ("Who painted the Mona Lisa?", "Leonardo|Vinci"),
    ("In which country are the pyramids of Giza?", "Egypt"),
    ("What colour is the sky on a clear day?", "blue"),
    ("What is the opposite of hot?", "cold"),
    ("What do bees make?", "honey"),
    ("Which language is spoken in Brazil?", "Portuguese"),
)
PROMPTS: Mapping[str, str] = {
    "legal": "Redistribution and use in source and binary forms, with or without modification,",
    "french": "Pour insérer une image dans le document,",
    "english": "On a sunny day the children went to",
}


def tokens(tokenizer: Any, domain: str, split: str, count: int, seed: int = 0) -> Tensor:
    """Token ids of a domain's documents in an order of the seed, each ended by the tokenizer's end."""
    texts = list(load_domain(domain).documents[split])
    random.Random(seed).shuffle(texts)
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        if len(ids) >= count:
            break
    return torch.tensor(ids[:count])


@dataclass(frozen=True)
class Held:
    """Held-out windows by domain, the bytes of each token, and the base's predictions on the old ones."""

    windows: Mapping[str, Tensor]
    sizes: Tensor


def held(tokenizer: Any, split: str) -> Held:
    """The windows of a split."""
    windows = {}
    for name in (*OLD, *NEW):
        ids = tokens(tokenizer, name, split, WINDOWS * CONTEXT + 1)
        windows[name] = ids.unfold(0, CONTEXT + 1, CONTEXT).clone()
    sizes = token_bytes(tokenizer.backend_tokenizer)
    sizes[torch.tensor(tokenizer.all_special_ids)] = 1
    return Held(windows, sizes)


@torch.no_grad()
def divergence(base: Any, model: Any, windows: Mapping[str, Tensor]) -> float:
    """Mean over the tokens of the old domains of KL(base || model), in nats."""
    total, count = 0.0, 0
    for name in OLD:
        for row in windows[name].split(2):
            first, second = (
                m(row[:, :-1], use_cache=False).logits.float().log_softmax(-1) for m in (base, model)
            )
            total += float(F.kl_div(second, first, reduction="sum", log_target=True))
            count += row[:, 1:].numel()
    return total / count


def evaluate(learner: Any, own: Held) -> dict[str, Any]:
    """Everything that is reported of a model."""
    answers = [
        learner.generate([{"role": "user", "content": question}], ANSWER).strip() for question, _ in QUESTIONS
    ]
    right = [
        any(word.lower() in answer.lower() for word in words.split("|"))
        for answer, (_, words) in zip(answers, QUESTIONS, strict=True)
    ]
    return {
        "bits": {
            name: bits_per_byte(learner.model, windows, own.sizes, batch_size=2)
            for name, windows in own.windows.items()
        },
        "divergence": divergence(learner.base, learner.model, own.windows),
        "answers": [[question, answer] for (question, _), answer in zip(QUESTIONS, answers, strict=True)],
        "right": sum(right),
        "continuations": {name: learner.generate(text, CONTINUATION) for name, text in PROMPTS.items()},
    }
