"""What the tests share: recordings, a browser, a database, and the rule that CI may not skip them.

`GEM_REQUIRE` lists what must be there ("data browser postgres"); with CI=true that is everything
unless it says otherwise.
"""

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from gem_detector.demo import DemoResult

ROOT = Path(__file__).resolve().parent.parent
NEEDS = {"gem_data": "data", "chromium": "browser", "postgres": "postgres"}  # fixture: marker
DEFAULT = "data browser postgres" if os.environ.get("CI") == "true" else ""
REQUIRED = set(os.environ.get("GEM_REQUIRE", DEFAULT).split())
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless --no-sandbox --disable-dev-shm-usage --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --hide-scrollbars"
).split()

LONG = ("test_cli.py", "test_packaging.py")  # files, for two processes

# CI tries the same examples each time; everybody else looks for new ones
hypothesis.settings.register_profile("ci", derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")

sys.path.insert(0, str(ROOT / "tools"))  # the scripts there are tested too


@pytest.fixture(scope="session")
def gem_data() -> Path:
    "The folder of real recordings that GEM_DATA names."
    beside = ROOT.parent / "shared" / "data"
    named = os.environ.get("GEM_DATA") or (str(beside) if beside.is_dir() else "")
    if not named:
        pytest.skip("GEM_DATA is not set: no real recordings here")
    if not Path(named).is_dir():
        pytest.skip(f"GEM_DATA is no folder: {named}")
    return Path(named)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    "Load an address in a headless browser that reaches only this machine; gives the page as drawn."
    named = os.environ.get("GEM_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if named is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")

    def load(url: str, screenshot: Path | None = None, size: tuple[int, int] = (1400, 1800)) -> str:
        command = [
            named,
            *FLAGS,
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
            f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
            f"--window-size={size[0]},{size[1]}",
            "--virtual-time-budget=10000",
        ]
        command += [f"--screenshot={screenshot}"] if screenshot else ["--dump-dom"]
        done = subprocess.run(
            [*command, url], capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout

    return load


def pytest_itemcollected(item: pytest.Item) -> None:
    "A test that uses a fixture carries its marker; what is dear is made once, in one process."
    fixtures = getattr(item, "fixturenames", ())
    is_dear = "planted_demo" in fixtures
    item.add_marker(pytest.mark.xdist_group("demo" if is_dear else item.path.name))
    for fixture, marker in NEEDS.items():
        if fixture in fixtures:
            item.add_marker(marker)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "What is long comes first."
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    "Where something is required, a test that skips for want of it has failed."
    report = yield
    # as text: numbers of NumPy do not travel between the processes of pytest-xdist
    report.user_properties = [(name, str(value)) for name, value in report.user_properties]
    wanted = sorted(name for name in REQUIRED if item.get_closest_marker(name))
    if report.skipped and wanted and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: {' and '.join(wanted)} required here, but {reason}"
    return report


# --- the dated table of make verify


def pytest_addoption(parser: pytest.Parser) -> None:
    "Add `--table`."
    parser.addoption(
        "--table",
        type=Path,
        help="write what was run, how it ended and how long it took, as Markdown",
    )


class Table:
    "Collects one row a test; what a test records with `record_property` comes along."

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[tuple[str, str, float, str]] = []
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        "Note a finished phase; the call decides, unless set-up already did."
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.when == "call" or (report.when == "setup" and not report.passed):
            facts = ", ".join(f"{name} = {value}" for name, value in report.user_properties)
            self.rows.append((report.nodeid, report.outcome, self.seconds[report.nodeid], facts))

    def pytest_sessionfinish(self) -> None:
        "Write the table."
        stamp = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
        here = f"Python {platform.python_version()}, {machine}"
        lines = [
            f"# Verification, {stamp}",
            "",
            here,
            "",
            "| test | result | s | facts |",
            "|---|---|--:|---|",
        ]
        lines += [f"| {name} | {how} | {s:.1f} | {facts} |" for name, how, s, facts in self.rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    "Switch the table on where it is asked for."
    path = config.getoption("--table")
    if path:
        config.pluginmanager.register(Table(path), "verification-table")


@pytest.fixture(scope="session")
def planted_demo(tmp_path_factory: pytest.TempPathFactory) -> "DemoResult":
    "The demo with its defaults, run once: seed 1, twelve gems to find."
    from gem_detector.demo import run_demo

    return run_demo(seed=1, folder=tmp_path_factory.mktemp("demo") / "out")
