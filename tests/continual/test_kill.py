"""Learning that is killed again and again ends where learning that was left alone does."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from nestlearn.training import load_tree
from tests.continual.small import learner, texts
from tests.helpers import difference

KILLS = 30


def learn(path: Path) -> None:
    """One whole attempt."""
    learner().learn(texts(40), checkpoint=path, checkpoint_every=3)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_thirty_kills_at_random_points(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    learn(whole)
    draw, kills, killed_last = random.Random(0), 0, True
    while killed_last:
        last = kills == KILLS
        child = os.fork()
        if child == 0:
            try:
                learn(path)
            finally:
                os._exit(0)
        if not last:
            time.sleep(draw.uniform(0.02, 0.5))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
            continue
        check(whole, path)
        killed_last = not last
        if not last:  # it came to its end before it could be killed: once more from the beginning
            path.unlink()


def check(whole: Path, killed: Path) -> None:
    """Everything but the seconds is the same."""
    trees = [load_tree(path) for path in (whole, killed)]
    for tree in trees:
        assert tree["report"].pop("seconds") > 0
        assert tree["report"]["finished"]
    assert difference(*trees) is None
