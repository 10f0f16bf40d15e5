"""How moments are recorded: hooks that stay with their model, and cheaper products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class OwnHook:
    """A hook that stays with its model: in a copy or an unpickled model it does nothing.

    Args:
        function: What it calls; None for nothing.
    """

    def __init__(self, function: Callable[..., None] | None = None) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> None:
        """Call the function."""
        if self.function is not None:
            self.function(*arguments)

    def __reduce__(self) -> tuple[type[OwnHook], tuple[()]]:
        return OwnHook, ()


@contextmanager
def products(reduced: bool) -> Iterator[None]:
    """Within it, products of float32 matrices on a CPU may take their factors in bfloat16."""
    if not reduced:
        yield
        return
    matmul: Any = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009  (not known to type checkers)
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
