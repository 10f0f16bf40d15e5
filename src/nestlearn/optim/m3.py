"""M3: momentum at several time scales, each read through Newton-Schulz (Sec. 7.2, Eq. 75, Algorithm 1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # as torch.optim: torch.compiler.disable imports for seconds
from torch.optim.optimizer import ParamsT

from nestlearn.optim.bricks.batches import is_matrix
from nestlearn.optim.bricks.linear import accumulate_, average_, corrections
from nestlearn.optim.bricks.lists import Tensors, add_, add_square_, blended, divided, scale_
from nestlearn.optim.bricks.orthogonal import orthogonalized
from nestlearn.optim.bricks.output import UPDATE_RMS, at_rms_, longer_side
from nestlearn.optim.bricks.precondition import divided_by_root, shifted_roots
from nestlearn.optim.flow import Flow, Settings, State
from nestlearn.optim.gradient_memory import Common, GradientMemory
from nestlearn.optim.hyperparameters import COUNT, DECAYS, PAIR, RATE, SWITCH, Allowed, Several, check

MODES = ("ema", "paper")
#: Parameters with a word in their name that begins like this are looked up, not multiplied: AdamW's, as with
#: Muon. ``model.embed_tokens``, ``tok_embeddings`` and ``lm_head`` are, ``multihead_attn`` is not.
LOOKED_UP = ("embed", "wte", "wpe", "head")


class M3(GradientMemory):
    """Multi-scale Momentum Muon: matrices by M3, everything else by AdamW, in one optimizer.

    A fast memory takes in every gradient; each slow one does too, but is read only once per period, and what
    was read steers all updates until then (a level of its own, Eq. 74 with gradients for a context)::

        O = NS(fast) + sum_i weights[i] * NS(slow_i as it was at the last boundary)
        W = W - lr * O / (sqrt(V) + eps)

    ``mode="ema"``: memories are moving averages, ``V`` (left out by default: it gains nothing after
    Newton-Schulz, see ``docs/decisions.md``) is corrected for its start, and an update has a root mean square
    of about 0.2 (less while nothing was read of the slow memories), so that AdamW's learning rates fit.
    Without slow memories and denominator it is ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")``.

    ``mode="paper"``: Algorithm 1 to the letter. All memories are sums that never decay, ``betas`` and
    ``slow_betas`` multiply the new gradient, and nothing is rescaled: updates shrink like AdaGrad's and their
    size depends on the gradients' unit. (Eq. 75's minus sign is read as a slip, see SPEC 2.8.)

    Memory: 4 bytes per parameter in float32, 4 more for V, and 8 more per slow memory, which sums up its
    running period in place. Of a matrix that is split over several devices (FSDP2) every process gathers the
    memories to read them, and keeps its part.

    Args:
        params: ``model.named_parameters()``, so that embeddings and heads are known by their names, or plain
            parameters or groups, of which every matrix then is M3's.
        lr: Learning rate.
        betas: Decays of the fast memory and of V, in [0, 1). The default of the first is for trainings of
            hundreds of steps; Muon's usual 0.95 remembers twenty gradients instead of five.
        periods: Steps between two reads of each slow memory, any number of them.
        slow_betas: What each slow memory keeps per period.
        weights: Weight of each slow memory's read (the paper's alpha).
        eps: Added to the root of V.
        denominator: Whether to divide by the root of V; None to do it in ``mode="paper"`` only.
        nesterov: Read the fast memory as it will be after the same gradient again; not in ``mode="paper"``.
        mode: ``"ema"`` or ``"paper"``.
        adamw_betas: Decays of AdamW.
        adamw_names: Beginnings of words in the names of parameters that are AdamW's whatever their shape.
        common: See :class:`~nestlearn.optim.gradient_memory.Common`.

    Raises:
        ValueError: For a value outside its range, or slow settings of different lengths.
    """

    allowed: ClassVar[dict[str, Allowed]] = {
        "betas": PAIR,
        "eps": RATE,
        "denominator": (True, False, None),
        "nesterov": SWITCH,
        "mode": MODES,
        "adamw_betas": PAIR,
    }
    _slow: ClassVar[dict[str, Allowed]] = {
        "periods": Several(COUNT),
        "slow_betas": DECAYS,
        "weights": Several(RATE),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.8, 0.95),
        periods: Sequence[int] = (10,),
        slow_betas: Sequence[float] = (0.5,),
        weights: Sequence[float] = (0.1,),
        *,
        eps: float = 1e-8,
        denominator: bool | None = None,
        nesterov: bool = True,
        mode: str = "ema",
        adamw_betas: tuple[float, float] = (0.9, 0.999),
        adamw_names: Sequence[str] = LOOKED_UP,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "periods": periods,
            "slow_betas": slow_betas,
            "weights": weights,
            "eps": eps,
            "denominator": denominator,
            "nesterov": nesterov,
            "mode": mode,
            "adamw_betas": adamw_betas,
            "adamw_names": adamw_names,
        }
        super().__init__(params, settings, common)

    def check(self, settings: Settings) -> None:
        """Refuse hyper-parameters outside their ranges.

        Raises:
            ValueError: Also for slow settings of different lengths.
        """
        super().check(settings)
        slow = {name: settings[name] for name in self._slow}
        for name, values in {**slow, "adamw_names": settings["adamw_names"]}.items():
            if not isinstance(values, (tuple, list)):
                raise ValueError(f"{name} must be a tuple or a list; got {values!r}")
        if len({len(values) for values in slow.values()}) != 1:
            raise ValueError(
                f"periods, slow_betas and weights must have one value per slow memory; got {slow}"
            )
        if slow["periods"]:
            check(slow, self._slow)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group and divide it between M3 and AdamW.

        Raises:
            ValueError: For a value outside its range.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        names = group.get("param_names", [""] * len(group["params"]))
        group["orthogonal"] = _divided(group["params"], names, group["adamw_names"])

    def _by_name(self, settings: Settings, parameters: Tensors, names: Sequence[str]) -> Settings:
        orthogonal = _divided(parameters, names, settings["adamw_names"])
        return {**settings, "params": parameters, "orthogonal": orthogonal}

    def __repr__(self) -> str:
        lines = [super().__repr__()]
        for index, group in enumerate(self.param_groups):
            for kind, own in (("M3", True), ("AdamW", False)):
                sizes = [
                    p.numel() for p, m in zip(group["params"], group["orthogonal"], strict=True) if m == own
                ]
                lines.append(f"group {index} by {kind}: {len(sizes)} parameters, {sum(sizes):,} elements")
        return "\n".join(lines)

    def _start(self, parameter: Tensor, settings: Settings) -> State:
        state = {
            "step": torch.zeros((), dtype=torch.float32, device="cpu"),
            "momentum": torch.zeros_like(parameter),
        }
        orthogonal = _is_orthogonal(parameter, settings)
        if _divides(settings) or not orthogonal:
            state["squares"] = torch.zeros_like(parameter)
        if orthogonal:
            for i in range(len(settings["periods"])):
                state[f"slow_{i}"] = torch.zeros_like(parameter)
                state[f"read_{i}"] = torch.zeros_like(parameter)
            state["orthogonal"] = parameter.new_ones(())
        return state

    def _read(self, flow: Flow, settings: Settings) -> Tensors:
        torch._foreach_add_(flow.memory("step"), 1.0)
        read: Tensors = list(flow.gradients)
        matrices = [i for i, state in enumerate(flow.states) if "orthogonal" in state]
        others = [i for i, state in enumerate(flow.states) if "orthogonal" not in state]
        for indices, rule in ((matrices, _m3), (others, _adam)):
            if indices:
                for i, update in zip(indices, rule(flow.part(indices), settings), strict=True):
                    read[i] = update
        return read


def _divides(settings: Settings) -> bool:
    """Whether the root of V divides the update."""
    given = settings["denominator"]
    return bool(settings["mode"] == "paper" if given is None else given)


def _divided(parameters: Sequence[Tensor], names: Sequence[str], beginnings: Sequence[str]) -> list[bool]:
    """Which parameters are M3's."""
    return [is_matrix(p.shape) and not _named(n, beginnings) for p, n in zip(parameters, names, strict=True)]


def _named(name: str, beginnings: Sequence[str]) -> bool:
    return any(word.startswith(tuple(beginnings)) for word in re.split(r"[._]", name))


def _is_orthogonal(parameter: Tensor, settings: Settings) -> bool:
    for own, orthogonal in zip(settings.get("params", ()), settings.get("orthogonal", ()), strict=True):
        if own is parameter:
            return bool(orthogonal)
    return is_matrix(parameter.shape)


def _m3(flow: Flow, settings: Settings) -> Tensors:
    """Algorithm 1, one step; what is read of the slow memories was found at their last boundary."""
    fast, literal, first = flow.memory("momentum"), settings["mode"] == "paper", settings["betas"][0]
    if literal:
        accumulate_(fast, flow.gradients, 1.0, first)
    else:
        average_(fast, flow.gradients, first)
    for i in range(len(settings["periods"])):
        _slow_memory(flow, i, settings)
    ahead = blended(flow.gradients, fast, first) if settings["nesterov"] and not literal else fast
    read = [o.to(m.dtype, copy=True) for o, m in zip(orthogonalized(ahead), fast, strict=True)]
    for i, weight in enumerate(settings["weights"]):
        add_(read, flow.memory(f"read_{i}"), weight)
    if _divides(settings):
        return _over_root(read, flow, settings)
    if not literal:
        share = UPDATE_RMS / (1.0 + sum(settings["weights"]))
        for update in read:
            update.mul_(share * longer_side(update) ** 0.5)
    return read


def _over_root(read: Tensors, flow: Flow, settings: Settings) -> Tensors:
    """What was read over the root of V."""
    squares, second = flow.memory("squares"), settings["betas"][1]
    if settings["mode"] == "paper":
        add_square_(squares, flow.gradients, second)
        return divided_by_root(read, squares, settings["eps"])
    scale_(squares, second)
    add_square_(squares, flow.gradients, 1 - second)
    # sqrt(V / c) + eps is (sqrt(V) + eps sqrt(c)) / sqrt(c): a factor of all is lost in the rescaling.
    weights = corrections(second, flow.memory("step"))
    updates = divided(read, shifted_roots(squares, settings["eps"], weights))
    at_rms_(updates, UPDATE_RMS)
    return updates


def _slow_memory(flow: Flow, index: int, settings: Settings) -> None:
    """Read a slow memory if its period has just ended, then let it take in the gradients."""
    period, beta = settings["periods"][index], settings["slow_betas"][index]
    slow, read, steps = flow.memory(f"slow_{index}"), flow.memory(f"read_{index}"), flow.memory("step")
    due = _due(steps, period)
    if due:
        for i, found in zip(due, orthogonalized([slow[i] for i in due]), strict=True):
            read[i].copy_(found)
    if settings["mode"] == "paper":
        add_(slow, flow.gradients, beta)
        return
    if due:
        # From here on the new period's mean joins what is kept of the earlier ones.
        scale_([slow[i] for i in due], beta)
    add_(slow, flow.gradients, (1 - beta) / period)


@_disable_dynamo  # what happens next depends on the values
def _due(steps: Tensors, period: int) -> list[int]:
    """Whose period has just ended, of parameters that have begun this many steps."""
    done = [int(step) - 1 for step in steps]
    return [i for i, count in enumerate(done) if count and count % period == 0]


def _adam(flow: Flow, settings: Settings) -> Tensors:
    """AdamW's direction."""
    momenta, squares, steps = (flow.memory(name) for name in ("momentum", "squares", "step"))
    first, second = settings["adamw_betas"]
    average_(momenta, flow.gradients, first)
    scale_(squares, second)
    add_square_(squares, flow.gradients, 1 - second)
    momenta = divided(momenta, corrections(first, steps))
    return divided_by_root(momenta, squares, settings["eps"], corrections(second, steps))
