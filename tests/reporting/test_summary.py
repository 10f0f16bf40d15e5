"""Several seeds together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from nestlearn.reporting import aggregate, write_readme_figure
from tests.reporting.builder import build_results


def seeds(count: int = 3) -> list[dict[str, Any]]:
    return [build_results(seed=seed, evaluations=5) for seed in range(count)]


def test_every_figure_has_its_spread() -> None:
    results = seeds()
    for value, one in zip((1.0, 2.0, 6.0), results, strict=True):
        one["runs"]["nested"]["matrix"] = [[value, 3, 3], [2, 2, 3], [value + 1, 2, 2]]
    together = aggregate(results)
    corner = together["runs"]["nested"]["matrix"][0][0]
    assert corner == {"mean": 3.0, "min": 1.0, "max": 6.0, "std": pytest.approx(7.0**0.5), "n": 3}
    assert together["runs"]["nested"]["forgetting"]["mean"] == pytest.approx(0.5)
    assert together["runs"]["nested"]["average"]["mean"] == pytest.approx((4 + 2 + 2) / 3)
    assert together["seeds"] == [0, 1, 2]
    reference = [one["runs"]["transformer"]["matrix"][0][0] for one in results]
    ratios = [value / base for value, base in zip((1.0, 2.0, 6.0), reference, strict=True)]
    assert together["first_language"]["to_transformer"]["nested"]["mean"] == pytest.approx(sum(ratios) / 3)
    assert json.loads(json.dumps(together)) == together


def test_matched_figures_are_put_together_pair_by_pair() -> None:
    results = seeds(2)
    for nested, one in zip((0.1, 0.3), results, strict=True):
        one["matched_all"][0]["rise"] = {"nested": nested, "finetune": 1.0}
        one["matched_all"][0]["ratio"] = nested
    pair = aggregate(results)["matched"][0]
    assert (pair["new"], pair["old"]) == ("fr", "en")
    assert pair["ratio"]["mean"] == pytest.approx(0.2)
    assert pair["ratio_of_means"] == pytest.approx(0.2)
    assert len(aggregate(results)["matched"]) == 3


def test_a_ratio_that_no_or_one_seed_has() -> None:
    results = seeds(2)
    results[0]["matched_all"][0]["ratio"] = None
    assert aggregate(results)["matched"][0]["ratio"]["n"] == 1
    results[1]["matched_all"][0]["ratio"] = None
    assert aggregate(results)["matched"][0]["ratio"] is None
    for one in results:
        one["matched_all"][0]["rise"] = {"nested": 0.1, "finetune": -0.1}
    assert aggregate(results)["matched"][0]["ratio_of_means"] is None


def test_one_seed_and_one_language() -> None:
    together = aggregate([build_results(("en",), ("nested",), evaluations=3)])
    assert together["matched"] == []
    assert together["first_language"]["to_transformer"] == {}
    assert together["runs"]["nested"]["matrix"][0][0]["std"] == 0.0


def test_results_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match="no results"):
        aggregate([])
    with pytest.raises(ValueError, match=r"languages: \['en', 'fr'\] and \['en'\]"):
        aggregate([build_results(("en", "fr")), build_results(("en",))])
    with pytest.raises(ValueError, match="differ in runs"):
        aggregate([build_results(), build_results(runs=("nested",))])


def test_seeds_that_lack_a_comparison_are_refused() -> None:
    results = seeds(2)
    del results[1]["matched_all"][0]["rise"]["nested"]
    with pytest.raises(ValueError, match="differ in what they compare"):
        aggregate(results)


@pytest.mark.parametrize("languages", [("en",), ("en", "fr", "de")])
def test_the_picture_for_the_readme(languages: tuple[str, ...], tmp_path: Path) -> None:
    results = [build_results(languages, seed=seed, evaluations=5) for seed in range(2)]
    results[1]["runs"]["nested"]["curve"].pop(1)
    for name in ("one.svg", "two.svg", "one.png", "two.png"):
        write_readme_figure(results, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    root = ElementTree.fromstring((tmp_path / "one.svg").read_bytes())
    assert root.tag.endswith("svg")
    width, height = (float(value) for value in root.attrib["viewBox"].split()[2:])
    assert width > height


def test_the_picture_of_one_seed_and_of_another_kind(tmp_path: Path) -> None:
    write_readme_figure([build_results(evaluations=3)], tmp_path / "one.svg")
    with pytest.raises(ValueError, match=r"figure\.jpg"):
        write_readme_figure(seeds(1), tmp_path / "figure.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["one.svg"]
