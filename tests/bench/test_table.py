"""The plan, the summary, the page and the command."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nestlearn.bench import cells
from nestlearn.bench.cells import Cell, Search, execute
from nestlearn.bench.classification.stream import ClassificationStream
from nestlearn.bench.figure import write_figure
from nestlearn.bench.page import glance, section, write_page
from nestlearn.bench.plan import Plan
from nestlearn.bench.store import StreamStores
from nestlearn.bench.summary import Row, figure, rows
from nestlearn.cli.main import app
from tests.bench.made import small, stream

__all__ = ["stream"]
METHODS = ["ordinary", "joint", "exact head"]


@pytest.fixture
def records(stream: ClassificationStream) -> dict[str, dict]:
    done: dict[str, dict] = {}
    plan = Plan([stream.name], METHODS)
    while missing := plan.wanted(done):
        done[missing[0].key] = execute(missing[0])
    return done


def test_searches_come_first_then_seed_by_seed(stream: ClassificationStream) -> None:
    plan = Plan([stream.name], METHODS)
    assert [str(work) for work in plan.wanted({})] == [f"small, {name}: search" for name in METHODS]
    found = {Search(stream.name, name).key: {"best": {"lr": 0.1}} for name in METHODS}
    wanted = plan.wanted(found)
    assert [(work.method, getattr(work, "seed", None)) for work in wanted] == [
        (name, seed) for seed in (0, 1) for name in METHODS
    ]
    assert all(isinstance(work, Cell) and work.settings == {"lr": 0.1} for work in wanted)
    done = {wanted[0].key: {}, **found}
    assert [work.key for work in plan.wanted(done)] == [work.key for work in wanted[1:]]
    assert len(Plan([stream.name], METHODS, seeds=1).wanted(found)) == 3


def test_means_and_intervals() -> None:
    """Student's t with two degrees of freedom, by hand."""
    own = figure([1.0, 2.0, 3.0])
    assert own.mean == 2.0
    assert own.half == pytest.approx(4.303 * 1.0 / math.sqrt(3))
    assert str(own) == "2.000 ± 2.484" and str(figure([0.5])) == "0.500"
    for values in ([], [0.0] * 11):
        with pytest.raises(ValueError, match="1 to 10 values"):
            figure(values)


def test_rows_are_means_over_seeds(stream: ClassificationStream, records: dict[str, dict]) -> None:
    found = {row.method: row for row in rows(stream.name, records)}
    assert list(found) == METHODS
    own = [
        records[Cell(stream.name, "ordinary", seed, found["ordinary"].settings).key]["accuracy"]
        for seed in (0, 1)
    ]
    row = found["ordinary"]
    assert row.seeds == 2 and row.figures["accuracy"].mean == pytest.approx(sum(own) / 2)
    joint = found["joint"].figures["accuracy"].mean
    assert row.figures["over_joint"].mean == pytest.approx(sum(own) / 2 / joint)
    assert "plasticity" not in found["exact head"].figures
    assert "dead" in row.figures and "dead" not in found["exact head"].figures


def test_the_page(stream: ClassificationStream, records: dict[str, dict], tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    write_page(records, page)
    text = page.read_text(encoding="utf-8")
    assert "## Clouds" in text and "| **exact head** | 2 |" in text
    assert (tmp_path / "docs" / "images" / "bench-small.svg").is_file()
    accuracies = [float(found) for found in re.findall(r"^\| \S.* \| 2 \| (0\.\d{3})", text, re.MULTILINE)]
    assert accuracies == sorted(accuracies, reverse=True) and len(accuracies) == 3
    assert "lr of 0.0001, 0.0003, 0.001, 0.003; 3 trials" in text
    before = page.read_bytes()
    write_page(records, page)
    assert page.read_bytes() == before


def test_the_page_begins_with_the_best_of_each_kind(stream: ClassificationStream) -> None:
    def row(method: str, accuracy: float) -> Row:
        own = {"accuracy": figure([accuracy]), "over_joint": figure([accuracy / 0.8])}
        return Row(method, 1, {}, own)

    figures = {"ordinary": 0.2, "joint": 0.8, "exact head": 0.6, "levels": 0.7, "si": 0.3, "ewc": 0.4,
               "replay, 1 %": 0.5, "fresh": 0.9}  # fmt: skip
    own = [row(method, accuracy) for method, accuracy in figures.items()]
    best = "0.200 | 0.400 (ewc) | 0.500 (replay, 1 %) | 0.700 (levels) | 0.800 | 0.875"
    expected = f"| [small](#clouds) | {best} |"
    assert glance({"small": own}).splitlines()[-1] == expected
    assert glance({"small": own[:1]}).splitlines()[-1] == "| [small](#clouds) | 0.200 |  |  |  |  |  |"


def test_the_picture_does_not_change_by_itself(
    stream: ClassificationStream, records: dict[str, dict], tmp_path: Path
) -> None:
    for name in ("a.svg", "b.svg"):
        write_figure(rows(stream.name, records), stream, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_what_is_left_out_is_named_with_its_reason(
    stream: ClassificationStream, records: dict[str, dict]
) -> None:
    own = small(left_out={"si": "no time", "lwf": "no time", "owm": "no use"})
    text = section(own, rows(stream.name, records), [])
    assert "Left out: si, lwf (no time); owm (no use)." in text
    assert "si" not in own.entries and "ordinary" in own.entries


def test_many_tasks_are_a_line(stream: ClassificationStream, tmp_path: Path) -> None:
    own = Row("ordinary", 1, {}, {"accuracy": figure([0.5])}, tuple(0.9 - 0.01 * i for i in range(30)))
    write_figure([own], stream, tmp_path / "line.svg")
    write_figure([replace(own, by_task=())], stream, tmp_path / "mark.svg")
    assert (tmp_path / "line.svg").read_bytes() != (tmp_path / "mark.svg").read_bytes()


def test_how_well_tasks_were_learned_is_a_mean_over_seeds(stream: ClassificationStream) -> None:
    search = Search(stream.name, "ordinary")
    records = {search.key: {"best": {"lr": 0.1}}}
    for seed, by_task in ((0, [0.2, 0.4]), (1, [0.4, 0.8])):
        cell = Cell(stream.name, "ordinary", seed, {"lr": 0.1})
        records[cell.key] = {"accuracy": 0.5, "by_task": by_task}
    (own,) = rows(stream.name, records)
    assert own.by_task == pytest.approx((0.3, 0.6))


def invoke(*args: str, folder: Path) -> tuple[int, str]:
    out = CliRunner().invoke(
        app,
        ["bench", "continual", *args, "--workers", "0", "--result", str(folder / "r"),
         "--page", str(folder / "p.md")],
    )  # fmt: skip
    if out.exception is not None and not isinstance(out.exception, SystemExit):
        raise out.exception
    return out.exit_code, out.output


def test_the_command_does_what_is_missing(
    stream: ClassificationStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("--stream", "small", "--method", "ordinary; joint", "--seeds", "1")
    code, text = invoke(*args, folder=tmp_path)
    assert code == 0 and "Clouds" in text and "ordinary" in text
    held = json.loads((tmp_path / "r" / "small.json").read_text(encoding="utf-8"))
    assert len(held["runs"]) == 4  # two searches, two cells
    assert (tmp_path / "p.md").is_file()

    def never(work: object) -> None:
        raise AssertionError(work)

    monkeypatch.setattr("nestlearn.cli.bench.execute", never)
    assert invoke(*args, folder=tmp_path)[0] == 0
    assert len(StreamStores(tmp_path / "r").records) == 4


def test_the_command_refuses_unknown_names(stream: ClassificationStream, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no stream 'smol': there are small"):
        invoke("--stream", "smol", folder=tmp_path)
    with pytest.raises(ValueError, match="no method 'ours'"):
        invoke("--method", "ours", folder=tmp_path)
    assert not (tmp_path / "r").exists()


def test_a_failed_cell_is_named_and_the_others_done(
    stream: ClassificationStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(work: Search | Cell) -> dict:
        if work.method == "ordinary":
            raise RuntimeError("no luck")
        return execute(work)

    monkeypatch.setattr("nestlearn.cli.bench.execute", failing)
    code, text = invoke("--stream", "small", "--method", "ordinary;joint", "--seeds", "1", folder=tmp_path)
    assert code == 1
    assert "small, ordinary: search: RuntimeError: no luck" in text
    assert len(StreamStores(tmp_path / "r").records) == 2


def test_names_are_listed(stream: ClassificationStream, tmp_path: Path) -> None:
    code, text = invoke("--list", folder=tmp_path)
    assert code == 0 and "small: Clouds" in text and "  ordinary; joint; exact head" in text


def test_without_optuna_the_extra_is_named(
    stream: ClassificationStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError, match=r"nestlearn\[bench\]"):
        cells.search(Search(stream.name, "ordinary"))


def test_every_stream_has_a_file_of_its_own(tmp_path: Path) -> None:
    stores = StreamStores(tmp_path / "made")
    assert not (tmp_path / "made").exists()
    one, two = Search("split", "ordinary"), Cell("permuted", "ordinary", 0, {"lr": 0.1})
    stores.add(one, {"best": {}})
    stores.add(two, {"accuracy": 0.5})
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"split.json", "permuted.json"}
    assert StreamStores(tmp_path / "made").records == {one.key: {"best": {}}, two.key: {"accuracy": 0.5}}
    (tmp_path / "file").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="is not a folder"):
        StreamStores(tmp_path / "file")
