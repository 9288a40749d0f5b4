"""Write README.md from nbs/index.ipynb: the text of the site's first page, for GitHub and PyPI.

python tools/readme.py           README.md and README_files/
python tools/readme.py --check   only compare

nbdev_readme does this with Quarto; this needs only the notebook, so it gives the same everywhere.
Between the marks `<!-- benchmarks -->` and `<!-- /benchmarks -->` of a Markdown cell stands what
`make bench ARGS=--save` measured: it is put there from benchmarks/results.json, never by hand.
"""

import base64
import json
import re
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INDEX = ROOT / "nbs" / "index.ipynb"
PICTURES = "README_files"
MEASURED = ROOT / "benchmarks" / "results.json"
MARKED = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- /benchmarks -->)", re.DOTALL)
NOTICE = "<!-- Written from nbs/index.ipynb by tools/readme.py: edit the notebook. -->\n"
HIDDEN = re.compile(r"#\|\s*(hide|default_exp|include:\s*false)\b")
SILENT = re.compile(r"#\|\s*(echo:\s*false|hide_input)\b")


def site() -> str:
    "The address of the documentation, without a slash at the end."
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]["doc_host"] + config["DEFAULT"]["doc_baseurl"]


def text(value: str | list[str]) -> str:
    "A notebook's text, which may be stored as a list of lines."
    return value if isinstance(value, str) else "".join(value)


def linked(markdown: str) -> str:
    "Links to notebooks turned into links to the pages of the site."
    page = r"\]\((?:\d+[a-z]*_)?(\w+)\.ipynb(#[^)\s]*)?\)"
    return re.sub(page, lambda m: f"]({site()}/{m[1]}.html{m[2] or ''})", markdown)


def output(one: dict, pictures: dict[str, bytes]) -> str:
    "The Markdown of one saved output; pictures are collected by their path."
    if one["output_type"] == "stream":
        return f"```text\n{text(one['text']).rstrip()}\n```" if one["name"] == "stdout" else ""
    if one["output_type"] not in ("display_data", "execute_result"):
        return ""
    data = one["data"]
    if "image/png" in data:
        name = f"{PICTURES}/picture-{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(text(data["image/png"]))
        width = one.get("metadata", {}).get("image/png", {}).get("width")
        return f'<img src="{name}" width="{width}">' if width else f"![]({name})"
    if "text/markdown" in data:
        return text(data["text/markdown"]).rstrip()
    return f"```text\n{text(data.get('text/plain', '')).rstrip()}\n```"


def measured_table(results: dict) -> str:
    "The ratios that the benchmarks name, with what they were measured on."
    packages = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    rows = [f"| {row['what']} | {row['times']} |" for row in results["quoted"]]
    told = f"{results['date']}, {results['machine']}, Python {results['python']}; {packages}"
    head = ["| what, beside a peer of the same run | times as fast |", "|---|--:|"]
    return "\n".join([*head, *rows, "", f"Measured by `make bench`: {told}."]) + "\n"


def filled(notebook: dict) -> dict:
    "The notebook with what was measured between the marks."
    if not MEASURED.exists():
        return notebook
    table = measured_table(json.loads(MEASURED.read_text(encoding="utf-8")))
    cells = [
        cell | {"source": MARKED.sub(lambda m: m[1] + table + m[2], text(cell["source"]))}
        if cell["cell_type"] == "markdown" and MARKED.search(text(cell["source"]))
        else cell
        for cell in notebook["cells"]
    ]
    return notebook | {"cells": cells}


def index_text(notebook: dict) -> str:
    "The notebook as its file holds it, source by lines."
    cells = [
        cell | {"source": text(cell["source"]).splitlines(keepends=True)}
        for cell in notebook["cells"]
    ]
    return json.dumps(notebook | {"cells": cells}, indent=1, ensure_ascii=False) + "\n"


def readme(notebook: dict) -> tuple[str, dict[str, bytes]]:
    "README.md as text, and the pictures it shows by path."
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = text(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(linked(source))
        elif cell["cell_type"] == "code" and not HIDDEN.search(source):
            code = "\n".join(line for line in source.splitlines() if not line.startswith("#|"))
            if code.strip() and not SILENT.search(source):
                parts.append(f"```python\n{code.strip()}\n```")
            parts += [output(one, pictures) for one in cell.get("outputs", [])]
    return NOTICE + "\n" + "\n\n".join(part for part in parts if part) + "\n", pictures


def made() -> dict[str, bytes]:
    "Every file that the notebook gives, by its path from the top of the repository."
    before = json.loads(INDEX.read_text(encoding="utf-8"))
    notebook = filled(before)
    words, pictures = readme(notebook)
    files = {"README.md": words.encode(), **pictures}
    if [text(cell["source"]) for cell in notebook["cells"]] != [
        text(cell["source"]) for cell in before["cells"]
    ]:
        files[f"nbs/{INDEX.name}"] = index_text(notebook).encode()
    return files


def stale() -> list[str]:
    "One sentence for each file that differs from what the notebook gives."
    files = made()
    old = {path.relative_to(ROOT).as_posix() for path in (ROOT / PICTURES).glob("*")} - set(files)
    return [f"{name}: no longer shown in README.md; delete it" for name in sorted(old)] + [
        f"{name}: differs from nbs/index.ipynb or from what was measured; run make readme"
        for name, data in files.items()
        if not (ROOT / name).exists() or (ROOT / name).read_bytes() != data
    ]


def main() -> int:
    "Command line."
    if not INDEX.exists():
        print("no nbs/index.ipynb: README.md is left as it is")
        return 0
    if "--check" in sys.argv[1:]:
        found = stale()
        print("\n".join(found) or "README.md agrees with nbs/index.ipynb")
        return 1 if found else 0
    for path in (ROOT / PICTURES).glob("*"):
        path.unlink()
    for name, data in made().items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
