"""What all tests of training need."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """accelerate collects garbage before every training: half of these tests' time, with all that is imported."""
    gc.freeze()
    yield
    gc.unfreeze()
