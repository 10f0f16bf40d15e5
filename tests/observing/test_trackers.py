"""Trackers get what metrics.jsonl has, whichever they are, and never stop a run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

import nestlearn as nl
from nestlearn.observing import trackers
from nestlearn.observing.backends import BACKENDS, TrackedRun
from nestlearn.observing.trackers import chosen_trackers, numbers
from nestlearn.training import Interrupted
from tests.continual.small import learner, texts
from tests.helpers import difference
from tests.training.streams import outcome, stream, trainer

Points = dict[int, dict[str, float]]


class Recorder:
    """A tracker that keeps what it is told; ``fails`` names the call that raises."""

    opened: list[Recorder]
    fails = ""

    def __init__(self, run: TrackedRun) -> None:
        self.run, self.points, self.closed = run, [], 0
        self._fail("open")
        self.opened.append(self)

    def log(self, values: Any, position: int) -> None:
        self._fail("log")
        self.points.append((position, dict(values)))

    def close(self) -> None:
        self._fail("close")
        self.closed += 1

    def _fail(self, call: str) -> None:
        if call == self.fails:
            raise OSError("the disk is full")


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """A tracker of the name ``recorder``; all that were opened."""
    monkeypatch.setattr(Recorder, "opened", [], raising=False)
    monkeypatch.setitem(BACKENDS, "recorder", Recorder)
    return Recorder.opened


def written(folder: Path) -> Points:
    """Numbers of ``metrics.jsonl`` by position."""
    points: Points = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if found := numbers(event):
            points.setdefault(event["tokens"], {}).update(found)
    return points


# -- which ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("track", "variable", "installed", "expected"),
    [
        ("auto", None, True, ("trackio",)),
        ("auto", None, False, ()),
        ("auto", "none", True, ()),
        ("auto", "tensorboard,wandb", True, ("tensorboard", "wandb")),
        ("none", "tensorboard", True, ()),
        ("", None, True, ()),
        ([], None, True, ()),
        ("wandb, trackio,wandb", None, True, ("wandb", "trackio")),
        (["tensorboard"], None, True, ("tensorboard",)),
    ],
)
def test_what_an_option_means(
    track: Any, variable: str | None, installed: bool, expected: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(trackers, "installed", lambda name: installed)
    monkeypatch.delenv("NESTLEARN_TRACK")
    if variable is not None:
        monkeypatch.setenv("NESTLEARN_TRACK", variable)
    assert chosen_trackers(track, tmp_path) == expected
    if track == "auto":
        assert chosen_trackers(track, None) == ()


@pytest.mark.parametrize(
    ("track", "message"),
    [
        ("mlflow", "names no tracker 'mlflow': choose from trackio, tensorboard, wandb"),
        ("trackio,none", "names no tracker 'none'.*alone"),
        (["auto", "wandb"], "names no tracker 'auto'"),
        (7, "names of trackers; got 7"),
        ([7], r"got \[7\]"),
        ("wandb", "wandb is not installed; pip install wandb"),
        (["tensorboard"], "tensorboard is not installed; pip install 'nestlearn\\[trackers\\]'"),
    ],
)
def test_what_cannot_be_had_is_refused_with_a_remedy(
    track: Any, message: str, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(trackers, "installed", lambda name: False)
    with pytest.raises(ValueError, match=message):
        chosen_trackers(track, tmp_path)


def test_what_the_variable_says_is_refused_too(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("NESTLEARN_TRACK", "mlflow")
    with pytest.raises(ValueError, match="NESTLEARN_TRACK='mlflow' names no tracker"):
        chosen_trackers("auto", tmp_path)


def test_trackers_need_a_folder(recorders: list[Recorder]) -> None:
    teacher = learner()
    for refused in (
        lambda: chosen_trackers("recorder", None),
        lambda: trainer(track="recorder"),
        lambda: teacher.learn(texts(4), track="recorder"),
    ):
        with pytest.raises(ValueError, match="needs the folder of a run"):
            refused()
    assert teacher.method.updates == {"fast": 0, "slow": 0}


def test_an_unknown_tracker_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for refused in (
        lambda: trainer(run_dir=tmp_path / "run", track="mlflow"),
        lambda: learner().learn(texts(4), run_dir=tmp_path / "run", track="mlflow"),
    ):
        with pytest.raises(ValueError, match="no tracker 'mlflow'"):
            refused()
    assert not list(tmp_path.iterdir())


# -- what they get ------------------------------------------------------------------------------------------


def test_the_numbers_of_events() -> None:
    step = {"event": "step", "tokens": 8, "loss": 2.5, "lr_factor": 0.5, "due": ["fast"], "surprised": True}
    assert numbers(step) == {"loss": 2.5, "lr_factor": 0.5, "surprise": 1.0}
    assert numbers({"event": "step", "tokens": 8, "loss": None, "surprised": False}) == {}
    assert numbers({"event": "step", "tokens": 8, "loss": float("nan")}) == {}
    own = {"event": "evaluation", "tokens": 8, "values": {"a b": 0.5}, "measure": "share right"}
    assert numbers(own) == {"evaluation/share_right/a b": 0.5}
    language = {"event": "evaluation", "tokens": 8, "bits_per_byte": {"en": 2.0}}
    assert numbers(language) == {"evaluation/bits_per_byte/en": 2.0}
    diagnostics = {"event": "diagnostics", "tokens": 8, "levels": {"fast": {"drift": 0.1}}}
    assert numbers(diagnostics) == {"levels/fast/drift": 0.1}
    alarm = {"event": "alarm", "tokens": 8, "level": "slow", "kind": "idle", "sentence": "."}
    assert numbers(alarm) == {"alarms/slow/idle": 1.0}
    assert numbers({"event": "end", "tokens": 8}) == {}


def train(folder: Path) -> None:
    trainer("consolidating", run_dir=folder, track="recorder", diagnose=True).run()


def teach(folder: Path) -> None:
    learner().learn(texts(12), run_dir=folder, track="recorder")


@pytest.mark.parametrize("learns", [train, teach])
def test_a_tracker_gets_every_number_of_the_metrics(
    learns: Any, recorders: list[Recorder], tmp_path: Path
) -> None:
    learns(tmp_path / "runs" / "one")
    (only,) = recorders
    positions = [position for position, _ in only.points]
    assert positions == sorted(set(positions))
    assert dict(only.points) == written(tmp_path / "runs" / "one")
    assert any(name.startswith("levels/") for _, values in only.points for name in values)
    assert (only.run.name, only.run.position, only.closed) == ("runs/one", None, 1)


def test_tracking_changes_nothing(recorders: list[Recorder], tmp_path: Path) -> None:
    plain, tracked = trainer("consolidating"), trainer("consolidating", run_dir=tmp_path, track="recorder")
    plain.run()
    tracked.run()
    assert difference(outcome(plain), outcome(tracked)) is None


# -- interruption -------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_same_run(recorders: list[Recorder], tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        trainer(run_dir=tmp_path, track="recorder").run(stop=stop)
    again = trainer(run_dir=tmp_path, track="recorder", seed=3)
    again.resume()
    again.run(until=5)
    again.run()
    assert [r.closed for r in recorders] == [1, 1, 1]
    assert len({r.run.id for r in recorders}) == 1
    assert [r.run.position for r in recorders] == [None, 16, 80]
    together = [point for r in recorders for point in r.points]
    assert [position for position, _ in together] == sorted(written(tmp_path))
    assert dict(together) == written(tmp_path)


def test_another_run_in_the_same_folder_is_another_run(recorders: list[Recorder], tmp_path: Path) -> None:
    for _ in range(2):  # the second was killed before its first checkpoint
        run = trainer(run_dir=tmp_path, track="recorder")
        run.resume()
        run.run(until=1)
        (tmp_path / "checkpoint.safetensors").unlink()
    first, second = (recorder.run for recorder in recorders)
    assert first.id != second.id
    assert second.position is None


def test_a_damaged_identity_is_no_reason_to_stop(recorders: list[Recorder], tmp_path: Path) -> None:
    trainer(run_dir=tmp_path, track="recorder").run(until=2)
    (tmp_path / "tracking.json").write_text("{")
    again = trainer(run_dir=tmp_path, track="recorder")
    again.resume()
    again.run(until=3)
    assert recorders[0].run.id != recorders[1].run.id
    assert len(recorders[1].points) == 1


def test_ctrl_c_in_the_loop_closes_the_trackers(recorders: list[Recorder], tmp_path: Path) -> None:
    import torch

    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def interrupted() -> None:
        with nl.observe(model, optimizer, tmp_path, track="recorder") as run:
            for _ in range(3):
                model(torch.ones(2)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
                run.step(1.5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    (only,) = recorders
    assert only.closed == 1
    assert dict(only.points) == written(tmp_path)
    assert [position for position, _ in only.points] == [1, 2, 3]


# -- failure ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["open", "log", "close"])
def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(
    call: str, recorders: list[Recorder], monkeypatch: Any, tmp_path: Path
) -> None:
    class Failing(Recorder):
        fails = call

    monkeypatch.setitem(BACKENDS, "failing", Failing)
    run = trainer(run_dir=tmp_path / "run", track="failing,recorder")
    with pytest.warns(RuntimeWarning, match="failing failed .OSError: the disk is full.*left out") as said:
        run.run()
    assert len(said) == 1
    whole = trainer(run_dir=tmp_path / "whole")
    whole.run()
    assert difference(outcome(whole), outcome(run)) is None
    (other,) = (recorder for recorder in recorders if type(recorder) is Recorder)
    assert dict(other.points) == written(tmp_path / "run")
    assert other.closed == 1


# -- the real ones ------------------------------------------------------------------------------------------


def interrupted_and_resumed(folder: Path, track: str) -> None:
    """A run that is killed two steps behind its checkpoint, and goes on from there."""
    first = trainer("consolidating", stream(checkpoint_every=4), folder, track=track, diagnose=True)
    first.run(until=4)
    checkpoint = folder / "checkpoint.safetensors"
    shutil.copy(checkpoint, folder.parent / "kept")
    first.run(until=6)
    shutil.copy(folder.parent / "kept", checkpoint)
    again = trainer("consolidating", stream(checkpoint_every=4), folder, track=track, diagnose=True)
    assert again.resume()
    assert again.step == 4
    again.run()


def without_times(points: Points) -> Points:
    return {
        at: {name: value for name, value in own.items() if name != "cpu_seconds"}
        for at, own in points.items()
    }


def test_tensorboard_has_what_the_metrics_have(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    interrupted_and_resumed(folder, "tensorboard")
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    found: Points = {}
    for name in events.Tags()["scalars"]:
        seen = [event.step for event in events.Scalars(name)]
        assert len(seen) == len(set(seen)), name
        for event in events.Scalars(name):
            found.setdefault(event.step, {})[name] = event.value
    expected = written(folder)
    assert found.keys() == expected.keys()
    for position, values in expected.items():
        assert found[position] == pytest.approx(values, rel=1e-6), position


#: A run whose loop forgets to close it, in a process of its own: what trackio needs is set before its import.
SCRIPT = """
    import socket, sys, threading
    import huggingface_hub, torch
    import nestlearn as nl

    def refuse(*arguments, **further):
        sys.exit("something was sent")

    socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
    huggingface_hub.whoami = refuse
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = nl.observe(model, optimizer, sys.argv[1], track="auto", tokens_per_step=4).__enter__()
    for step in range(20):
        model(torch.ones(2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        run.step(float(step))
    assert [type(t).__name__ for t in threading.enumerate() if not t.daemon] == ["_MainThread"]
"""


def test_trackio_keeps_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NESTLEARN_TRACK")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/space")
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://127.0.0.1:9/?write_token=made_up")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(SCRIPT), str(tmp_path / "runs" / "one")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = logged(tmp_path / "trackio", "nestlearn")
    assert [step for _, step, _ in rows] == [4 * (i + 1) for i in range(20)]
    assert [values["loss"] for *_, values in rows] == [float(i) for i in range(20)]


def logged(folder: Path, project: str) -> list[tuple[str, int, dict[str, Any]]]:
    """Run id, position and values of every row in trackio's database."""
    import sqlite3

    base = sqlite3.connect(folder / f"{project}.db")
    try:
        rows = base.execute("SELECT run_id, step, metrics FROM metrics ORDER BY id").fetchall()
    finally:
        base.close()
    return [(run, step, json.loads(values)) for run, step, values in rows]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of trackio's for this test."""
    import trackio.sqlite_storage

    monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    return tmp_path / "trackio"


def test_trackio_has_what_the_metrics_have(
    database: Path, tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    monkeypatch.setenv("TRACKIO_PROJECT", "resumed")
    interrupted_and_resumed(tmp_path / "run", "trackio")
    rows = logged(database, "resumed")
    assert len({run for run, _, _ in rows}) == 1
    assert without_times({step: values for _, step, values in rows}) == without_times(
        written(tmp_path / "run")
    )
    positions = [step for _, step, _ in rows]
    assert positions == sorted(set(positions))
    assert capfd.readouterr() == ("", "")
    assert not [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]


def test_what_is_evaluated_after_the_loop_is_there_too(database: Path, tmp_path: Path) -> None:
    import torch

    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nl.observe(model, optimizer, tmp_path / "run", track="trackio") as run:
        run.step(1.0)
    run.evaluate({"English": 0.5})
    run.folder.trackers.close()
    values = [(step, values) for _, step, values in logged(database, "nestlearn")]
    assert values == [(1, {"loss": 1.0}), (1, {"evaluation/loss/English": 0.5})]


def test_a_run_of_the_callers_own_goes_on(database: Path, tmp_path: Path) -> None:
    import trackio

    own = trackio.init(project="own", name="mine", auto_log_cpu=False, auto_log_gpu=False)
    try:
        trainer(run_dir=tmp_path / "run", track="trackio").run(until=2)
        trackio.log({"mine": 1.0})
    finally:
        trackio.finish()
    assert [values for *_, values in logged(database, "own")] == [{"mine": 1.0}]
    assert own.name == "mine"
    assert len(logged(database, "nestlearn")) == 3


class FakeWandb:
    """What is used of wandb 0.31, with its signatures."""

    def __init__(self) -> None:
        self.runs: list[Any] = []

    class Settings:
        def __init__(self, *, silent: bool, console: str) -> None:
            self.silent, self.console = silent, console

    def init(
        self, entity: Any = None, project: Any = None, dir: Any = None, id: Any = None, name: Any = None,
        *, reinit: Any = None, resume: Any = None, settings: Any = None,
    ) -> Any:  # fmt: skip
        assert Path(dir).is_dir()
        assert (resume, reinit, settings.silent, settings.console) == ("allow", "create_new", True, "off")

        class Run:
            def __init__(self) -> None:
                self.about, self.finished = (entity, project, id, name), False
                self.rows: list[Any] = []

            def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
                assert type(data) is dict
                self.rows.append((step, data))

            def finish(self, exit_code: int | None = None) -> None:
                self.finished = True

        self.runs.append(Run())
        return self.runs[-1]


def test_wandb_is_called_as_it_wants_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    folder = tmp_path / "runs" / "one"
    run = trainer(run_dir=folder, track="wandb")
    run.run(until=3)
    run.run()
    first, second = fake.runs
    identity = json.loads((folder / "tracking.json").read_text())["id"]
    assert first.about == second.about == (None, "mine", identity, "runs/one")
    assert dict(first.rows + second.rows) == written(folder)
    assert len(first.rows + second.rows) == len(written(folder))
    assert first.finished
    assert second.finished
