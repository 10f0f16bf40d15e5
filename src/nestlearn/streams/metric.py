"""Bits per byte: how well a model predicts text, in a unit that does not depend on the tokenizer."""

# Shapes: n = windows, B = batch, T = tokens predicted in a window, V = vocabulary.

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@torch.no_grad()
def bits_per_byte(model: nn.Module, windows: Tensor, token_bytes: Tensor, *, batch_size: int = 32) -> float:
    """Return the bits that a model needs for each byte of held-out text (lower is better).

    The sum of the negative log-likelihood of all targets, in bits, divided by the number of bytes that they
    stand for. Every module is in evaluation mode meanwhile, and in the mode that it was in afterwards.

    Args:
        model: Called with int64 ``[B, T]``; returns an object with ``.logits`` ``[B, T, V]``.
        windows: int64 ``[n, T + 1]``, from `nestlearn.streams.evaluation_windows`.
        token_bytes: int64 ``[V]``, from `nestlearn.streams.token_bytes`.
        batch_size: Windows evaluated at once; changes memory and speed, not the result.

    Raises:
        ValueError: No windows, windows without a target, or ``batch_size`` below 1.
    """
    if windows.dim() != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise ValueError(
            f"Invalid windows: {list(windows.shape)}. Must be [n, T + 1] with n and T at least 1."
        )
    if not batch_size >= 1:
        raise ValueError(f"Invalid batch_size: {batch_size}. Must be at least 1.")
    device = next((parameter.device for parameter in model.parameters()), windows.device)
    modes = [(module, module.training) for module in model.modules()]
    # Sums stay on the device, in float64: no waiting for each batch, no rounding over millions of tokens.
    nats = torch.zeros((), dtype=torch.float64, device=device)
    model.eval()
    try:
        for start in range(0, len(windows), batch_size):
            batch = windows[start : start + batch_size]
            inputs, targets = batch[:, :-1].to(device), batch[:, 1:].to(device)
            logits = model(inputs).logits.float().flatten(0, 1)
            nats += F.cross_entropy(logits, targets.flatten(), reduction="none").double().sum()
    finally:
        for module, training in modes:  # one by one: a frozen part may be in evaluation mode for good
            module.training = training
    size = int(token_bytes.to(windows.device)[windows[:, 1:]].sum())
    return nats.item() / math.log(2) / size
