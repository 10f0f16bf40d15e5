"""``nestlearn tune`` as a user runs it."""

from __future__ import annotations

import pytest

from nestlearn.streams import DataError, load_parallel_help
from nestlearn.tuning import load_recipe
from tests.cli.test_demo import nestlearn


def test_help_is_for_people():
    done = nestlearn("tune", "--help")
    assert done.returncode == 0
    assert "budget" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--budget", "some"), "--budget is a number of tokens"),
        (("--languages", "en"), "two different languages"),
        (("--budget", "1k"), "does not pay for one trial"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, message):
    done = nestlearn("tune", "--quick", "--out", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_quick_search(tmp_path):
    try:
        load_parallel_help(("en", "fr"))
    except DataError as error:
        pytest.skip(f"no corpus on this machine: {error}")
    done = nestlearn("tune", "--quick", "--budget", "80k", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "periods" in done.stdout
    assert load_recipe(tmp_path / "out" / "recipe.json")
    again = nestlearn("tune", "--quick", "--budget", "80k", "--out", tmp_path / "out")
    assert again.stdout.splitlines()[-5:] == done.stdout.splitlines()[-5:]
    other = nestlearn("tune", "--quick", "--budget", "80k", "--seed", "5", "--out", tmp_path / "out")
    assert other.returncode == 2
    assert "another seed" in other.stderr
