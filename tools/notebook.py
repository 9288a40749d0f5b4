"""Build notebooks from a terminal: text to notebook, export, run, save outputs, clean.

python tools/notebook.py text  nbs/05_clock.ipynb   write scratch/05_clock.py to edit
python tools/notebook.py build nbs/05_clock.ipynb   text -> notebook -> export -> run -> clean
python tools/notebook.py run   nbs/05_clock.ipynb   run and save outputs, the text untouched
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
SCRATCH = ROOT / "scratch"


def text_of(notebook: Path) -> Path:
    "The percent-format text that stands beside a notebook while it is edited (git-ignored)."
    return SCRATCH / f"{notebook.stem}.py"


def to_text(notebook: Path) -> None:
    "Write a notebook as percent-format text."
    import jupytext

    SCRATCH.mkdir(exist_ok=True)
    jupytext.write(jupytext.read(notebook), text_of(notebook), fmt="py:percent")


def from_text(notebook: Path) -> None:
    "Bring edited text back into its notebook; unchanged cells keep their ids and outputs."
    command = [sys.executable, "-m", "jupytext", "--quiet", "--to", "ipynb"]
    if notebook.exists():
        command.append("--update")
    command += [str(text_of(notebook)), "-o", str(notebook)]
    subprocess.run(command, check=True)


def export(notebook: Path) -> None:
    "Write the module of one notebook."
    from nbdev.export import nb_export

    nb_export(notebook, lib_path=ROOT / "gem_detector")


def skipped(cell: dict, flags: set[str]) -> bool:
    "Whether a cell is not run: `#| eval: false`, or a flag such as `#| slow` not asked for."
    from nbdev.config import get_config

    held_back = set(str(get_config().tst_flags).split()) - flags
    for line in cell["source"].splitlines():
        if not line.startswith("#|"):
            break
        words = line[2:].replace(":", " ").split()
        if words[:2] == ["eval", "false"] or (words and words[0] in held_back):
            return True
    return False


def run(notebook: Path, flags: set[str]) -> bool:
    "Run a notebook top to bottom and save its outputs; False when a cell fails, which is shown."
    from execnb.nbio import read_nb, write_nb
    from execnb.shell import CaptureShell

    book = read_nb(notebook)
    shell = CaptureShell(path=NBS, mpl_format="retina")
    shell.run_cell("%matplotlib inline\n%config InlineBackend.figure_formats = ['png']")
    for cell in book.cells:
        if cell.cell_type != "code" or skipped(cell, flags):
            continue
        cell["outputs"] = []  # execnb keeps old ones of a cell that now prints nothing
        shell.cell(cell)
        if shell.exc:
            head = cell["source"].splitlines()
            print(f"{notebook.name}: this cell failed:\n" + "\n".join(head[:12]), file=sys.stderr)
            import traceback

            traceback.print_exception(shell.exc)
            write_nb(book, notebook)
            return False
    write_nb(book, notebook)
    return True


def clean(notebook: Path) -> None:
    "Strip what differs from run to run."
    from nbdev.clean import nbdev_clean

    nbdev_clean.__wrapped__(str(notebook), clear_all=False)


def main() -> int:
    "Command line."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["text", "build", "run"])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument(
        "--flags", default="data slow", help="cells to run that are held back by default"
    )
    args = parser.parse_args()
    good = True
    for given in args.notebooks:
        notebook = NBS / (given.stem + ".ipynb")
        if args.what == "text":
            to_text(notebook)
            continue
        if args.what == "build":
            from_text(notebook)
            export(notebook)
        good = run(notebook, set(args.flags.split())) and good
        clean(notebook)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
