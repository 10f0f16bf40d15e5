"""What the README says is so: its example runs, and its figures are those of results/."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def losses(example: str, script: Path) -> tuple[str, float, float]:
    """What the example prints, and its two losses."""
    script.write_text(example, encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    old, new = (float(value) for value in re.findall(r"(?:old|new) (\d\.\d+)", done.stdout))
    return done.stdout, old, new


def test_the_example_runs_and_keeps_the_first_context(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 26
    printed, old, new = losses(example, tmp_path / "example.py")
    stated = re.search(r"```text\n(context changed.*?;)", README)
    assert stated is not None
    assert stated[1] in printed
    ordinary = example.replace(", consolidate=True", "").replace(", surprise=loss", "")
    _, forgotten, _ = losses(ordinary, tmp_path / "ordinary.py")
    assert old < 0.9 < forgotten
    assert new < 1.0


def test_the_figures_are_those_of_the_results():
    from recipes.readme import END, START, rendered

    stated = README.split(START)[1].split(END)[0].strip()
    assert stated == rendered().strip(), "run: python -m recipes.readme"


def test_the_figures_in_docs_are_those_of_the_results():
    from recipes.figures import pages

    for page, text in pages().items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name}: run python -m recipes.figures"


def test_linked_files_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
