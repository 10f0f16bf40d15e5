"""How likely a causal language model finds continuations of contexts."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

#: Tokens that go through Hope's cache at a time: memory does not grow with the text.
PIECE = 512
#: Positions whose logits are widened to float32 at a time.
_POSITIONS = 1024

Request = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context, of at least one token, and of its continuation."""


class Likelihood(NamedTuple):
    """How likely a continuation is.

    Attributes:
        log_probability: Sum over its tokens, in nats.
        greedy: Whether greedy decoding of the context would give just this continuation.
    """

    log_probability: float
    greedy: bool


@dataclass(frozen=True)
class _Row:
    """What goes through the model for one request; the targets belong to the last of the inputs."""

    index: int
    inputs: Sequence[int]
    targets: Sequence[int]


@torch.no_grad()
def log_likelihoods(
    model: nn.Module,
    requests: Sequence[Request],
    *,
    batch_size: int = 8,
    max_length: int | None = None,
    past_key_values: Any = None,
    on_result: Callable[[int, Likelihood], None] | None = None,
) -> list[Likelihood]:
    """Sum of the log-probabilities of every continuation, given its context.

    Every request is by itself: what one says has no influence on another. A context that several requests
    share is computed once, where the model's cache allows that. Requests of different lengths are padded on
    the right, which a causal model cannot see. Log-probabilities are float32, their sum is float64.

    Args:
        model: A causal language model of Hugging Face's. It is in evaluation mode meanwhile.
        requests: Contexts and continuations.
        batch_size: Requests at a time; changes memory and speed, not the result.
        max_length: Tokens that the model is given at most; contexts are cut on the left. By default what it
            has positions for.
        past_key_values: A :class:`~nestlearn.models.hope.HopeCache` of batch size one that every request
            goes on from; it stays as it is.
        on_result: Called with the index of every request that is done, and its result.

    Returns:
        One result a request, in their order.

    Raises:
        ValueError: For an empty context or continuation, a continuation longer than the model takes, a value
            outside its range, or a cache that the model cannot go on from.
    """
    for name, value in (("batch_size", batch_size), ("max_length", max_length)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number, at least 1; got {value!r}")
    if past_key_values is not None and not is_hope(model):
        raise ValueError(
            f"past_key_values is for Hope, whose sessions go on for ever; this is a {type(model).__name__}"
        )
    limit = context_limit(model) if max_length is None else max_length
    rows = [_row(index, request, limit) for index, request in enumerate(requests)]
    results: list[Likelihood | None] = [None] * len(rows)
    with evaluating(model):
        for start, batch in _batches(model, rows, batch_size, past_key_values):
            for row, result in zip(batch, _scored(model, batch, start), strict=True):
                results[row.index] = result
                if on_result is not None:
                    on_result(row.index, result)
    return [result for result in results if result is not None]


@torch.no_grad()
def feed(model: nn.Module, tokens: Sequence[int], past_key_values: Any = None) -> Any:
    """Let a model read tokens.

    Args:
        model: A causal language model, in evaluation mode.
        tokens: At least one.
        past_key_values: Its cache after what came before, of batch size one; it is brought up to date in
            place. None for nothing.

    Returns:
        The cache; None if the model has none.
    """
    ids = torch.tensor([list(tokens)], device=_device(model))
    cache = past_key_values
    for piece in ids.split(piece_length(model) or ids.shape[1], dim=1):
        cache = getattr(forward(model, piece, cache, keep=1), "past_key_values", None)
    return cache


def forward(
    model: nn.Module, ids: Tensor, cache: Any = None, *, keep: int = 0, use_cache: bool = True
) -> Any:
    """One pass of a model.

    Args:
        model: A causal language model.
        ids: ``[B, T]``.
        cache: After what came before; None for nothing.
        keep: Positions at the end whose logits are needed, 0 for all. Models that cannot leave any out give
            all of them.
        use_cache: Whether the output shall have a cache.

    Returns:
        The model's output, with ``logits`` ``[B, at least keep, V]``.
    """
    further: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
    if keep and "logits_to_keep" in inspect.signature(model.forward).parameters:
        further["logits_to_keep"] = keep
    return model(input_ids=ids, use_cache=use_cache, **further)


def token_log_probabilities(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens.

    Args:
        logits: ``[n, V]``, of any type.
        targets: int64 ``[n]``.

    Returns:
        float32 ``[n]``, and bool ``[n]``: whether the token is the likeliest. Both on the CPU.
    """
    chosen, likeliest = [], []
    for part, wanted in zip(logits.split(_POSITIONS), targets.split(_POSITIONS), strict=True):
        logs = part.float().log_softmax(-1)
        chosen.append(logs.gather(1, wanted[:, None])[:, 0].cpu())
        likeliest.append((part.argmax(-1) == wanted).cpu())
    return torch.cat(chosen), torch.cat(likeliest)


def context_limit(model: nn.Module) -> int | None:
    """Tokens that a model can be given: its positions; None for Hope, which has no limit."""
    config = getattr(model, "config", None)
    longest = getattr(config, "max_position_embeddings", None)
    return longest if isinstance(longest, int) else None


def is_hope(model: nn.Module) -> bool:
    """Whether a model is a Hope, whose cache takes pieces of any size and is its own snapshot."""
    from nestlearn.models.hope import HopeConfig  # noqa: PLC0415  (it imports this)

    return isinstance(getattr(model, "config", None), HopeConfig)


def piece_length(model: nn.Module) -> int | None:
    """Tokens of a pass of a long text; None for all of it."""
    return PIECE if is_hope(model) else None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and afterwards in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:  # one by one: a frozen part may be in evaluation mode for good
            module.training = training


def _row(index: int, request: Request, limit: int | None) -> _Row:
    context, continuation = list(request[0]), list(request[1])
    if not context or not continuation:
        raise ValueError(
            f"request {index} has {len(context)} tokens of context and {len(continuation)} of continuation: "
            "both need at least one, the context of a text's beginning is the token that texts begin with"
        )
    if limit is not None and len(continuation) > limit:
        raise ValueError(
            f"the continuation of request {index} has {len(continuation)} tokens, the model takes {limit}: "
            "score it in windows"
        )
    inputs = (context + continuation)[:-1]
    return _Row(index, inputs if limit is None else inputs[-limit:], continuation)


def _batches(
    model: nn.Module, rows: Sequence[_Row], batch_size: int, past: Any
) -> Iterator[tuple[Any, Sequence[_Row]]]:
    """Rows of similar length, and the cache that they go on from."""
    groups: dict[tuple[int, ...], list[_Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.inputs[: len(row.inputs) - len(row.targets)]), []).append(row)
    alone: list[_Row] = []
    for shared, members in groups.items():
        start = past
        if shared and len(members) > 1 and _takes_up(model):
            start = feed(model, shared, None if past is None else past.copy())
        if start is past:
            alone += members
            continue
        left = [_Row(row.index, row.inputs[len(shared) :], row.targets) for row in members]
        yield from ((start, batch) for batch in _sorted_batches(left, batch_size))
    yield from ((past, batch) for batch in _sorted_batches(alone, batch_size))


def _sorted_batches(rows: Sequence[_Row], batch_size: int) -> Iterator[Sequence[_Row]]:
    ordered = sorted(rows, key=lambda row: -len(row.inputs))  # what does not fit in memory fails at once
    for at in range(0, len(ordered), batch_size):
        yield ordered[at : at + batch_size]


def _takes_up(model: nn.Module) -> bool:
    """Whether several tokens after a filled cache are as good as one pass.

    Of transformers' recurrent models that has not always been so: they compute everything in one pass.
    """
    return is_hope(model) or not getattr(model, "_is_stateful", False)


def _scored(model: nn.Module, rows: Sequence[_Row], start: Any) -> list[Likelihood]:
    """One batch."""
    width, device = max(len(row.inputs) for row in rows), _device(model)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    targets = torch.full_like(ids, -1)
    for place, row in enumerate(rows):
        end = len(row.inputs)
        ids[place, :end] = torch.tensor(row.inputs)
        targets[place, end - len(row.targets) : end] = torch.tensor(row.targets)
    cache = None if start is None else _repeated(start, len(rows))
    totals, greedy = torch.zeros(len(rows), dtype=torch.float64), torch.ones(len(rows), dtype=torch.bool)
    length = piece_length(model) or width
    for at in range(0, width, length):
        wanted = targets[:, at : at + length]
        places, positions = (wanted >= 0).nonzero(as_tuple=True)
        keep = 0 if len(places) else 1
        more = cache is not None or at + length < width
        out = forward(model, ids[:, at : at + length].to(device), cache, keep=keep, use_cache=more)
        cache = getattr(out, "past_key_values", None) if more else None
        if len(places):
            logits = out.logits[places.to(device), positions.to(device)]
            logs, likeliest = token_log_probabilities(logits, wanted[places, positions].to(device))
            totals.index_add_(0, places, logs.double())
            greedy[places[~likeliest]] = False
    return [Likelihood(float(total), bool(same)) for total, same in zip(totals, greedy, strict=True)]


def _repeated(cache: Any, count: int) -> Any:
    """A copy of a cache for several rows."""
    twin = cache.copy() if hasattr(cache, "copy") else copy.deepcopy(cache)
    if count > 1:
        twin.batch_repeat_interleave(count)
    return twin


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


__all__ = [
    "PIECE",
    "Likelihood",
    "Request",
    "context_limit",
    "evaluating",
    "feed",
    "forward",
    "is_hope",
    "log_likelihoods",
    "piece_length",
    "token_log_probabilities",
]
