"""The training loop: any model of this library along a stream of languages."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestlearn.levels import inspect
from nestlearn.observing import Diagnostics, RunFolder, Track, Trackers
from nestlearn.observing.observer import diagnostic_events
from nestlearn.optim import Nested
from nestlearn.streams import BatchSampler, TokenizedLanguage, bits_per_byte, evaluation_windows
from nestlearn.training.checkpoint import CheckpointError, load_tree, save_tree
from nestlearn.training.config import StreamConfig
from nestlearn.training.weights import WEIGHTS, model_config, start_from

Event = dict[str, Any]


class Interrupted(Exception):  # noqa: N818  (it is a request that was met, not an error)
    """Training stopped on request; the checkpoint holds everything."""


class StreamTrainer:
    """Trains a model along a stream, evaluates it on every language, and can stop and go on anywhere.

    Args:
        model: Maps ``input_ids [B, T]`` to an object with ``logits [B, T, V]``.
        optimizer: Its levels; learning rates at construction are the peaks.
        data: Tokens of every language of the stream.
        token_bytes: Bytes that each token stands for, ``[V]``.
        config: Stages, sizes, seed.
        run_dir: Folder for ``metrics.jsonl``, ``checkpoint.safetensors``, and what
            :func:`nestlearn.observing.read_system` reads; None keeps everything in memory.
        split: Split that is evaluated: ``"test"`` for reports, ``"validation"`` for tuning.
        on_event: Called with every step and evaluation, for progress displays.
        diagnose: Whether to follow every level and record diagnostics and alarms
            (:class:`nestlearn.observing.Diagnostics`).
        identity: Whatever else must agree when a checkpoint is resumed (model configuration, levels).
        track: Where metrics go besides ``metrics.jsonl``, see :func:`nestlearn.observe`.

    Attributes:
        step: Steps done.
        curve: Evaluations, each ``{"tokens", "stage", "step", "bits_per_byte"}``.
        matrix: Bits per byte after each finished stage (rows) on each language (columns).
        updates: Stream positions at which each level was updated.
        cpu_seconds: Processor time of training steps alone, over all sessions.
        seconds: Wall-clock time of everything, over all sessions.

    Raises:
        ValueError: If a stage's language has no data, the split is unknown, or a tracker is.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Nested,
        data: Mapping[str, TokenizedLanguage],
        token_bytes: Tensor,
        config: StreamConfig,
        *,
        run_dir: Path | None = None,
        split: str = "test",
        on_event: Callable[[Event], None] | None = None,
        diagnose: bool = False,
        identity: Mapping[str, Any] | None = None,
        track: Track = "auto",
    ) -> None:
        if split not in ("train", "validation", "test"):
            raise ValueError(f"split must be train, validation or test, got {split!r}")
        missing = [stage.language for stage in config.stages if stage.language not in data]
        if missing:
            raise ValueError(f"no data for {', '.join(missing)}; there is {', '.join(data)}")
        self.model, self.optimizer, self.config = model, optimizer, config
        self.token_bytes, self.run_dir, self.on_event = token_bytes, run_dir, on_event
        self.device = next(model.parameters()).device
        self.languages = list(dict.fromkeys(stage.language for stage in config.stages))
        self.identity = json.loads(
            json.dumps({"stream": config.to_dict(), "split": split, **(identity or {})})
        )
        self._peaks = [float(group["lr"]) for group in optimizer.param_groups]
        self._samplers = [
            BatchSampler(
                data[stage.language].train,
                batch_size=config.batch_size,
                context=config.context,
                seed=1000 * config.seed + index,
            )
            for index, stage in enumerate(config.stages)
        ]
        self._windows = {
            language: evaluation_windows(
                getattr(data[language], split), context=config.context, limit=config.evaluation_windows
            ).to(self.device)
            for language in self.languages
        }
        self.step = 0
        self.curve: list[Event] = []
        self.matrix: list[list[float]] = []
        self.updates: dict[str, list[int]] = {level.name: [] for level in optimizer.levels}
        self.cpu_seconds = self.seconds = 0.0
        self.notes: dict[str, Any] = {}
        self._log: list[Event] = []
        self._folder = None if run_dir is None else RunFolder(run_dir, track)
        self._trackers = Trackers(None, track) if self._folder is None else self._folder.trackers
        self.diagnostics = Diagnostics(model, optimizer) if diagnose else None

    @property
    def tokens(self) -> int:
        """Tokens of the stream seen so far."""
        return self.step * self.config.tokens_per_step

    def run(
        self,
        *,
        stop: threading.Event | None = None,
        until: int | None = None,
        after_stage: Callable[[int], None] | None = None,
    ) -> None:
        """Train to the end of the stream, or to step ``until``.

        Args:
            stop: When set, save a checkpoint after the current step and raise :class:`Interrupted`.
            until: Last step of this call; None for the end of the stream.
            after_stage: Called with the index of every stage that ends.

        Raises:
            Interrupted: If ``stop`` was set. The checkpoint has been written.
            NonFiniteGradientError: If training diverges; parameters are as they were before the step.
        """
        end = self.config.total_steps if until is None else min(until, self.config.total_steps)
        started = time.perf_counter()
        with closing(self._trackers):
            if self.step == 0 and not self.curve:
                self._begin()
                self._evaluate(stage=0)
            while self.step < end:
                self._train_step()
                stage, inside = self.config.locate(self.step - 1)
                last = inside + 1 == self.config.stages[stage].steps
                if last or (inside + 1) % self.config.evaluate_every == 0:
                    self._evaluate(stage)
                if last:
                    self.matrix.append([self.curve[-1]["bits_per_byte"][name] for name in self.languages])
                    if after_stage is not None:
                        after_stage(stage)
                now = time.perf_counter()
                self.seconds, started = self.seconds + now - started, now
                wanted = self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0
                if stop is not None and stop.is_set() and self.step < end:
                    self.save()
                    raise Interrupted(f"stopped after step {self.step}")
                if wanted or self.step == end:
                    self.save()

    def _begin(self) -> None:
        """Write down what is trained, before the first step."""
        if self._folder is not None:
            system = inspect(self.model, self.optimizer)
            planned = self.config.total_steps * self.config.tokens_per_step
            self._folder.begin(system, self._folder.path.name, planned)

    def _train_step(self) -> None:
        """One step: batch, loss, gradients, the levels that are due."""
        started = time.process_time()
        stage, inside = self.config.locate(self.step)
        factor = self.config.lr_factor(self.step)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        batch = self._samplers[stage].batch(inside).to(self.device)
        self.model.train()
        logits = self.model(batch[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        loss.backward()
        due = [level.name for level in self.optimizer.clock.due(self.config.tokens_per_step)]
        contexts = len(self.optimizer.surprises)
        value = loss.detach()
        with self.diagnostics or nullcontext():
            self.optimizer.step(tokens=self.config.tokens_per_step, surprise=value)
        self.optimizer.zero_grad()
        self.step += 1
        for name in due:
            self.updates[name].append(self.tokens)
        self.cpu_seconds += time.process_time() - started
        self._record(
            {
                "event": "step",
                "step": self.step,
                "tokens": self.tokens,
                "stage": stage,
                "language": self.config.stages[stage].language,
                "loss": float(value),
                "lr_factor": factor,
                "due": due,
                "surprised": len(self.optimizer.surprises) > contexts,
                "cpu_seconds": self.cpu_seconds,
            }
        )
        if self.diagnostics is not None:
            for event in diagnostic_events(self.tokens, *self.diagnostics.record(self.tokens, float(value))):
                self._record(event)

    def _evaluate(self, stage: int) -> None:
        """Held-out bits per byte of every language."""
        figures = {
            language: bits_per_byte(self.model, windows, self.token_bytes)
            for language, windows in self._windows.items()
        }
        point = {"tokens": self.tokens, "stage": stage, "step": self.step, "bits_per_byte": figures}
        self.curve.append(point)
        self._record({"event": "evaluation", **point})

    def _record(self, event: Event) -> None:
        self._log.append(event)
        if self._folder is not None:
            self._folder.write(event)
        if self.on_event is not None:
            self.on_event(event)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        diagnostics = {} if self.diagnostics is None else {"diagnostics": self.diagnostics.state_dict()}
        return {
            **diagnostics,
            "identity": json.dumps(self.identity, sort_keys=True),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "step": self.step,
            "curve": self.curve,
            "matrix": self.matrix,
            "updates": self.updates,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "notes": self.notes,
            "log": json.dumps(self._log),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to a saved point; training then goes on bit for bit.

        A checkpoint of a model alone, as ``nestlearn convert`` writes it, is where the first step begins.

        Raises:
            CheckpointError: If the state comes from another configuration, naming what differs.
        """
        if isinstance(state, Mapping) and state.get("kind") == WEIGHTS:
            try:
                start_from(self.model, self.optimizer, state["model"])
            except ValueError as error:
                raise CheckpointError(f"the checkpoint belongs to another model: {error}") from error
            return
        missing = [key for key in self.state_dict() if key not in state]
        if missing:
            raise CheckpointError(f"this is not a training checkpoint: it has no {', '.join(missing)}")
        saved = json.loads(state["identity"])
        if saved != self.identity:
            keys = sorted(k for k in {*saved, *self.identity} if saved.get(k) != self.identity.get(k))
            raise CheckpointError(
                f"the checkpoint was made with another {', '.join(keys)}: resume with the same settings, "
                "or choose another folder"
            )
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.model.load_state_dict(state["model"])
            if self.diagnostics is not None:
                self.diagnostics.load_state_dict(state["diagnostics"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"the checkpoint belongs to another model or other levels: {error}"
            ) from error
        torch.set_rng_state(state["rng"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.cpu_seconds = float(state["cpu_seconds"])
        self.curve, self.matrix = list(state["curve"]), [list(row) for row in state["matrix"]]
        self.updates = {name: list(at) for name, at in state["updates"].items()}
        self.notes, self._log = dict(state["notes"]), json.loads(state["log"])
        self._trackers.resume(self.tokens)

    def save(self) -> None:
        """Write ``checkpoint.safetensors`` in the run's folder, whole or not at all."""
        if self.run_dir is not None:
            whose = {"config": model_config(self.model)}  # for nestlearn convert
            save_tree(self.run_dir / "checkpoint.safetensors", {**self.state_dict(), **whose})

    def resume(self) -> bool:
        """Load the folder's checkpoint if there is one, and cut the log back to it.

        Returns:
            Whether there was a checkpoint.

        Raises:
            CheckpointError: If it is damaged or was made with other settings.
        """
        if self.run_dir is None:
            return False
        if not (self.run_dir / "checkpoint.safetensors").exists():
            # Killed before its first checkpoint: nothing of it is left, so its log must not stay.
            (self.run_dir / "metrics.jsonl").unlink(missing_ok=True)
            return False
        self.load_state_dict(load_tree(self.run_dir / "checkpoint.safetensors"))
        lines = "".join(json.dumps(event) + "\n" for event in self._log)
        (self.run_dir / "metrics.jsonl").write_text(lines, encoding="utf-8")
        return True
