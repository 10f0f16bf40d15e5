"""The page in a real browser: nothing is asked for, nothing complains, the keyboard reaches everything."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nestlearn.reporting.system import run_payload, write_page
from tests.reporting.system.builder import hope, large, run, system

CHROMIUM = [
    Path(path) for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs: pip install playwright")
    found = [path for path in CHROMIUM if path.exists()]
    if not found:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(found[0]), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, written to disk."""
    path = tmp_path_factory.mktemp("pages")
    odd = ['"><img src=x onerror=alert(1)>', "</script><script>alert(1)</script>", "🦊 naïve", "", "x" * 400]
    odd += ["\u202eright to left", "constructor", "__proto__"]
    write_page(path / "hope.html", hope(), run())
    write_page(path / "large.html", large())
    write_page(path / "one.html", system(["weights"]))
    write_page(path / "odd.html", system(odd, levels=3, edges=12), run() | {"title": odd[0]})
    write_page(path / "run.html", None, run())
    updates = [n * 6 + n * n % 5 for n in range(100_000)]
    busy = {"levels": [{"name": "fast", "period": None, "updates": updates}]}
    write_page(path / "busy.html", hope(), run() | busy)
    return path


class Watch:
    """A page of the browser, and everything that went wrong or was asked for on it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.wrong: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda said: self.wrong.append(said.text) if said.type != "log" else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        page.on("request", lambda request: self.asked.append(request.url))


@contextlib.contextmanager
def opened(browser: Any, address: str, width: int = 1200, scheme: str = "light") -> Iterator[Watch]:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    watch = Watch(context.new_page())
    watch.page.goto(address)
    watch.page.wait_for_selector(".node, .strip")
    yield watch
    context.close()
    assert watch.wrong == []


def resize(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go)))")


def overflows(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


@pytest.mark.parametrize("name", ["hope", "large", "one", "odd", "run", "busy"])
def test_from_disk_without_a_complaint(browser: Any, folder: Path, name: str):
    file = folder / f"{name}.html"
    assert file.stat().st_size < 2_000_000
    with opened(browser, file.as_uri(), 360, "dark") as watch:
        page = watch.page
        assert not overflows(page)
        page.evaluate("document.querySelectorAll('details.figures').forEach(d => { d.open = true; })")
        assert not overflows(page)
        for view in ("Rings", "Lanes") if name != "run" else ():
            page.click(f"#views >> text={view}")
            assert not overflows(page)
        resize(page, 1200)
        assert not overflows(page)
        assert watch.asked == [file.as_uri()]


def test_boxes_do_not_overlap(browser: Any, folder: Path):
    script = """[...document.querySelectorAll('.box')].map(b => b.getBoundingClientRect())
        .map(b => [b.left, b.top, b.right, b.bottom])"""
    with opened(browser, (folder / "large.html").as_uri()) as watch:
        for width in (360, 800, 1400):
            resize(watch.page, width)
            boxes = watch.page.evaluate(script)
            assert len(boxes) == 30
            for i, a in enumerate(boxes):
                assert a[0] >= 0 and a[2] <= width
                for b in boxes[:i]:
                    assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_names_fit_into_their_boxes(browser: Any, folder: Path):
    script = """[...document.querySelectorAll('.node')].filter(node => {
        const box = node.querySelector('.box').getBoundingClientRect();
        return [...node.querySelectorAll('text')].some(t => t.getBoundingClientRect().left < box.left
            || t.getBoundingClientRect().right > box.right); }).length"""
    for name in ("hope", "odd"):
        with opened(browser, (folder / f"{name}.html").as_uri(), 360) as watch:
            assert watch.page.evaluate(script) == 0


def focused(page: Any) -> Any:
    return page.evaluate("document.activeElement.dataset.name ?? document.activeElement.id")


def test_by_keyboard(browser: Any, folder: Path):
    with opened(browser, (folder / "hope.html").as_uri()) as watch:
        page, keys = watch.page, watch.page.keyboard
        reached = []
        for _ in range(40):
            keys.press("Tab")
            reached.append(focused(page))
        names = [name for level in hope()["levels"] for name in level["components"]]
        assert [name for name in reached if name in names][: len(names)] == names
        page.focus('.node[data-name="projection memories"]')
        assert page.inner_text("#details h3") == "projection memories"
        keys.press("ArrowRight")
        assert focused(page) == "main memory"
        keys.press("ArrowDown")
        assert focused(page) == "fast.exp_avg_sq"
        keys.press("Enter")
        assert focused(page) == "details"
        assert "18.9 MB" in page.inner_text("#details")
        assert page.get_attribute('.node[data-name="fast.exp_avg_sq"]', "aria-expanded") == "true"
        page.click("#details .link >> text=fast")
        assert page.inner_text("#details h3") == "fast"
        assert "4,718,592" in page.inner_text("#details")
        keys.press("Escape")
        assert focused(page) == "fast"
        assert page.get_attribute('.node[data-name="fast"]', "aria-expanded") == "false"


def test_pointing_and_kinds(browser: Any, folder: Path):
    with opened(browser, (folder / "hope.html").as_uri()) as watch:
        page = watch.page
        page.hover('.node[data-name="slow"]')
        assert page.inner_text("#details h3") == "slow"
        assert page.locator(".edges .own").count() == 5
        shown = page.locator(".edges .edge:not(.hidden)").count()
        page.click("#kinds >> text=generation")
        assert page.locator(".edges .edge:not(.hidden)").count() == shown - 3
        assert page.get_attribute("#kinds button:has-text('generation')", "aria-pressed") == "false"


def value_at(points: list[list[float]], token: int) -> float:
    return [value for at, value in points if at <= token][-1]


def test_values_at_the_cursor(browser: Any, folder: Path):
    document = run()
    with opened(browser, (folder / "hope.html").as_uri()) as watch:
        page = watch.page
        page.focus(".slider")
        for key in ("Home", "PageUp", "PageUp", "ArrowLeft", "PageUp", "PageUp", "End"):
            page.keyboard.press(key)
            token = int(page.get_attribute(".slider", "aria-valuenow"))
            shown = page.evaluate("[...document.querySelectorAll('.legend output')].map(o => o.textContent)")
            wanted = [value_at(task["points"], token) for task in document["tasks"]]
            for text, value in zip(shown, wanted, strict=False):
                assert float(text.replace("−", "-")) == pytest.approx(value, rel=1e-3)
            counts = page.evaluate(
                "[...document.querySelectorAll('.row-name + .tick')].map(t => t.textContent)"
            )
            for text, level in zip(counts, document["levels"], strict=True):
                assert text == f"{sum(at <= token for at in level['updates'])} of {len(level['updates'])}"
        assert token == document["end"]


def test_alarms_jump(browser: Any, folder: Path):
    with opened(browser, (folder / "hope.html").as_uri()) as watch:
        page = watch.page
        page.click("text=level 'middle' interferes")
        assert int(page.get_attribute(".slider", "aria-valuenow")) == run()["alarms"][1]["tokens"]
        assert page.input_value("#level-choice") == "middle"
        assert page.evaluate("document.querySelector('.slider').getBoundingClientRect().top < innerHeight")


def test_light_and_dark(browser: Any, folder: Path):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(18, 22, 28)"
    for scheme, other, first in (("light", dark, light), ("dark", light, dark)):
        with opened(browser, (folder / "hope.html").as_uri(), scheme=scheme) as watch:
            page = watch.page
            assert page.evaluate(ground) == first
            while page.inner_text("#theme") != f"Colours: {'dark' if other == dark else 'light'}":
                page.click("#theme")
            assert page.evaluate(ground) == other
            page.emulate_media(media="print")
            assert page.evaluate(ground) == light


def test_live(browser: Any, tmp_path: Path):
    """The page follows a run that grows, and keeps what the reader has chosen."""
    document = run()
    write_page(tmp_path / "page.html", hope(), document | {"finished": False}, live="/run.json")
    answer = tmp_path / "run.json"
    answer.write_text(json.dumps(document | {"finished": False}))
    handler = partial(QuietHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with opened(browser, f"http://127.0.0.1:{server.server_port}/page.html") as watch:
            page = watch.page
            page.wait_for_selector("#live[data-state=live]")
            page.select_option("#level-choice", "middle")
            grown = document | {"end": document["end"] + 9216, "title": "more"}
            answer.write_text(json.dumps(run_payload(grown)))
            page.wait_for_selector("#live[data-state=finished]")
            assert "664,576 tokens" in page.inner_text("#run-lead")
            assert page.get_attribute(".slider", "aria-valuenow") == "664576"
            assert page.input_value("#level-choice") == "middle"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass
