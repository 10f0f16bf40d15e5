"""Which searches and cells are wanted, the most informative first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nestlearn.bench.cells import Cell, Search
from nestlearn.bench.store import Record
from nestlearn.bench.streams import STREAMS


@dataclass(frozen=True)
class Plan:
    """What is done.

    Attributes:
        streams: Names.
        methods: Names, in the order in which they are done.
        seeds: At most so many seeds of every stream; None for its own number.
    """

    streams: Sequence[str]
    methods: Sequence[str]
    seeds: int | None = None

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Streams and the methods that are there."""
        for stream in self.streams:
            for method in self.methods:
                if method in STREAMS[stream].entries:
                    yield stream, method

    def wanted(self, records: Mapping[str, Record]) -> list[Search | Cell]:
        """What is known to be missing: first seeds of all methods before second ones."""
        found: list[tuple[int, Search | Cell]] = []
        for stream, method in self.pairs():
            search = Search(stream, method)
            if search.key not in records:
                found.append((-1, search))
                continue
            found += [(cell.seed, cell) for cell in self.cells(search, records) if cell.key not in records]
        return [work for _, work in sorted(found, key=lambda pair: pair[0])]

    def cells(self, search: Search, records: Mapping[str, Record]) -> list[Cell]:
        """The cells of a method, with what its search has found; none before that."""
        if search.key not in records:
            return []
        settings = records[search.key]["best"]
        own = STREAMS[search.stream].seeds
        count = own if self.seeds is None else min(own, self.seeds)
        return [Cell(search.stream, search.method, seed, settings) for seed in range(count)]
