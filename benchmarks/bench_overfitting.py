"""Are PBO and the Sharpe statistics those of purgedcv and RiskLabAI, and how much sooner?

    python benchmarks/bench_overfitting.py --peer    makes the peers' environment in build/peers

Without --peer only our own time is shown. Inputs: seeded noise, 1,000 bars x 50 configurations, in
8, 10 and 16 blocks; bars that no number of blocks divides; copies that tie (RiskLabAI ranks ties by
column, so it is left out there). RiskLabAI is asked with the paper's Sharpe ratio. Logits are
compared way by way, deflated and probabilistic Sharpe ratios and minimum lengths on 40 series.
Ours is the best of five runs, theirs is one: it takes half a minute.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from gem_detector.overfitting import (
    deflated_sharpe_ratio,
    minimum_track_record_length,
    pbo_cscv,
    probabilistic_sharpe_ratio,
)

HERE = Path(__file__).resolve().parent
WANTED = 80  # times as fast as purgedcv with 16 blocks and 50 configurations


def cases() -> dict[str, tuple[np.ndarray, int]]:
    "Name → bars x configurations, and blocks."
    noise = np.random.default_rng(0).normal(size=(1000, 50))
    found = {f"{n} blocks": (noise, n) for n in (8, 10, 16)}
    found["uneven blocks"] = np.random.default_rng(1).standard_t(3, size=(517, 12)), 10
    found["copies"] = np.tile(noise[:203, :5], 2), 8
    return found


def series() -> dict[str, np.ndarray]:
    "Skewed and thick-tailed returns, with numbers of trials and variances of their ratios."
    rng = np.random.default_rng(2)
    returns = rng.standard_t(4, size=(40, 400)) + rng.exponential(1.0, (40, 400)) - 0.95
    return {
        "returns": returns,
        "n_trials": rng.integers(1, 500, 40),
        "var_sharpe": rng.uniform(1e-4, 1e-2, 40),
    }


def peers() -> tuple[dict[str, np.ndarray], dict[str, float]]:
    "What the peers find, and purgedcv's seconds, from their own environment."
    home = HERE.parent / "build/peers/overfitting"
    uv = Path(sys.executable).with_name("uv")
    if not (home / "ready").exists():
        pip = [uv, "pip", "install", "-q", "-p", home]
        subprocess.run([uv, "venv", "-q", "--clear", "-p", "3.11", home], check=True)
        subprocess.run([*pip, "-r", HERE / "peers/overfitting.txt"], check=True)
        subprocess.run([*pip, "--no-deps", "risklabai==2.0.1"], check=True)
        (home / "ready").touch()
    arrays = series()
    for name, (matrix, n_partitions) in cases().items():
        arrays |= {f"performance_{name}": matrix, f"partitions_{name}": np.array(n_partitions)}
    np.savez(home / "cases.npz", **arrays)
    command = [home / "bin/python", HERE / "peers/overfitting_run.py"]
    files = [home / "cases.npz", home / "found.npz"]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=True)
    return dict(np.load(home / "found.npz")), json.loads(done.stdout.splitlines()[-1])


def compare(theirs: dict[str, np.ndarray]) -> None:
    "Ours against theirs, way by way and series by series."
    for name, (matrix, n_partitions) in cases().items():
        ours = pbo_cscv(matrix, n_partitions)
        for peer in ("purgedcv",) if name == "copies" else ("purgedcv", "risklabai"):
            logits = theirs[f"logits_{peer}_{name}"]
            order = slice(None, None, -1 if peer == "purgedcv" else 1)  # names the other half first
            assert np.allclose(ours.logits[order], logits, rtol=0, atol=1e-12), (peer, name)
            assert ours.pbo == theirs[f"pbo_{peer}_{name}"], (peer, name)
        print(f"{name}: {len(ours.logits):,} logits are equal, PBO {ours.pbo:.4f}")
    given, found = series(), []
    for returns, n_trials, var in zip(given["returns"], given["n_trials"], given["var_sharpe"]):
        psr = probabilistic_sharpe_ratio(returns)
        length = np.ceil(minimum_track_record_length(returns))
        found.append([psr, deflated_sharpe_ratio(returns, n_trials, var), length, psr])
    assert np.isfinite(theirs["sharpe"]).sum() > 100
    assert np.allclose(found, theirs["sharpe"], rtol=0, atol=1e-9)
    print(f"{len(found)} series: PSR, DSR and minimum lengths are equal to 1e-9")


def main(with_peer: bool) -> None:
    "Compare, then time."
    if with_peer:
        theirs, seconds = peers()
        compare(theirs)
    spent, (matrix, n_partitions) = [], cases()["16 blocks"]
    for _ in range(5):
        start = time.perf_counter()
        pbo_cscv(matrix, n_partitions)
        spent.append(time.perf_counter() - start)
    print(f"16 blocks, 50 configurations: {min(spent) * 1e3:.1f} ms")
    if with_peer:
        ratio = seconds["16 blocks"] / min(spent)
        print(f"  {ratio:.0f} times as fast as purgedcv (wanted {WANTED})")
        assert ratio >= WANTED


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", action="store_true", help="purgedcv and RiskLabAI as well")
    main(parser.parse_args().peer)
