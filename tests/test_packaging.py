"""Wheel and sdist hold everything and say nothing about the machine that built them."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from notebooks import PACKAGE, ROOT

NEEDED = "settings.ini setup.py pyproject.toml README.md LICENSE CHANGELOG.md MANIFEST.in".split()
UNWANTED = shutil.ignore_patterns("__pycache__", "*.part", "*.egg-info", "*.nbi", "*.nbc")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    "The sdist, and the wheel built from what the sdist holds."
    top = tmp_path_factory.mktemp("build")
    for name in NEEDED:
        shutil.copy(ROOT / name, top)
    for name in (PACKAGE, "nbs", "tests"):
        shutil.copytree(ROOT / name, top / name, ignore=UNWANTED)
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        str(top / "dist"),
        str(top),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return next((top / "dist").glob("*.tar.gz")), next((top / "dist").glob("*.whl"))


def package_files() -> set[str]:
    "Every file of the package that a user needs, by its path from the top."
    found = (path for path in (ROOT / PACKAGE).rglob("*") if path.is_file())
    return {
        path.relative_to(ROOT).as_posix()
        for path in found
        if "__pycache__" not in path.parts
        and path.suffix in (".py", ".pyi", ".typed", ".json", ".csv", "")
    }


def test_wheel_holds_every_module_and_data_file(built: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(built[1]).namelist())
    assert package_files() | {f"{PACKAGE}/py.typed", f"{PACKAGE}/__init__.pyi"} <= names
    foreign = {name for name in names if not name.startswith((f"{PACKAGE}/", f"{PACKAGE}-"))}
    assert not foreign, f"the wheel installs files outside the package: {sorted(foreign)}"


def test_sdist_holds_what_a_build_needs(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert package_files() | set(NEEDED) <= names
    assert any(name.startswith("nbs/") for name in names), "the source is the notebooks"


def test_metadata_says_what_settings_ini_says(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        folder = next(name for name in wheel.namelist() if name.endswith("METADATA")).rpartition(
            "/"
        )[0]
        metadata = wheel.read(f"{folder}/METADATA").decode()
        scripts = wheel.read(f"{folder}/entry_points.txt").decode()
        licence = [name for name in wheel.namelist() if name.endswith("LICENSE")]
    assert re.search(r"^Name: gem-detector$", metadata, re.M)
    assert re.search(r"^Requires-Python: >=3\.11$", metadata, re.M)
    assert re.search(r"^License(-Expression)?: MIT$", metadata, re.M) and licence
    assert re.search(r"^Requires-Dist: numpy>=", metadata, re.M)
    assert "gem-detector = gem_detector.cli:main" in scripts
    assert "gem_detector = gem_detector._modidx:d" in scripts
    assert (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[-1] in metadata


def test_no_path_of_the_building_machine(built: tuple[Path, Path]) -> None:
    private = re.compile(rb"file://|/(?:root|home|Users|work|tmp)/\w+")
    with zipfile.ZipFile(built[1]) as wheel:
        for name in wheel.namelist():
            found = private.search(wheel.read(name))
            assert not found, f"{name}: {found[0]!r}"  # type: ignore[index]


ELSEWHERE = """
# what Python has on POSIX systems only, taken away before anything is imported
import asyncio, signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios", "syslog", "uvloop"):
    sys.modules[name] = None
def refused(*args, **options):
    raise NotImplementedError
asyncio.AbstractEventLoop.add_signal_handler = refused
asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler = refused
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "pthread_sigmask"):
    delattr(signal, name)
"""


def test_import_replay_and_train_as_on_windows(tmp_path: Path) -> None:
    "The script that the workflow runs there, without what only POSIX systems have."
    (tmp_path / "sitecustomize.py").write_text(ELSEWHERE)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command, env = [sys.executable, ROOT / "tools" / "smoke.py"], os.environ | {"PYTHONPATH": path}
    code = "import asyncio; asyncio.new_event_loop().add_signal_handler(2, print)"
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=False)
    assert b"NotImplementedError" in tried.stderr  # it is in force
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=env
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == "import, replay and train work"


def fresh_environment(folder: Path, *install: str | Path) -> Path:
    "An environment outside the checkout, with the wheel in it; its Python."
    uv, python = Path(sys.executable).parent / "uv", folder / "env" / "bin" / "python"
    subprocess.run([uv, "venv", "-q", "-p", sys.executable, folder / "env"], check=True)
    subprocess.run([uv, "pip", "install", "-q", "-p", python, *install], check=True)
    return python


def test_wheel_works_outside_the_checkout(built: tuple[Path, Path], tmp_path: Path) -> None:
    "The same with its dependencies borrowed from here, so that nothing is downloaded."
    python = fresh_environment(tmp_path, "--no-deps", built[1])
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import gem_detector; print(gem_detector.__file__)"
    options = {"capture_output": True, "text": True, "check": False, "cwd": tmp_path, "env": env}
    where = subprocess.run([python, "-c", code], **options)
    assert Path(where.stdout.strip()).is_relative_to(site), where.stdout + where.stderr
    ran = subprocess.run([python, ROOT / "tools" / "smoke.py"], **options)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = subprocess.run([python.parent / "gem-detector", "demo", "--help"], **options)
    assert said.returncode == 0 and "planted gems" in said.stdout


@pytest.mark.verify
def test_wheel_runs_in_a_fresh_environment(built: tuple[Path, Path], tmp_path: Path) -> None:
    "Installed with its dependencies outside the checkout, the demo runs."
    python = fresh_environment(tmp_path, "-c", ROOT / "requirements.lock", built[1])
    command = [python.parent / "gem-detector", "demo", "--seed", "1", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
