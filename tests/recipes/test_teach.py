"""The comparison of ways of learning on, with a model of a few thousand parameters and invented text."""

from __future__ import annotations

import json
import random

import pytest
import typer
from recipes.teaching import base, cells, material
from recipes.teaching.plan import METHODS, Plan
from recipes.teaching.summary import forgotten_at, markdown, points, summarize
from typer.testing import CliRunner

from nestlearn.streams.domains import Domain
from recipes import teach

WORDS = {
    "technical": ["menu", "click", "cell", "sheet"],
    "code": ["def", "return", "self", "import"],
    "literature": ["thou", "hath", "unto", "lord"],
    "dictionary": ["noun", "verb", "adjective", "meaning"],
    "legal": ["warranty", "licence", "hereby", "liable"],
    "french": ["cliquez", "feuille", "cellule", "sur"],
}


def invented(name: str) -> Domain:
    draw = random.Random(name)
    texts = [" ".join(draw.choice(WORDS[name]) for _ in range(40)) for _ in range(60)]
    splits = {"train": tuple(texts[:40]), "validation": tuple(texts[40:50]), "test": tuple(texts[50:])}
    return Domain(name, splits, name)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(material, "load_domain", invented)
    monkeypatch.setattr(material, "HELD_WINDOWS", 2)
    monkeypatch.setattr(material, "VOCABULARY", 320)
    monkeypatch.setattr(base, "VOCABULARY", 320)
    shape = {**base.SHAPE, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    monkeypatch.setattr(base, "SHAPE", shape)
    for module in (material, base, cells):
        monkeypatch.setattr(module, "CONTEXT", 16)
    monkeypatch.setattr(base.train, "__defaults__", (6,))
    for name, value in {"STEPS": 4, "EVERY": 2, "BATCH": 2, "STEP": 32, "CALIBRATION": 64}.items():
        monkeypatch.setattr(cells, name, value)
    for cached in (material.tokenizer, material.held):
        cached.cache_clear()
    yield
    for cached in (material.tokenizer, material.held):
        cached.cache_clear()


def invoke(folder, *arguments: str):
    app = typer.Typer()
    app.command()(teach.main)
    places = ["--work", f"{folder}/work", "--result", f"{folder}/r/teach.json", "--figure", f"{folder}/t.svg"]
    return CliRunner().invoke(app, ["--workers", "0", "--seeds", "1", *places, *arguments])


def test_every_method_learns_and_the_command_goes_on(tmp_path, small):
    first = invoke(tmp_path, "--methods", "finetune;levels")
    assert first.exit_code == 0, first.output
    held = json.loads((tmp_path / "r" / "teach.json").read_text())
    assert len(held["runs"]) == 1 + 3 + 3
    whole = invoke(tmp_path)
    assert whole.exit_code == 0, whole.output
    content = json.loads((tmp_path / "r" / "teach.json").read_text())
    assert all(content["runs"][key] == record for key, record in held["runs"].items())
    assert {row["method"] for row in content["summary"]["cells"]} == set(METHODS)
    for record in content["runs"].values():
        if "curve" in record:
            assert [(p["stage"], p["tokens"]) for p in record["curve"]] == [
                (0, 0), (1, 64), (1, 128), (2, 192), (2, 256),
            ]  # fmt: skip
            assert record["curve"][0]["bits"] == held["runs"][next(iter(held["runs"]))]["bits"]["test"]
    assert (tmp_path / "t.svg").read_text().startswith("<?xml")
    again = invoke(tmp_path)
    assert json.loads((tmp_path / "r" / "teach.json").read_text()) == content
    assert again.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--methods", "magic"], "no method 'magic'"), (["--split", "train"], "Must be test or validation")],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, words):
    result = invoke(tmp_path, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert list(tmp_path.iterdir()) == []


def record(*ends: tuple[float, float]) -> dict:
    """Of a run whose new domains fell and whose old ones rose by so much, after each evaluation."""
    curve = [{"stage": 0, "tokens": 0, "bits": dict.fromkeys(WORDS, 3.0)}]
    for stage, (fall, rise) in zip((1, 2, 2), ends, strict=True):
        bits = {n: 3.0 - fall if n in material.NEW else 3.0 + rise for n in WORDS}
        curve.append({"stage": stage, "tokens": 0, "bits": bits})
    return {"curve": curve, "cpu_seconds": 1.0}


def test_what_was_forgotten_at_the_same_learning():
    fast, slow = record((0.5, 0.4), (1.0, 1.0), (1.5, 2.0)), record((0.2, 0.1), (0.4, 0.2), (0.8, 0.4))
    assert points(fast) == [pytest.approx(p) for p in [(0.5, 0.4), (1.0, 1.0), (1.5, 2.0)]]
    curves = [points(fast), points(slow)]
    assert forgotten_at(curves, 0.6) == pytest.approx(0.3)
    assert forgotten_at(curves, 1.25) == pytest.approx(1.5)
    assert forgotten_at(curves, 0.1) == pytest.approx(0.1)
    assert forgotten_at(curves, 2.0) is None


def test_ratios_are_to_fine_tuning_at_what_all_have_learned(tmp_path):
    plan = Plan(["finetune", "levels"], 1, "test", tmp_path)
    records = {
        run.key: record((0.5, 0.5), (1.0, 1.0), (2.0, 2.0))
        if run.method == "finetune"
        else record((0.5, 0.1), (0.8, 0.2), (1.0, 0.25))
        for run in plan.runs(0)
    }
    (matched,) = summarize(plan, records)["matched"]
    assert matched["most_learned"] == pytest.approx({"finetune": 2.0, "levels": 1.0})
    whole = matched["levels"][-1]
    assert whole["learned"] == pytest.approx(1.0)
    assert whole["over_finetune"] == pytest.approx({"finetune": 1.0, "levels": 0.25})


def test_the_table_says_what_was_not_learned(tmp_path):
    plan = Plan(["finetune", "levels", "lora"], 2, "test", tmp_path)
    ends = {
        "finetune": record((0.5, 0.5), (1.0, 1.0), (2.0, 2.0)),
        "levels": record((0.5, 0.1), (0.8, 0.2), (1.0, 0.25)),
        "lora": record((0.1, 0.1), (0.2, 0.2), (0.6, 0.3)),
    }
    records = {run.key: ends[run.method] for seed in (0, 1) for run in plan.runs(seed)}
    text = markdown(summarize(plan, records))
    assert "| learned, bits per byte | 0.50 | 0.75 | 1.00 |" in text
    assert "| levels | 0.20 (0.20) | 0.24 (0.24) | 0.25 (0.25) |" in text
    assert "| lora | 0.55 (0.55) | not learned | not learned |" in text
    assert "| lora | lr 0.0001 | 2 | 0.600 | +0.300 |" in text


def test_cells_wait_for_their_base(tmp_path):
    plan = Plan(["finetune"], 2, "test", tmp_path)
    assert plan.wanted({}) == [plan.base(0), plan.base(1)]
    known = {plan.base(0).key: {}}
    assert plan.wanted(known) == [plan.base(0), plan.base(1)]
    base.folder(tmp_path, 0).mkdir()
    (base.folder(tmp_path, 0) / "config.json").touch()
    assert plan.wanted(known) == [*plan.runs(0), plan.base(1)]
    assert len({run.key for run in (*plan.runs(0), *plan.runs(1))}) == 6
