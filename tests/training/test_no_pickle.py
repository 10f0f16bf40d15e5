"""Nothing in the library reads or writes pickles."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import nestlearn

SOURCES = sorted(Path(nestlearn.__file__).parent.rglob("*.py"))
FORBIDDEN = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "torch.serialization",
}


def findings(source: str) -> list[str]:
    """Imports of picklers; torch.save; torch.load without weights_only=True; allow_pickle; eval and exec."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom) and node.module in FORBIDDEN:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if call == "torch.load" and keywords.get("weights_only") != "True":
                found.append("torch.load")
            if call in ("torch.save", "eval", "exec") or keywords.get("allow_pickle") == "True":
                found.append(call)
            if call.split(".")[0] in FORBIDDEN:
                found.append(call)
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.stem)
def test_no_pickle(file: Path) -> None:
    assert findings(file.read_text(encoding="utf-8")) == []


def test_the_search_finds_what_it_looks_for() -> None:
    assert SOURCES
    for bad in (
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "torch.save(x, f)",
    ):
        assert findings(bad), bad
    assert findings("import torch\ntorch.load(f, weights_only=True)") == []
