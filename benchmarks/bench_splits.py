"""Are purged folds those of purgedcv and RiskLabAI, row for row, and how much sooner?

    python benchmarks/bench_splits.py              makes the peers' environment in build/peers
    python benchmarks/bench_splits.py --peer       … and fails where that cannot be done
    python benchmarks/bench_splits.py --no-peer    our own time only

Inputs: labels of many lengths, repeated stamps, gaps,
with and without an embargo; 50,000 rows x 6 folds for the time. Rows of one stamp stand in order
of their label ends: at the border of a block ours goes by that, theirs by the input. Ratios are of
CPU seconds, the best of seven runs: both use one thread, and other work on the machine is left out.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np
from peer_environment import peer_home

from gem_detector.splits import CombinatorialPurgedCV, PurgedKFold

HERE = Path(__file__).resolve().parent
WANTED = 25  # times as fast as purgedcv on the large case


def cases() -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    "Name → t0, t1 and embargo, all in ns."
    rng, found = np.random.default_rng(0), {}
    for name, n, span, longest, embargo in (
        ("large", 50_000, 10**8, 200_000, 100_000),
        ("short labels", 3_000, 10**7, 50, 0),
        ("repeated stamps", 3_000, 600, 40, 7),
        ("long labels", 3_000, 10**6, 200_000, 0),
    ):
        t0 = np.sort(rng.integers(0, span, n))
        t0[n // 2 :] += span // 3  # a gap
        t1 = t0 + rng.integers(0, longest + 1, n)
        found[name] = t0, t1[np.lexsort((t1, t0))], embargo
    hour = 3_600 * 10**9
    t0 = np.arange(300) * hour
    found["combinatorial"] = t0, t0 + rng.integers(0, 20, 300) * hour, 0
    return found


def our_splits(name: str, t0: np.ndarray, t1: np.ndarray, embargo: int) -> list:
    "Our folds of a case."
    kind = CombinatorialPurgedCV(6, 2, intervals=(t0, t1)) if "combinatorial" in name else None
    return list((kind or PurgedKFold(6, intervals=(t0, t1), embargo=embargo)).split())


def peers(home: Path) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    "Folds and seconds from the peers' own environment."
    arrays = {}
    for name, (t0, t1, embargo) in cases().items():
        arrays |= {f"t0_{name}": t0, f"t1_{name}": t1, f"embargo_{name}": np.array(embargo)}
    np.savez(home / "cases.npz", **arrays)
    command = [home / "bin/python", HERE / "peers/purged_splits_run.py"]
    files = [home / "cases.npz", home / "folds.npz"]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=True)
    return dict(np.load(home / "folds.npz")), json.loads(done.stdout.splitlines()[-1])


def main(with_peer: bool | None) -> None:
    "Compare, then time."
    home = None
    if with_peer is not False:
        home = peer_home("purged_splits", ["risklabai==2.0.1"], insist=bool(with_peer))
    if home:
        theirs, seconds = peers(home)
        for name, case in cases().items():
            ours = our_splits(name, *case)
            assert f"{name}_{len(ours)}_test" not in theirs
            for i, (train, test) in enumerate(ours):
                assert np.array_equal(train, theirs[f"{name}_{i}_train"]), (name, i)
                assert np.array_equal(test, theirs[f"{name}_{i}_test"]), (name, i)
            print(f"{name}: {len(ours)} folds of {len(case[0]):,} rows are equal, row for row")
    spent = []
    large = cases()["large"]
    for _ in range(7):
        start = time.process_time()
        our_splits("large", *large)
        spent.append(time.process_time() - start)
    print(f"50,000 rows x 6 folds: {min(spent) * 1e3:.1f} ms")
    if home:
        ratio = seconds["large"] / min(spent)
        print(f"  {ratio:.0f} times as fast as purgedcv (wanted {WANTED})")
        assert ratio >= WANTED


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words = "purgedcv and RiskLabAI as well; default: where their environment can be made"
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, help=words)
    main(parser.parse_args().peer)
