import sys

import pytest

from nestlearn.streams.progress import silent, terminal_progress


def test_nothing_is_drawn_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_progress() as progress:
        assert progress is silent
        progress("Reading", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_bars_go_to_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with terminal_progress() as progress:
        for what in ("Fetching", "Reading"):
            for done in range(3):
                progress(what, done, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Reading" in err
