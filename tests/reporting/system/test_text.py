"""The tree in the terminal and the Mermaid flowchart."""

from __future__ import annotations

import io
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from nestlearn.reporting.system import system_mermaid, system_tree
from nestlearn.reporting.system.words import bytes_words, count, folded, shortened
from tests.reporting.system.builder import edge, hope, large, layers, system

NAMES = st.lists(st.text(max_size=90), min_size=1, max_size=6, unique=True)
AWKWARD = [
    '"]; click c0 href "x"',
    "</script>",
    "1. one",
    "- a",
    "🦊 naïve",
    "a|b",
    "line\nbreak",
    "`x`",
    "x" * 500,
]


def printed(document: dict[str, Any], width: int = 60) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(system_tree(document))
    return out.getvalue()


def test_a_tree_says_everything():
    text = printed(hope())
    for word in (
        "HopeForCausalLM trained by Nested",
        "level 4: every 1,024 tokens",
        "4.72 M numbers, 18.9 MB",
    ):
        assert word in text
    for word in ("optimizer state", "model.layers.*.mixer x12", "not placed", "notes", "1,024 tokens"):
        assert word in text
    assert text.index("attention") < text.index("main memory") < text.index("frozen")


def test_a_tree_fits():
    for document in (hope(), large(), system(AWKWARD)):
        assert max(map(len, printed(document).splitlines())) <= 60


@given(NAMES)
@settings(max_examples=40, deadline=None)
def test_a_tree_takes_any_name(names: list[str]):
    assert printed(system(names, levels=2)).count("parameters") >= 1


def test_names_are_folded():
    assert folded(layers("mlp", 12)) == ["model.layers.*.mlp x12"]
    assert folded(["a.0.b.1", "a.1.b.1", "c"]) == ["a.*.b.1 x2", "c"]
    assert folded(["conv1", "conv2"]) == ["conv1", "conv2"]


def test_words():
    assert [count(value) for value in (0, 950, 12_345, 999_600, 2e12)] == ["0", "950", "12.3 k", "1 M", "2 T"]
    assert [bytes_words(value) for value in (12, 49_380)] == ["12 B", "49.4 kB"]
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert shortened(" a\n b ", 5) == "a b"


def test_a_flowchart():
    text = system_mermaid(hope())
    assert text.startswith("flowchart TB\n")
    assert text.count("subgraph") == text.count("\n  end\n") == 7
    assert 'c5["fast<br/>parameters, 4.72 M, 18.9 MB"]' in text
    assert '  c0 -.->|"non-parametric"| c5' in text
    assert len(re.findall(r"^  c\d+ \S+\|", text, re.MULTILINE)) == len(hope()["edges"])


LINE = re.compile(
    r'flowchart TB|  accTitle: [^"<>;#\n]+|  subgraph l\d+ \["[^"<>\n]+"\]|  end'
    r'|    c\d+\["[^"<>\n]+<br/>[^"<>\n]*"\]|  c\d+ (-->|-\.->|==>|--o|--x)\|"[a-z-]+"\| c\d+'
)


@given(NAMES, st.text(max_size=90))
@settings(max_examples=100, deadline=None)
def test_no_name_breaks_out_of_a_flowchart(names: list[str], title: str):
    document = system(names, levels=2) | {"title": title}
    document["edges"] = [edge(names[0], names[-1], "generation", title)]
    for line in system_mermaid(document).splitlines():
        assert LINE.fullmatch(line), line


def test_awkward_names_in_a_flowchart():
    text = system_mermaid(system(AWKWARD))
    assert all(LINE.fullmatch(line) for line in text.splitlines())
    assert "1#46; one<br/>" in text
    assert "#45; a<br/>" in text
