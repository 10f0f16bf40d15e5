"""Where the feed-forward blocks of a model are, and where each of their hidden units lies.

A hidden unit is one number between a block's projections: a row of those that write it (gate and up) and a
column of the one that reads it (down). The blocks of the common architectures are known by the names of
their projections; any other block can be named by its user.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

#: Names of the projections that write hidden units, and of the one that reads them.
KNOWN: tuple[tuple[tuple[str, ...], str], ...] = (
    (("gate_proj", "up_proj"), "down_proj"),  # Llama, Qwen, Mistral, Gemma, OLMo, Hope
    (("gate_up_proj",), "down_proj"),  # Phi-3: both in one matrix
    (("w1", "w3"), "w2"),
    (("c_fc",), "c_proj"),  # GPT-2
    (("dense_h_to_4h",), "dense_4h_to_h"),  # GPT-NeoX, Bloom, Falcon
    (("fc1",), "fc2"),  # Phi, OPT
    (("fc_in",), "fc_out"),  # GPT-J, CodeGen
    (("intermediate.dense",), "output.dense"),  # BERT
    (("linear1",), "linear2"),  # torch's own Transformer layers
)


@dataclass(frozen=True)
class Slot:
    """One parameter of a block.

    Attributes:
        name: In the model.
        axis: Dimension along which its hidden units lie; None for a bias behind them, which is no unit's,
            and outside of blocks.
        repeats: How often each unit occurs along it: unit i of n at i, n + i, ...
    """

    name: str
    axis: int | None
    repeats: int = 1


@dataclass(frozen=True)
class Projection:
    """A linear layer of a block; outside of blocks also the embedding of the tokens.

    Attributes:
        name: Of the module, in the model.
        weight: Its weight.
        bias: Its bias, or None.
        writes: Whether it writes hidden units; otherwise it reads them.
        transposed: Whether its weight is stored as ``[in, out]`` (GPT-2's ``Conv1D``).
    """

    name: str
    weight: Slot
    bias: Slot | None
    writes: bool
    transposed: bool

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Its parameters."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


@dataclass(frozen=True)
class Block:
    """A feed-forward block.

    Attributes:
        name: Of the module, in the model.
        units: Number of its hidden units.
        projections: Those that write them, then the one that reads them.
    """

    name: str
    units: int
    projections: tuple[Projection, ...]

    @property
    def reader(self) -> Projection:
        """The projection that reads the hidden units."""
        return self.projections[-1]


def find_blocks(model: nn.Module, names: Iterable[str] | None = None) -> tuple[Block, ...]:
    """The feed-forward blocks of a model, in its order.

    Args:
        model: Any module.
        names: Names of modules that each are one block; by default every module that has the projections
            of one of the :data:`KNOWN` kinds. Of a named module without them, the last linear layer reads
            what the ones before it write.

    Raises:
        ValueError: If there is none, or a named one does not exist or is no such block; it says what was
            looked for.
    """
    if names is not None:
        blocks = tuple(_named(model, name) for name in names)
    else:
        blocks = tuple(block for name, module in model.named_modules() for block in _known(name, module))
    if not blocks:
        kinds = "; ".join(f"{' and '.join(writers)} with {reader}" for writers, reader in KNOWN)
        raise ValueError(
            f"{type(model).__name__} has no feed-forward block that is known: looked for modules with "
            f"linear layers named {kinds}. Name the blocks yourself: blocks=['encoder.mlp', ...]"
        )
    return blocks


def find_rest(model: nn.Module, blocks: Iterable[Block]) -> tuple[Projection, ...]:
    """What can learn besides the blocks: linear layers of attention and head, embedding of the tokens.

    A weight that several modules share is named once, as :meth:`torch.nn.Module.named_parameters` does.

    Args:
        model: Any module.
        blocks: Its feed-forward blocks, whose parameters are left out.

    Raises:
        ValueError: If there is nothing else.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    inside = {slot.name for block in blocks for own in block.projections for slot in own.slots}
    tokens = _token_embeddings(model)
    found: list[Projection] = []
    for name, module in model.named_modules():
        if not (_is_linear(module) or module in tokens):
            continue
        weight, bias = names[id(module.weight)], getattr(module, "bias", None)
        if weight in inside:
            continue
        inside.add(weight)
        slot = None if bias is None else Slot(names[id(bias)], None)
        transposed = not isinstance(module, nn.Linear | nn.Embedding)
        found.append(Projection(name, Slot(weight, None), slot, writes=True, transposed=transposed))
    if not found:
        raise ValueError(f"{type(model).__name__} has no linear layer and no embedding besides its blocks")
    return tuple(found)


def _token_embeddings(model: nn.Module) -> list[nn.Module]:
    """Those of tokens, where the model says which they are; otherwise all."""
    own: Any = getattr(model, "get_input_embeddings", None)
    if own is not None:
        return [own()]
    return [module for module in model.modules() if type(module) is nn.Embedding]


def _named(model: nn.Module, name: str) -> Block:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        some = ", ".join(n for n, m in model.named_modules() if n and _linears(m))
        raise ValueError(f"there is no module {name!r}; those with linear layers are {some}") from None
    for block in _known(name, module):
        return block
    linears = _linears(module)
    if len(linears) < 2:
        raise ValueError(
            f"{name!r} is no feed-forward block: it has {len(linears)} linear layers of "
            "at least two that were looked for"
        )
    *writers, reader = linears
    return _block(name, module, tuple(writers), reader)


def _known(name: str, module: nn.Module) -> Iterator[Block]:
    """The block that a module is, if it is one."""
    for writers, reader in KNOWN:
        if all(_is_linear(_child(module, own)) for own in (*writers, reader)):
            yield _block(name, module, writers, reader)
            return


def _block(name: str, module: nn.Module, writers: tuple[str, ...], reader: str) -> Block:
    units, _ = _sizes(_child(module, reader))
    projections = []
    for own in (*writers, reader):
        layer = _child(module, own)
        assert layer is not None
        _, out = _sizes(layer)
        if own != reader and (out < units or out % units):
            raise ValueError(
                f"{name!r} is no feed-forward block: {own} gives {out} numbers and {reader} reads {units}"
            )
        projections.append(_projection(f"{name}.{own}".lstrip("."), layer, own != reader, units))
    return Block(name, units, tuple(projections))


def _projection(name: str, layer: nn.Module, writes: bool, units: int) -> Projection:
    transposed = not isinstance(layer, nn.Linear)
    repeats = _sizes(layer)[1] // units if writes else 1
    axis = int(writes == transposed)  # rows of nn.Linear's weight are its outputs
    bias = None
    if layer.bias is not None:
        bias = Slot(f"{name}.bias", 0 if writes else None, repeats)
    return Projection(name, Slot(f"{name}.weight", axis, repeats), bias, writes, transposed)


def _linears(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_modules() if name and _is_linear(child)]


def _child(module: nn.Module, path: str) -> nn.Module | None:
    found: nn.Module | None = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, nn.Module) else None


def _is_linear(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _sizes(layer: nn.Module | None) -> tuple[int, int]:
    """Numbers of inputs and outputs."""
    assert layer is not None
    rows, columns = layer.weight.shape  # type: ignore[misc]
    return (columns, rows) if isinstance(layer, nn.Linear) else (rows, columns)
