"""transformers knows Hope after ``import nestlearn``, in whatever order they are imported."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

from nestlearn.models import registration
from nestlearn.models.registration import AfterImport, register_with_transformers

SOURCE = Path(__file__).parents[2] / "src"
NAME = "a_package_of_this_test"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that can be imported and was not yet."""
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "__init__.py").write_text("ready = True\n")
    (tmp_path / NAME / "part.py").write_text(f"import {NAME}\nready = {NAME}.ready\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield tmp_path / NAME
    for name in [name for name in sys.modules if name.split(".")[0] == NAME]:
        del sys.modules[name]


def waiting() -> list[bool]:
    """Makes a hook; the list has one entry for every call, and what it is called for is whole by then."""
    calls: list[bool] = []
    sys.meta_path.insert(0, AfterImport(NAME, lambda: calls.append(importlib.import_module(NAME).ready)))
    return calls


def hooks() -> int:
    return sum(isinstance(finder, AfterImport) for finder in sys.meta_path)


@pytest.mark.parametrize("first", [NAME, f"{NAME}.part"])
def test_the_function_is_called_once_after_the_import(package: Path, first: str) -> None:
    before, calls = hooks(), waiting()
    assert hooks() == before + 1
    importlib.import_module(first)
    assert calls == [True]
    assert hooks() == before
    importlib.reload(sys.modules[NAME])
    assert calls == [True]


def test_the_module_is_as_without_the_hook(package: Path) -> None:
    plain = importlib.import_module(NAME)
    del sys.modules[NAME]
    waiting()
    module = importlib.import_module(NAME)
    assert (module.__file__, list(module.__path__)) == (plain.__file__, list(plain.__path__))
    assert type(module.__spec__.loader) is type(plain.__spec__.loader)
    assert module.__spec__.loader.get_source(NAME) == "ready = True\n"


def test_asking_does_not_use_the_hook_up(package: Path) -> None:
    calls = waiting()
    for _ in range(2):
        assert importlib.util.find_spec(NAME) is not None
    assert calls == []
    importlib.import_module(NAME)
    assert calls == [True]


def test_an_import_that_fails_is_waited_for_again(package: Path) -> None:
    calls = waiting()
    (package / "__init__.py").write_text("raise RuntimeError('half installed')\n")
    with pytest.raises(RuntimeError, match="half installed"):
        importlib.import_module(NAME)
    assert calls == []
    (package / "__init__.py").write_text("ready = True  # repaired\n")
    importlib.import_module(NAME)
    assert calls == [True]


def test_what_is_not_there_is_missed_as_ever(package: Path) -> None:
    before = hooks()
    sys.meta_path.insert(0, AfterImport(f"{NAME}_too", lambda: None))
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{NAME}_too'"):
        importlib.import_module(f"{NAME}_too")
    assert hooks() == before + 1


def test_a_hope_that_cannot_be_imported_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sys.modules["transformers"] is transformers
    monkeypatch.setattr(registration, "_HOPE", "nestlearn.models.no_such_module")
    with pytest.warns(RuntimeWarning, match="Hope is not registered with transformers: No module named"):
        register_with_transformers()


def run(code: str) -> list[str]:
    """Lines that a new process prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


#: What makes models without a word of nestlearn's.
MAKE = """
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
config = AutoConfig.for_model("nestlearn_hope", vocab_size=9, hidden_size=8, num_hidden_layers=1, num_heads=1)
for auto in (AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification):
    print(type(auto.from_config(config)).__name__)
"""
MADE = ["HopeModel", "HopeForCausalLM", "HopeForSequenceClassification"]
LOADED = "print([name for name in sys.modules if name in ('transformers', 'nestlearn.models.hope')])"


def test_nestlearn_first() -> None:
    # A part of transformers whose import takes the Auto classes along when it is half done.
    code = f"import sys, nestlearn\n{LOADED}\nimport transformers.modeling_utils\n{MAKE}"
    assert run(code) == ["[]", *MADE]


@pytest.mark.slow
@pytest.mark.parametrize("imports", ["import transformers, nestlearn", "import nestlearn.models.hope"])
def test_transformers_first(imports: str) -> None:
    assert run(f"{imports}\n{MAKE}") == MADE
