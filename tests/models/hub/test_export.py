"""A model with its source loads where this library is missing, and computes the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.dynamic_module_utils import get_relative_imports

import nestlearn as nl
from nestlearn.models import hub
from nestlearn.models.hope import AUTO_CLASSES
from tests.helpers import random_tokens, tiny_config, tiny_model

#: What runs in a process that cannot import nestlearn: ``argv`` is a folder of exports.
ELSEWHERE = """
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

class Missing(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == "nestlearn":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)

sys.meta_path.insert(0, Missing())
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

torch.set_num_threads(1)
folder, found = Path(sys.argv[1]), {}
given = load_file(folder / "given.safetensors")
tokens, more = given["tokens"], given["more"]
with torch.no_grad():
    for place in sorted(folder.glob("model_?")):
        model = AutoModelForCausalLM.from_pretrained(place, trust_remote_code=True)
        assert isinstance(model.config, model.config_class)
        out = model(tokens, use_cache=True)
        cache = out.past_key_values
        found[f"{place.name} logits"] = out.logits
        found[f"{place.name} generated"] = model.generate(tokens, max_new_tokens=6, do_sample=False)
        found[f"{place.name} next"] = model(more, past_key_values=cache).logits
        session = type(cache).load(folder / f"{place.name}.session")
        found[f"{place.name} session"] = model(more, past_key_values=session).logits
        session.save(folder / f"{place.name}.back")
        found[f"{place.name} later"] = model(more, past_key_values=session).logits
    model.save_pretrained(folder / "again")
    again = AutoModelForCausalLM.from_pretrained(folder / "again", trust_remote_code=True)
    found["again"] = again(tokens).logits
    body = AutoModel.from_pretrained(folder / "again", trust_remote_code=True)
    found["body"] = body(tokens).last_hidden_state
    labels = AutoModelForSequenceClassification.from_pretrained(folder / "labels", trust_remote_code=True)
    found["labels"] = labels(tokens).logits
    config = AutoConfig.from_pretrained(folder / "again", trust_remote_code=True)
    found["preset"] = torch.tensor([len(config.preset("paper").cms_periods)])
assert not [name for name in sys.modules if name.split(".")[0] == "nestlearn"]
save_file({name: value.contiguous() for name, value in found.items()}, folder / "found.safetensors")
"""

MODELS: list[dict[str, Any]] = [
    {"mixer": ("self_modifying", "titans_mac"), "num_hidden_layers": 2, "persistent_tokens": 2},
    {"mixer": ("attention", "ttt_mlp"), "num_hidden_layers": 2, "tie_word_embeddings": False},
    {"memory": "matrix", "cms_variant": "independent"},
]


def classifier() -> Any:
    torch.manual_seed(3)
    return nl.HopeForSequenceClassification(tiny_config(num_labels=3)).eval()


def expected(folder: Path) -> dict[str, Tensor]:
    """Export models, and what they compute here."""
    tokens, more = random_tokens(2, 13), random_tokens(2, 3, seed=1)
    found: dict[str, Tensor] = {}
    for number, changes in enumerate(MODELS):
        model, name = tiny_model(seed=number, **changes), f"model_{number}"
        hub.export(model, folder / name, max_shard_size="8KB")
        out = model(tokens, use_cache=True)
        out.past_key_values.save(folder / f"{name}.session")
        found[f"{name} logits"] = out.logits
        found[f"{name} generated"] = model.generate(tokens, max_new_tokens=6, do_sample=False)
        found[f"{name} next"] = model(more, past_key_values=out.past_key_values).logits
        found[f"{name} session"] = found[f"{name} next"]
        found[f"{name} later"] = model(more, past_key_values=out.past_key_values).logits
    hub.export(classifier(), folder / "labels")
    found |= {"again": model(tokens).logits, "body": model.model(tokens).last_hidden_state}
    found |= {"labels": classifier()(tokens).logits, "preset": torch.tensor([3])}
    save_file({"tokens": tokens, "more": more}, folder / "given.safetensors")
    return found


@torch.no_grad()
def test_it_computes_the_same_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NESTLEARN_NATIVE", "0")
    wanted = expected(tmp_path)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "found.safetensors")
    assert set(found) == set(wanted)
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    for number, changes in enumerate(MODELS):
        session = nl.HopeCache.load(tmp_path / f"model_{number}.back")
        home = tiny_model(seed=number, **changes)(random_tokens(2, 3, seed=1), past_key_values=session)
        assert torch.equal(home.logits, wanted[f"model_{number} later"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return hub.export(tiny_model(seed=1), tmp_path / "new" / "model", licence="apache-2.0", name="me/model")


def test_the_folder_has_everything_and_nothing_else(folder: Path) -> None:
    files = {file.name for file in folder.iterdir()}
    code = {name for name in files if name.endswith(".py")}
    assert files - code == {"config.json", "generation_config.json", "model.safetensors", "README.md"}
    assert {f"{module}.py" for module in get_relative_imports(folder / "hope.py")} | {"hope.py"} == code
    assert list(folder.parent.iterdir()) == [folder]
    classes = json.loads((folder / "config.json").read_text())["auto_map"]
    assert set(classes) == {"AutoConfig", *(auto.__name__ for auto in AUTO_CLASSES)}


def test_with_the_library_it_loads_as_any_other(folder: Path) -> None:
    for trusted in (None, False):
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trusted)
        assert type(model) is nl.HopeForCausalLM
        assert torch.equal(model(random_tokens(2, 9)).logits, tiny_model(seed=1)(random_tokens(2, 9)).logits)


def test_the_model_stays_as_it_was(tmp_path: Path) -> None:
    model = tiny_model()
    hub.export(model, tmp_path / "model")
    assert not hasattr(model.config, "auto_map")


def test_an_empty_folder_is_filled_and_another_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    hub.export(tiny_model(), tmp_path / "model")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "model").iterdir()}
    with pytest.raises(ValueError, match="is there and not empty: export into a new folder"):
        hub.export(tiny_model(), tmp_path / "model")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "model").iterdir()} == before


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Tokenizer:
        def save_pretrained(self, folder: Path) -> None:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        hub.export(tiny_model(), tmp_path / "model", tokenizer=Tokenizer())
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_hope_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Linear is no Hope"):
        hub.export(nn.Linear(2, 2), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
