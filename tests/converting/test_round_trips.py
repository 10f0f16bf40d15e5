"""Every form of a model leads to every other, and back, without a changed bit."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import nestlearn as nl
from nestlearn.continual.methods import METHODS, FineTuning
from nestlearn.converting import kind_of
from nestlearn.models.pretrained import load_pretrained
from nestlearn.optim import Nested
from tests.continual.small import learner, texts
from tests.converting.models import bits, companions, hard, loaded, saved
from tests.helpers import difference, random_tokens, tiny_model
from tests.models.variants import FEW, over
from tests.retrofitting.small import pretrained
from tests.training.streams import outcome, stream, trainer

#: How a model is written in each form: kind, file name, and options.
FORMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "folder": ("folder", "model", {}),
    "shards": ("folder", "model", {"max_shard_size": "8KB"}),
    "file": ("file", "model.safetensors", {}),
    "checkpoint": ("checkpoint", "checkpoint.safetensors", {}),
}
MODELS: dict[str, Callable[[], Any]] = {
    "tied": hard,
    "untied": lambda: hard(tie_word_embeddings=False),
    "bfloat16": lambda: hard(torch.bfloat16),
    "llama, tied": lambda: pretrained("llama, tied"),
    "gpt2, float16": lambda: pretrained("gpt2", torch.float16),
}


def put(source: Path, into: Path, form: str) -> Path:
    kind, name, options = FORMS[form]
    into.mkdir()
    done = nl.convert(source, into / name, to=kind, **options)
    assert (done.target, kind_of(into / name)) == (kind, kind)
    return into / name


#: Of the first model all pairs of forms; of the others a round through them.
WAYS = [("tied", *pair) for pair in itertools.permutations(FORMS, 2)] + [
    (name, *pair)
    for name in list(MODELS)[1:]
    for pair in zip(FORMS, [*list(FORMS)[1:], "folder"], strict=True)
]


@pytest.mark.parametrize(("name", "first", "second"), WAYS)
def test_through_two_forms_and_back(name: str, first: str, second: str, tmp_path: Path) -> None:
    model = saved(tmp_path / "start", MODELS[name]())
    there = put(put(tmp_path / "start", tmp_path / "1", first), tmp_path / "2", second)
    if second == "shards":
        assert len(list(there.glob("model-*.safetensors"))) > 1
    else:
        nl.convert(there, tmp_path / "end")
        there = tmp_path / "end"
    assert bits(loaded(there)) == bits(model)
    assert companions(there) == companions(tmp_path / "start")
    assert json.loads((there / "config.json").read_text()) == json.loads(
        (tmp_path / "start" / "config.json").read_text()
    )


@over(FEW)
def test_every_mixer(changes: dict[str, Any], tmp_path: Path) -> None:
    model = saved(tmp_path / "start", hard(**changes))
    last = put(put(tmp_path / "start", tmp_path / "1", "file"), tmp_path / "2", "checkpoint")
    nl.convert(last, tmp_path / "end")
    assert bits(loaded(tmp_path / "end")) == bits(model)


def test_what_transformers_wrote_in_shards(tmp_path: Path) -> None:
    model = saved(tmp_path / "start", hard(), max_shard_size="8KB")
    assert len(list((tmp_path / "start").glob("model-*.safetensors"))) > 1
    done = nl.convert(tmp_path / "start", tmp_path / "one.safetensors")
    assert (done.source, done.target) == ("folder", "file")
    assert done.tensors == len(bits(model)) - 1  # of the tied pair, one
    assert done.bytes == sum(p.numel() * p.element_size() for p in model.parameters())
    nl.convert(tmp_path / "one.safetensors", tmp_path / "end")
    assert bits(loaded(tmp_path / "end")) == bits(model)


def test_a_single_file_is_a_file_of_weights_for_transformers(tmp_path: Path) -> None:
    model = saved(tmp_path / "start")
    nl.convert(tmp_path / "start", tmp_path / "one.safetensors")
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "one.safetensors", tmp_path / "other" / "model.safetensors")
    shutil.copy(tmp_path / "start" / "config.json", tmp_path / "other")
    assert bits(loaded(tmp_path / "other")) == bits(model)


@pytest.mark.parametrize("form", FORMS)
def test_files_are_as_readable_as_others(form: str, tmp_path: Path) -> None:
    saved(tmp_path / "start")
    (tmp_path / "ordinary").touch()
    target = put(tmp_path / "start", tmp_path / "1", form)
    files = [target] if target.is_file() else list(target.iterdir())
    assert {file.stat().st_mode for file in files} == {(tmp_path / "ordinary").stat().st_mode}


def test_the_tokenizer_goes_along(tmp_path: Path) -> None:
    saved(tmp_path / "start")
    binary = bytes(range(256))
    (tmp_path / "start" / "tokenizer.model").write_bytes(binary)
    (tmp_path / "start" / "optimizer.pt").write_bytes(b"no")
    last = put(put(tmp_path / "start", tmp_path / "1", "file"), tmp_path / "2", "checkpoint")
    nl.convert(last, tmp_path / "end")
    assert (tmp_path / "end" / "tokenizer.model").read_bytes() == binary
    assert not (tmp_path / "end" / "optimizer.pt").exists()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "end")
    assert tokenizer.decode(tokenizer("a red tree")["input_ids"]) == "a red tree"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("to", ["folder", "file", "checkpoint"])
def test_another_dtype(dtype: str, to: str, tmp_path: Path) -> None:
    model = saved(tmp_path / "start", hard())
    kind, name, _ = FORMS[to]
    nl.convert(tmp_path / "start", tmp_path / "1" / name, to=kind, dtype=dtype)
    end = tmp_path / "1" / name
    if to != "folder":
        nl.convert(end, tmp_path / "end")
        end = tmp_path / "end"
    assert bits(loaded(end)) == bits(model.to(getattr(torch, dtype)))
    assert loaded(end).dtype is getattr(torch, dtype)


# -- training checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "nested", "hope"])
def test_a_run_becomes_a_folder(kind: str, tmp_path: Path) -> None:
    run = trainer(kind, run_dir=tmp_path / "run")
    run.run(until=5)
    run.save()
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    done = nl.convert(tmp_path / "run", tmp_path / "model")
    assert done.source == "checkpoint"
    assert "left out: the optimizer" in str(done)
    model = loaded(tmp_path / "model")
    assert type(model) is nl.HopeForCausalLM
    assert bits(model) == bits(run.model)
    tokens = random_tokens(2, 9) % 20
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, run.model.eval()(tokens).logits)
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before


def test_a_run_in_bfloat16_says_so(tmp_path: Path) -> None:
    run = trainer(run_dir=tmp_path / "run")
    run.model.to(torch.bfloat16)
    run.save()
    nl.convert(tmp_path / "run", tmp_path / "model")
    assert bits(loaded(tmp_path / "model")) == bits(run.model)


@pytest.mark.parametrize("kind", ["plain", "nested", "consolidating"])
def test_a_run_starts_from_the_weights_of_another(kind: str, tmp_path: Path) -> None:
    config = stream(7, 5)
    first = trainer(kind, config, tmp_path / "first")
    first.run(until=5)
    first.save()
    nl.convert(tmp_path / "first", tmp_path / "model")
    nl.convert(tmp_path / "model", tmp_path / "second" / "checkpoint.safetensors", to="checkpoint")
    second = trainer(kind, config, tmp_path / "second", seed=5, diagnose=True)
    assert second.resume()
    assert (second.step, bits(second.model)) == (0, bits(first.model))
    second.run()

    expected = trainer(kind, config, seed=5)
    expected.model.load_state_dict(first.model.state_dict())
    if kind == "nested":  # as if the model had been so when its optimizer was made
        expected.optimizer = Nested(expected.optimizer.levels, expected.model, variant="nested")
    expected.run()
    assert difference(outcome(expected), outcome(second)) is None

    again = trainer(kind, config, tmp_path / "second")
    assert again.resume()
    assert again.step == config.total_steps


# -- memories -----------------------------------------------------------------------------------------------


def taught(folder: Path, model: Any, **settings: Any) -> nl.Learner:
    """A learner that has learned on a model in a folder, and its memory file."""
    saved(folder / "base", model)
    base, _ = load_pretrained(folder / "base")
    teacher = learner(base, **settings)
    teacher.learn(texts(9 if settings.get("levels", ()) is None else 3))  # until every level was due
    teacher.save(folder / "memory.safetensors")
    return teacher


def check_memory(teacher: nl.Learner, folder: Path) -> None:
    """Into the base, out of it as a difference, and in again."""
    base, memory = folder / "base", folder / "memory.safetensors"
    assert kind_of(memory) == "memory"
    nl.convert(memory, folder / "model", base=base)
    end = loaded(folder / "model")
    assert bits(end) == bits(teacher.model)
    assert bits(end) != bits(teacher.base)
    assert companions(folder / "model") == companions(base)

    done = nl.convert(folder / "model", folder / "again.safetensors", to="memory", base=base)
    own, tokenizer = load_pretrained(base)
    again = nl.Learner.load(own, folder / "again.safetensors", tokenizer)
    assert type(again.method) is FineTuning
    assert bits(again.model) == bits(teacher.model)
    assert done.bytes == sum(t.numel() * t.element_size() for t in again.method.learned().values())
    nl.convert(folder / "again.safetensors", folder / "one.safetensors", base=base)
    nl.convert(folder / "one.safetensors", folder / "end")
    assert bits(loaded(folder / "end")) == bits(teacher.model)


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        ("llama", torch.float32),
        ("llama, tied", torch.bfloat16),
        ("gpt2", torch.float32),
        ("gpt_neox", torch.bfloat16),
    ],
)
def test_what_levels_learned(architecture: str, dtype: torch.dtype, tmp_path: Path) -> None:
    check_memory(taught(tmp_path, pretrained(architecture, dtype)), tmp_path)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of peft, about layers that it handles
@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_other_methods_learned(name: str, tmp_path: Path) -> None:
    teacher = taught(tmp_path, pretrained(), levels=None, method=METHODS[name]())
    if name != "lora":
        check_memory(teacher, tmp_path)
        return
    with pytest.raises(ValueError, match=r"adds weights of its own.*nl\.Learner\.load"):
        nl.convert(tmp_path / "memory.safetensors", tmp_path / "model", base=tmp_path / "base")
    assert not (tmp_path / "model").exists()


def test_what_a_hope_learned(tmp_path: Path) -> None:
    from tests.helpers import tiny_model

    model = tiny_model(vocab_size=63, num_hidden_layers=2)
    check_memory(taught(tmp_path, model, levels=None, method=FineTuning(lr=1e-2)), tmp_path)


def test_nothing_learned_is_an_empty_memory(tmp_path: Path) -> None:
    saved(tmp_path / "base", pretrained())
    done = nl.convert(tmp_path / "base", tmp_path / "m", to="memory", base=tmp_path / "base")
    assert (done.tensors, done.bytes) == (0, 0)
    nl.convert(tmp_path / "m", tmp_path / "model", base=tmp_path / "base")
    assert bits(loaded(tmp_path / "model")) == bits(pretrained())


def test_what_does_not_go_along_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "hope")
    (tmp_path / "hope" / "additional_chat_templates").mkdir()
    (tmp_path / "hope" / "notes.txt").write_text("x")
    (tmp_path / "hope" / ".hidden").write_text("x")
    done = nl.convert(tmp_path / "hope", tmp_path / "two")
    assert done.left_out == ("additional_chat_templates/", "notes.txt")
    assert "left out: notes.txt" in str(done)


def test_a_dtype_that_is_too_narrow_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    model.model.norm.weight.data[0] = 1e6
    saved(tmp_path / "big", model)
    with pytest.raises(ValueError, match=r"model\.norm\.weight holds numbers.*float16.*bfloat16"):
        nl.convert(tmp_path / "big", tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()
    nl.convert(tmp_path / "big", tmp_path / "half", dtype="bfloat16")
