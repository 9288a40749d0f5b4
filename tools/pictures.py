"""Pictures of the panel in JupyterLab and of the site, for the docs: nbs/screen_*.png.

python tools/pictures.py panel     starts JupyterLab on this machine, runs a notebook, looks at it
python tools/pictures.py site      looks at _docs, which `make docs` builds
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from browser import Browser, Page, served
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
MOST_BYTES = 150_000
PANEL = """
from gem_detector.aggregator import MultiExchangeAggregator
from gem_detector.core import NS_PER_S, OrderBookSnapshot
from gem_detector.dashboard import Dashboard
from gem_detector.planting import Desk, planted_market, tape_events

desk = Desk()
market, truth = planted_market(seed=1, minutes=2, gems=(2, 0), decoys=0, desk=desk)
names = {(t.instrument.exchange, t.instrument.symbol): n for n, t in market.tapes.items()}
feeds = {name: tape.instrument for name, tape in market.tapes.items()}
aggregator = MultiExchangeAggregator(feeds, fees=desk.fees)
panel, due_ns = Dashboard(aggregator), market.start_ns + NS_PER_S
for event in tape_events(market):
    if isinstance(event, OrderBookSnapshot):
        aggregator.on_book(names[event.exchange, event.symbol], event)
    if event.ts_recv_ns >= due_ns:
        panel.refresh()
        due_ns += NS_PER_S // 10
"""
PAGES = {"light": ("walk_forward", 1200, 760), "dark": ("walk_forward", 1200, 760)}


def small(path: Path) -> None:
    "Fewer colours: a screen has few, and the repository keeps every picture for ever."
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(128).save(path, optimize=True)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{path.name}: {size:,} bytes, at most {MOST_BYTES:,}")
    print(f"{path.relative_to(ROOT)}: {size:,} bytes")


def notebook() -> dict:
    "A notebook that shows the panel, an aggregator and nothing else."
    cells = [PANEL.strip(), "panel", "aggregator"]
    made = [
        {
            "cell_type": "code",
            "metadata": {"jupyter": {"source_hidden": i == 0}},
            "execution_count": None,
            "outputs": [],
            "source": source,
            "id": f"cell{i}",
        }
        for i, source in enumerate(cells)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def look_at_lab(page: Page, address: str, theme: str, path: Path) -> None:
    "Open the notebook, run all of it, wait for the panel, take its picture."
    page.open(address, timeout_s=180)
    page.wait("!!window.jupyterapp && !!document.querySelector('.jp-NotebookPanel')", 180)
    run = "window.jupyterapp.commands.execute"
    page.value(f"{run}('apputils:change-theme', {{theme: '{theme}'}}).then(() => true)")
    page.wait("!!document.querySelector('.jp-Notebook .jp-Cell')", 60)
    page.value(f"{run}('application:toggle-left-area').then(() => true)")
    button = "document.querySelector('.jp-Dialog .jp-mod-accept')"
    page.value("new Promise(done => setTimeout(done, 5000))")
    page.value(f"{button}?.click()")  # which kernel: the one that is offered
    page.value("new Promise(done => setTimeout(done, 3000))")
    busy = (
        "[...document.querySelectorAll('.jp-InputPrompt')].some(e => /[*\\d]/.test(e.textContent))"
    )
    for _ in range(12):  # a kernel that is only just starting takes no orders
        page.value(f"void {run}('notebook:run-all-cells'), true")
        page.value("new Promise(done => setTimeout(done, 5000))")
        if page.value(busy):
            break
    try:
        page.wait("!!document.querySelector('.gem-panel')", 300)
    except TimeoutError:
        page.picture(Path(tempfile.gettempdir()) / "no-panel.png")  # what stood there instead
        raise
    page.value("document.querySelector('.gem-panel').scrollIntoView({block: 'start'})")
    page.value("new Promise(done => setTimeout(done, 1500))")
    page.picture(path)


def panel() -> None:
    "The panel in JupyterLab, light and dark."
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "panel.ipynb").write_text(json.dumps(notebook()), encoding="utf-8")
        quiet = Path(folder) / "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
        quiet.parent.mkdir(parents=True)
        quiet.write_text('{"fetchNews": "false"}', encoding="utf-8")
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
        command += ["--ServerApp.token=look", "--LabApp.expose_app_in_browser=True"]
        command += [f"--notebook-dir={folder}", "--ip=127.0.0.1", "--LabApp.news_url="]
        environment = os.environ | {"JUPYTER_CONFIG_DIR": folder, "JUPYTERLAB_SETTINGS_DIR": folder}
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            assert server.stderr is not None
            found = (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in server.stderr)
            address = next(match[0] for match in found if match)
            for theme in ("Light", "Dark"):
                path = NBS / f"screen_panel_{theme.lower()}.png"
                with Browser() as browser, browser.page(1120, 700) as page:
                    where = f"{address}lab/tree/panel.ipynb?token=look&reset"
                    look_at_lab(page, where, f"JupyterLab {theme}", path)
                small(path)
        finally:
            server.terminate()
            server.wait(30)


def site() -> None:
    "A chapter in light and dark, and the first page on a phone."
    with served(ROOT / "_docs") as address, Browser() as browser:
        for name, (page_name, width, height) in PAGES.items():
            with browser.page(width, height, dark=name == "dark") as page:
                page.open(f"{address}{page_name}.html#aggregates")
                page.picture(NBS / f"screen_site_{name}.png")
        with browser.page(390, 760) as page:
            page.open(f"{address}index.html")
            page.picture(NBS / "screen_site_phone.png")
    for name in (*PAGES, "phone"):
        small(NBS / f"screen_site_{name}.png")


if __name__ == "__main__":
    {"panel": panel, "site": site}[sys.argv[1]]()
