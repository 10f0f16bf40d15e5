"""``nestlearn export`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

import nestlearn as nl
from nestlearn.cli.main import run
from tests.helpers import difference, tiny_config, tiny_model


def nestlearn(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of a command."""
    monkeypatch.setattr("sys.argv", ["nestlearn", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        run()
    return int(stopped.value.code or 0)


def test_everything_comes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    model = tiny_model(seed=1).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    words = Tokenizer(models.WordLevel({"yes": 0, "no": 1}, unk_token="no"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "model")
    (tmp_path / "facts.json").write_text(json.dumps({"Tokens": 12}))
    out = tmp_path / "out"
    code = nestlearn(
        "export", tmp_path / "model", out, "--name", "me/it", "--licence", "mit", "--facts",
        tmp_path / "facts.json", monkeypatch=monkeypatch,
    )  # fmt: skip
    assert code == 0
    assert capsys.readouterr().out.strip() == str(out)
    loaded = nl.HopeForCausalLM.from_pretrained(out, dtype="auto")
    assert difference(dict(model.state_dict()), dict(loaded.state_dict())) is None
    assert AutoTokenizer.from_pretrained(out).encode("yes") == [0]
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "mit"
    assert "# me/it" in card.text
    assert "| Tokens | 12 |" in card.text
    assert (out / "hope.py").is_file()


@pytest.mark.parametrize("kind", [nl.HopeModel, nl.HopeForSequenceClassification])
def test_the_class_stays(kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind(tiny_config()).save_pretrained(tmp_path / "model")
    assert nestlearn("export", tmp_path / "model", tmp_path / "out", monkeypatch=monkeypatch) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [kind.__name__]


def test_bad_input_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    LlamaConfig().save_pretrained(tmp_path / "llama")
    other = json.loads((tmp_path / "model" / "config.json").read_text()) | {"architectures": ["HopeForSongs"]}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(other))
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "torn.json").write_text("{")
    out = tmp_path / "out"
    for arguments, said in (
        ((tmp_path / "nowhere", out), "there is no model in"),
        ((tmp_path / "llama", out), "holds a llama, which transformers loads everywhere"),
        ((tmp_path / "other", out), "holds a HopeForSongs; this version knows HopeModel"),
        ((tmp_path / "model", tmp_path / "llama"), "is there and not empty"),
        ((tmp_path / "model", out, "--facts", tmp_path / "list.json"), "holds a list: it needs an object"),
        ((tmp_path / "model", out, "--facts", tmp_path / "torn.json"), "torn.json is not JSON"),
    ):
        assert nestlearn("export", *arguments, monkeypatch=monkeypatch) == 2
        error = capsys.readouterr().err
        assert said in error.splitlines()[-1]
        assert error.splitlines()[-1].startswith("nestlearn: ")
    assert not out.exists()
