"""What does a walk-forward cost beyond the training itself, and are its windows those of others?

    python benchmarks/bench_walk_forward.py --peer    makes skfolio's environment in build/peers

Twelve windows as documented (30 days to train, 7 to test, up to 1,000 trees, stopped after 50) of
minute rows with as many features as the package has, and a planted signal. Everything that
`run_optimization` does (rows read, windows cut and purged, models trained, stopped, calibrated,
their thresholds chosen, test parts scored, intervals, stability, five files) stands against the
bare `lgb.train` calls on the same rows, with the same parameters. The boosters are the same: what
they predict is compared first. Each side is timed in processor time, in turn, and the better of two
counts. With --peer, windows by rows are compared with skfolio's WalkForward and scikit-learn's
TimeSeriesSplit, row by row.
"""

import argparse
import json
import subprocess
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pandas as pd
from peer_environment import peer_home
from sklearn.model_selection import TimeSeriesSplit

from gem_detector.features import FEATURES
from gem_detector.gem_classifier import GemClassifier, resolve_params
from gem_detector.intervals import Rows
from gem_detector.splits import time_blocks
from gem_detector.time_windows import Window, WindowLengths, time_windows
from gem_detector.train_window import RunRows, rows_of_frame
from gem_detector.walk_forward import WalkForwardOptimizer

HERE = Path(__file__).resolve().parent
WANTED = 1.1  # times the bare training calls, at most
HORIZON = timedelta(minutes=20)
TREES, STOPPING = 1000, 50  # as documented
LENGTHS = (timedelta(days=30), timedelta(days=7), timedelta(days=7))  # as documented
N_FEATURES = len(FEATURES)
PARAMS = {"num_leaves": 31, "learning_rate": 0.05}


def market(n: int = (30 + 12 * 7) * 1440) -> pd.DataFrame:
    "Minute rows with a planted signal."
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(n, N_FEATURES)), columns=[f"x{i}" for i in range(N_FEATURES)])
    edge = X.x0 + sum(X[f"x{i}"] * X[f"x{i + 1}"] for i in range(1, 13, 2))  # takes many trees
    p = 1 / (1 + np.exp(2 - edge))
    return X.assign(timestamp=1_782_864_000 + 60 * np.arange(n), is_gem=(rng.random(n) < p) * 1)


def bare(rows: RunRows, windows: list[Window]) -> list[lgb.Booster]:
    "The training calls alone: the same blocks, parameters and stopping."
    own = resolve_params(PARAMS)
    boosters = []
    for window in windows:
        part = rows.take(window.train)
        fit, stop, _ = time_blocks(part.labels, (0.7, 0.15, 0.15))
        data = lgb.Dataset(part.X.iloc[fit], part.y[fit], params=own)
        watched = lgb.Dataset(part.X.iloc[stop], part.y[stop], reference=data, params=own)
        stops = [lgb.early_stopping(STOPPING, verbose=False)]
        boosters.append(lgb.train(own, data, TREES, [watched], callbacks=stops))
    return boosters


def whole(df: pd.DataFrame, folder: Path) -> WalkForwardOptimizer:
    "The run as a user calls it."
    walk = WalkForwardOptimizer(*LENGTHS, results_dir=folder)
    names = [name for name in df if name not in ("timestamp", "is_gem")]
    walk.run_optimization(
        df, names, "is_gem", "timestamp", TREES, STOPPING, params=PARAMS, horizon=HORIZON
    )
    return walk


def cost() -> float:
    "The run over the bare calls, in processor time."
    df = market()
    rows = rows_of_frame(df, list(df.columns[:N_FEATURES]), horizon=HORIZON)
    windows = time_windows(rows.labels.t0, rows.labels.t1, WindowLengths(*LENGTHS))
    assert len(windows) == 12
    spent: dict[str, list[float]] = {"bare": [], "whole": []}
    with tempfile.TemporaryDirectory() as folder:
        whole(df[:60_000], Path(folder))  # whatever is loaded at first use
        for _ in range(2):
            start = time.process_time()
            boosters = bare(rows, windows)
            spent["bare"].append(time.process_time() - start)
            start = time.process_time()
            walk = whole(df, Path(folder))
            spent["whole"].append(time.process_time() - start)
    model = GemClassifier(TREES, STOPPING, **PARAMS)
    part = rows.take(windows[0].train)
    fit, stop, _ = time_blocks(part.labels, (0.7, 0.15, 0.15))
    model.fit(part.X.iloc[fit], part.y[fit], eval_set=(part.X.iloc[stop], part.y[stop]))
    tested = rows.X.iloc[windows[0].test]
    best = boosters[0].best_iteration
    assert np.array_equal(
        model.predict_proba(tested)[:, 1], boosters[0].predict(tested, num_iteration=best)
    )
    assert [r.n_trees for r in walk.results_] == [b.best_iteration for b in boosters]
    ratio = min(spent["whole"]) / min(spent["bare"])
    print(
        f"12 windows: {min(spent['bare']):.2f} s of lgb.train, {min(spent['whole']):.2f} s in all"
    )
    print(f"  {ratio:.3f} times the bare calls (wanted at most {WANTED})")
    return ratio


def window_cases() -> list[dict[str, int | bool]]:
    "Sizes, gaps, sliding and expanding."
    names = ("n", "train_size", "test_size", "purged_size", "expand_train", "reduce_test")
    sizes = ((500, 100, 40, 9), (333, 50, 50, 0), (1000, 300, 7, 31), (121, 60, 60, 1))
    return [
        dict(zip(names, (*size, expand, reduce)))
        for size in sizes
        for expand in (False, True)
        for reduce in (False, True)
    ]


def compare_windows() -> None:
    "Ours, row by row, against skfolio's and scikit-learn's."
    home = peer_home("windows", insist=True)
    assert home is not None
    (home / "cases.json").write_text(json.dumps(window_cases()))
    files = [home / "cases.json", home / "found.json"]
    subprocess.run([home / "bin/python", HERE / "peers/windows_run.py", *files], check=True)
    counted = 0
    for case, theirs in zip(window_cases(), json.loads((home / "found.json").read_text())):
        at, gap, test = np.arange(case["n"]), case["purged_size"], case["test_size"]
        sizes = (Rows(case["train_size"] + gap), Rows(test), Rows(test))
        lengths = WindowLengths(*sizes, bool(case["expand_train"]), bool(case["reduce_test"]))
        ours = time_windows(at, at + gap, lengths)
        for window, (train, tested) in zip(ours, theirs, strict=True):
            assert window.train.tolist() == train and window.test.tolist() == tested, case
        counted += len(ours)
        if case["expand_train"] and not case["reduce_test"] and len(ours) > 1:
            first = case["n"] - len(ours) * test
            sizes = (Rows(first), Rows(test), Rows(test))
            cut = time_windows(at, at + gap, WindowLengths(*sizes, True))
            split = TimeSeriesSplit(len(ours), test_size=test, gap=gap).split(at)
            for window, (train, tested) in zip(cut, split, strict=True):
                assert np.array_equal(window.train, train) and np.array_equal(window.test, tested)
    print(f"{counted} windows are those of skfolio, row for row; expanding ones scikit-learn's too")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", action="store_true", help="windows of skfolio as well")
    if parser.parse_args().peer:
        compare_windows()
    assert cost() <= WANTED
