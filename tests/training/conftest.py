"""What all tests of training need."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """accelerate collects garbage before every training: of all that is imported, in half of the time."""
    gc.freeze()
    yield
    gc.unfreeze()
