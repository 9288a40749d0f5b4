"""The notebooks as data, for tests about their structure."""

import ast
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
PACKAGE = "gem_detector"


@dataclass(frozen=True)
class Cell:
    "One cell with where it stands."

    notebook: str
    number: int
    kind: str
    source: str

    @property
    def where(self) -> str:
        "What a message calls it."
        return f"nbs/{self.notebook} cell {self.number}"

    @property
    def directives(self) -> set[str]:
        "The first words of its `#|` lines."
        return set(re.findall(r"^#\|\s*([\w-]+)", self.source, re.M))

    @property
    def is_exported(self) -> bool:
        "Whether it goes into a module."
        return bool(self.directives & {"export", "exports", "exporti", "exec_export"})

    @property
    def tree(self) -> ast.Module:
        "Its code, IPython's own lines left out, `await` allowed at the top."
        lines = self.source.splitlines()
        python = "\n".join("" if re.match(r"\s*[%!]", line) else line for line in lines)
        flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        return compile(python, self.where, "exec", flags)  # type: ignore[return-value]


@cache
def cells(notebook: Path) -> list[Cell]:
    "The cells of one notebook."
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [
        Cell(notebook.name, number, cell["cell_type"], "".join(cell["source"]))
        for number, cell in enumerate(found)
    ]


def notebooks() -> list[Path]:
    "Every notebook, in the order in which the data passes through them."
    return sorted(NBS.glob("*.ipynb"))


def code_cells() -> list[Cell]:
    "Every code cell of every notebook, hidden ones and tests too."
    return [cell for path in notebooks() for cell in cells(path) if cell.kind == "code"]


def module_of(notebook: Path) -> str:
    "The module a notebook exports, empty when it exports none."
    for cell in cells(notebook):
        named = re.search(r"^#\|\s*default_exp\s+([\w.]+)", cell.source, re.M)
        if cell.kind == "code" and named:
            return named[1]
    return ""


def imported(tree: ast.Module) -> set[str]:
    "Dotted names that a piece of code imports, wherever in it: `gem_detector.book`, `numba`."
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found
