"""Every benchmark, one after the other, into one table: outputs are compared first, then timed.

    python benchmarks/run_all.py                        # all; results go to build/
    python benchmarks/run_all.py --only forest,splits   # some
    python benchmarks/run_all.py --minutes 25 --save    # also to benchmarks/, for the README

Each benchmark runs in a process of its own beside its peers, compares outputs before it times, and
says its ratios of medians. One that fails (an output that differs, a ratio below what was promised)
or that the time runs out on is listed, and the exit status is 1. results.md is for people,
results.json for `tools/readme.py`, which puts the block `QUOTED` asks for into the README.
"""

import argparse
import datetime
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Timer
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VERSIONS = (
    "numpy pandas numba lightgbm scikit-learn optuna ccxt websockets pyarrow orjson msgspec "
    "purgedcv skfolio"
).split()
LAST = ("demo",)  # takes what is left of the time
ASKED = ("--peer",)  # given to each benchmark that knows it
RATIO = re.compile(
    r"([\d,]+(?:\.\d+)?) ?(?:times (?:as|the)\b|x (?:sooner\b|\s*\(wanted)|x(?=\s|$))"
)
PRIVATE = re.compile(r"(?:file://)?/(?:root|home|Users|work|tmp|var|private|mnt|opt)/[^\s'\":]*")
# benchmark, a line of its output with one ratio, and the words for it
QUOTED = (
    ("feeds", r"median of the recordings.*?\bcompiled ([\d.]+)x", "wire to book, beside ccxt.pro"),
    ("features", r"all\s+\d+ features.*?([\d,]+)x", "feature rows, beside pandas"),
    (
        "forest",
        r"one row: +([\d.]+) times as fast as C API",
        "one row of 500 trees, beside the C API",
    ),
    ("labels", r"([\d,]+)x \(wanted", "labels and weights, beside mlfinpy"),
    ("splits", r"([\d,]+) times as fast as purgedcv", "purged splits, beside purgedcv"),
    ("overfitting", r"([\d,]+) times as fast as purgedcv", "PBO, beside purgedcv"),
    ("spectral_residual", r"([\d.]+) x sooner than alibi", "a saliency score, beside alibi-detect"),
    ("step", r"([\d.]+) times as (?:fast|many).*", "bytes to decision, beside plain pipelines"),
)


def machine() -> dict[str, Any]:
    "What the figures were measured on, without its name or its places."
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    model = re.search(r"^model name\s*: (.+)$", text, re.M)
    told = [f"{os.cpu_count()} cores", *([model[1].strip()] if model else [platform.machine()])]
    return {
        "machine": ", ".join([*told, platform.system()]),
        "python": platform.python_version(),
        "versions": found,
    }


def public(line: str) -> str:
    "A line without the paths of this machine."
    return PRIVATE.sub("<path>", line.replace(f"{ROOT}{os.sep}", ""))


def ratios(lines: list[str]) -> list[dict[str, Any]]:  # line and its numbers
    "The lines that say how often as fast something is."
    found = [
        (line.strip(), [float(n.replace(",", "")) for n in RATIO.findall(line)]) for line in lines
    ]
    return [{"line": line, "ratios": numbers} for line, numbers in found if numbers]


def stop(process: subprocess.Popen[str]) -> None:
    "End a benchmark and whatever it has started."
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def run(path: Path, limit_s: float) -> dict[str, Any]:
    "What a benchmark says and how it ended; its words are shown as they come."
    source, began, lines = path.read_text(encoding="utf-8"), time.monotonic(), []
    command = [sys.executable, str(path), *(word for word in ASKED if f'"{word}"' in source)]
    ran = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=os.name == "posix",
    )
    assert ran.stdout is not None
    is_late, timer = [False], Timer(limit_s, lambda: (is_late.__setitem__(0, True), stop(ran)))
    timer.start()
    try:
        for line in ran.stdout:
            print(line, end="", flush=True)
            lines.append(public(line.rstrip()))
        status = ran.wait()
    finally:
        timer.cancel()
    ended = f"stopped after {limit_s:.0f} s" if is_late[0] else f"exit status {status}"
    return {
        "name": path.stem.removeprefix("bench_"),
        "title": source.split('"""')[1].splitlines()[0],
        "ended": "" if status == 0 else ended,
        "seconds": round(time.monotonic() - began),
        "lines": lines,
        "ratios": ratios(lines),
    }


def quoted(found: list[dict[str, Any]]) -> list[dict[str, str]]:
    "What the README says: words and the ratio, or the least and the greatest of several."
    by_name, rows = {one["name"]: one for one in found if not one["ended"]}, []
    for name, pattern, words in QUOTED:
        text = "\n".join(by_name[name]["lines"]) if name in by_name else ""
        numbers = [float(n.replace(",", "")) for n in re.findall(pattern, text)]
        if numbers:
            low, high = (
                f"{n:,.0f}" if n >= 10 else f"{n:.1f}" for n in (min(numbers), max(numbers))
            )
            rows.append({"what": words, "times": low if low == high else f"{low} to {high}"})
    return rows


def page(results: dict[str, Any]) -> str:
    "The results for people."
    packages = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    parts = [
        "# Benchmarks\n",
        f"{results['date']}; {results['machine']}; Python {results['python']}; {packages}. Ratios "
        "are of medians within one process or one run, after the outputs were found equal.\n",
        "| benchmark | result | ratios | s |\n|---|---|---|--:|",
    ]
    for one in results["benchmarks"]:
        numbers = [n for row in one["ratios"] for n in row["ratios"]]
        span = f"{min(numbers):,.1f} to {max(numbers):,.1f}" if numbers else ""
        parts.append(f"| {one['name']} | {one['ended'] or 'passed'} | {span} | {one['seconds']} |")
    for one in results["benchmarks"]:
        said = "\n".join(one["lines"]).strip()
        parts.append(f"\n## {one['name']}\n\n{one['title']}\n\n```text\n{said}\n```")
    return "\n".join(parts) + "\n"


def chosen(words: list[str], known: dict[str, Path]) -> list[str]:
    "The benchmarks that were asked for; the long ones last."
    names = [name for word in words for name in word.split(",") if name]
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"no benchmark {', '.join(unknown)}: there are {', '.join(known)}")
    return sorted(names or known, key=lambda name: (name in LAST, name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="NAMES", help="a,b; all")
    parser.add_argument("--minutes", type=float, default=25.0, help="for all together (25)")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results.* as well")
    args = parser.parse_args()
    known = {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}
    end_s, found = time.monotonic() + 60 * args.minutes, []
    for name in chosen(args.only, known):
        print(f"== {name}", flush=True)
        found.append(run(known[name], max(end_s - time.monotonic(), 1.0)))
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    results = {"date": today, **machine(), "quoted": quoted(found), "benchmarks": found}
    for folder in (ROOT / "build", *((HERE,) if args.save else ())):
        folder.mkdir(exist_ok=True)
        (folder / "results.md").write_text(page(results), encoding="utf-8")
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        (folder / "results.json").write_text(text, encoding="utf-8")
    failed = [f"{one['name']} ({one['ended']})" for one in found if one["ended"]]
    print(f"\nbuild/results.md; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
