"""Parts of weights with a level of their own, beside a model that keeps its weights whole.

A part is the rows or columns of one weight that belong to one level's hidden units. The model is left as it
is, so that everything that works on it goes on working; the optimizer has a copy of the part, in float32 at
least, takes its gradient out of the weight's, and puts it back after an update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nestlearn.levels import Level
from nestlearn.optim.recording import OwnHook, products
from nestlearn.optim.sites import EmbeddingSite, LinearSite, Site, add_moment, rows, tied_head, wide
from nestlearn.retrofitting.anatomy import Projection, Slot
from nestlearn.retrofitting.division import Division


class Part:
    """One level's part of one parameter.

    Args:
        parameter: The parameter, in the model.
        axis: Dimension of the hidden units.
        index: Which of them; None for all, or where the parameter has none.

    Attributes:
        own: What the optimizer updates: a copy of the part in float32 at least, or the parameter itself,
            if that is the same.
    """

    def __init__(self, parameter: nn.Parameter, axis: int = 0, index: Tensor | None = None) -> None:
        self.parameter, self.axis = parameter, axis
        self.index = None if index is None else index.to(parameter.device)
        value = self.of(parameter.detach())
        same = self.index is None and wide(value).dtype == parameter.dtype
        self.own = parameter if same else nn.Parameter(wide(value).clone())

    def of(self, whole: Tensor) -> Tensor:
        """The part of a tensor like the parameter."""
        return whole if self.index is None else whole.index_select(self.axis, self.index)

    @torch.no_grad()
    def gather(self) -> None:
        """Take the gradient out of the parameter's."""
        if self.own is not self.parameter:
            gradient = self.parameter.grad
            self.own.grad = None if gradient is None else wide(self.of(gradient))

    @torch.no_grad()
    def scatter(self) -> None:
        """Put the optimizer's values into the parameter."""
        if self.own is not self.parameter:
            self._put(self.own)

    @torch.no_grad()
    def write(self, value: Tensor) -> None:
        """Overwrite the part, here and in the parameter."""
        self._put(value)
        if self.own is not self.parameter:
            self.own.copy_(value)

    def _put(self, value: Tensor) -> None:
        value = value.to(self.parameter)
        if self.index is None:
            self.parameter.copy_(value)
        else:
            self.parameter.index_copy_(self.axis, self.index, value)


class PartSite(LinearSite):
    """The key memory of one level's part of a projection: moments over the level's units only.

    Args:
        module: The projection.
        parameters: The part of its weight, and of its bias if that has one.
        projection: How the weight lies.
        index: The units; None for all.
    """

    reduced = True

    def __init__(
        self,
        module: nn.Module,
        parameters: tuple[nn.Parameter, ...],
        projection: Projection,
        index: Tensor | None,
    ) -> None:
        super().__init__(module, parameters)
        self.projection, self.index = projection, index

    def inputs(self, x: Tensor) -> Tensor:
        """Of the projection that reads hidden units, those of the level."""
        return x if self.projection.writes or self.index is None else x.index_select(-1, self.index)

    def outputs(self, gradient: Tensor) -> Tensor:
        """Of a projection that writes hidden units, those of the level."""
        if not self.projection.writes or self.index is None:
            return gradient
        return gradient.index_select(-1, self.index)

    def _joined(self, function: Callable[[Tensor], Tensor], tensors: list[Tensor]) -> list[Tensor]:
        """As for any linear layer, whichever way the weight is stored."""
        if not self.projection.transposed:
            return super()._joined(function, tensors)
        weight, *bias = tensors
        turned, *rest = super()._joined(function, [weight.mT, *bias])
        return [turned.mT.contiguous(), *rest]


class TokenSite(EmbeddingSite):
    """The key memory of a model's token embedding; of a tied one, with the output side as in a linear layer.

    The rows of a tied embedding are also outputs: how much each prediction matters is the diagonal of ``D``,
    and the layer is protected in proportion to its sensitivity, as others are.
    """

    def hook(self, recording: Callable[[], bool]) -> Iterable[RemovableHandle]:
        """Record also the gradients of a tied output layer's predictions."""

        def predictions(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if recording() and output.requires_grad:
                output.register_hook(backward)

        def backward(gradient: Tensor) -> None:
            add_moment(self.fresh, "output", wide(rows(gradient)).square().sum(0))

        handles = [*super().hook(recording)]
        if self.head is not None:
            handles.append(self.head.register_forward_hook(OwnHook(predictions)))
        return handles

    def build(self, strength: float, output_strength: float) -> None:
        """Rows are damped by the use of their token as an input, and as a prediction."""
        super().build(strength, output_strength)
        if "output" in self.kept:
            self.factors["rows"] = self.factors["rows"] / (1.0 + self.kept["output"] / output_strength)

    def rotate(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """As for other parts, with factors of products in bfloat16 where a CPU can."""
        with products(True):
            return super().rotate(gradients)

    def filter(self, updates: list[Tensor]) -> list[Tensor]:
        """Likewise."""
        with products(True):
            return super().filter(updates)


class Parts(nn.Module):
    """All parts of a retrofitted model, as what :class:`nestlearn.optim.Nested` divides among levels.

    Args:
        model: The model.
        division: Its levels' units.

    Attributes:
        by_level: Parts of each level by the name of their parameter.
    """

    def __init__(self, model: nn.Module, division: Division) -> None:
        super().__init__()
        self.by_level: dict[str, dict[str, Part]] = {}
        self._levels: dict[str, str] = {}
        self._sites: list[Site] = []
        for block in division.blocks:
            for level, units in division.units[block.name].items():
                whole = len(units) == block.units
                for projection in block.projections:
                    self._add(model, level, projection, None if whole else units)
        for projection in division.others:
            assert division.rest is not None
            self._add(model, division.rest, projection, None)

    def _add(self, model: nn.Module, level: str, projection: Projection, units: Tensor | None) -> None:
        parts = []
        for slot in projection.slots:
            # A bias behind the hidden units belongs to a level only with the whole block.
            if slot.axis is None and units is not None:
                continue
            parameter = model.get_parameter(slot.name)
            part = Part(parameter, slot.axis or 0, places(slot, units, parameter))
            key = f"{slot.name}@{level}".replace(".", "/")
            self.register_parameter(key, part.own)
            self._levels[key] = level
            self.by_level.setdefault(level, {})[slot.name] = part
            parts.append(part)
        module, index = model.get_submodule(projection.name), parts[0].index
        own = tuple(part.own for part in parts)
        if isinstance(module, nn.Embedding):
            self._sites.append(TokenSite(module, tied_head(model, module), own))
        else:
            self._sites.append(PartSite(module, own, projection, index))

    def assign_level(self, name: str, levels: Sequence[Level]) -> str:
        """The level of a part by its name here."""
        del levels
        return self._levels[name]

    def find_sites(self, parameters: Iterable[nn.Parameter]) -> list[Site]:
        """Key memories of some of the parts."""
        wanted = {id(parameter) for parameter in parameters}
        return [site for site in self._sites if id(site.parameters[0]) in wanted]

    def parts(self, level: str | None = None) -> Iterator[Part]:
        """The parts of one level, or of all."""
        for name, parts in self.by_level.items():
            if level in (None, name):
                yield from parts.values()

    def gradients(self, tensors: Iterable[Tensor]) -> list[Tensor | None]:
        """Gradients of parts, by what the optimizer updates, while they are in the model's parameters."""
        by_own = {id(part.own): part for part in self.parts()}
        whole = [(by_own[id(own)], by_own[id(own)].parameter.grad) for own in tensors]
        return [None if gradient is None else part.of(gradient) for part, gradient in whole]

    def label(self, own: Tensor) -> str:
        """A part by its parameter's name and its share of it.

        Raises:
            ValueError: If it is no part.
        """
        for parts in self.by_level.values():
            for name, part in parts.items():
                if part.own is own:
                    whole = part.index is None
                    return (
                        name
                        if whole
                        else f"{name} [{own.shape[part.axis]} of {part.parameter.shape[part.axis]}]"
                    )
        raise ValueError("this tensor is no part of the model")

    def gather(self) -> None:
        """Take all gradients out of the model's, which are None afterwards."""
        for part in self.parts():
            part.gather()
        for part in self.parts():
            if part.own is not part.parameter:
                part.parameter.grad = None


def places(slot: Slot, units: Tensor | None, parameter: Tensor) -> Tensor | None:
    """Where a level's units lie along a parameter's axis: each ``slot.repeats`` times."""
    if units is None:
        return None
    assert slot.axis is not None
    each = parameter.shape[slot.axis] // slot.repeats
    return torch.cat([units + i * each for i in range(slot.repeats)])
