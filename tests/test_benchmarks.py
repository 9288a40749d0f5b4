"""The benchmarks' runner and the block of the README that it fills."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import readme as readme_tool

ROOT = Path(__file__).resolve().parent.parent
GOOD = (
    '"""Something against its peer."""\nprint("one row:  7.5 times as fast as C API (wanted 3)")\n'
)
PEER = (
    '"""A peer."""\nimport sys\n"--peer"\n'
    'print("median of the recordings  compiled 22.7x", sys.argv)\n'
)
HOME = "/".join(("", "home", "somebody"))  # no path of a machine stands in a file, nor in this one
BAD = f'"""Fails."""\nprint("written to {ROOT}/build/x and {HOME}/y")\nraise SystemExit(3)\n'
SLOW = '"""Never ends."""\nimport time\nprint("begins", flush=True)\ntime.sleep(600)\n'


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    "run_all.py over benchmarks of our own."
    spec = spec_from_file_location("run_all", ROOT / "benchmarks" / "run_all.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    here = tmp_path / "benchmarks"
    here.mkdir()
    for name, code in {"forest": GOOD, "feeds": PEER, "broken": BAD, "demo": SLOW}.items():
        (here / f"bench_{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(module, "HERE", here)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def saved(runner: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, dict]:
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--save", *words])
    status = runner.main()
    return status, json.loads((runner.HERE / "results.json").read_text(encoding="utf-8"))


def test_ratios_versions_and_machine_without_paths(runner, monkeypatch) -> None:
    status, results = saved(runner, monkeypatch, "--only", "forest,feeds", "--only", "broken")
    by_name = {one["name"]: one for one in results["benchmarks"]}
    assert status == 1 and by_name["broken"]["ended"] == "exit status 3"
    assert by_name["forest"]["ratios"][0]["ratios"] == [7.5]
    assert by_name["feeds"]["ratios"][0]["ratios"] == [22.7]
    assert "--peer" in by_name["feeds"]["lines"][0]
    times = {row["what"].split(",")[0]: row["times"] for row in results["quoted"]}
    assert times == {"wire to book": "23", "one row of 500 trees": "7.5"}
    assert results["versions"]["numpy"] and results["python"] and "cores" in results["machine"]
    page = (runner.HERE / "results.md").read_text(encoding="utf-8")
    assert not runner.PRIVATE.search(page) and "/home" not in page and str(ROOT) not in page


def test_time_is_bounded(runner, monkeypatch) -> None:
    status, results = saved(runner, monkeypatch, "--only", "demo,forest", "--minutes", "0.05")
    forest, demo = results["benchmarks"]  # the long one comes last
    assert forest["ended"] == "" and demo["lines"] == ["begins"]
    assert status == 1 and demo["ended"].startswith("stopped after") and demo["seconds"] < 30


def test_unknown_names_are_refused(runner, monkeypatch) -> None:
    with pytest.raises(SystemExit, match=r"no benchmark nothing: there are broken, demo"):
        saved(runner, monkeypatch, "--only", "nothing")


def test_the_readme_quotes_what_was_measured(tmp_path: Path, monkeypatch) -> None:
    marked = "Words.\n\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\n\nMore."
    notebook = {"cells": [{"cell_type": "markdown", "source": marked.splitlines(keepends=True)}]}
    for name, path in {"INDEX": "index.ipynb", "MEASURED": "results.json"}.items():
        monkeypatch.setattr(readme_tool, name, tmp_path / path)
    (tmp_path / "index.ipynb").write_text(json.dumps(notebook))
    assert set(readme_tool.made()) == {"README.md"}  # nothing was measured yet
    results = {"date": "2026-11-01", "machine": "2 cores", "python": "3.11.1"}
    results |= {"versions": {"numpy": "2.4"}, "quoted": [{"what": "rows", "times": "7.5"}]}
    (tmp_path / "results.json").write_text(json.dumps(results))
    files = readme_tool.made()
    page = files["README.md"].decode()
    assert "| rows | 7.5 |" in page and "2 cores, Python 3.11.1; numpy 2.4" in page
    assert "old" not in page and page.rstrip().endswith("More.")
    (tmp_path / "index.ipynb").write_bytes(files["nbs/index.ipynb"])
    assert set(readme_tool.made()) == {"README.md"}  # and now it agrees
