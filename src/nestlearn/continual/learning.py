"""The loop behind :meth:`nestlearn.Learner.learn`: steps, checkpoints, interruption, progress."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nestlearn.continual.documents import Stream, Windows
from nestlearn.continual.methods import Method
from nestlearn.observing import Track, chosen_trackers, observe
from nestlearn.optim import NonFiniteGradientError
from nestlearn.training import CheckpointError, Interrupted, load_tree, save_tree

if TYPE_CHECKING:
    from nestlearn.continual.learner import Learner

KIND = "nestlearn-learning-1"


@dataclass
class Learned:
    """What a call of ``learn`` did.

    Attributes:
        tokens: That were predicted and learned.
        steps: Batches.
        documents: Of the stream.
        longest: Tokens of its longest document.
        seconds: In all calls that it took.
        losses: Mean loss of each step before it was learned, in nats a token.
        finished: Whether the stream has come to its end.
    """

    tokens: int = 0
    steps: int = 0
    documents: int = 0
    longest: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    finished: bool = False

    def __str__(self) -> str:
        return (
            f"{self.documents} documents, {self.tokens:,} tokens in {self.steps} steps, "
            f"{self.seconds:.0f} s; loss {self.losses[0]:.3f} at first, {self.losses[-1]:.3f} at last"
        )


def learn(
    learner: Learner,
    stream: Stream,
    *,
    checkpoint: Path | None,
    checkpoint_every: int,
    run_dir: Path | None,
    progress: bool | None,
    track: Track,
) -> Learned:
    """See :meth:`nestlearn.Learner.learn`."""
    _check(checkpoint_every, run_dir, track)
    windows, report = Windows(learner.tokenizer, learner.context, learner.batch_size), Learned()
    saved = _read(learner, checkpoint) if checkpoint is not None and checkpoint.exists() else None
    if saved is not None:
        windows.load_state_dict(saved["windows"])
    batches = windows.batches(stream)
    if saved is not None:  # only now: another stream has been refused, and nothing has changed
        _resume(learner, saved, report)
    follower = _Follower(learner, run_dir, track, None if saved is None else saved.get("observer"))

    def save() -> None:
        if checkpoint is not None:
            save_tree(checkpoint, {**_state(learner, windows, report), "observer": follower.state_dict()})

    def advance() -> Tensor | None:
        try:
            return next(batches, None)
        except Exception:  # of the stream: the position is before the document that is at fault
            if report.steps:
                save()
            raise
        finally:
            report.documents, report.longest = windows.documents, windows.longest

    with _finished(learner.method), follower, _interruptible() as stop, _bar(progress) as show:
        started, batch = time.perf_counter(), advance()
        if batch is None and not report.steps:
            raise ValueError("the stream is empty: nothing was learned")
        if batch is not None and learner.method.wants_old:
            learner.calibrate()
        while batch is not None:
            try:
                report.losses.append(learner.method.step(batch.to(learner.device)))
            except NonFiniteGradientError as error:
                save()
                raise NonFiniteGradientError(_diverged(error, windows, report)) from error
            follower.step(report.losses[-1], batch)
            started = _count(report, batch, started)
            show(report)
            if stop.is_set():
                save()
                raise Interrupted(_told(report, checkpoint))
            # The next windows are cut after the position was saved, not before.
            if report.steps % checkpoint_every == 0:
                save()
            batch = advance()
    report.finished = True
    save()
    return report


def _check(checkpoint_every: int, run_dir: Path | None, track: Track) -> None:
    """Say what is wrong with the arguments before anything else."""
    if isinstance(checkpoint_every, bool) or not checkpoint_every >= 1:
        raise ValueError(f"checkpoint_every must be at least 1; got {checkpoint_every!r}")
    chosen_trackers(track, run_dir)


class _Follower:
    """Follows the method's optimizer, if a folder is given; from a checkpoint on, as if nothing had happened.

    Raises:
        ValueError: If the folder has another run, or the method has no optimizer to follow.
    """

    def __init__(
        self, learner: Learner, run_dir: Path | None, track: Track, state: dict[str, Any] | None
    ) -> None:
        optimizer = getattr(learner.method, "optimizer", None)
        if run_dir is not None and optimizer is None:
            name = learner.method.name
            raise ValueError(f"method {name} has no optimizer that could be followed: leave out run_dir")
        self.observer = None
        if run_dir is not None:
            self.observer = observe(learner.model, optimizer, run_dir, state=state, track=track)

    def __enter__(self) -> None:
        if self.observer is not None:
            self.observer.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.observer is not None:
            self.observer.__exit__(*error)

    def step(self, loss: float, batch: Tensor) -> None:
        """Record a step; positions are those of the optimizer's clock, if it has one."""
        if self.observer is not None:
            self.observer.step(loss, tokens=None if self.observer.clock else batch.numel())

    def state_dict(self) -> dict[str, Any] | None:
        """What a checkpoint needs."""
        return None if self.observer is None else self.observer.state_dict()


def _count(report: Learned, batch: Tensor, started: float) -> float:
    """Count a step; the time of now."""
    report.steps += 1
    report.tokens += batch.shape[0] * (batch.shape[1] - 1)
    now = time.perf_counter()
    report.seconds += now - started
    return now


@contextmanager
def _finished(method: Method) -> Iterator[None]:
    """However it ends, the model has what was learned."""
    try:
        yield
    finally:
        method.finish()


def _diverged(error: Exception, windows: Windows, report: Learned) -> str:
    return (
        f"{error} (in document {windows.documents}, after {report.steps} steps of the stream; "
        "what was learned before is there, and a checkpoint goes on behind this batch)"
    )


def _told(report: Learned, checkpoint: Path | None) -> str:
    kept = "what was learned is in the learner"
    if checkpoint is not None:
        kept += f" and in {checkpoint}: the same call goes on from there"
    return f"stopped after {report.steps} steps and {report.tokens:,} tokens; {kept}"


def _state(learner: Learner, windows: Windows, report: Learned) -> dict[str, Any]:
    return {
        "kind": KIND,
        "identity": _identity(learner),
        "method": learner.method.state_dict(),
        "windows": windows.state_dict(),
        "report": asdict(report),
    }


def _identity(learner: Learner) -> dict[str, Any]:
    """What has to be the same to go on."""
    return {
        "base": learner.identity.digest,
        "method": learner.method.name,
        "settings": learner.method.settings,
        "context": learner.context,
        "batch_size": learner.batch_size,
    }


def _read(learner: Learner, path: Path) -> dict[str, Any]:
    """The content of a checkpoint.

    Raises:
        CheckpointError: If it is damaged, no checkpoint of learning, or of other settings.
    """
    tree = load_tree(path)
    if not isinstance(tree, dict) or tree.get("kind") != KIND:
        raise CheckpointError(f"{path} is no checkpoint of learning: choose another file")
    saved, own = _plain(tree["identity"]), _plain(_identity(learner))
    if saved != own:
        different = sorted(key for key in {*saved, *own} if saved.get(key) != own.get(key))
        raise CheckpointError(
            f"{path} was written with another {', '.join(different)}: go on with the same, or choose another "
            "file"
        )
    return tree


def _resume(learner: Learner, tree: dict[str, Any], report: Learned) -> None:
    """Return to where a checkpoint was written."""
    learner.method.load_state_dict(tree["method"])
    for name, value in tree["report"].items():
        setattr(report, name, value)
    report.finished = False


def _plain(tree: Any) -> Any:
    """Tuples as lists, as they come out of a file."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    return [_plain(value) for value in tree] if isinstance(tree, list | tuple) else tree


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that a step is never cut in two; a second Ctrl-C ends at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def request(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _bar(progress: bool | None) -> Iterator[Callable[[Learned], None]]:
    """Gives what shows the report after every step."""
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield lambda report: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        line = bar.add_task("looking at what the model knows")

        def show(report: Learned) -> None:
            text = f"{report.tokens:,} tokens, {report.documents} documents, loss {report.losses[-1]:.3f}"
            bar.update(line, description=text)

        yield show
