"""Processes that do runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

#: A program whose worker writes to a file for as long as it lives.
PROGRAM = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
from nestlearn.bench.work import complete

@dataclass(frozen=True)
class Run:
    file: str
    key: str = "k"

def execute(run):
    while True:
        with Path(run.file).open("a") as file:
            file.write("alive ")
        time.sleep(0.05)

class Plan:
    def wanted(self, records):
        return [Run(sys.argv[1])]

class Results:
    records = {}

if __name__ == "__main__":
    complete(Plan(), Results(), execute, workers=1, on_done=print)
"""


def test_a_worker_ends_with_whoever_began_it(tmp_path: Path) -> None:
    program, written = tmp_path / "program.py", tmp_path / "written"
    program.write_text(PROGRAM)

    def writes() -> bool:
        before = written.stat().st_size
        time.sleep(1.0)
        return written.stat().st_size > before

    with subprocess.Popen([sys.executable, str(program), str(written)]) as parent:
        _wait(written.exists)
        assert writes()
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(60) == -signal.SIGTERM
    _wait(lambda: not writes())


def _wait(until: Callable[[], bool]) -> None:
    for _ in range(600):
        if until():
            return
        time.sleep(0.1)
    raise AssertionError("a minute has passed")
