"""Bars: in a terminal, in a notebook's kernel, and never in a pipe unless asked for."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from gem_detector.progress import has_kernel, is_hidden

EDGE = """
import sys
from gem_detector.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("wanted", "is_tty", "hidden"), [
    (None, True, False), (None, False, True), (True, False, False), (False, True, True),
])  # fmt: skip
def test_a_bar_is_drawn_where_it_is_seen(
    wanted: bool | None, is_tty: bool, hidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_tty, raising=False)
    assert is_hidden(wanted) is hidden and not has_kernel()


def test_a_notebooks_kernel_shows_bars() -> None:
    "In a real kernel, whose output is no terminal, a search and a walk-forward draw their bars."
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    code = (
        "from gem_detector.progress import has_kernel, is_hidden\n"
        "from tqdm.auto import tqdm\n"
        "for _ in tqdm(range(3), disable=is_hidden(None), desc='work'): pass\n"
        "print(has_kernel())"
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    told = json.dumps(book.cells[0].outputs)
    assert "True" in told and "work" in told and "widget-view" in told


@pytest.mark.skipif(os.name != "posix", reason="a terminal of our own")
def test_a_command_draws_its_bar_in_a_terminal_only(tmp_path: Path) -> None:
    import pty
    import termios

    command = [sys.executable, "-c", EDGE, "edge", "--minutes", "5", "--latency", "20,400"]
    command += ["--size", "1000", "--tier", "base"]
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    ran = subprocess.Popen(
        [*command, "--out", str(tmp_path / "a")], stderr=follower, stdout=subprocess.DEVNULL
    )
    os.close(follower)
    shown = b""
    with suppress(OSError):  # what Linux says when the other side is closed
        while part := os.read(leader, 65_536):
            shown += part
    os.close(leader)
    assert ran.wait(300) == 0 and b"%|" in shown
    piped = subprocess.run(
        [*command, "--out", str(tmp_path / "b")], capture_output=True, text=True, check=True
    )
    assert "%|" not in piped.stderr
