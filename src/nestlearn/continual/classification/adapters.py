"""Low-rank adapters of hidden layers, by the library ``peft``."""

from __future__ import annotations

import importlib.util
import re
import warnings
from typing import Any

import torch
from torch import nn

from nestlearn.continual.classification.base import Network, OptimizerMaker, Ordinary


class LowRank(Ordinary):
    """LoRA (Hu et al. 2021, arXiv 2106.09685): what is learned by a hidden layer has low rank.

    A hidden linear layer computes ``W x + scale B A x`` with ``W`` as it was, ``B`` beginning at 0; the last
    linear layer, the head, is learned as a whole, and everything else stays. The factors are put into the
    network itself.

    Args:
        network: See :class:`~nestlearn.continual.classification.Classifier`; what it knows already is all
            that its hidden layers know at first.
        optimizer: Likewise.
        rank: Of the factors.
        scale: Of what they add, peft's ``lora_alpha / r``.
        seed: Of the initial ``A``.

    Raises:
        ImportError: Without peft.
        ValueError: If the network has less than two linear layers, or for a value outside its range.
    """

    name = "lora"

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerMaker | None = None,
        *,
        rank: int = 8,
        scale: float = 2.0,
        seed: int = 0,
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        if not scale > 0.0:
            raise ValueError(f"scale must be positive, got {scale}")
        linear = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
        if len(linear) < 2:
            raise ValueError(f"a hidden linear layer and a head are needed, got {len(linear)} linear layers")
        *hidden, head = linear
        _add_factors(network, hidden, rank, scale, seed)
        linear[head].requires_grad_(True)
        super().__init__(network, optimizer)


def _add_factors(network: Network, names: list[str], rank: int, scale: float, seed: int) -> None:
    """Put factors into the layers of these names, and freeze everything else."""
    if importlib.util.find_spec("peft") is None:
        raise ImportError("LoRA needs peft: pip install 'nestlearn[baselines]'")
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415  (an extra, seconds to import)

    # As a string it is a pattern of whole names; in a list "0" would be "block.0", too.
    pattern = "|".join(re.escape(name) for name in names)
    settings: dict[str, Any] = {"r": rank, "lora_alpha": scale * rank, "lora_dropout": 0.0}
    config = LoraConfig(target_modules=pattern, **settings)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network)
