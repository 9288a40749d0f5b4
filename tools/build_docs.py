"""Build the documentation site in _docs from the notebooks.

nbdev turns each notebook into a page source (signatures, links between names, hidden cells gone);
Quarto renders them where it is installed, else smalldocs, which reads the same `_quarto.yml`. Saved
outputs are what is published: nothing is run. KaTeX and Mermaid are fetched once from npm and laid
into the site, so that its pages need no network.
"""

import argparse
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor
from configparser import ConfigParser
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
STAGE = ROOT / "build" / "site"  # the page sources, as the renderer sees them
VENDOR = ROOT / "build" / "vendor"  # what npm gave, kept from build to build
SITE = ROOT / "_docs"
CHAPTERS = {
    0: "Words and tools",
    1: "Venues",
    2: "Streams",
    3: "Aggregator",
    4: "Features",
    5: "LightGBM",
    6: "Meta-labeling",
    7: "Spectral residual",
    8: "Walk-forward and search",
    9: "Live",
}
LIBRARIES = {  # npm package with version: what the pages need of it
    "katex@0.16.11": ("katex.min.css", "katex.min.js", "contrib/auto-render.min.js", "fonts/"),
    "mermaid@11.4.1": ("mermaid.min.js",),
}
CDN_KATEX = re.compile(r"https://cdn\.jsdelivr\.net/npm/katex@[\d.]+/dist/")
FAR_FONTS = re.compile(r"@import\s+url\(\"?https?://[^)]*\)[^;]*;")
QUARTO_ONLY = re.compile(
    r"output-file|html-math-method|execute\.enabled|\.grid"
)  # known, and harmless to miss
CDN_MERMAID = re.compile(
    r"<script[^>]*>\s*import mermaid from '[^']*';(mermaid\.initialize\(.*?\);)\s*</script>", re.S
)


def card() -> dict[str, str]:
    "settings.ini as a mapping."
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(config["DEFAULT"])


def page_name(notebook: str) -> str:
    "The page of a notebook: its file name without the number, as nbdev's own links expect it."
    return re.sub(r"^\d+[a-z0-9]*_", "", Path(notebook).name.lower())


def text(value: str | list[str]) -> str:
    "A notebook's text, which may be stored as a list of lines."
    return value if isinstance(value, str) else "".join(value)


# --- page sources


def as_class(markdown: str) -> str:
    "nbdev writes `def Name(` for a class too; say class, and drop a signature that says nothing."
    markdown = re.sub(
        r"```python\ndef [A-Z]\w*\(\n\s*\*args, \*\*kw\w*\n\)[^\n]*\n```\n", "", markdown
    )
    return re.sub(
        r"```python\ndef ([A-Z]\w*\(.*?\))(?:->None)?:\n```",
        r"```python\nclass \1\n```",
        markdown,
        flags=re.S,
    )


def at_its_size(output: dict) -> None:
    "Show a picture as wide as the notebook says: plots are saved with two pixels for one."
    width = output.get("metadata", {}).get("image/png", {}).get("width")
    png = text(output.get("data", {}).get("image/png", "")).replace("\n", "")
    if png and width:
        source = f"data:image/png;base64,{png}"
        output["data"] = {"text/html": f'<img src="{source}" width="{width}" class="img-fluid">'}


def adapted(notebook: dict) -> dict:
    "A processed notebook made fit for its page: links to pages, classes as classes, nothing twice."
    for cell, below in zip(
        notebook["cells"], [*notebook["cells"][1:], {"source": ""}], strict=True
    ):
        if cell["cell_type"] == "markdown":
            link = r"(\]\()([\w./-]+\.ipynb)"
            cell["source"] = re.sub(link, lambda m: m[1] + page_name(m[2]), text(cell["source"]))
        for output in cell.get("outputs", []):
            if not shutil.which("quarto"):  # which does this itself
                at_its_size(output)
            data = output.get("data", {})
            if "text/markdown" in data and "show_doc" in text(cell["source"]):
                shown = as_class(text(data["text/markdown"]))
                if "Exported source" in text(below["source"]):  # the signature stands right below
                    shown = re.sub(r"```python\n.*?\n```\n", "", shown, count=1, flags=re.S)
                data["text/markdown"] = shown
    return notebook


def title(notebook: Path) -> str:
    "The title in the first cell of a notebook."
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown":
            return text(cell["source"]).splitlines()[0].lstrip("# ").strip()
    return notebook.stem


def sidebar(notebooks: list[Path]) -> list[dict]:
    "The chapters, a decade of numbers each, with the notebooks that are there."
    first, chapters, tutorials, guides = [], {}, [], []
    for notebook in notebooks:
        entry = {"text": title(notebook), "href": page_name(notebook.name)}
        number = re.match(r"(\d)\d", notebook.name)
        if number:
            chapters.setdefault(CHAPTERS[int(number[1])], []).append(entry)
        elif notebook.stem == "index":
            first.append({"text": "Overview", "href": "index.ipynb"})
        elif notebook.stem.startswith("tutorial_"):
            tutorials.append(entry)
        else:
            guides.append(entry)
    parts = {"Tutorials": tutorials, "Guides": guides, **chapters}
    return first + [{"section": name, "contents": pages} for name, pages in parts.items() if pages]


def settings(notebooks: list[Path]) -> dict:
    "`_quarto.yml` with the sidebar and where to write."
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    config.pop("metadata-files", None)
    config.setdefault("project", {})["output-dir"] = "_site"
    config["website"]["sidebar"]["contents"] = sidebar(notebooks)
    return config


def process(notebook: Path) -> None:
    "Write the page source of one notebook: what nbdev makes of it, adapted."
    import fastcore.docments
    from nbdev.processors import FilterDefaults
    from nbdev.serve_drv import main as nbdev_process

    def signature(sym: object, eval_str: bool = False) -> inspect.Signature:
        "nbdev reads annotations while the notebook runs; a quoted one may name a later class."
        try:
            return inspect.signature(sym, eval_str=eval_str)  # type: ignore[arg-type]
        except NameError:
            return inspect.signature(sym)  # type: ignore[arg-type]

    fastcore.docments.signature = signature
    page = STAGE / page_name(notebook.name)
    os.chdir(NBS)
    nbdev_process((notebook, page, FilterDefaults))
    source = json.loads(page.read_text(encoding="utf-8"))
    page.write_text(json.dumps(adapted(source)), encoding="utf-8")


def stage() -> int:
    "Lay out the page sources; the number of pages."
    shutil.rmtree(STAGE, ignore_errors=True)
    STAGE.mkdir(parents=True)
    for path in NBS.iterdir():
        if path.suffix in (".css", ".png", ".svg", ".md", ".qmd"):
            shutil.copy(path, STAGE)
    notebooks = sorted(NBS.glob("*.ipynb"))
    worker = import_module("build_docs").process  # by its own name: a notebook takes over __main__
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        list(pool.map(worker, notebooks))
    config = yaml.safe_dump(settings(notebooks), sort_keys=False, allow_unicode=True)
    (STAGE / "_quarto.yml").write_text(config, encoding="utf-8")
    if not (
        NBS / "index.ipynb"
    ).exists():  # a site has a first page, even with no story to tell yet
        page = page_name(notebooks[0].name)
        home = f"---\ntitle: gem_detector\n---\n\n[Start here]({page})\n"
        (STAGE / "index.md").write_text(home, encoding="utf-8")
    return len(notebooks)


# --- rendering


def render() -> str:
    "Render the staged sources into _docs; the name of the renderer."
    quarto = shutil.which("quarto")
    if quarto:
        subprocess.run([quarto, "render", str(STAGE), "--no-cache"], check=True)
    else:
        import smalldocs.site

        for warning in smalldocs.site.build(STAGE, quiet=True).warnings:
            if not QUARTO_ONLY.search(warning):
                print(f"docs: {warning}")
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(STAGE / "_site", SITE)
    (SITE / ".nojekyll").touch()  # else GitHub Pages hides what begins with _
    return "Quarto" if quarto else "smalldocs"


def vendored(package: str, wanted: tuple[str, ...]) -> Path | None:
    "The folder with the wanted files of an npm package, fetched once; None where there is no npm."
    folder = VENDOR / package
    if folder.exists():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        return None
    VENDOR.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", package, "--silent", "--pack-destination", str(VENDOR)]
    packed = subprocess.run(command, capture_output=True, text=True, check=False, cwd=VENDOR)
    if packed.returncode:
        print(f"docs: npm pack {package} failed: {packed.stderr.strip()}")
        return None
    archive = VENDOR / packed.stdout.split()[-1]
    part = VENDOR / f"{package}.part"
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            name = member.name.removeprefix("package/dist/")
            content = tar.extractfile(member)
            if content is not None and name != member.name and name.startswith(wanted):
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                (part / name).write_bytes(content.read())
    archive.unlink()
    part.rename(folder)
    return folder


def lay_in_libraries() -> set[str]:
    "Copy KaTeX and Mermaid into the site; the names of those that are there."
    laid_in = set()
    for package, files in LIBRARIES.items():
        name = package.partition("@")[0]
        folder = vendored(package, files)
        if folder is None:
            print(f"docs: no npm, or no network: pages load {name} from its CDN")
            continue
        shutil.copytree(folder, SITE / "site_libs" / name, dirs_exist_ok=True)
        laid_in.add(name)
    return laid_in


def with_own_libraries(html: str, top: str, laid_in: set[str]) -> str:
    "A page that loads KaTeX and Mermaid from the site, by plain scripts, which open from disk."
    if "katex" in laid_in:
        html = CDN_KATEX.sub(f"{top}site_libs/katex/", html)
    if "mermaid" in laid_in:
        source = f"{top}site_libs/mermaid/mermaid.min.js"
        html = CDN_MERMAID.sub(
            lambda m: f'<script src="{source}"></script><script>{m[1]}</script>', html
        )
    return html


def with_near_links(html: str, top: str, anchors: dict[str, set[str]]) -> str:
    "A page whose links into the published site, as nbdev writes them, lead to the pages beside it."

    def near(match: re.Match[str]) -> str:
        name, _, anchor = match[2].partition("#")
        # nbdev links every method to a heading of its own; often only its class has one
        for choice in (anchor, anchor.partition(".")[0]):
            if choice in anchors.get(name, {anchor}):
                return f'{match[1]}{top}{name}#{choice}"'
        return f'{match[1]}{top}{name}"'

    address = re.escape(card()["doc_host"] + card()["doc_baseurl"] + "/")
    return re.sub(rf'(<a\b[^>]*\bhref="){address}([^"]*)"', near, html)


def drop_far_fonts() -> None:
    "Themes ask a server for their fonts first: pages use those of the reader's system instead."
    for sheet in SITE.rglob("*.css"):
        words = sheet.read_text(encoding="utf-8")
        near = FAR_FONTS.sub("", words)
        if near != words:
            sheet.write_text(near, encoding="utf-8")


def finish(pages: list[Path]) -> None:
    "Make the rendered pages stand on their own."
    laid_in = lay_in_libraries()
    drop_far_fonts()
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    anchors = {page.name: set(re.findall(r'\bid="([^"]+)"', html)) for page, html in texts.items()}
    for page, html in texts.items():
        top = "../" * (len(page.relative_to(SITE).parts) - 1)
        html = with_near_links(html, top, anchors)
        page.write_text(with_own_libraries(html, top, laid_in), encoding="utf-8")


def main() -> int:
    "Command line."
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    n_pages = stage()
    renderer = render()
    finish(sorted(SITE.rglob("*.html")))
    print(f"docs: {n_pages} notebooks rendered by {renderer} into {SITE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
