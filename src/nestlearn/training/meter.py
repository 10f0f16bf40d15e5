"""What passes through a model between two steps, for loops that call ``step()`` and say nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nestlearn.optim import Consolidated, KeyMemories, Nested
from nestlearn.optim.key_memories import processes
from nestlearn.retrofitting import NestedUnits

#: Tokens of a batch, given by the names of the model's arguments.
TokenCount = Callable[[Mapping[str, Any]], int]
#: Label of a position that is not predicted.
_IGNORED = -100


def count_tokens(inputs: Mapping[str, Any]) -> int:
    """Tokens that a model is given, without padding.

    Args:
        inputs: By name of argument: ``attention_mask`` ``[B, T]`` if there is padding, and ``input_ids``
            ``[B, T]`` or ``inputs_embeds`` ``[B, T, d]``.

    Returns:
        Tokens of all sequences together.

    Raises:
        ValueError: If there are none of these arguments.
    """
    mask = inputs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2:
        return int(mask.count_nonzero())
    if isinstance(ids := inputs.get("input_ids"), Tensor):
        return ids.numel()
    if isinstance(embedded := inputs.get("inputs_embeds"), Tensor):
        return embedded.shape[:-1].numel()
    raise ValueError(
        f"a batch of {', '.join(inputs) or 'nothing'} has no input_ids to count: say what a batch counts "
        "for, tokens=lambda batch: ..."
    )


class Meter:
    """Counts the tokens and keeps the loss of training passes, and gives both to the optimizer's next step.

    Frameworks call ``optimizer.step()`` with nothing, often through a wrapper of theirs, while
    :class:`nestlearn.optim.Nested` needs the tokens of a step, and the loss if a level consolidates. A meter
    hooks into both ends and leaves the loop as it is::

        optimizer = nl.optim.Nested(levels, model)
        meter = nl.training.Meter(optimizer, model)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    Passes without gradients or in evaluation mode do not count. Several passes before a step (gradient
    accumulation) count as one batch. With several data-parallel processes, tokens are summed and losses and
    key memories averaged over all of them, so that clocks and weights stay the same everywhere; tensor,
    pipeline or sequence parallelism is not known here. A closure of ``step`` is called before the count.

    Args:
        optimizer: :class:`nestlearn.optim.Nested`, or :class:`nestlearn.optim.Consolidated`, which needs
            no count; as it is or in a wrapper of accelerate or Lightning.
        model: Whose passes count. Without one, whoever runs the loop calls :meth:`add` and :meth:`add_loss`.
        tokens: What a batch counts for.

    Attributes:
        optimizer: The optimizer, out of its wrapper.

    Raises:
        ValueError: For another optimizer, one with a gradient scaler, or one of another model.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module | None = None,
        *,
        tokens: TokenCount = count_tokens,
    ) -> None:
        self.optimizer = unwrapped(optimizer)
        self._count = tokens
        self.reset()
        if model is not None:
            _check(self.optimizer, model)
        self._handles: list[Any] = [self.optimizer.register_step_pre_hook(self._give)]
        if model is not None:
            inner: Any = getattr(model, "module", model)  # out of data parallelism
            self._names = list(inspect.signature(inner.forward).parameters)
            self._handles.append(model.register_forward_hook(self._passed, with_kwargs=True))

    def add(self, tokens: int) -> None:
        """Count tokens of a pass."""
        self._tokens += tokens

    def add_loss(self, loss: Tensor | float, predictions: int = 1) -> None:
        """Take in the loss of a pass, where the model has not computed it itself.

        Args:
            loss: Mean over the pass's predictions, as the surprise of the step.
            predictions: Their number, which is the weight of this pass among those of the step.
        """
        value = loss.item() if isinstance(loss, Tensor) else loss
        self._loss += value * predictions
        self._predictions += predictions

    def reset(self) -> None:
        """Forget what was counted since the last step."""
        self._tokens = self._predictions = 0
        self._loss = 0.0

    def close(self) -> None:
        """Take the hooks off the model and the optimizer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _passed(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """After a forward pass of the model."""
        if not (model.training and torch.is_grad_enabled()):
            return
        inputs = {**dict(zip(self._names, args, strict=False)), **kwargs}
        tokens = self._count(inputs)
        self.add(tokens)
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if loss is None:
            return
        predictions = _predictions(inputs.get("labels"), tokens)
        # With this argument the loss is a share of the step's mean, not a mean itself.
        items = inputs.get("num_items_in_batch")
        mean = loss.item() * (1.0 if items is None else float(items) / max(1, predictions))
        self.add_loss(mean, predictions)

    def _give(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Before a step: what its other arguments are. Those that it is given go first."""
        told = {key: value for key, value in kwargs.items() if key != "closure"}
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            told["closure"] = lambda: loss
        if isinstance(optimizer, Nested):
            told = {**self._measured(), **told}
            _check_step(optimizer, told)
        for memory in _memories(self.optimizer):
            memory.average()
        return args[:1], told

    def _measured(self) -> dict[str, Any]:
        """Tokens and mean loss since the last step, over all processes; the next count starts at zero."""
        figures = torch.tensor([self._tokens, self._predictions, self._loss], dtype=torch.float64)
        self.reset()
        if processes() > 1:
            device = self.optimizer.param_groups[0]["params"][0].device  # what the group's backend works on
            figures = figures.to(device)
            torch.distributed.all_reduce(figures)
        tokens, predictions, loss = figures.tolist()
        return {"tokens": int(tokens), **({"surprise": loss / predictions} if predictions else {})}


def unwrapped(optimizer: Any) -> Nested | Consolidated:
    """The optimizer in the wrappers of accelerate and Lightning.

    Raises:
        ValueError: If it is neither of ours, or its gradients are scaled.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        if getattr(optimizer, "scaler", None) is not None:
            raise ValueError(
                "a gradient scaler (fp16) changes the gradients that key memories look at and skips steps "
                "that a clock has counted: train in bf16"
            )
        optimizer = inner
    if not isinstance(optimizer, Nested | Consolidated):
        raise ValueError(
            f"the optimizer is {type(optimizer).__name__}, which has no levels: make "
            "nl.optim.Nested(levels, model) and give it to the trainer"
        )
    return optimizer


def _check(optimizer: Nested | Consolidated, model: nn.Module) -> None:
    """Refuse an optimizer that would not change the model at all."""
    if isinstance(optimizer, NestedUnits):
        owned = {id(part.parameter) for part in optimizer.parts.parts()}
    else:
        owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(parameter.requires_grad and id(parameter) in owned for parameter in model.parameters()):
        raise ValueError(
            f"the optimizer has no parameter of this {type(model).__name__} that is trained: make it for "
            "this model, and with PEFT after the adapters"
        )


def _check_step(optimizer: Nested, told: Mapping[str, Any]) -> None:
    """Refuse a step that nothing was measured for, with what to do in somebody else's loop."""
    if not told["tokens"]:
        raise ValueError(
            "no token has passed through the model since the last step: it must be in training mode, and the "
            "model that the meter was given"
        )
    if optimizer.memories and not {"surprise", "closure"} & set(told):
        raise ValueError(
            "a level consolidates, which needs the loss, but the model was not asked for one: give it "
            "labels, or tell the meter, meter.add_loss(loss)"
        )


def _memories(optimizer: Nested | Consolidated) -> list[KeyMemories]:
    """All key memories of an optimizer."""
    return [optimizer.memories] if isinstance(optimizer, Consolidated) else list(optimizer.memories.values())


def _predictions(labels: Tensor | None, tokens: int) -> int:
    """Number of predictions that a loss is the mean of; of sequences the first token is none."""
    if labels is None:
        return tokens
    predicted = labels[..., 1:] if labels.dim() > 1 else labels
    return int((predicted != _IGNORED).count_nonzero())
