"""A stream of texts, learned one after the other by a model that has learned the first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from nestlearn.bench.base import JOINT, BenchStream, Entry, Measures, Settings, rounded, rounded_row
from nestlearn.bench.language import material, start
from nestlearn.bench.language.material import CONTEXT, Material, load_material
from nestlearn.bench.language.methods import METHODS, EndsTasks, Learning, Setup, old_batches
from nestlearn.bench.language.start import BATCH, learned_first
from nestlearn.bench.store import Record
from nestlearn.continual.metrics import CurvePoint, average, forgetting, matched_pairs
from nestlearn.streams import bits_per_byte

MEASURES = Measures(
    final="bits",
    learned="learned",
    unit="bits per byte",
    rising=False,
    columns={
        "bits": "bits",
        "over_joint": "of joint",
        "learned": "learned",
        "forgetting": "forgetting",
        "matched": "matched",
        "ratio": "of ordinary's",
        "worst": "worst",
    },
    plasticity={},
    explained=(
        "Of the streams of text, in **bits** per byte of held-out text, lower is better: mean over all "
        "tasks at the end. **of joint**: over that of joint training on as many tokens of all tasks at once. "
        "**learned**: mean right after each task. **forgetting**: mean rise since then. **matched**: mean "
        "rise of an earlier task at the moment a later one is first as well learned as by the worse of this "
        "method and ordinary fine-tuning at its end; **of ordinary's**: over what ordinary fine-tuning had "
        "lost at that moment. **worst**: the largest rise of any earlier task at any evaluation. All, joint "
        "training too, begin with the same model, which has learned the first task. *one pace* is "
        "rehearsal without the mean of weights and the rising rate, on one window of text as it speaks, "
        "and with what it knew first as one subject."
    ),
)
#: Tokens of the first task's text that a method may take in before it goes on.
CALIBRATION = 40_960


@dataclass(frozen=True, eq=False)
class LanguageStream(BenchStream):
    """Texts as every method meets them.

    Attributes:
        name: See :class:`BenchStream`, as title, seeds, trials and left_out.
        data: Name of the text.
        load: Gives it.
        first_steps: Steps on the first task, by ordinary AdamW for all methods alike.
        steps: Steps on each later task.
        batch_size: Windows of a step.
        every: Steps between two evaluations.
        held: Windows of a task that are evaluated.
        blend: Whether the last task replaces the first little by little; there are two then.
        table: The methods of its kind.
    """

    name: str
    title: str
    data: str
    load: Callable[[str], Material] = load_material
    first_steps: int = 400
    steps: int = 100
    batch_size: int = 8
    every: int = 25
    held: int = 24
    blend: bool = False
    table: Mapping[str, Entry] = field(default_factory=lambda: METHODS)
    seeds: int = 3
    trials: int = 6
    left_out: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    measures: Measures = MEASURES

    @property
    def settings(self) -> dict[str, Any]:
        """See :class:`BenchStream`."""
        names = ("name", "data", "first_steps", "steps", "batch_size", "every", "held", "blend")
        shared = {
            "context": CONTEXT, "vocabulary": material.VOCABULARY, "calibration": CALIBRATION,
            "first": [BATCH, start.RATE, start.WARM_UP], "shape": dict(start.SHAPE),
        }  # fmt: skip
        return {name: getattr(self, name) for name in names} | shared

    @property
    def described(self) -> str:
        """See :class:`BenchStream`."""
        first, own = self.first_steps * BATCH * CONTEXT, self.steps * self.batch_size * CONTEXT
        how = "a share that rises from none to all" if self.blend else "each later one"
        return (
            f"a Llama of 2.6 million parameters from scratch, {first:,} tokens of the first text and {own:,} "
            f"of {how}, once through, {self.batch_size * CONTEXT:,} a step, evaluated every {self.every} "
            "steps"
        )

    def run(self, method: str, settings: Settings, seed: int) -> Record:
        """See :class:`BenchStream`."""
        tasks = self.load(self.data).tasks
        made, curve, seconds = learn(self, self.entries[method], tasks, settings, seed, "test")
        matrix = [row for stage in range(len(tasks)) for row in _last(curve, stage)]
        return {
            "bits": round(mean(curve[-1]["bits_per_byte"].values()), 5),
            **({} if method == JOINT else rounded(self._figures(curve, matrix))),
            "matrix": [rounded_row(row) for row in matrix],
            "curve": [
                [point["stage"], point["tokens"], *rounded_row(list(point["bits_per_byte"].values()))]
                for point in curve
            ],
            "stored_bytes": made.stored_bytes(),
            "seconds": round(seconds, 1),
        }

    def _figures(self, curve: Sequence[CurvePoint], matrix: Sequence[Sequence[float]]) -> dict[str, float]:
        if self.blend:  # no task ends
            start, end = (list(point["bits_per_byte"].values()) for point in (curve[0], curve[-1]))
            return {"learned": mean([start[0], end[1]]), "forgetting": end[0] - start[0]}
        learned = [row[i] for i, row in enumerate(matrix)]
        rises = [
            list(point["bits_per_byte"].values())[i] - learned[i]
            for point in curve
            for i in range(point["stage"])
        ]
        return {
            "learned": mean(learned), "bits": average(matrix), "forgetting": forgetting(matrix),
            "worst": max(rises),
        }  # fmt: skip

    def against(self, own: Record, ordinary: Record) -> dict[str, float]:
        """What is lost at matched acquisition; see :class:`BenchStream`."""
        if self.blend or "learned" not in own:
            return {}
        tasks = self.load_names()
        curves = {"nested": _points(own["curve"], tasks), "finetune": _points(ordinary["curve"], tasks)}
        pairs = matched_pairs(curves, tasks)
        lost, reference = (mean(pair.rise[run] for pair in pairs) for run in ("nested", "finetune"))
        return {"matched": lost, **({"ratio": lost / reference} if reference > 0.0 else {})}

    def load_names(self) -> tuple[str, ...]:
        """The tasks' names, without their text."""
        return material.SOURCES[self.data][0]

    def trial(self, method: str, settings: Settings, seed: int, tasks: int) -> float:
        """See :class:`BenchStream`: minus the mean bits per byte of these tasks."""
        names = self.load(self.data).tasks[:tasks]
        _, curve, _ = learn(self, self.entries[method], names, settings, seed, "validation")
        return -mean(curve[-1]["bits_per_byte"].values())


def learn(
    stream: LanguageStream, entry: Entry, tasks: Sequence[str], settings: Settings, seed: int, split: str
) -> tuple[Learning, list[CurvePoint], float]:
    """Let a method learn tasks after the first; joint training has them all at once.

    Returns:
        The method, its evaluations, and the CPU seconds of learning.
    """
    text = first_text(stream, tasks[0], seed)
    vocabulary = len(stream.load(stream.data).sizes)
    model = learned_first(text, vocabulary, stream.first_steps, seed)
    began = time.process_time()
    torch.manual_seed(seed)
    step_tokens = stream.batch_size * CONTEXT
    # A share of the text of all tasks that there are: the search must not have another store.
    total = stream.first_steps * BATCH * CONTEXT + (len(stream.load_names()) - 1) * stream.steps * step_tokens
    old = old_batches(text, CALIBRATION, stream.batch_size)
    method: Learning = entry.make(Setup(model, old, int(0.01 * 2 * total), step_tokens, seed), settings)
    seconds = time.process_time() - began
    curve = [_evaluated(stream, method, tasks, split, 0, 0)]
    for count, (stage, batch, ends) in enumerate(batches(stream, entry.name, tasks, seed), start=1):
        began = time.process_time()
        method.step(batch)
        last = count == (len(tasks) - 1) * stream.steps
        if ends and isinstance(method, EndsTasks) and not last:
            own = later_text(stream, tasks[stage], seed)
            method.end_task(old_batches(own, CALIBRATION, stream.batch_size), seed + stage)
        if last:
            method.finish()
        seconds += time.process_time() - began
        if ends or count % stream.every == 0:
            curve.append(_evaluated(stream, method, tasks, split, stage, count * step_tokens))
    return method, curve, seconds


def batches(
    stream: LanguageStream, method: str, tasks: Sequence[str], seed: int
) -> Iterator[tuple[int, Tensor, bool]]:
    """Stage, windows ``[B, T + 1]`` and whether the stage ends, for every step; the same for all methods."""
    later = [later_text(stream, task, seed) for task in tasks[1:]]
    generator = torch.Generator().manual_seed(seed)
    if method == JOINT or stream.blend:
        first = first_text(stream, tasks[0], seed)
        own = torch.cat([first[torch.randperm(len(first), generator=generator)[: len(later[0])]], *later])
        total = len(tasks) - 1
        order = _blended(len(later[0]), generator) if stream.blend and method != JOINT else None
        order = torch.randperm(len(own), generator=generator) if order is None else order
        order = order[: total * stream.steps * stream.batch_size]
        for step, chosen in enumerate(torch.split(order, stream.batch_size), start=1):
            stage = 1 + (step - 1) // stream.steps
            yield stage, own[chosen], step % stream.steps == 0
        return
    for stage, windows in enumerate(later, start=1):
        order = torch.randperm(len(windows), generator=generator)
        for step, chosen in enumerate(torch.split(order, stream.batch_size), start=1):
            yield stage, windows[chosen], step == stream.steps


def _blended(count: int, generator: torch.Generator) -> Tensor:
    """Places of the first (below ``count``) and second text, the latter's share rising from 0 to 1."""
    new = torch.rand(count, generator=generator) < (torch.arange(count) + 0.5) / count
    return torch.arange(count) + count * new.long()


@lru_cache(maxsize=16)
def first_text(stream: LanguageStream, task: str, seed: int) -> Tensor:
    """Windows of the first task's training text, as many as the first steps pass over, or all there are."""
    return stream.load(stream.data).windows(task, "train", stream.first_steps * BATCH, seed)


@lru_cache(maxsize=16)
def later_text(stream: LanguageStream, task: str, seed: int) -> Tensor:
    """Windows of a later task's training text, each for once.

    Raises:
        ValueError: There are fewer than the steps need.
    """
    wanted = stream.steps * stream.batch_size
    found = stream.load(stream.data).windows(task, "train", wanted, seed)
    if len(found) < wanted:
        raise ValueError(f"{task} has {len(found)} windows of training text, {wanted} are needed")
    return found


def _evaluated(
    stream: LanguageStream, method: Learning, tasks: Sequence[str], split: str, stage: int, tokens: int
) -> CurvePoint:
    text = stream.load(stream.data)
    bits = {
        task: bits_per_byte(method.model, text.windows(task, split, stream.held, 0), text.sizes)
        for task in tasks
    }
    return {"tokens": tokens, "stage": stage, "bits_per_byte": bits}


def _last(curve: Sequence[CurvePoint], stage: int) -> list[list[float]]:
    """Bits of all tasks at a stage's end; none where the stream has no such stage."""
    own = [point for point in curve if point["stage"] == stage]
    return [list(own[-1]["bits_per_byte"].values())] if own else []


def _points(rows: Sequence[Sequence[float]], tasks: Sequence[str]) -> list[CurvePoint]:
    """The curve as it was before it was kept."""
    return [
        {"stage": int(row[0]), "tokens": int(row[1]),
         "bits_per_byte": dict(zip(tasks, row[2:], strict=True))}
        for row in rows
    ]  # fmt: skip
