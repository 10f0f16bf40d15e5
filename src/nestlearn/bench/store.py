"""Results that are kept run by run in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from nestlearn.reporting.files import write_atomically

Record = dict[str, Any]


class Keyed(Protocol):
    """What is kept: anything with a key that its settings decide."""

    @property
    def key(self) -> str:
        """The key."""


class Keeper(Protocol):
    """Where finished runs are kept."""

    records: dict[str, Record]

    def add(self, run: Any, record: Record) -> None:
        """Keep a record, on disk before this returns."""


class Store:
    """A JSON file with the record of every finished run, by its key.

    The key does not know the code: after a change of what a run computes, its runs have to be taken out.

    Args:
        path: The file; it is made with the first record.

    Raises:
        ValueError: The file is there and is not of this kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        self.summary: Any = None
        if path.exists():
            try:
                held = json.loads(path.read_text(encoding="utf-8"))
                self.records, self.summary = dict(held["runs"]), held["summary"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} is not a file of finished runs: choose another result, or move it away"
                ) from error

    def __contains__(self, run: Keyed) -> bool:
        return run.key in self.records

    def __getitem__(self, run: Keyed) -> Record:
        return self.records[run.key]

    def add(self, run: Keyed, record: Record) -> None:
        """Keep a record, on disk before this returns."""
        self.records[run.key] = record
        self.write()

    def write(self) -> None:
        """Write the file whole or not at all."""
        content = {"summary": self.summary, "runs": self.records}
        write_atomically(self.path, json.dumps(content, indent=1) + "\n")


class StreamRun(Keyed, Protocol):
    """A run that belongs to a stream."""

    @property
    def stream(self) -> str:
        """The stream's name."""


class StreamStores:
    """A folder with one :class:`Store` for every stream, so that streams can be done side by side.

    Args:
        folder: It is made with the first record.

    Raises:
        ValueError: It is a file, or one of its files is not of this kind.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is not a folder: choose another result")
        self.folder = folder
        self.stores = {path.stem: Store(path) for path in sorted(folder.glob("*.json"))}
        self.records: dict[str, Record] = {}
        for store in self.stores.values():
            self.records |= store.records

    def add(self, run: StreamRun, record: Record) -> None:
        """Keep a record in its stream's file."""
        store = self.stores.setdefault(run.stream, Store(self.folder / f"{run.stream}.json"))
        store.add(run, record)
        self.records[run.key] = record
