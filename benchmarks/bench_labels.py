"""How much sooner are triple barriers and average uniqueness known than by mlfinpy?

    python benchmarks/bench_labels.py --peer    makes the peer's environment in build/peers

Without --peer only our own time is shown. 2,000 entries on 20,000 bars of a random walk, barriers
ten steps away, time up after 300 bars; labels are counted at the bars. Settling times have to be
equal, weights to 1e-9. Ratios are of the least of several runs, one thread each.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gem_detector.barriers import average_uniqueness, triple_barrier
from gem_detector.core import NS_PER_S

HERE = Path(__file__).resolve().parent
WANTED = {"triple barrier": 5_000, "uniqueness": 500}
WIDTH_BPS, HORIZON_NS = 10.0, 300 * NS_PER_S


def case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    "Times, prices and entries."
    rng = np.random.default_rng(1)
    ts_ns = 1_700_000_000 * NS_PER_S + NS_PER_S * np.arange(20_000)
    px = 100.0 * np.exp(np.cumsum(rng.normal(0, 1e-4, 20_000)))
    entries = np.sort(rng.choice(20_000 - 301, 2_000, replace=False))
    return ts_ns, px, ts_ns[entries]


def peer(home: Path) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    "Labels and seconds from the peer's own environment."
    uv = Path(sys.executable).with_name("uv")
    if not (home / "ready").exists():
        subprocess.run([uv, "venv", "-q", "--clear", "-p", "3.11", home], check=True)
        install = [uv, "pip", "install", "-q", "-p", home, "-r", HERE / "peers/mlfinpy.txt"]
        subprocess.run(install, check=True)
        (home / "ready").touch()
    ts_ns, px, t0_ns = case()
    rule = {"horizon_ns": np.array(HORIZON_NS), "width_bps": np.array(WIDTH_BPS)}
    np.savez(home / "case.npz", ts_ns=ts_ns, px=px, t0_ns=t0_ns, **rule)
    command = [home / "bin/python", HERE / "peers/mlfinpy_run.py"]
    files = [home / "case.npz", home / "labels.npz"]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=True)
    return dict(np.load(home / "labels.npz")), json.loads(done.stdout.splitlines()[-1])


def least(job: Callable[[], Any], n: int = 25) -> float:
    "Seconds of the best run."
    spent = []
    for _ in range(n):
        start = time.perf_counter()
        job()
        spent.append(time.perf_counter() - start)
    return min(spent)


def main(with_peer: bool) -> None:
    "Compare, then time."
    ts_ns, px, t0_ns = case()
    rule = {"up_bps": WIDTH_BPS, "down_bps": WIDTH_BPS, "horizon_ns": HORIZON_NS}
    labels = triple_barrier(ts_ns, px, t0_ns, **rule)
    weight = average_uniqueness(t0_ns, labels.t1, ts_ns)
    shares = [float(np.mean(labels.label == kind)) for kind in (-1, 0, 1)]
    assert min(shares) > 0.02, shares  # every barrier is met
    ours = {
        "triple barrier": least(lambda: triple_barrier(ts_ns, px, t0_ns, **rule)),
        "uniqueness": least(lambda: average_uniqueness(t0_ns, labels.t1, ts_ns)),
    }
    theirs: dict[str, float] = {}
    if with_peer:
        found, theirs = peer(HERE.parent / "build/peers/mlfinpy")
        assert np.array_equal(found["t1_ns"], labels.t1)
        assert np.allclose(found["weight"], weight, rtol=1e-9, atol=0)
    print(f"{len(t0_ns):,} entries, {len(ts_ns):,} bars")
    for name, seconds in ours.items():
        told = f"  {name:15} {seconds * 1e3:8.3f} ms"
        if name in theirs:
            ratio = theirs[name] / seconds
            told += (
                f"  mlfinpy {theirs[name] * 1e3:8.0f} ms  {ratio:8,.0f}x (wanted {WANTED[name]:,})"
            )
            assert ratio >= WANTED[name], told
        print(told)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", action="store_true", help="mlfinpy as well")
    main(parser.parse_args().peer)
