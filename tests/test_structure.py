"""The rules that hold the notebooks together: order, size, kernels, imports, names, reasons."""

import ast
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import public_names
import pytest
from notebooks import PACKAGE, ROOT, Cell, cells, code_cells, imported, module_of, notebooks

SOURCE = ROOT / PACKAGE
LIGHT = (
    "core store markets frames wire arrivals sync connection streams listeners rest sources "
    "handover stream_face ccxt_feed feed_view live_session cli"
).split()
HEAVY = "numba pandas pyarrow ccxt matplotlib scipy lightgbm optuna sklearn seaborn".split()
LONGEST_CELL = 150  # lines: a documented face may reach this, everything else is far below


def test_there_are_notebooks() -> None:
    assert notebooks(), "nbs/ holds no notebook"
    assert all(module_of(path) for path in notebooks() if re.match(r"\d\d_", path.name))


def home_of(name: str, homes: dict[str, str]) -> str:
    "The module of the package that an imported dotted name comes from."
    parts = name.split(".")[1:]
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in homes:
            return ".".join(parts[:end])
    return public_names.names().get(parts[0], parts[0]) if parts else ""


def test_a_notebook_imports_only_from_those_before_it() -> None:
    homes = {module_of(path): path.name for path in notebooks() if module_of(path)}
    wrong = []
    for cell in code_cells():
        for name in sorted(imported(cell.tree)):
            if name.split(".")[0] != PACKAGE or name == PACKAGE:
                continue
            home = home_of(name, homes)
            if home == "venues":  # the bare subpackage
                continue
            if home not in homes:
                wrong.append(f"{cell.where}: {name}: no notebook exports it")
            elif homes[home] == cell.notebook:
                wrong.append(f"{cell.where}: {name}: imports its own module")
            elif homes[home] > cell.notebook:
                wrong.append(
                    f"{cell.where}: {name}: comes from {homes[home]}, which sorts after it"
                )
    assert not wrong, "\n".join(wrong)


def test_imports_stand_alone_in_their_cells() -> None:
    "nbdev runs the import cells when it builds the docs; other code in them fails there."
    wrong = []
    for cell in code_cells():
        kinds = {isinstance(node, ast.Import | ast.ImportFrom) for node in cell.tree.body}
        if kinds == {True, False}:
            wrong.append(f"{cell.where}: imports and other code in one cell")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_first_cell_holds_title_and_subtitle_only(path: Path) -> None:
    "Everything else in the first cell vanishes from the docs."
    first = cells(path)[0]
    assert first.kind == "markdown", f"{first.where}: has to be Markdown"
    assert re.fullmatch(r"# [^\n]+\n\n?(> [^\n]+\n?)+", first.source.strip() + "\n"), (
        f"{first.where}: only `# Title` and `> one sentence`, but it says {first.source[:200]!r}"
    )


def test_exported_cells_are_short() -> None:
    wrong = [
        f"{cell.where}: {len(cell.source.splitlines())} lines, at most {LONGEST_CELL}"
        for cell in code_cells()
        if cell.is_exported and len(cell.source.splitlines()) > LONGEST_CELL
    ]
    assert not wrong, "\n".join(wrong)


def bare_compilers(tree: ast.AST) -> list[str]:
    "Uses of numba's decorators in a piece of code."
    compilers = {"njit", "jit", "vectorize", "guvectorize", "cfunc", "stencil"}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in compilers:
            if ast.unparse(node.value) in ("numba", "nb"):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numba":
            found += [alias.name for alias in node.names if alias.name in compilers]
    return found


def test_kernels_only_through_core_kernel() -> None:
    "A bare njit keeps a caller stale when a kernel of another module changes."
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        if path != SOURCE / "core.py":
            uses = bare_compilers(ast.parse(path.read_text(encoding="utf-8")))
            wrong += [f"{path.relative_to(ROOT)}: {use}" for use in uses]
    for cell in code_cells():
        if not cell.notebook.startswith("00_"):
            wrong += [f"{cell.where}: {use}" for use in bare_compilers(cell.tree)]
    assert not wrong, "use core.kernel instead of\n" + "\n".join(wrong)


def test_no_module_is_called_utils() -> None:
    names = [path.stem for path in SOURCE.rglob("*.py")] + [module_of(path) for path in notebooks()]
    assert not [name for name in names if re.search(r"\b(utils?|helpers?|misc|common)\b", name)]


def light_modules() -> list[str]:
    "The modules on the way from bytes to books, and the command line."
    venues = [f"venues.{path.stem}" for path in (SOURCE / "venues").glob("[!_]*.py")]
    return [name for name in LIGHT if (SOURCE / f"{name}.py").exists()] + sorted(venues)


@pytest.mark.parametrize("module", light_modules())
def test_the_way_from_bytes_to_books_is_light(module: str) -> None:
    "A recorder on a small machine starts at once: what is heavy is imported where it is used."
    code = f"import sys, {PACKAGE}.{module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert not ran.stdout.split(), f"{PACKAGE}.{module} imports {ran.stdout.strip()}"


def test_public_names_agree_and_resolve() -> None:
    assert not public_names.problems()


def test_every_public_name_stands_in_an_example_that_runs() -> None:
    "In a cell that `make test` runs: not exported, not slow, not switched off."
    left_out = {"export", "exports", "slow", "live", "eval"}
    examples = [cell.source for cell in code_cells() if not left_out & cell.directives]
    words = set(re.findall(r"\w+", "\n".join(examples)))
    assert not sorted(set(public_names.names()) - words)


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_saved_outputs_show_no_failure_and_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert '"output_type": "error"' not in text
    assert not re.search(r"(?<![\w/.])/(tmp|home|root)/\w", text)


def test_star_import_and_dir_offer_the_public_names() -> None:
    import gem_detector

    names = public_names.names()
    assert set(gem_detector.__all__) == set(names) and set(names) <= set(dir(gem_detector))
    assert all(getattr(gem_detector, name) is not None for name in names)
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_the_kind'"):
        _ = gem_detector.nothing_of_the_kind


def test_every_dependency_has_its_reason() -> None:
    card = ConfigParser(delimiters=["="], interpolation=None)
    card.read(ROOT / "settings.ini", encoding="utf-8")
    words = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    keys = [key for key in card["DEFAULT"] if key.endswith("requirements")]
    named = {
        re.split(r"[<>=!~\[;]", one)[0] for key in keys for one in card["DEFAULT"][key].split()
    }
    missing = sorted(
        name for name in named if not re.search(rf"^\| `{re.escape(name)}` \|", words, re.M)
    )
    assert not missing, f"CONTRIBUTING.md gives no reason for {', '.join(missing)}"


def test_locked_is_what_settings_ini_asks_for() -> None:
    import requirements

    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in locked, "requirements.lock names a registry host"
    pinned = {re.split(r"==| ", line)[0].lower() for line in locked.splitlines()}
    asked = {re.split(r"[<>=!~\[;]", one)[0].lower() for one in requirements.requirements()}
    assert asked <= pinned, f"run make lock: {sorted(asked - pinned)} not in requirements.lock"


def test_nothing_names_a_machine() -> None:
    places = re.compile(r"(?<![\w.~])/(?:work|root|home|Users)/\w+")
    wrong = []
    for path in [*notebooks(), *sorted(SOURCE.rglob("*.py")), ROOT / "README.md"]:
        found = places.search(path.read_text(encoding="utf-8"))
        if found:
            wrong.append(f"{path.relative_to(ROOT)}: {found[0]}")
    assert not wrong, "\n".join(wrong)


# --- the rules themselves are tested on code that breaks them


def test_rules_see_what_they_should() -> None:
    cell = Cell(
        "05_x.ipynb", 3, "code", "#| hide\n%time\nfrom gem_detector.core import Gap, BPS\nawait f()"
    )
    assert imported(cell.tree) == {"gem_detector.core.Gap", "gem_detector.core.BPS"}
    assert home_of("gem_detector.core.Gap", {"core": "00_core.ipynb"}) == "core"
    assert home_of("gem_detector.Gap", {"core": "00_core.ipynb"}) == "core"
    assert home_of("gem_detector.venues.binance.X", {"venues.binance": "10"}) == "venues.binance"
    assert cell.directives == {"hide"} and not cell.is_exported
    assert bare_compilers(ast.parse("import numba\n@numba.njit\ndef f(): pass")) == ["numba.njit"]
    assert bare_compilers(ast.parse("from numba import njit")) == ["njit"]
    assert not bare_compilers(ast.parse("from gem_detector.core import kernel"))
