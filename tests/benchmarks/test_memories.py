"""The benchmark of a layer's memories times both forms of the same function."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from benchmarks.memories import TILES, measure, timed

from benchmarks import memories
from nestlearn.memory import fused, native


def test_every_form_is_timed_beside_its_floor(tmp_path: Path) -> None:
    memories.main(tokens=64, rounds=1, result=tmp_path / "memories.json")
    content = json.loads((tmp_path / "memories.json").read_text())
    forms = {(form["memory"], form["compiled"]): form for form in content["forms"]}
    assert {("mlp", False), ("matrix", False)} <= set(forms)
    assert ({("mlp", True), ("matrix", True)} <= set(forms)) == native.available()
    # No comparison of times: on a loaded machine what measures the floor may be what is slow.
    assert all(form["milliseconds"] > 0 for form in forms.values())
    shape = content["shape"]
    tile = 2 * shape["chunk"] * shape["width"] ** 2  # operations of one product
    tiles = 3 * shape["batch"] * shape["heads"] * shape["tokens"] / shape["chunk"]  # forward and backward
    for (memory, _), form in forms.items():
        operations = form["floor_milliseconds"] / 1e3 * content["products_per_second"]
        assert operations == pytest.approx(tile * tiles * TILES[memory])


def test_the_switch_is_set_for_the_step_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native.SWITCH, raising=False)
    seen = []
    for compiled in (False, True):
        timed(lambda: seen.append(os.environ[native.SWITCH]), compiled)
    assert seen == ["0", "1"]
    assert native.SWITCH not in os.environ


def test_the_compiled_form_is_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    if not native.available():
        pytest.skip("not built here")
    calls, run = [], fused.run
    monkeypatch.setattr(fused, "run", lambda *args: calls.append(1) or run(*args))
    threads = torch.get_num_threads()
    try:
        measure(64, 1)
    finally:
        torch.set_num_threads(threads)
    assert len(calls) == 2 * len(TILES)  # warm-up and one round
