"""The tools behind the site: links are checked, pages need no network, README follows."""

from collections.abc import Callable
from pathlib import Path

import build_docs
import check_links
import pytest
import readme
import yaml

PAGE = """---
title: Probe
---

Inline $x^2 + y^2$ and

$$\\frac{a}{b}$$

```{mermaid}
flowchart LR
  bytes --> book
```
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "A site of one page, built like the real one."
    stage, docs = tmp_path / "stage", tmp_path / "docs"
    monkeypatch.setattr(build_docs, "STAGE", stage)
    monkeypatch.setattr(build_docs, "SITE", docs)
    stage.mkdir()
    (stage / "index.qmd").write_text(PAGE, encoding="utf-8")
    (stage / "styles.css").touch()
    config = yaml.safe_dump(build_docs.settings([]))
    (stage / "_quarto.yml").write_text(config, encoding="utf-8")
    build_docs.render()
    build_docs.finish([docs / "index.html"])
    return docs


def test_pages_show_formulas_and_diagrams_without_a_network(
    chromium: Callable[..., str], site: Path
) -> None:
    for library in ("katex", "mermaid"):
        if not list(site.glob(f"site_libs/**/{library}*")):
            pytest.skip(f"npm gave no {library}")
    page = chromium((site / "index.html").as_uri())
    assert 'class="katex' in page, "KaTeX drew nothing"
    assert "<svg" in page and "flowchart LR" not in page, "Mermaid drew nothing"
    assert "cdn.jsdelivr.net" not in page


def test_link_checker_finds_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top-of-a">A</h1><a href="b.html#here">1</a><a href="#top-of-a">2</a>'
        '<a href="https://example.org/x">3</a><img src="plot.png"><a href="b.html#gone">4</a>'
        '<a href="./b.html?x=1">5</a><a href="mailto:a@b.c">6</a>',
        encoding="utf-8",
    )
    (tmp_path / "b.html").write_text('<p id="here"></p><a href="c.html">c</a>', encoding="utf-8")
    found, n_checked = check_links.broken(tmp_path)
    assert found == [
        "a.html:1: plot.png: no such file in the site",
        "a.html:1: b.html#gone: no element with that id",
        "b.html:1: c.html: no such file in the site",
    ]
    assert n_checked == 6


def test_class_signatures_read_as_classes() -> None:
    empty = "### E\n\n```python\ndef E(\n    *args, **kwargs\n):\n```\n\n*Text.*"
    assert build_docs.as_class(empty) == "### E\n\n\n*Text.*"
    full = "```python\ndef Book(\n    depth:int=3, # rows\n)->None:\n```\n"
    assert build_docs.as_class(full) == "```python\nclass Book(\n    depth:int=3, # rows\n)\n```\n"
    plain = "```python\ndef book(\n    depth:int=3, # rows\n)->None:\n```\n"
    assert build_docs.as_class(plain) == plain


def test_page_names_follow_nbdev() -> None:
    names = ["00_core.ipynb", "10_binance.ipynb", "index.ipynb", "tutorial_first.ipynb"]
    pages = ["core.ipynb", "binance.ipynb", "index.ipynb", "tutorial_first.ipynb"]
    assert [build_docs.page_name(name) for name in names] == pages


def test_readme_follows_from_the_notebook() -> None:
    picture = {
        "output_type": "display_data",
        "data": {"image/png": "aGk=", "text/plain": "<Figure>"},
    }
    sized = picture | {"metadata": {"image/png": {"width": 300}}}
    printed = {"output_type": "stream", "name": "stdout", "text": ["1\n", "2\n"]}
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": "# T\n\n> s, see [core](00_core.ipynb#gap)"},
            {"cell_type": "code", "source": "#| hide\nimport x", "outputs": [printed]},
            {"cell_type": "code", "source": "#| echo: false\nplot()", "outputs": [picture, sized]},
            {"cell_type": "code", "source": ["print(1)\n", "print(2)"], "outputs": [printed]},
        ]
    }
    words, pictures = readme.readme(notebook)
    assert words.endswith(
        f"see [core]({readme.site()}/core.html#gap)\n\n![](README_files/picture-1.png)\n\n"
        '<img src="README_files/picture-2.png" width="300">\n\n'
        "```python\nprint(1)\nprint(2)\n```\n\n```text\n1\n2\n```\n"
    )
    assert pictures == {f"README_files/picture-{n}.png": b"hi" for n in (1, 2)}
