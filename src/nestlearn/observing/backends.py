"""The trackers that are known: trackio, TensorBoard and Weights & Biases, each imported when it is opened."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

#: Under which runs are found in trackio and W&B, where TRACKIO_PROJECT or WANDB_PROJECT do not say another.
PROJECT = "nestlearn"


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told about a run.

    Attributes:
        folder: The run's folder.
        id: Of the run, the same after every resume.
        name: For people.
        position: Where the run goes on, in tokens of the stream; None for a new one.
    """

    folder: Path
    id: str
    name: str
    position: int | None


class Tracker(Protocol):
    """Where the numbers of a run go besides its folder.

    Whatever it raises is shown once as a warning; the run goes on without it.
    """

    def log(self, values: Mapping[str, float], position: int) -> None:
        """Take in what is known at one position; positions only grow.

        Args:
            values: Finite numbers by name.
            position: In tokens of the stream.
        """

    def close(self) -> None:
        """Write what is still kept back; nothing comes after it."""


class Trackio:
    """Metrics in trackio's database on this machine; ``trackio show --project nestlearn`` shows them.

    Nothing is sent anywhere, also where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL are set: the run is made
    without ``trackio.init``, which reads them, asks the hub for the user's name, prints what it does and ends
    a run of the caller's own.

    Args:
        run: The run.
    """

    package: ClassVar[str] = "trackio"

    def __init__(self, run: TrackedRun) -> None:
        from trackio import Run  # noqa: PLC0415  (half a second to import)
        from trackio.sqlite_storage import SQLiteStorage  # noqa: PLC0415

        class LocalRun(Run):  # type: ignore[misc]
            """A run that does not ask the hub for the user's name."""

            def _get_username(self) -> None:
                return None

        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self._run: Any = LocalRun(url=None, project=project, client=None, name=run.name, run_id=run.id)
        known = None
        if run.position is not None:
            known = SQLiteStorage.get_max_step_for_run(project, run.name, run_id=run.id)
        # Behind the point of a resume it has what comes again; at that point something may be new.
        self._known = int(known) if known is not None and known > (run.position or 0) else -1

    def log(self, values: Mapping[str, float], position: int) -> None:
        """Queue the values for trackio's own thread; those that it had before a resume are left out."""
        if position > self._known:
            self._run.log(dict(values), step=position)

    def close(self) -> None:
        """Have the queue written, without a line in the middle of a progress bar."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()


class TensorBoard:
    """Event files in the folder ``tensorboard`` of the run's.

    Args:
        run: The run.
    """

    package: ClassVar[str] = "tensorboard"

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (an extra, a second to import)

        # What was written behind the point of a resume is not shown any more.
        purge = None if run.position is None else run.position + 1
        self._writer: Any = SummaryWriter(str(run.folder / "tensorboard"), purge_step=purge)

    def log(self, values: Mapping[str, float], position: int) -> None:
        """Write the values as scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, position)

    def close(self) -> None:
        """Write the rest and close the file."""
        self._writer.close()


class Wandb:
    """A run of Weights & Biases, which sends it to its server unless WANDB_MODE is ``offline``.

    A step that the server has is kept as it was when the run goes on from before it.

    Args:
        run: The run.
    """

    package: ClassVar[str] = "wandb"

    def __init__(self, run: TrackedRun) -> None:
        import wandb  # noqa: PLC0415  (not an extra: it sends)

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=run.name,
            dir=str(run.folder),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, values: Mapping[str, float], position: int) -> None:
        """Hand the values to W&B's own process."""
        self._run.log(dict(values), step=position)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


#: By the name that ``track`` takes. One with an attribute ``package`` needs that package.
BACKENDS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "trackio": Trackio,
    "tensorboard": TensorBoard,
    "wandb": Wandb,
}

__all__ = ["BACKENDS", "PROJECT", "TensorBoard", "TrackedRun", "Tracker", "Trackio", "Wandb"]
