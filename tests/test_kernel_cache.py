"""Compiled kernels work where nothing can be written, are kept elsewhere, and are never stale."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from notebooks import PACKAGE, ROOT

INNER = "from .core import kernel\n\n\n@kernel\ndef inner(x):\n    return x + {}\n"
OUTER = """from .core import kernel
from .probe_inner import inner


@kernel
def outer(x):
    return 2.0 * inner(x)
"""
RUN = """
from gem_detector.probe_outer import outer
print(outer(1.0), sum(outer.stats.cache_hits.values()), outer.py_func(1.0))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    "A copy of the package with two kernels added, one calling the other across modules."
    package = tmp_path / "site" / PACKAGE
    shutil.copytree(ROOT / PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "probe_inner.py").write_text(INNER.format("1.0"), encoding="utf-8")
    (package / "probe_outer.py").write_text(OUTER, encoding="utf-8")
    return package


def run(package: Path, **environment: str) -> list[float]:
    "Call the outer kernel in a fresh interpreter: result, cache hits, result of the plain twin."
    clean = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    clean |= {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN],
        capture_output=True,
        text=True,
        check=False,
        env=clean | environment,
        cwd=package.parent,
    )
    assert ran.returncode == 0, ran.stderr
    return [float(word) for word in ran.stdout.split()]


def test_a_kernel_is_kept_and_found_again(copy: Path) -> None:
    assert run(copy) == [4.0, 0.0, 4.0]
    assert run(copy) == [4.0, 1.0, 4.0]


def test_an_edited_callee_reaches_its_caller(copy: Path) -> None:
    "numba's own stamp covers one file and would keep the caller."
    assert run(copy) == [4.0, 0.0, 4.0]
    (copy / "probe_inner.py").write_text(INNER.format("5.0"), encoding="utf-8")
    assert run(copy) == [12.0, 0.0, 12.0]
    assert run(copy) == [12.0, 1.0, 12.0]


def test_kernels_work_where_nothing_can_be_written(copy: Path, tmp_path: Path) -> None:
    "Root may write anywhere: so files stand where folders would be made, besides the permissions."
    blocked = tmp_path / "blocked"
    blocked.touch()
    for folder in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").touch()
    before = sorted(copy.rglob("*"))
    for path in [*before, copy]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert run(copy, HOME=str(blocked), XDG_CACHE_HOME=str(blocked)) == [4.0, 0.0, 4.0]
        assert sorted(copy.rglob("*")) == before
    finally:
        for path in [copy, *before]:
            path.chmod(0o755)
