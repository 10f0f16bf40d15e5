"""What the README says is so: its example runs, and its figures are those of results/."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 26
    script = tmp_path / "example.py"
    script.write_text(example, encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    printed = re.search(r"```text\n(context changed.*?)```", README, flags=re.DOTALL)
    assert printed is not None
    expected, got = (re.findall(r"[a-z:;]+|\d+", text) for text in (printed[1], done.stdout))
    assert got[:5] == expected[:5]  # the same words and the same token; losses may differ by platform
    old, new = (float(value) for value in re.findall(r"(?:old|new) (\d\.\d+)", done.stdout))
    assert old < 1.0, "the first context was forgotten"
    assert new < 1.3, "the second context was not learned"


def test_the_figures_are_those_of_the_results():
    from recipes.readme import END, START, rendered

    stated = README.split(START)[1].split(END)[0].strip()
    assert stated == rendered().strip(), "run: python -m recipes.readme"


def test_linked_files_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
