"""One run of a suite: a small model trained on one synthetic task, and how often it is right afterwards."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nestlearn.models.hope import HopeConfig, HopeForCausalLM
from nestlearn.streams.synthetic import IGNORED, Task

SHAPE: Mapping[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "cms_periods": (1,),  # one feed-forward block a layer: what is compared is the mixer
}
WARM_UP = 0.1  # of the steps
LOSS_POINTS = 20  # of the training loss in the record


class Stopped(Exception):  # noqa: N818
    """The run was told to stop and leaves nothing behind."""


@dataclass(frozen=True)
class Problem:
    """A task as it is trained and tested.

    Attributes:
        curriculum: Each joins the training after an equal number of steps; they share a vocabulary.
        evaluations: Asked afterwards, by name. The rates are chosen by those within the trained lengths.
        steps: Updates.
        tokens: Tokens of a batch, roughly: as many sequences as fit.
        fields: Fields of :class:`HopeConfig` that this task needs: of all entries by ``""``, of one by its
            name. They win over the entry's.
        embedding_noise: Standard deviation of the normal noise that training adds to the embeddings of its
            tokens, in multiples of their root mean square; tests have none. State that is tracked over more
            steps than in training must not add up small errors, and only training with some shows that.
    """

    curriculum: tuple[Task, ...]
    evaluations: Mapping[str, Task]
    steps: int
    tokens: int
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    embedding_noise: float = 0.0

    def of(self, mixer: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of an entry on this task."""
        return {**fields, **self.fields.get("", {}), **self.fields.get(mixer, {})}

    def __post_init__(self) -> None:
        if not self.steps >= 1:
            raise ValueError(f"Invalid steps: {self.steps}. Must be at least 1.")
        if not 0.0 <= self.embedding_noise < math.inf:
            raise ValueError(
                f"Invalid embedding_noise: {self.embedding_noise}. Must be finite and not negative."
            )
        sizes = {task.vocab_size for task in (*self.curriculum, *self.evaluations.values())}
        if len(sizes) != 1:
            raise ValueError(
                f"Invalid evaluations: vocabularies of {sorted(sizes)} tokens. Must be of one size."
            )


@dataclass(frozen=True)
class Run:
    """A run; everything that decides its result.

    Attributes:
        mixer: Name of the entry, for tables.
        fields: Fields of :class:`HopeConfig` that make it up.
        task: Name of the problem, for tables.
        problem: What is trained and tested.
        lr: Highest learning rate.
        seed: Of initialisation and training data.
        split: ``"validation"`` while learning rates are chosen, ``"test"`` for what is reported.
        evaluation_tokens: Tokens of each evaluation, roughly.
        shape: Fields of :class:`HopeConfig` that are the same for all.
    """

    mixer: str
    fields: Mapping[str, Any]
    task: str
    problem: Problem
    lr: float
    seed: int
    split: str = "test"
    evaluation_tokens: int = 32_768
    shape: Mapping[str, Any] = field(default_factory=lambda: dict(SHAPE))

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result but the code, for JSON."""
        problem = self.problem
        described = {
            "curriculum": [_described(task) for task in problem.curriculum],
            "evaluations": {name: _described(task) for name, task in problem.evaluations.items()},
            "steps": problem.steps,
            "tokens": problem.tokens,
            "embedding_noise": problem.embedding_noise,
        }
        whole = {**asdict(replace(self, problem=None)), "problem": described}  # type: ignore[arg-type]
        config = self.config()
        # In full, so that a default that changes makes another run of it.
        whole["config"] = {name: getattr(config, name) for name in sorted(HopeConfig.__annotations__)}
        return json.loads(json.dumps(whole))  # type: ignore[no-any-return]

    @cached_property
    def key(self) -> str:
        """Hash of the settings, under which the result is kept."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:16]

    def config(self) -> HopeConfig:
        """Configuration of the model.

        Raises:
            ValueError: For a field or a value that the model does not have.
        """
        fields = {**self.shape, **self.fields}
        unknown = sorted(name for name in fields if name not in HopeConfig.__dataclass_fields__)
        if unknown:
            raise ValueError(
                f"mixer {self.mixer!r} sets {', '.join(unknown)}, which HopeConfig does not have"
            )
        return HopeConfig(vocab_size=self.problem.curriculum[0].vocab_size, **fields)


def execute(run: Run, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Train and evaluate.

    Args:
        run: The run.
        stop: Asked before every step.

    Returns:
        The record: settings, accuracy by evaluation, training loss, parameters and CPU seconds.

    Raises:
        Stopped: ``stop`` said so.
        ValueError: A configuration that the model refuses.
    """
    started = time.process_time()
    torch.manual_seed(_seed("model", run.seed))
    model = HopeForCausalLM(run.config())
    losses = _train(model, run, stop)
    trained = time.process_time()
    accuracy = {name: _evaluate(model, run, name, stop) for name in run.problem.evaluations}
    every = max(1, len(losses) // LOSS_POINTS)
    means = [sum(part) / len(part) for i in range(0, len(losses), every) if (part := losses[i : i + every])]
    return {
        "settings": run.settings(),
        "accuracy": accuracy,
        "loss": [round(loss, 4) for loss in means],
        "diverged": len(losses) < run.problem.steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training_seconds": round(trained - started, 2),
        "cpu_seconds": round(time.process_time() - started, 2),
    }


def _train(model: HopeForCausalLM, run: Run, stop: Callable[[], bool]) -> list[float]:
    """Train in place; the loss of every step, cut short where it was no longer finite."""
    problem, generator = run.problem, torch.Generator().manual_seed(_seed("train", run.seed))
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=run.lr, betas=(0.9, 0.95))
    losses = []
    for step in range(problem.steps):
        if stop():
            raise Stopped
        task = _stage(problem, step, generator)
        input_ids, targets = task.sample(max(1, problem.tokens // task.length), generator)
        for group in optimizer.param_groups:
            group["lr"] = run.lr * schedule(step, problem.steps)
        logits = model(inputs_embeds=_embedded(model, input_ids, problem.embedding_noise, generator)).logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        if not math.isfinite(loss.item()):
            break
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return losses


def _embedded(model: HopeForCausalLM, input_ids: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Embeddings ``[B, T, d]`` of tokens ``[B, T]``, with noise of ``noise`` times their root mean square."""
    x: Tensor = model.get_input_embeddings()(input_ids)
    if noise == 0:
        return x
    return x + noise * x.detach().square().mean().sqrt() * torch.randn(x.shape, generator=generator)


def _stage(problem: Problem, step: int, generator: torch.Generator) -> Task:
    """The newest task of the curriculum half of the time, else one of those before it.

    With one length after the other, attention learns the distance between question and answer by heart.
    """
    newest = step * len(problem.curriculum) // problem.steps
    earlier = int(torch.randint(2 * max(1, newest), (), generator=generator))
    return problem.curriculum[min(earlier, newest)]


def schedule(step: int, steps: int) -> float:
    """Share of the highest learning rate: a linear rise, then a cosine down to a twentieth."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


@torch.no_grad()
def _evaluate(model: HopeForCausalLM, run: Run, name: str, stop: Callable[[], bool]) -> dict[str, Any]:
    """Accuracy on sequences that depend on the split and the evaluation, and are the same for every run."""
    task = run.problem.evaluations[name]
    generator = torch.Generator().manual_seed(_seed(run.split, name, task))
    sequences = max(1, min(512, run.evaluation_tokens // task.length))
    at_once = max(1, 8192 // task.length)
    model.eval()
    right, phases = [], []
    for first in range(0, sequences, at_once):
        if stop():
            raise Stopped
        drawn = task.draw(min(at_once, sequences - first), generator)
        answers = model(drawn.input_ids, use_cache=False).logits.argmax(-1)
        right.append(answers == drawn.targets)
        phases.append(drawn.phase)
    model.train()
    return {
        "length": task.length,
        "chance": task.chance,
        **accuracies(task, torch.cat(right), torch.cat(phases)),
    }


def accuracies(task: Task, right: Tensor, phase: Tensor) -> dict[str, Any]:
    """Accuracy of answers.

    Args:
        task: The task.
        right: Whether the answer is right, bool ``[B, T]``.
        phase: Kind of question, int64 ``[B, T]``; -1 where nothing is asked.

    Returns:
        ``token``: share of the questions; ``sequence``: of the sequences that are right everywhere; ``last``:
        of each sequence's last questions; and of the questions in each phase, where there are several.
    """
    asked = phase >= 0
    last = asked.shape[1] - 1 - asked.flip(1).int().argmax(dim=1)
    found = {
        "token": right[asked].float().mean().item(),
        "sequence": (right | ~asked).all(dim=1).float().mean().item(),
        "last": right.gather(1, last[:, None]).float().mean().item(),
    }
    if len(task.phases) > 1:
        for index, name in enumerate(task.phases):
            found[name] = right[phase == index].float().mean().item()
    return {name: round(value, 4) for name, value in found.items()}


def _described(task: Task) -> dict[str, Any]:
    return {"task": type(task).__name__, **asdict(task)}


def _seed(*parts: object) -> int:
    """A seed from names and numbers, unrelated to that of any others."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")
