"""The order of Definition 2, and systems as files."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestlearn.levels import Component, NestedSystem, Transfer
from nestlearn.levels.order import frequency_key


def component(name, period, unit="token", needs=(), kind="parameters"):
    return Component(name, kind, "the loss", "tokens", period, unit, 1, 4, (f"{name}.weight",), needs=needs)


def levels(*components, tokens_per_step=None):
    system = NestedSystem("test", tuple(components), tokens_per_step=tokens_per_step)
    return [set(level.names) for level in system.levels]


def test_more_often_is_faster_and_never_comes_last():
    parts = [component("frozen", None, None), component("slow", 64), component("fast", 1), component("kv", 0)]
    assert levels(*parts) == [{"kv"}, {"fast"}, {"slow"}, {"frozen"}]


def test_a_tie_is_resolved_by_who_waits_for_whom():
    parts = [component("weights", 8, needs=("m", "v")), component("m", 8), component("v", 8)]
    assert levels(*parts) == [{"m", "v"}, {"weights"}]
    chain = [component("c", 8, needs=("b",)), component("b", 8, needs=("a",)), component("a", 8)]
    assert levels(*chain) == [{"a"}, {"b"}, {"c"}]


def test_a_need_of_another_frequency_changes_nothing():
    assert levels(component("weights", 1, needs=("slow",)), component("slow", 8)) == [{"weights"}, {"slow"}]


def test_what_is_independent_takes_the_slowest_place_of_its_frequency():
    parts = [component("w", 8, needs=("m",)), component("m", 8), component("alone", 8)]
    assert levels(*parts) == [{"m"}, {"w", "alone"}]


def test_steps_and_tokens_are_compared_where_a_step_is_known():
    parts = [component("a", 1, "step"), component("b", 512), component("c", 2048)]
    assert levels(*parts) == [{"b"}, {"c"}, {"a"}], "a step is longer than anything inside a sequence"
    assert levels(*parts, tokens_per_step=1024) == [{"b"}, {"a"}, {"c"}]
    assert levels(*parts, tokens_per_step=512) == [{"a", "b"}, {"c"}]


def test_circles_are_refused():
    with pytest.raises(ValueError, match=r"circle: a -> b -> a|circle: b -> a -> b"):
        levels(component("a", 1, needs=("b",)), component("b", 1, needs=("a",)))


def test_names_are_unique_and_transfers_lead_somewhere():
    with pytest.raises(ValueError, match="unique names, got a"):
        levels(component("a", 1), component("a", 2))
    with pytest.raises(ValueError, match="'b', which is no component"):
        NestedSystem("test", (component("a", 1),), (Transfer("a", "b", "generation", ""),))


@st.composite
def systems(draw):
    """Systems whose components need earlier ones only."""
    count = draw(st.integers(1, 8))
    made = []
    for index in range(count):
        needs = draw(st.sets(st.integers(0, index - 1))) if index else set()
        unit = draw(st.sampled_from(["token", "step"]))
        period = draw(st.sampled_from([None, 0, 1, 2, 8]))
        names = tuple(f"c{i}" for i in sorted(needs))
        made.append(component(f"c{index}", period, None if period is None else unit, names))
    ends = st.sampled_from([c.name for c in made])
    kinds = st.sampled_from(["parametric", "generation", "initialisation"])
    edges = draw(st.lists(st.builds(Transfer, ends, ends, kinds, st.text(max_size=5)), max_size=4))
    tokens = draw(st.sampled_from([None, 1, 4]))
    return NestedSystem(
        draw(st.text(max_size=5)), tuple(made), tuple(edges), tokens, (("x", "y"),), ("note",)
    )


@given(systems())
def test_levels_follow_the_definition(system):
    level = {c.name: found.index for found in system.levels for c in found.components}
    assert sorted(level) == sorted(c.name for c in system.components)
    keys = {c.name: frequency_key(c, system.tokens_per_step) for c in system.components}
    for one in system.components:
        for other in system.components:
            if keys[one.name] < keys[other.name] or (
                keys[one.name] == keys[other.name] and one.name in other.needs
            ):
                assert level[one.name] < level[other.name]
    for found in system.levels:
        assert len({keys[name] for name in found.names}) == 1


@given(systems())
def test_a_system_survives_json(system):
    assert NestedSystem.from_json(json.loads(json.dumps(system.to_json()))) == system


def test_files(tmp_path):
    system = NestedSystem("test", (component("a", 1),))
    system.save(tmp_path / "system.json")
    assert NestedSystem.load(tmp_path / "system.json") == system
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.json is not JSON"):
        NestedSystem.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format"),
        ({"components": [{"name": "a"}]}, "damaged"),
        ({"levels": []}, "levels are not those"),
        ({"edges": [{"source": "a", "target": "a", "kind": "magic", "what": ""}]}, "magic"),
    ],
)
def test_damaged_documents_are_refused(change, message):
    document = NestedSystem("test", (component("a", 1),)).to_json()
    with pytest.raises(ValueError, match=message):
        NestedSystem.from_json({**document, **change})


@pytest.mark.parametrize(("field", "value"), [("kind", "magic"), ("unit", "year")])
def test_damaged_components_are_refused(field, value):
    document = NestedSystem("test", (component("a", 1),)).to_json()
    document["components"][0][field] = value
    with pytest.raises(ValueError, match=value):
        NestedSystem.from_json(document)


def test_lookups():
    system = NestedSystem("test", (component("a", 1), component("b", 2)))
    assert system["b"].period == 2
    assert system.level_of("b").index == system.level_of("b.weight").index == 2
    with pytest.raises(KeyError, match="there are a, b"):
        system["c"]
    with pytest.raises(KeyError, match="no component or parameter 'c'"):
        system.level_of("c")
    assert "level 2: every 2 tokens" in str(system)
