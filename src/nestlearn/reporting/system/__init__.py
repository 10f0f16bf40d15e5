"""Drawings of a nested system and of what it did along a stream: tree, Mermaid, SVG, interactive page.

All of them take JSON documents: a system as ``nl.inspect(...).to_json()`` gives it, and a run as
`nestlearn.observing.read_run` does.
"""

from nestlearn.reporting.system.data import run_payload
from nestlearn.reporting.system.document import check_run, check_system
from nestlearn.reporting.system.mermaid import system_mermaid
from nestlearn.reporting.system.page import render_page, write_page
from nestlearn.reporting.system.svg import system_svg
from nestlearn.reporting.system.tree import system_tree

__all__ = [
    "check_run",
    "check_system",
    "render_page",
    "run_payload",
    "system_mermaid",
    "system_svg",
    "system_tree",
    "write_page",
]
