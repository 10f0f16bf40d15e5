"""Checkpoint files: exact, whole or not at all, and refused with one sentence when they are not right."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from nestlearn.training import CheckpointError, load_tree, save_tree
from nestlearn.training import checkpoint as module
from tests.helpers import difference

TREE: dict[str, Any] = {
    "model": {
        "w": torch.randn(3, 4),
        "b": torch.zeros(0),
        "n": torch.tensor(3),
        "flag": torch.tensor([True]),
    },
    "low": torch.randn(5).bfloat16(),
    "rng": torch.get_rng_state(),
    "list": [1, 2.5, "text", None, True, [torch.ones(2, dtype=torch.float64), {}]],
    "by number": {0: {"step": torch.tensor(1.0)}, 7: "seven"},
    "nothing": [],
    "é\n\"'": 1e-300,
}

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
TENSORS = st.sampled_from([torch.zeros(2, 0), torch.ones(3), torch.tensor(2), torch.arange(6).view(2, 3).T])
TREES = st.recursive(
    SCALARS | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def file_in(folder: Path) -> Path:
    return folder / "run" / "checkpoint.safetensors"


def test_a_tree_comes_back_exactly(tmp_path: Path) -> None:
    save_tree(file_in(tmp_path), TREE)
    assert difference(TREE, load_tree(file_in(tmp_path))) is None


@settings(deadline=None, max_examples=60)
@given(TREES)
def test_any_tree_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    save_tree(path, tree)
    assert difference(tree, load_tree(path)) is None


@pytest.mark.parametrize(
    "tree",
    [
        {"a/b": torch.zeros(2), "a": {"b": torch.ones(2)}},
        {"1": torch.zeros(2), 1: torch.ones(2)},
        {"a": {"": torch.zeros(1)}, "a/": torch.ones(1)},
        {"": {"tensor": torch.zeros(1)}, "tensor": torch.ones(1)},
    ],
    ids=lambda tree: " and ".join(map(repr, tree)),
)
def test_names_that_look_alike_are_kept_apart(tree: Any, tmp_path: Path) -> None:
    save_tree(file_in(tmp_path), tree)
    assert difference(tree, load_tree(file_in(tmp_path))) is None


def test_tuples_come_back_as_lists(tmp_path: Path) -> None:
    save_tree(file_in(tmp_path), {"betas": (0.9, 0.95)})
    assert load_tree(file_in(tmp_path)) == {"betas": [0.9, 0.95]}


def test_numbers_that_are_not_finite_come_back(tmp_path: Path) -> None:
    save_tree(file_in(tmp_path), [math.nan, math.inf, -math.inf, torch.tensor([math.nan])])
    nan, plus, minus, tensor = load_tree(file_in(tmp_path))
    assert math.isnan(nan)
    assert (plus, minus) == (math.inf, -math.inf)
    assert tensor.isnan().all()


def test_views_and_shared_tensors_are_saved_by_value(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    tree = {
        "base": base,
        "same": base,
        "view": base.T,
        "part": base[1:, ::2],
        "expanded": base[:1].expand(3, 4),
    }
    save_tree(file_in(tmp_path), tree)
    got = load_tree(file_in(tmp_path))
    assert all(torch.equal(tree[key], got[key]) for key in tree)
    got["base"].zero_()
    assert torch.equal(got["same"], base)


class Thing:
    pass


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Thing(), "Thing"),
        (torch.nn.Linear(2, 2), "Linear"),
        ({1, 2}, "set"),
        (b"bytes", "bytes"),
        (1j, "complex"),
        (print, "builtin_function_or_method"),
        (Path("x"), "Path"),
    ],
    ids=["object", "module", "set", "bytes", "complex", "function", "path"],
)
def test_unknown_objects_are_refused_with_their_place(bad: Any, words: str, tmp_path: Path) -> None:
    save_tree(file_in(tmp_path), TREE)
    with pytest.raises(ValueError, match=rf"{words}.*/a/1"):
        save_tree(file_in(tmp_path), {"a": [torch.zeros(1), bad]})
    assert difference(TREE, load_tree(file_in(tmp_path))) is None
    assert [f.name for f in file_in(tmp_path).parent.iterdir()] == ["checkpoint.safetensors"]


@pytest.mark.parametrize("key", [(1, 2), None, 1.5, b"x", True], ids=str)
def test_unknown_keys_are_refused(key: Any, tmp_path: Path) -> None:
    """Or they come back as they were."""
    tree = {"a": {key: torch.zeros(1)}}
    try:
        save_tree(file_in(tmp_path), tree)
    except ValueError:
        assert not file_in(tmp_path).exists()
    else:
        assert difference(tree, load_tree(file_in(tmp_path))) is None


# Written whole or not at all --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [OSError("no space left on device"), KeyboardInterrupt(), MemoryError()], ids=repr
)
@pytest.mark.parametrize("where", ["save_file", "fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file(
    where: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_in(tmp_path)
    save_tree(path, TREE)

    def fail(*arguments: Any, **_: Any) -> None:
        if where == "save_file":  # half of the file is there
            Path(arguments[1]).write_bytes(path.read_bytes()[:100])
        raise error

    target = {"save_file": (module, "save_file"), "fsync": (os, "fsync"), "replace": (Path, "replace")}[where]
    monkeypatch.setattr(*target, fail)
    with pytest.raises(type(error)):
        save_tree(path, {"new": torch.ones(3)})
    monkeypatch.undo()
    assert difference(TREE, load_tree(path)) is None
    assert [f.name for f in path.parent.iterdir()] == [path.name]
    save_tree(path, {"new": 1})
    assert load_tree(path) == {"new": 1}


def test_a_first_file_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_tree(file_in(tmp_path), TREE)
    assert list(file_in(tmp_path).parent.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12: with threads, it may deadlock
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_a_process_that_is_killed_while_writing_leaves_the_old_file(share: float, tmp_path: Path) -> None:
    path = file_in(tmp_path)
    save_tree(path, TREE)
    child = os.fork()
    if child == 0:  # pragma: no cover

        def die(_: Any, name: str, **__: Any) -> None:
            whole = path.read_bytes()
            Path(name).write_bytes(whole[: int(share * len(whole))])
            os._exit(9)

        module.save_file = die  # type: ignore[assignment]
        try:
            save_tree(path, {"new": torch.ones(3)})
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert difference(TREE, load_tree(path)) is None


# Refused ----------------------------------------------------------------------------------------------------


def one_sentence(error: CheckpointError, path: Path) -> None:
    assert str(path) in str(error)
    assert "\n" not in str(error)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (file_in(tmp_path), tmp_path):
        with pytest.raises(CheckpointError, match="no checkpoint at") as caught:
            load_tree(path)
        one_sentence(caught.value, path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = file_in(tmp_path)
    save_tree(path, TREE)
    whole = path.read_bytes()
    for length in {0, 1, 7, 8, 9, 100, *range(0, len(whole), 397), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"damaged|not a") as caught:
            load_tree(path)
        one_sentence(caught.value, path)


def test_a_file_with_more_at_its_end_is_refused(tmp_path: Path) -> None:
    path = file_in(tmp_path)
    save_tree(path, TREE)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(CheckpointError, match="damaged"):
        load_tree(path)


def flips(whole: bytes, places: range | list[int]) -> list[bytes]:
    return [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in places]


def test_a_damaged_header_gives_a_checkpoint_error_or_the_same_tensors(tmp_path: Path) -> None:
    path = file_in(tmp_path)
    save_tree(path, {"w": torch.arange(4.0), "n": [1, {"x": "y"}]})
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for damaged in flips(whole, range(header)):
        path.write_bytes(damaged)
        try:
            load_tree(path)
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_a_damaged_tensor_is_refused(tmp_path: Path) -> None:
    """A flipped bit in the weights would otherwise train on, silently."""
    path = file_in(tmp_path)
    save_tree(path, {"w": torch.arange(40.0)})
    whole = path.read_bytes()
    places = [random.Random(seed).randrange(len(whole) - 160, len(whole)) for seed in range(5)]
    for damaged in flips(whole, places):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_tree(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign"
    save_file({"w": torch.zeros(2)}, path)
    contents = [path.read_bytes(), b"", b"{}", b"PK\x03\x04 zip", pickle.dumps({"w": 1}), os.urandom(500)]
    save_file({"w": torch.zeros(2)}, path, metadata={"format": "pt"})
    contents.append(path.read_bytes())
    save_file({"w": torch.zeros(2)}, path, metadata={"format": module.FORMAT})  # ours, without its tree
    contents.append(path.read_bytes())
    save_file({}, path, metadata={"format": module.FORMAT, "tree": "{"})
    contents.append(path.read_bytes())
    save_file({}, path, metadata={"format": module.FORMAT, "tree": json.dumps({"tensor": "gone"})})
    contents.append(path.read_bytes())
    save_file({}, path, metadata={"format": module.FORMAT, "tree": json.dumps([1, 2])})
    contents.append(path.read_bytes())
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            load_tree(path)
        one_sentence(caught.value, path)


def test_a_later_format_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "later"
    save_file({}, path, metadata={"format": "nestlearn-checkpoint-2", "tree": json.dumps({"dict": []})})
    with pytest.raises(CheckpointError, match="nestlearn-checkpoint-2"):
        load_tree(path)


def test_a_malicious_pickle_is_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "attacked",))

    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(CheckpointError):
        load_tree(path)
    assert not (tmp_path / "attacked").exists()
