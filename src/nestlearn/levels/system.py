"""A nested system: the memories of a model and its optimizer, in levels (Definitions 2 to 4)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

from nestlearn.levels.description import KINDS, Kind, Unit
from nestlearn.levels.order import frequency_words, ordered

FORMAT = "nestlearn-system-1"
#: Section 3.3 of the paper, in its order.
TransferKind = Literal["parametric", "non-parametric", "backpropagation", "initialisation", "generation"]


@dataclass(frozen=True)
class Component:
    """One associative memory of a system: a box of the paper's figures (Definition 3).

    Attributes:
        name: Unique in its system.
        kind: One of :data:`~nestlearn.levels.description.KINDS`.
        objective: What it minimises.
        context: What it compresses, its context flow.
        period: Units between two updates; 0 for recomputed with every token, None for never updated.
        unit: ``"token"`` or ``"step"`` (of the optimizer); None if it is never updated.
        parameters: Numbers of the model's parameters that it holds.
        bytes: Bytes of what it holds; of one sequence for memories over tokens, 0 where that grows.
        tensors: Names of what it holds.
        where: Modules that have it.
        needs: Components whose state at a time its own state at that time needs.
    """

    name: str
    kind: Kind
    objective: str
    context: str
    period: int | None
    unit: Unit | None
    parameters: int = 0
    bytes: int = 0
    tensors: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transfer:
    """Knowledge that goes from one component to another (section 3.3).

    Attributes:
        source: Name of the component that knows.
        target: Name of the one that learns or is conditioned.
        kind: Which of the five ways.
        what: In words.
    """

    source: str
    target: str
    kind: TransferKind
    what: str


@dataclass(frozen=True)
class NestedLevel:
    """Components of one update frequency, none of which waits for another.

    Attributes:
        index: From 1, the fastest.
        frequency: In words.
        components: The level's.
    """

    index: int
    frequency: str
    components: tuple[Component, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the components."""
        return tuple(component.name for component in self.components)


@dataclass(frozen=True)
class NestedSystem:
    """What :func:`nestlearn.inspect` finds.

    Attributes:
        title: Model and optimizer.
        components: All of them.
        transfers: Knowledge transfers between them.
        tokens_per_step: Tokens of one optimizer step, if known.
        unplaced: What could not be placed, as pairs of a name and the reason.
        notes: What a reader should know, in sentences.
        aliases: Further names of tied parameters, each with the name under which it is placed.

    Raises:
        ValueError: If names are not unique, a transfer leads nowhere, or components wait in a circle.
    """

    title: str
    components: tuple[Component, ...]
    transfers: tuple[Transfer, ...] = ()
    tokens_per_step: int | None = None
    unplaced: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        names = [component.name for component in self.components]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"components need unique names, got {', '.join(twice)} more than once")
        for transfer in self.transfers:
            for end in (transfer.source, transfer.target):
                if end not in names:
                    raise ValueError(f"a transfer leads to {end!r}, which is no component")
        _ = self.levels  # refuses circles

    @cached_property
    def levels(self) -> tuple[NestedLevel, ...]:
        """The levels, fast to slow."""
        found = ordered(self.components, self.tokens_per_step)
        return tuple(
            NestedLevel(index, frequency_words(key, self.tokens_per_step), tuple(members))
            for index, (key, members) in enumerate(found, start=1)
        )

    def __getitem__(self, name: str) -> Component:
        """A component by its name.

        Raises:
            KeyError: If there is none, listing the names.
        """
        for component in self.components:
            if component.name == name:
                return component
        known = ", ".join(component.name for component in self.components)
        raise KeyError(f"there is no component {name!r}; there are {known}")

    def level_of(self, name: str) -> NestedLevel:
        """The level of a component, or of the component that holds a parameter of this name.

        Raises:
            KeyError: If nothing has this name.
        """
        for level in self.levels:
            for component in level.components:
                if component.name == name:
                    return level
        own = dict(self.aliases).get(name, name)
        for level in self.levels:
            for component in level.components:
                if component.kind == "parameters" and own in component.tensors:
                    return level
        raise KeyError(f"there is no component or parameter {name!r}")

    def __str__(self) -> str:
        lines = [self.title]
        for level in self.levels:
            lines.append(f"level {level.index}: {level.frequency}")
            lines += [f"  {_line(component)}" for component in level.components]
        lines += [f"not placed: {name}: {why}" for name, why in self.unplaced]
        return "\n".join([*lines, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """The system as JSON values; :meth:`from_json` takes them back."""
        return {
            "format": FORMAT,
            "title": self.title,
            "tokens_per_step": self.tokens_per_step,
            "levels": [
                {"index": level.index, "frequency": level.frequency, "components": list(level.names)}
                for level in self.levels
            ],
            "components": [_plain(component) for component in self.components],
            "edges": [_plain(transfer) for transfer in self.transfers],
            "unplaced": [{"name": name, "why": why} for name, why in self.unplaced],
            "notes": list(self.notes),
            "aliases": [{"name": name, "of": own} for name, own in self.aliases],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> NestedSystem:
        """What :meth:`to_json` made.

        Raises:
            ValueError: If it is something else, or does not agree with itself.
        """
        if not isinstance(document, Mapping) or document.get("format") != FORMAT:
            raise ValueError(f"this is not a nested system: it needs format {FORMAT!r}")
        try:
            system = cls(
                title=str(document["title"]),
                components=tuple(_component(entry) for entry in document["components"]),
                transfers=tuple(_transfer(entry) for entry in document["edges"]),
                tokens_per_step=document["tokens_per_step"],
                unplaced=tuple((str(entry["name"]), str(entry["why"])) for entry in document["unplaced"]),
                notes=tuple(str(note) for note in document["notes"]),
                aliases=tuple((str(e["name"]), str(e["of"])) for e in document.get("aliases", ())),
            )
            levels = [list(entry["components"]) for entry in document["levels"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"the nested system is damaged: {error}") from error
        if levels != [list(level.names) for level in system.levels]:
            raise ValueError("the nested system is damaged: its levels are not those of its components")
        return system

    def save(self, path: Path | str) -> None:
        """Write the system to a JSON file."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> NestedSystem:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: If the file holds something else.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        return cls.from_json(document)


def _line(component: Component) -> str:
    numbers = f"{component.parameters:,} parameters" if component.parameters else f"{component.bytes:,} bytes"
    return f"{component.name} ({component.kind}, {numbers}): {component.objective}"


def _plain(item: Component | Transfer) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(item).items()}


def _component(entry: Mapping[str, Any]) -> Component:
    lists: Iterable[str] = ("tensors", "where", "needs")
    component = Component(**{**entry, **{key: tuple(entry[key]) for key in lists}})
    if component.kind not in KINDS:
        raise ValueError(f"component {component.name!r} is of unknown kind {component.kind!r}")
    if component.unit not in (*get_args(Unit), None):
        raise ValueError(f"component {component.name!r} counts in {component.unit!r}, not tokens or steps")
    return component


def _transfer(entry: Mapping[str, Any]) -> Transfer:
    if entry["kind"] not in get_args(TransferKind):
        raise ValueError(f"{entry['kind']!r} is no kind of knowledge transfer")
    return Transfer(entry["source"], entry["target"], cast("TransferKind", entry["kind"]), entry["what"])


__all__ = ["FORMAT", "Component", "NestedLevel", "NestedSystem", "Transfer", "TransferKind"]
