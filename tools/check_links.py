"""Check a built site: every internal link leads to a file, every anchor to an element of its page.

python tools/check_links.py _docs
"""

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

POINTERS = {
    "a": "href",
    "link": "href",
    "script": "src",
    "img": "src",
    "source": "src",
    "iframe": "src",
}


class Page(HTMLParser):
    "The links and the anchors of one page."

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[tuple[int, str]] = []
        self.anchors: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        "Note what a tag points to and what it can be pointed to by."
        given = dict(attrs)
        if given.get("id"):
            self.anchors.add(given["id"] or "")
        if tag == "a" and given.get("name"):
            self.anchors.add(given["name"] or "")
        target = given.get(POINTERS.get(tag, ""))
        if target and given.get("rel") != "canonical":
            self.links.append((self.getpos()[0], target))


def target_of(page: Path, link: str, site: Path) -> tuple[Path, str] | None:
    "The file and the anchor that a link means; None for a link that leaves the site."
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path, anchor = urldefrag(link)
    path = unquote(path.partition("?")[0])
    file = (
        page
        if not path
        else (site / path.lstrip("/") if path.startswith("/") else page.parent / path)
    )
    if file.is_dir():
        file = file / "index.html"
    return file.resolve(), unquote(anchor)


def broken(site: Path) -> tuple[list[str], int]:
    "One sentence for each broken link, and how many were checked."
    pages = {
        path.resolve(): Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
    }
    found, n_checked = [], 0
    for path, page in pages.items():
        for line, link in page.links:
            target = target_of(path, link, site)
            if target is None:
                continue
            n_checked += 1
            file, anchor = target
            where = f"{path.relative_to(site.resolve())}:{line}"
            if not file.is_file():
                found.append(f"{where}: {link}: no such file in the site")
            elif anchor and file in pages and anchor not in pages[file].anchors and anchor != "top":
                found.append(f"{where}: {link}: no element with that id")
    return list(dict.fromkeys(found)), n_checked


def main() -> int:
    "Command line."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="the folder of the built site")
    site = parser.parse_args().site
    if not any(site.glob("*.html")):
        print(f"{site}: no pages there; run make docs", file=sys.stderr)
        return 1
    found, n_checked = broken(site)
    print("\n".join(found), end="\n" if found else "")
    print(f"links: {n_checked} internal links checked, {len(found)} broken")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
