"""The pictures of docs/inspecting.md, from a real run: the demo's model with levels, in a headless Chromium.

make demo && python -m recipes.screenshots        # needs chromium (apt-get install chromium)
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from nestlearn.observing import read_run, read_system
from nestlearn.reporting.files import write_atomically
from nestlearn.reporting.system import system_svg, write_page

IMAGES = Path("docs/images")
#: Name, width and height of the window in pixels, and whether the page is dark.
SHOTS = (("report.png", 1280, 1900, False), ("report-phone.png", 400, 1500, True))
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browser() -> str:
    """A Chromium on this machine.

    Raises:
        ValueError: If there is none.
    """
    for name in _BROWSERS:
        if found := shutil.which(name):
            return found
    raise ValueError(f"there is none of {', '.join(_BROWSERS)}: apt-get install chromium")


def shoot(page: Path, target: Path, width: int, height: int, *, dark: bool) -> None:
    """Take a picture of a page's first screen.

    Args:
        page: The HTML file.
        target: The PNG file.
        width: Of the window, in pixels.
        height: Likewise.
        dark: Whether the reader prefers dark colours.
    """
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    subprocess.run(
        [browser(), *options, f"--window-size={width},{height}", f"--screenshot={target}", page.as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )


def main() -> None:
    """Draw the run's system and take pictures of its page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", nargs="?", type=Path, default=Path("out/demo/nested"), help="a run's folder")
    folder = parser.parse_args().run
    system, run = read_system(folder), {**read_run(folder), "title": "nestlearn demo"}
    if system is None:
        raise ValueError(f"{folder} has no system.json: make demo")
    write_atomically(IMAGES / "levels.svg", system_svg(system.to_json()))
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "page.html"
        write_page(page, system.to_json(), run)
        for name, width, height, dark in SHOTS:
            shoot(page, (IMAGES / name).absolute(), width, height, dark=dark)


if __name__ == "__main__":
    main()
