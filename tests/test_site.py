"""The built site in a real browser: no error, no network, plots, search, links, light, dark, phone.

`make docs` builds it; without `_docs` these tests skip, and fail where a browser is required.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, Page, found, served

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_docs"
IMPORTANT = (  # a page of each kind: text, diagram, formulas, plots, wide tables, widgets, lists
    "index architecture threats book walk_forward spectral_residual dashboard from_the_document "
    "tutorial_add_venue"
).split()
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not (SITE / "index.html").exists():
        pytest.skip("no site in _docs: make docs")
    if found() is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with Browser() as one:
        yield one


@pytest.fixture(scope="module")
def address(browser: Browser) -> Iterator[str]:
    with served(SITE) as at:
        yield at


def check(page: Page, address: str, name: str) -> None:
    "No fault, nothing asked of other machines, every picture drawn, as wide as the window."
    page.open(f"{address}{name}.html")
    assert not page.faults, (name, page.faults)
    far = [one[:80] for one in page.addresses if not one.startswith((address, "data:", "blob:"))]
    assert not far, (name, far)
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    assert page.value(broken) == [], name
    assert page.value("document.documentElement.scrollWidth - innerWidth") <= 0, name


def pages() -> list[str]:
    "Every page of the site."
    return sorted(path.stem for path in SITE.glob("*.html"))


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_important_pages_load_and_fit(
    browser: Browser, address: str, width: int, dark: bool
) -> None:
    with browser.page(width, 900, dark) as page:
        for name in IMPORTANT:
            if (SITE / f"{name}.html").exists():
                check(page, address, name)
        wanted = {"index", "threats", "walk_forward"}
        assert wanted <= set(pages())


@pytest.mark.verify
def test_every_page_loads_and_fits(browser: Browser, address: str) -> None:
    with browser.page(390, 844) as page:
        for name in pages():
            check(page, address, name)
            page.faults.clear(), page.addresses.clear()


def brightness(color: str) -> float:
    "Of a CSS colour, 0 black to 1 white."
    red, green, blue = map(float, re.findall(r"[\d.]+", color)[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_what_is_behind_it(browser: Browser, address: str, dark: bool) -> None:
    "Page, side column and code, each against its own ground."
    ground = """(e => { for (; e; e = e.parentElement) {
        const color = getComputedStyle(e).backgroundColor;
        if (color.startsWith('rgb(')) return color } return 'rgb(255, 255, 255)' })"""
    with browser.page(1280, 900, dark) as page:
        page.open(f"{address}walk_forward.html")
        assert page.value("!!document.querySelector('.quarto-dark')") is dark
        for where in ("main p", "#quarto-sidebar .sidebar-link", "main pre code", "main h2"):
            here = f"document.querySelector({json.dumps(where)})"
            color = page.value(f"getComputedStyle({here}).color")
            behind = page.value(f"{ground}({here})")
            assert abs(brightness(color) - brightness(behind)) > 0.4, (where, color, behind)
            assert (brightness(behind) < 0.5) is dark, (where, behind)


def test_a_page_in_dark_can_be_switched(browser: Browser, address: str) -> None:
    with browser.page(1280, 900) as page:
        page.open(f"{address}index.html")
        is_dark = "document.documentElement.classList.contains('quarto-dark')"
        assert not page.value(is_dark)
        page.value("document.querySelector('.quarto-color-scheme-toggle').click()")
        page.wait(is_dark)


def test_search_finds(browser: Browser, address: str) -> None:
    "A word typed into the search box leads to the page that is about it."
    with browser.page(1280, 900) as page:
        page.open(f"{address}index.html")
        box = "document.querySelector('#quarto-search input, input[type=search]')"
        page.wait(f"!!{box}")
        page.value(f"{box}.focus()")
        page.call("Input.insertText", text="spectral residual")
        listed = "document.querySelector('.smalldocs-search-results, .aa-Panel')"
        page.wait(f"!!{listed}?.querySelector('a[href*=\"spectral_residual\"]')")
        assert not page.faults


def test_plots_show_and_diagrams_are_drawn(browser: Browser, address: str) -> None:
    with browser.page(1280, 900) as page:
        page.open(f"{address}walk_forward.html")
        assert page.value("[...document.images].filter(i => i.naturalWidth > 300).length") >= 1
        page.open(f"{address}index.html")
        if list(SITE.glob("site_libs/mermaid/*")):
            page.wait("!!document.querySelector('.mermaid svg')")


def test_programs_can_read_it_too() -> None:
    "llms.txt lists every page, and each has a copy as Markdown."
    if not (SITE / "index.html").exists():
        pytest.skip("no site in _docs: make docs")
    words = (SITE / "llms.txt").read_text(encoding="utf-8")
    named = set(re.findall(r"/(\w+)\.(?:llms\.md|html)\)", words))
    assert set(pages()) - {"404"} <= named | {"index"}
    for name in IMPORTANT:
        if name in named:
            assert (SITE / f"{name}.llms.md").stat().st_size > 500


def test_pictures_in_the_docs_are_small() -> None:
    pictures = sorted((ROOT / "nbs").glob("screen_*.png"))
    assert len(pictures) >= 3
    assert not [path.name for path in pictures if path.stat().st_size > 150_000]
    assert os.environ.get("CI") != "true" or (SITE / "index.html").exists(), "make docs comes first"
