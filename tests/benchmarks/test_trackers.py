"""The benchmark of trackers times those that are installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import trackers


def test_every_tracker_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trackio.sqlite_storage

    monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    threads = torch.get_num_threads()
    try:
        trackers.main(steps=2, rounds=2, quick=True, result=tmp_path / "trackers.json")
    finally:
        torch.set_num_threads(threads)
    content = json.loads((tmp_path / "trackers.json").read_text())
    assert {"trackio", "tensorboard"} <= set(content["trackers"])
    for figures in content["trackers"].values():
        assert figures["start_seconds"] > 0
        assert figures["share_of_step"] == pytest.approx(
            figures["step_milliseconds"] / content["step_milliseconds"]
        )
    assert (tmp_path / "trackio" / "nestlearn.db").exists()
