"""Every benchmark, one after the other, into one table: outputs are compared first, then timed.

    python benchmarks/run_all.py                  # all; the page goes to build/benchmarks.md
    python benchmarks/run_all.py forest splits    # some
    python benchmarks/run_all.py --save           # also to results.md, which the README quotes

Each benchmark runs in a process of its own and says its ratios to peers of the same run; one that
fails (an output that differs, a ratio below what was promised) is listed, and the exit status is 1.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VERSIONS = "numpy pandas numba lightgbm scikit-learn optuna ccxt websockets pyarrow".split()


def machine() -> str:
    "What the figures were measured on."
    told = [f"{os.cpu_count()} cores", platform.machine(), platform.system()]
    packages = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    return f"{', '.join(told)}; Python {platform.python_version()}; {packages}"


def run(path: Path) -> tuple[str, int]:
    "What a benchmark says, and its exit status; its words are shown as they come."
    ran = subprocess.Popen(
        [sys.executable, path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ran.stdout is not None
    lines = []
    for line in ran.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    return "".join(lines), ran.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="bench_NAME.py; default: all")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results.md as well")
    args = parser.parse_args()
    known = {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"no benchmark {', '.join(unknown)}: there are {', '.join(known)}")
    today = datetime.datetime.now(datetime.UTC).date()
    page, failed = [f"# Benchmarks\n\n{today}; {machine()}.\n"], []
    for name in args.names or known:
        print(f"== {name}", flush=True)
        said, status = run(known[name])
        doc = known[name].read_text(encoding="utf-8").split('"""')[1].splitlines()[0]
        failed += [name] if status else []
        state = f"\nFailed with exit status {status}.\n" if status else ""
        page.append(f"## {name}\n\n{doc}\n{state}\n```text\n{said.strip()}\n```\n")
    text = "\n".join(page)
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "benchmarks.md").write_text(text, encoding="utf-8")
    if args.save:
        (HERE / "results.md").write_text(text, encoding="utf-8")
    print(f"\nbuild/benchmarks.md; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
