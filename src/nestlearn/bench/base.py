"""What the benchmark knows of a stream, whatever is learned on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nestlearn.bench.store import Record

Settings = Mapping[str, Any]
#: Learns what comes: the lower bound.
ORDINARY = "ordinary"
#: All tasks at once: the upper bound.
JOINT = "joint"
#: A new model for every task: how much is learned by one that has nothing to keep.
FRESH = "fresh"
#: What a search looks at, where a stream says nothing else: later tasks choose nothing.
SEARCHED_TASKS = 2


@dataclass(frozen=True)
class Entry:
    """A method of the benchmark.

    Attributes:
        name: In tables and on the command line.
        make: Makes it; what from and what with is the streams' own business.
        space: The values that are searched, by setting.
        objective: What the search looks at: ``"final"``, all searched tasks at the end, or ``"learned"``,
            each right after it.
        ours: Whether it is this project's.
        stores: Whether it keeps examples.
        told: Whether it is told when a task ends.
        passes: Over each task's examples; None for the stream's. What is solved exactly gains nothing by a
            second one.
        revision: Counts changes of what it computes: what was done before them is done anew.
    """

    name: str
    make: Callable[..., Any]
    space: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    objective: str = "final"
    ours: bool = False
    stores: bool = False
    told: bool = False
    passes: int | None = None
    revision: int = 0


@dataclass(frozen=True)
class Measures:
    """What is shown of the cells of a stream.

    Attributes:
        final: The figure that methods are ordered by and compared with joint training in.
        learned: The one that says how well each task was learned.
        unit: Of both, for the picture.
        rising: Whether more is better.
        columns: Figures of the first table, by heading.
        plasticity: Figures of what became of the network, by heading.
        explained: What the headings mean, Markdown.
    """

    final: str
    learned: str
    unit: str
    rising: bool
    columns: Mapping[str, str]
    plasticity: Mapping[str, str]
    explained: str


class BenchStream(ABC):
    """Tasks that every method of the stream meets in the same order, and the model that learns them.

    Attributes:
        name: On the command line.
        title: For people.
        seeds: How many are reported.
        trials: Of each search at most.
        searched_tasks: The first tasks, which a search looks at.
        measures: What is shown.
        published: Percentages from the literature by method, and ``source``, where they are from.
        left_out: Why methods of its kind are not on it.
        table: The methods of its kind, the most informative first.
    """

    name: str
    title: str
    seeds: int
    trials: int
    searched_tasks: int = SEARCHED_TASKS
    measures: Measures
    published: Mapping[str, float]
    source: str
    left_out: Mapping[str, str]
    table: Mapping[str, Entry]

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The methods of its kind that are not left out."""
        return {name: entry for name, entry in self.table.items() if name not in self.left_out}

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides the result of a run on it but the method, for JSON."""

    @property
    @abstractmethod
    def described(self) -> str:
        """How a method meets it, one sentence for the page."""

    @abstractmethod
    def run(self, method: str, settings: Settings, seed: int) -> Record:
        """Learn all of it, and test on test examples."""

    @abstractmethod
    def trial(self, method: str, settings: Settings, seed: int, tasks: int) -> float:
        """Learn the first tasks only, and say how good that is on validation examples; more is better.

        Raises:
            ValueError: It diverged.
            RuntimeError: Likewise.
        """

    def against(self, own: Record, ordinary: Record) -> dict[str, float]:
        """Further figures of a cell that take ordinary learning's with the same seed to tell; none here."""
        del own, ordinary
        return {}


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures as they are kept."""
    return {name: round(value, 5) for name, value in figures.items()}


def rounded_row(row: Sequence[float]) -> list[float]:
    """Figures of many tasks as they are kept."""
    return [round(value, 4) for value in row]
