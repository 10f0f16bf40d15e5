"""What cannot be drawn is refused with its place."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from nestlearn.reporting.system import check_run, check_system
from tests.reporting.system.builder import hope, large, run


def changed(document: dict[str, Any], *path: Any, to: Any) -> dict[str, Any]:
    document = copy.deepcopy(document)
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return document


def test_what_is_well_is_returned():
    for document in (hope(), large()):
        assert check_system(document) is document
    document = run()
    assert check_run(document) is document


def test_keys_that_are_not_known_are_passed_over():
    check_system(changed(hope(), "components", 0, "needs", to=["slow"]))
    check_run(changed(run(), "machine", to="a laptop"))


def test_diagnostics_and_alarms_may_be_missing():
    document = run()
    del document["diagnostics"], document["alarms"]
    check_run(document)


def test_a_run_that_diverged_can_be_drawn():
    check_run(changed(run(), "loss", to=[[1, 2.0], [2, float("nan")], [3, float("inf")]]))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], "nestlearn-system-2", "system.format is 'nestlearn-system-2'"),
        (["components"], [], "nothing to draw"),
        (["components", 1, "name"], "attention", r"components\[1\].name is 'attention', as another"),
        (["components", 2, "bytes"], "many", r"components\[2\].bytes is 'many'"),
        (["components", 2, "parameters"], -1, r"components\[2\].parameters is -1"),
        (["components", 2, "unit"], "day", r"components\[2\].unit is 'day'"),
        (["components", 0, "where"], [1], r"components\[0\].where\[0\] is 1, not a string"),
        (["levels", 0, "components"], [], "lacks component 'attention'"),
        (["levels", 0, "components"], ["ghost"], r"levels\[0\].components has 'ghost'"),
        (["levels", 0, "components"], ["attention", "slow"], r"levels\[5\].components has 'slow'.*already"),
        (["levels", 0], "fast", r"levels\[0\] is 'fast', not an object"),
        (["edges", 0, "target"], "ghost", r"edges\[0\].target is 'ghost'"),
        (["edges", 0, "kind"], "magic", r"edges\[0\].kind is 'magic'; known are parametric"),
        (["unplaced", 0], {"name": "x"}, r"unplaced\[0\] has no key 'why'"),
        (["notes"], "none", "system.notes is 'none', not list"),
        (["tokens_per_step"], True, "system.tokens_per_step is True"),
    ],
)
def test_a_system_that_cannot_be_drawn(path: list[Any], value: Any, message: str):
    with pytest.raises(ValueError, match=message):
        check_system(changed(hope(), *path, to=value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], None, "run.format is None"),
        (["end"], float("nan"), "run.end is nan"),
        (["finished"], "yes", "run.finished is 'yes', not bool"),
        (["loss"], [[1, 2], [2]], r"run.loss\[1\] is \[2\], not a pair"),
        (["loss"], [[1, "low"]], r"run.loss\[0\] is \[1, 'low'\]"),
        (["loss"], [[5, 1.0], [4, 1.0]], r"run.loss\[1\] is 4, before"),
        (["levels", 1, "name"], "fast", r"levels\[1\].name is 'fast', as another"),
        (["levels", 0, "updates"], [3, 2], r"levels\[0\].updates\[1\] is 2, before"),
        (["levels", 0, "updates"], None, r"levels\[0\].updates is None, not a list"),
        (["tasks", 0, "points"], [[0, None]], r"tasks\[0\].points\[0\]"),
        (["diagnostics", "fast"], [], r"diagnostics\['fast'\] is not an object"),
        (["diagnostics", "fast", "drift"], 3, r"diagnostics\['fast'\]\['drift'\] is 3"),
        (["alarms", 0, "tokens"], None, r"alarms\[0\].tokens is None"),
        (["stages", 0], {"name": "x", "start": 0}, r"stages\[0\].end is None"),
    ],
)
def test_a_run_that_cannot_be_drawn(path: list[Any], value: Any, message: str):
    with pytest.raises(ValueError, match=message):
        check_run(changed(run(), *path, to=value))


@pytest.mark.parametrize("document", [None, [], "text"])
def test_what_is_no_object(document: Any):
    with pytest.raises(ValueError, match="not a JSON object"):
        check_system(document)
