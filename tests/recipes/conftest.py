"""A suite of small runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipes._plan import Suite
from recipes._runs import Problem

from nestlearn.streams.synthetic import SwitchingCipher
from tests.recipes.small import PARITY, SMALL


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    mixers = {"attention": {"mixer": "attention"}, "gated": {"mixer": "gated_delta"}, "odd": {"mixer": "odd"}}
    switching = SwitchingCipher(pairs=8)
    problems = {"parity": PARITY, "cipher": Problem((switching,), {"8": switching}, 2, 32)}
    return Suite(
        "A test", mixers, problems, tmp_path / "r" / "made.json", tmp_path / "f" / "made.svg", SMALL, 64
    )
