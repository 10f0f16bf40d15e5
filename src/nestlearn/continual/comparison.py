"""A comparison from start to end: runs side by side in processes, then one ``results.json``."""

from __future__ import annotations

import json
import multiprocessing
import platform
import queue
import signal
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nestlearn.continual.metrics import forgetting, matched_pairs
from nestlearn.continual.run import execute
from nestlearn.continual.strategies import Comparison
from nestlearn.observing import Track, chosen_trackers
from nestlearn.optim import NonFiniteGradientError
from nestlearn.streams import load_or_train_tokenizer, load_parallel_help
from nestlearn.training import CheckpointError, Interrupted

Message = dict[str, Any]


class RunFailed(ValueError):  # noqa: N818
    """A run could not be finished; the message says which and why."""


def compare(
    comparison: Comparison,
    out: Path,
    *,
    data_dir: Path | None = None,
    workers: int | None = None,
    on_message: Callable[[Message], None] | None = None,
    track: Track = "auto",
) -> dict[str, Any]:
    """Run every strategy in a process with one thread, and gather the results.

    A run whose result or checkpoint is already in ``out`` is not done again, or goes on from there.

    Args:
        comparison: What is compared.
        out: Folder for one sub-folder per run and ``results.json``.
        data_dir: Folder with the corpus, if it should not be fetched.
        workers: Processes at a time; None for all runs at once, which keeps every processor busy to the end.
        on_message: Called here with ``{"run", "event", ...}`` for every step, evaluation and finished run.
        track: Where metrics go besides the runs' folders, see :func:`nestlearn.observe`.

    Returns:
        The content of ``results.json``.

    Raises:
        DataError: If the corpus cannot be had.
        ValueError: If ``out`` holds another comparison, or for a tracker that is not known or not installed.
        RunFailed: If a run failed; the others were stopped and have their checkpoints.
        KeyboardInterrupt: After every run has saved its checkpoint.
    """
    chosen_trackers(track, out)
    # Build corpus and tokenizer once, before several processes would.
    corpus = load_parallel_help(comparison.languages, data_dir=data_dir)
    load_or_train_tokenizer(corpus, comparison.languages, comparison.size.vocab_size)
    _claim(out, comparison)
    names = [strategy.name for strategy in comparison.strategies]
    limit = min(len(names), workers or len(names))
    pool = _Pool(comparison, out, data_dir, track, on_message or (lambda _: None))
    entries = pool.run(names, limit)
    results = assemble(comparison, entries, {"name": corpus.name, "checksum": corpus.checksum})
    _write_json(out / "results.json", results)
    return results


def assemble(comparison: Comparison, runs: dict[str, Any], corpus: dict[str, str]) -> dict[str, Any]:
    """Put the runs together and derive forgetting and matched acquisition."""
    languages = list(comparison.languages)
    curves = {name: run["curve"] for name, run in runs.items()}
    matched = [pair.to_dict() for pair in matched_pairs(curves, languages)]
    return {
        "metric": "bits_per_byte",
        "languages": languages,
        "seed": comparison.seed,
        "quick": comparison.quick,
        "corpus": corpus,
        "environment": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(terse=True),
            "threads": 1,
        },
        "runs": runs,
        "forgetting": {name: forgetting(run["matrix"]) for name, run in runs.items()},
        "matched": matched[0] if matched else None,
        "matched_all": matched,
    }


def _claim(out: Path, comparison: Comparison) -> None:
    """Note in the folder what it holds, or refuse it because it holds something else."""
    settings = json.loads(json.dumps(asdict(comparison)))
    note = out / "comparison.json"
    if note.exists():
        held = json.loads(note.read_text(encoding="utf-8"))
        differing = sorted(key for key in {*settings, *held} if settings.get(key) != held.get(key))
        if differing:
            raise ValueError(
                f"{out} holds a comparison with another {', '.join(differing)}: resume with the same "
                "settings, or choose another folder"
            )
    out.mkdir(parents=True, exist_ok=True)
    _write_json(note, settings)


class _Pool:
    """Processes of the runs under way, and what they say."""

    def __init__(
        self,
        comparison: Comparison,
        out: Path,
        data_dir: Path | None,
        track: Track,
        on_message: Callable[[Message], None],
    ) -> None:
        self.comparison, self.out, self.data_dir, self.on_message = comparison, out, data_dir, on_message
        self.track = track
        self.context = multiprocessing.get_context("spawn")
        self.stop, self.messages = self.context.Event(), self.context.Queue()
        self.active: dict[str, Any] = {}

    def run(self, names: list[str], limit: int) -> dict[str, Any]:
        """Do the runs in order, ``limit`` at a time; their entries by name, in the given order."""
        waiting, entries = list(names), {}
        try:
            while waiting or self.active:
                while waiting and len(self.active) < limit:
                    self._start(waiting.pop(0))
                message = self._next()
                if message["event"] == "done":
                    entries[message["run"]] = message["entry"]
                    self.active.pop(message["run"]).join()
                elif message["event"] == "failed":
                    self.active.pop(message["run"]).join()
                    raise RunFailed(f"run {message['run']}: {message['error']}")
                self.on_message(message)
        except BaseException:
            self._finish()
            raise
        return {name: entries[name] for name in names}

    def _start(self, name: str) -> None:
        process = self.context.Process(
            target=_worker,
            args=(
                self.comparison,
                name,
                self.out / name,
                self.data_dir,
                self.track,
                self.stop,
                self.messages,
            ),
        )
        # A child is deaf to Ctrl-C from its first moment, also while it imports.
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, heard)
        self.active[name] = process

    def _next(self) -> Message:
        """The next message; a process that died without one is a failure."""
        while True:
            try:
                return self.messages.get(timeout=1.0)  # type: ignore[no-any-return]
            except queue.Empty:
                for name, process in self.active.items():
                    if not process.is_alive() and self.messages.empty():
                        error = f"its process ended with exit code {process.exitcode}"
                        return {"run": name, "event": "failed", "error": error}

    def _finish(self) -> None:
        """Ask every run to save and stop, and wait until all have."""
        self.stop.set()
        while any(process.is_alive() for process in self.active.values()):
            try:  # a full pipe would keep a process from ending
                self.messages.get(timeout=0.2)
            except queue.Empty:
                continue
            except KeyboardInterrupt:
                continue


def _worker(
    comparison: Comparison,
    name: str,
    run_dir: Path,
    data_dir: Path | None,
    track: Track,
    stop: Any,
    messages: Any,
) -> None:
    """Body of a run's process: one thread. The parent asks it to stop; Ctrl-C does not reach it."""
    torch.set_num_threads(1)
    finished = run_dir / "entry.json"
    try:
        if finished.exists():
            entry = json.loads(finished.read_text(encoding="utf-8"))
        else:
            entry = execute(
                comparison,
                name,
                run_dir,
                data_dir=data_dir,
                stop=stop,
                on_event=lambda event: messages.put({"run": name, **event}),
                track=track,
            )
            _write_json(finished, entry)
        messages.put({"run": name, "event": "done", "entry": entry})
    except Interrupted:
        messages.put({"run": name, "event": "interrupted"})
    except (CheckpointError, NonFiniteGradientError, ValueError, OSError) as error:
        messages.put({"run": name, "event": "failed", "error": str(error)})
    except Exception:
        messages.put({"run": name, "event": "failed", "error": traceback.format_exc()})


def _write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
