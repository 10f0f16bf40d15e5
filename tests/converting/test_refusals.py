"""What cannot be converted is refused in one sentence, and nothing half-written is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import nestlearn as nl
from nestlearn.cli.main import app
from nestlearn.converting import conversion, forms, kind_of, staging
from nestlearn.training import CheckpointError, save_tree
from tests.continual.small import learner, texts
from tests.converting.models import bits, loaded, saved
from tests.helpers import tiny_model
from tests.retrofitting.small import pretrained
from tests.training.streams import stream, trainer


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything."""
    root = tmp_path_factory.mktemp("things")
    saved(root / "hope")
    saved(root / "shards", max_shard_size="8KB")
    saved(root / "llama", pretrained())
    saved(root / "bfloat16", pretrained(dtype=torch.bfloat16))
    saved(root / "other", pretrained("llama, tied"))
    nl.convert(root / "hope", root / "one.safetensors")
    nl.convert(root / "hope", root / "start", to="checkpoint")
    run = trainer(run_dir=root / "run")
    run.run(until=1)
    run.save()
    teacher = learner(loaded(root / "llama"))
    teacher.learn(texts(3))
    teacher.save(root / "memory")
    teacher.learn(texts(3), checkpoint=root / "learning")
    model = tiny_model()
    model(torch.arange(4)[None], use_cache=True).past_key_values.save(root / "session")
    save_file({"a": torch.ones(2)}, root / "plain.safetensors")
    (root / "text").write_text("no")
    (root / "empty").mkdir()
    return root


def copied(things: Path, name: str, to: Path) -> Path:
    """A copy that may be damaged."""
    if (things / name).is_dir():
        return shutil.copytree(things / name, to / name)
    return Path(shutil.copy(things / name, to / name))


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-50])
    return path


def flip(path: Path) -> Path:
    """Change the last byte, which is a tensor's."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    return path


def changed(path: Path, **changes: Any) -> Path:
    """Change the configuration of a folder."""
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return path


def without(path: Path, name: str) -> Path:
    (path / name).unlink()
    return path


def retensored(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """Change the tensors of a folder."""
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def foreign(path: Path) -> Path:
    """A single file whose header would have a companion written elsewhere."""
    from nestlearn.converting.content import Content

    tensors = {"a": torch.ones(2)}
    original = forms.encoded
    try:
        forms.encoded = lambda files: {"text:../evil.py": "no"}  # type: ignore[assignment]
        forms.write_file(Content({"model_type": "llama"}, tensors), path)
    finally:
        forms.encoded = original
    return path


Damage = Callable[[Path, Path], Path]
DAMAGED: dict[str, tuple[Damage, str]] = {
    "nothing there": (lambda _, to: to / "nothing", "there is no model at"),
    "no safetensors": (lambda t, _: t / "text", "damaged, or not in the safetensors format"),
    "empty folder": (lambda t, _: t / "empty", "no folder of a model: it has no config.json"),
    "no configuration": (lambda t, _: t / "plain.safetensors", "tensors without a configuration"),
    "a session": (lambda t, _: t / "session", "tensors without a configuration"),
    "learning under way": (lambda t, _: t / "learning", "(nestlearn-learning-1), but holds no whole model"),
    "cut file": (lambda t, to: truncate(copied(t, "one.safetensors", to)), "is damaged"),
    "bit of a file": (lambda t, to: flip(copied(t, "one.safetensors", to)), "its checksum is wrong"),
    "cut checkpoint": (lambda t, to: truncate(copied(t, "start", to)), "is damaged"),
    "bit of a checkpoint": (lambda t, to: flip(copied(t, "start", to)), "its checksum is wrong"),
    "cut folder": (
        lambda t, to: truncate(copied(t, "hope", to) / "model.safetensors").parent,
        "is damaged, or not in the safetensors format",
    ),
    "config is no JSON": (
        lambda t, to: truncate(copied(t, "hope", to) / "config.json").parent,
        "config.json cannot be read as JSON",
    ),
    "impossible config": (
        lambda t, to: changed(copied(t, "hope", to), cms_periods=[64, 16]),
        "the configuration is not possible: cms_periods go from fast to slow",
    ),
    "other sizes": (
        lambda t, to: changed(copied(t, "hope", to), intermediate_size=48),
        "its configuration says [",
    ),
    "other depth": (
        lambda t, to: changed(copied(t, "hope", to), num_hidden_layers=2),
        "not the weights of a HopeForCausalLM: there is no tensor model.layers.1.",
    ),
    "one too many": (
        lambda t, to: retensored(copied(t, "hope", to), lambda own: own.update(more=torch.ones(1))),
        "there is a tensor more too much",
    ),
    "one too few": (
        lambda t, to: retensored(copied(t, "hope", to), lambda own: own.pop("model.norm.weight")),
        "there is no tensor model.norm.weight",
    ),
    "no weights": (
        lambda t, to: without(copied(t, "hope", to), "model.safetensors"),
        "has no model.safetensors and no model.safetensors.index.json: load it with transformers",
    ),
    "a shard is missing": (
        lambda t, to: without(copied(t, "shards", to), "model-00002-of-00003.safetensors"),
        "is not complete: model-00002-of-00003.safetensors is missing",
    ),
    "a shard of another": (
        lambda t, to: (
            Path(
                shutil.copy(
                    t / "hope" / "model.safetensors",
                    copied(t, "shards", to) / "model-00002-of-00003.safetensors",
                )
            ).parent
        ),
        "index.json and model-00002-of-00003.safetensors differ in the tensor",
    ),
    "a companion elsewhere": (lambda _, to: foreign(to / "f.safetensors"), "'../evil.py' is no file"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_or_foreign_source_is_one_sentence_and_exit_code_2(
    case: str, things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from nestlearn.cli import main

    damage, message = DAMAGED[case]
    (tmp_path / "source").mkdir()
    source = damage(things, tmp_path / "source")
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["nestlearn", "convert", str(source), str(out / "model")])
    with pytest.raises(SystemExit) as stopped:
        main.run()
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    error = printed.err.strip().splitlines()[-1]
    assert error.startswith("nestlearn: ")
    assert message in error
    assert printed.out == ""
    assert not out.exists() or list(out.iterdir()) == []


OPTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown target": (
        "hope",
        {"to": "onnx"},
        "a target is one of folder, file, checkpoint, memory; got 'onnx'",
    ),
    "unknown dtype": (
        "hope",
        {"dtype": "int4"},
        "dtype must be one of float32, bfloat16, float16; got 'int4'",
    ),
    "no base": ("memory", {}, "a memory belongs to a base"),
    "no base for a difference": ("llama", {"to": "memory"}, "a memory belongs to a base"),
    "a base too much": ("hope", {"base": "llama"}, "from folder to folder there is no base"),
    "the same kind": ("start", {"to": "checkpoint"}, "is a checkpoint already: copy it"),
    "a memory in another dtype": (
        "memory",
        {"to": "memory", "base": "llama", "dtype": "bfloat16"},
        "a memory has the dtype of its base",
    ),
    "another base": ("memory", {"base": "other"}, "was learned on"),
    "no such base": ("memory", {"base": "nowhere"}, "there is no model"),
    "another architecture": (
        "hope",
        {"to": "memory", "base": "llama"},
        "HopeForCausalLM, the base a Llama",
    ),
    "another configuration": ("other", {"to": "memory", "base": "llama"}, "tie_word_embeddings differ"),
    "another dtype": ("bfloat16", {"to": "memory", "base": "llama"}, "is torch.bfloat16 in the model"),
    "no size": ("hope", {"max_shard_size": "many"}, "many"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_do_not_belong_together(case: str, things: Path, tmp_path: Path) -> None:
    source, options, message = OPTIONS[case]
    if "base" in options:
        options = {**options, "base": things / options["base"]}
    with pytest.raises(ValueError, match=message):
        nl.convert(things / source, tmp_path / "target", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_source_is_not_its_own_target(things: Path, tmp_path: Path) -> None:
    folder = copied(things, "hope", tmp_path)
    for target in (folder, folder / "inside", folder / "model.safetensors", tmp_path):
        with pytest.raises(ValueError, match="the same, or one inside the other"):
            nl.convert(folder, target, force=True)
    assert bits(loaded(folder)) == bits(loaded(things / "hope"))


def test_a_checkpoint_without_a_configuration_says_so(tmp_path: Path) -> None:
    save_tree(tmp_path / "c", {"model": {}, "optimizer": {}, "identity": "{}"})
    with pytest.raises(ValueError, match="does not say what model it is of"):
        nl.convert(tmp_path / "c", tmp_path / "model")


def test_tied_tensors_that_differ_are_refused(things: Path, tmp_path: Path) -> None:
    from nestlearn.training import load_tree

    tree = load_tree(things / "start")
    tree["model"]["lm_head.weight"] = tree["model"]["lm_head.weight"] + 1
    save_tree(tmp_path / "c", tree)
    with pytest.raises(ValueError, match=r"lm_head.weight and model.embed_tokens.weight are one tensor"):
        nl.convert(tmp_path / "c", tmp_path / "model")


def test_a_run_refuses_the_weights_of_another_model(things: Path, tmp_path: Path) -> None:
    shutil.copy(things / "start", tmp_path / "checkpoint.safetensors")
    run = trainer(run_dir=tmp_path)
    before = bits(run.model)
    with pytest.raises(CheckpointError, match="belongs to another model"):
        run.resume()
    assert bits(run.model) == before


# -- targets that exist ----------------------------------------------------------------------------------


def test_a_target_that_exists_is_replaced_by_force_only(things: Path, tmp_path: Path) -> None:
    folder, file = copied(things, "llama", tmp_path), tmp_path / "f.safetensors"
    file.write_text("mine")
    for target in (folder, file):
        with pytest.raises(ValueError, match="exists: choose another target, or replace it with force"):
            nl.convert(things / "shards", target)
    assert file.read_text() == "mine"
    assert bits(loaded(folder)) == bits(pretrained())
    for target in (folder, file):
        nl.convert(things / "shards", target, force=True)
    assert bits(loaded(folder)) == bits(loaded(things / "shards"))
    assert kind_of(file) == "file"
    assert {path.name for path in tmp_path.iterdir()} == {"llama", "f.safetensors"}


def test_a_folder_with_other_things_is_never_replaced(things: Path, tmp_path: Path) -> None:
    folder = copied(things, "llama", tmp_path)
    (folder / "checkpoint-500").mkdir()
    with pytest.raises(ValueError, match="holds checkpoint-500, which is not a model's"):
        nl.convert(things / "hope", folder, force=True)
    (folder / "checkpoint-500").rmdir()
    (folder / "thesis.tex").write_text("years")
    with pytest.raises(ValueError, match=r"holds thesis.tex"):
        nl.convert(things / "hope", folder, force=True)
    assert bits(loaded(folder)) == bits(pretrained())


def test_a_folder_is_not_written_through_a_link(things: Path, tmp_path: Path) -> None:
    folder = copied(things, "llama", tmp_path)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ValueError, match="no ordinary file or folder"):
        nl.convert(things / "hope", tmp_path / "link", force=True)


# -- failure and interruption ----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("place", ["write", "verify", "flush", "move"])
@pytest.mark.parametrize("target", ["llama", "new", "new.safetensors", "old.safetensors"])
def test_whatever_happens_the_target_is_as_it_was(
    target: str, place: str, error: Any, things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(things, "llama", tmp_path)
    (tmp_path / "old.safetensors").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(*arguments: Any) -> None:
        raise error

    if place == "move":
        original = Path.replace

        def replace(self: Path, to: Path) -> Path:
            if Path(to) == tmp_path / target and "before" not in self.name:
                fail()
            return original(self, to)

        monkeypatch.setattr(Path, "replace", replace)
    elif place == "write":  # half of it is there
        owner, name = (forms, "save_file") if "." in target else (huggingface_hub, "save_torch_state_dict")
        write = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *own, **named: (write(*own, **named), fail()))
    else:
        monkeypatch.setattr(conversion if place == "verify" else staging, f"_{place}", fail)
    with pytest.raises((KeyboardInterrupt, OSError)):
        nl.convert(things / "hope", tmp_path / target, force=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"llama", "old.safetensors"}


@pytest.fixture
def ctrl_c():
    """Ctrl-C raises, also in a shell that started the tests in the background, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("target", ["llama", "old.safetensors", "new", "new.safetensors"])
def test_ctrl_c_waits_while_the_target_is_put_in_place(
    target: str, things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(things, "llama", tmp_path)
    (tmp_path / "old.safetensors").write_text("mine")
    replace, pressed = Path.replace, []

    def interrupted(self: Path, to: Path) -> Path:
        if tmp_path / target in (self, to):
            signal.raise_signal(signal.SIGINT)
            pressed.append(to)
        moved = replace(self, to)
        signal.raise_signal(signal.SIGINT)
        return moved

    monkeypatch.setattr(Path, "replace", interrupted)
    heard = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        nl.convert(things / "hope", tmp_path / target, force=True)
    assert len(pressed) == (2 if target == "llama" else 1)
    assert signal.getsignal(signal.SIGINT) is heard
    assert {path.name for path in tmp_path.iterdir()} == {"llama", "old.safetensors", target}
    monkeypatch.undo()
    nl.convert(tmp_path / target, tmp_path / "end", dtype="float32")
    assert bits(loaded(tmp_path / "end")) == bits(loaded(things / "hope"))


@pytest.mark.parametrize("to", ["folder", "file", "checkpoint"])
def test_what_is_written_wrong_is_noticed(
    to: str, things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = conversion._write

    def wrong(content: Any, path: Path, kind: str, size: str) -> None:
        name, tensor = next(iter(content.tensors.items()))
        twisted = tensor.clone()
        twisted.view(-1)[0] = -0.0 if float(tensor.view(-1)[0]) == 0.0 else 0.0
        write(conversion.Content(content.config, {**content.tensors, name: twisted}), path, kind, size)

    monkeypatch.setattr(conversion, "_write", wrong)
    with pytest.raises(ValueError, match="does not come back as it was"):
        nl.convert(things / "llama", tmp_path / "target", to=to)
    assert list(tmp_path.iterdir()) == []


#: Writes until it is killed; says when it begins.
WRITES = """
import sys
import nestlearn as nl
nl.convert(sys.argv[1], sys.argv[2] + "/target")
print("ready", flush=True)
while True:
    nl.convert(sys.argv[1], sys.argv[2] + "/target", force=True)
"""


@pytest.mark.slow
def test_ctrl_c_at_any_moment_leaves_a_whole_target(things: Path, tmp_path: Path) -> None:
    for delay in (0.0, 0.007, 0.013):
        out = tmp_path / str(delay)
        out.mkdir()
        with subprocess.Popen(
            [sys.executable, "-c", WRITES, str(things / "shards"), str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            # A background shell's children ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(0.1 + delay)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) != 0
        assert {path.name for path in out.iterdir()} == {"target"}
        assert bits(loaded(out / "target")) == bits(loaded(things / "shards"))


# -- the command -----------------------------------------------------------------------------------------


def test_the_command(things: Path, tmp_path: Path) -> None:
    def convert(*arguments: Any) -> Any:
        return CliRunner().invoke(app, ["convert", *map(str, arguments)])

    one = tmp_path / "one.safetensors"
    done = convert(things / "hope", one, "--dtype", "bfloat16")
    assert done.exit_code == 0, done.exception
    size = sum(2 * p.numel() for p in loaded(things / "hope").parameters())
    assert done.stdout.startswith(f"folder to file {one}: ")
    assert f"{size:,} bytes, read back and equal to the bit\n" in done.stdout
    assert isinstance(convert(things / "hope", one).exception, ValueError)
    assert convert(things / "hope", one, "--force").exit_code == 0
    assert convert(one, tmp_path / "c", "--to", "checkpoint").exit_code == 0
    assert convert(tmp_path / "c", tmp_path / "m", "--max-shard-size", "8KB").exit_code == 0
    assert len(list((tmp_path / "m").glob("model-*.safetensors"))) > 1
    done = convert(things / "memory", tmp_path / "learned", "--base", things / "llama")
    assert done.exit_code == 0, done.exception
    assert bits(loaded(tmp_path / "learned")) != bits(loaded(things / "llama"))


def test_kinds(things: Path) -> None:
    kinds = {"hope": "folder", "shards": "folder", "llama": "folder", "one.safetensors": "file"}
    kinds |= {"start": "checkpoint", "run": "checkpoint", "memory": "memory"}
    assert {name: kind_of(things / name) for name in kinds} == kinds
    assert stream().total_steps == 12
