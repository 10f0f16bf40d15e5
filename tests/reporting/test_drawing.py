"""Drawing leaves no trace, and asks for matplotlib when it is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from nestlearn.reporting import load_results, render_report
from nestlearn.reporting.drawing import dodge
from nestlearn.reporting.readings import thin
from nestlearn.reporting.style import compact, join_words, run_styles, signed
from tests.reporting.builder import build_results


def test_importing_never_imports_matplotlib() -> None:
    code = "import sys, nestlearn, nestlearn.reporting; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_drawing_does_not_touch_global_settings() -> None:
    with matplotlib.rc_context({"font.size": 31, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        changed = render_report(build_results(evaluations=3))
        assert dict(matplotlib.rcParams) == before
    assert changed == render_report(build_results(evaluations=3))


def test_drawing_needs_no_pyplot() -> None:
    code = (
        "import sys; from nestlearn.reporting import render_report\n"
        "from tests.reporting.builder import build_results\n"
        "render_report(build_results(('en',), evaluations=2)); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_missing_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'nestlearn\[report\]'"):
        render_report(build_results(evaluations=3))
    with pytest.raises(FileNotFoundError):
        load_results(tmp_path / "none.json")


def test_labels_move_apart_and_keep_their_order() -> None:
    assert dodge([1.0, 5.0], 1, low=0) == [1.0, 5.0]
    assert dodge([2.0, 2.0], 1, low=0) == [1.5, 2.5]
    assert dodge([3.1, 3.0, 9.0, 2.9], 1, low=0) == pytest.approx([4.0, 3.0, 9.0, 2.0])
    assert dodge([0.1, 0.0], 1, low=0) == [1.0, 0.0]


def test_thinning_keeps_both_ends() -> None:
    assert thin([1, 2, 3], 3) == [1, 2, 3]
    shown = thin(list(range(1001)), 11)
    assert shown == list(range(0, 1001, 100))


def test_numbers_and_words() -> None:
    assert signed(0.104) == "+0.10"
    assert signed(-0.104) == "−0.10"
    assert signed(-0.001) == "0.00"
    assert [compact(value) for value in (0, 950, 250_000, 1_200_000)] == ["0", "950", "250k", "1.2M"]
    assert join_words(["a"]) == "a"
    assert join_words(["a", "b", "c"]) == "a, b and c"


def test_runs_differ_in_more_than_colour() -> None:
    styles = run_styles(["x", "transformer", "finetune", "nested"])
    assert list(styles) == ["nested", "finetune", "transformer", "x"]
    for part in ("variable", "dashes", "marker", "label"):
        assert len({getattr(style, part) for style in styles.values()}) == 4
    assert run_styles(["transformer"])["transformer"] == styles["transformer"]
    many = run_styles([f"run {i}" for i in range(20)])
    assert len(many) == 20
