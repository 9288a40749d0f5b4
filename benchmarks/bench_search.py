"""What does a search cost, and are its parameters as good as LightGBMTunerCV's?

    python benchmarks/bench_search.py            cost only
    python benchmarks/bench_search.py --peer     makes the peer's environment in build/peers

Cost: the same random trials, once with the folds binned once and shared, once with the datasets
made anew for every trial; and with successive halving. Equal trials have equal scores, which is
asserted before time counts; the best AUC of the halved search has to lie within the 95 % interval
of the other, after Hanley and McNeil. Processor time, each side in turn, best of two.

Peer: 50 trials of each search inside every outer training part of three sets that ship with
scikit-learn; the parameters found are trained on the whole part, and the log loss of the outer test
rows is compared row by row. Not worse means that the 95 % interval of the mean difference, from
resampled rows, reaches to zero or below.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import lightgbm as lgb
import numpy as np
from optuna.storages import InMemoryStorage
from peer_environment import peer_home
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.model_selection import StratifiedKFold

from gem_detector.gem_classifier import resolve_params
from gem_detector.hpo import HyperparameterOptimizer
from gem_detector.intervals import Rows
from gem_detector.search_space import SearchSpace
from gem_detector.studies import Strategy, run_trials, trial_table
from gem_detector.trial_scores import Fold, JudgedRows, Measure, judged_rows, made_folds
from gem_detector.trial_search import Search

HERE = Path(__file__).resolve().parent
WANTED_SHARED, WANTED_HALVED = 1.25, 2.0  # times as fast as datasets made anew
N_TRIALS, PEER_TRIALS, ROUNDS = 16, 50, 300


def noisy_rows() -> JudgedRows:
    "Rows that one validation part judges."
    rng = np.random.default_rng(0)
    X = rng.normal(size=(24_000, 60))
    y = (rng.random(24_000) < 1 / (1 + np.exp(-(X[:, 0] + X[:, 1] * X[:, 2] - 1.5)))).astype(int)
    return judged_rows(X[:18_000], y[:18_000], X[18_000:], y[18_000:], horizon=Rows(20))


def searched(rows: JudgedRows, pruner: str | None, is_anew: bool) -> tuple[float, object]:
    "Processor seconds and the table of one search."
    space = SearchSpace(boosting_types=("gbdt", "goss"), learning_rate=(0.05, 0.3))
    strategy = Strategy("random", pruner)
    where = ("s", InMemoryStorage(), Path(), ("maximize",))
    search = Search(*where, (Measure("roc_auc"),), rows, space, strategy, 200, 30)
    study, start = search.study(), time.process_time()
    shared: list[Fold] = [] if is_anew else made_folds(rows)
    run_trials(
        study, lambda trial: search.objective(trial, shared or made_folds(rows)), N_TRIALS, strategy
    )
    return time.process_time() - start, trial_table(study, ["roc_auc"])


def auc_half_width(auc: float, y: np.ndarray) -> float:
    "Half of the 95 % interval of an AUC. Hanley and McNeil 1982."
    n_up, n_down = y.sum(), len(y) - y.sum()
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (n_up - 1) * (q1 - auc**2) + (n_down - 1) * (q2 - auc**2)
    return 1.96 * float(np.sqrt(spread / (n_up * n_down)))


def cost() -> None:
    "Shared bins and halving against datasets made anew."
    rows, spent = noisy_rows(), {"anew": [], "shared": [], "halved": []}
    for _ in range(2):
        for kind, pruner in (("anew", None), ("shared", None), ("halved", "halving")):
            seconds, table = searched(rows, pruner, kind == "anew")
            spent[kind].append(seconds)
            if kind == "anew":
                honest = table
            elif kind == "shared":
                assert table.equals(honest), "shared bins changed a trial"
    best = {"anew": honest.roc_auc.max(), "halved": table[table.state == "complete"].roc_auc.max()}
    half_width = auc_half_width(best["anew"], rows.y[rows.parts[0][1]])
    assert abs(best["anew"] - best["halved"]) <= half_width, best
    anew = min(spent["anew"])
    for kind, wanted in (("shared", WANTED_SHARED), ("halved", WANTED_HALVED)):
        ratio = anew / min(spent[kind])
        print(f"{kind}: {ratio:.2f} times as fast as datasets made anew (wanted {wanted})")
        assert ratio >= wanted
    print(f"best AUC {best['anew']:.4f}, halved {best['halved']:.4f}")


def sets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    "Three sets with two classes each, rows shuffled."
    found = {}
    for name, load, positive in (
        ("breast cancer", load_breast_cancer, (1,)),
        ("wine", load_wine, (1,)),
        ("digits", load_digits, (1, 3, 5, 7, 9)),
    ):
        X, y = load(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(y))
        found[name] = X[order].astype(float), np.isin(y, positive).astype(float)[order]
    return found


def outer_parts() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    "Training and test rows of each outer fold, by the name of set and fold."
    found = {}
    for name, (X, y) in sets().items():
        folds = StratifiedKFold(3, shuffle=True, random_state=0).split(X, y)
        found |= {f"{name} {i}": part for i, part in enumerate(folds)}
    return found


def chosen(X: np.ndarray, y: np.ndarray) -> tuple[dict, int]:
    "What our search chooses: parameters and trees."
    with tempfile.TemporaryDirectory() as folder:
        search = HyperparameterOptimizer(
            "s", folder, "minimize", PEER_TRIALS, storage=InMemoryStorage()
        )
        ask = {"metric": "log_loss", "horizon": Rows(0), "num_boost_round": ROUNDS}
        params = search.optimize_lightgbm(X, y, **ask, progress=False)
        table = search.get_study_summary()
    best = table[table.state == "complete"].log_loss.idxmin()
    return params, int(table.trees[best])


def tuned() -> dict[str, dict]:
    "What the peer chooses in each outer fold."
    home = peer_home("lightgbm_tuner", insist=True)
    assert home is not None
    arrays = {"n_trials": np.array(PEER_TRIALS), "rounds": np.array(ROUNDS)}
    for name, (train, _) in outer_parts().items():
        X, y = sets()[name.rsplit(" ", 1)[0]]
        arrays |= {f"X_{name}": X[train], f"y_{name}": y[train]}
    np.savez(home / "cases.npz", **arrays)
    files = [home / "cases.npz", home / "found.json"]
    command = [home / "bin/python", HERE / "peers/lightgbm_tuner_run.py"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return json.loads((home / "found.json").read_text())


def losses(params: dict, trees: int, parts: tuple[np.ndarray, ...]) -> np.ndarray:
    "Log loss of each test row, trained on the whole training part."
    X, y, X_test, y_test = parts
    own = resolve_params({k: v for k, v in params.items() if k != "num_iterations"})
    booster = lgb.train(own, lgb.Dataset(X, y, params=own), trees)
    p = np.clip(np.asarray(booster.predict(X_test)), 1e-12, 1 - 1e-12)
    return -np.log(np.where(y_test > 0, p, 1 - p))


def against_tuner() -> None:
    "Nested log loss of both, with the interval of the difference."
    theirs, differences, told = tuned(), {}, {}
    for name, (train, test) in outer_parts().items():
        X, y = sets()[name.rsplit(" ", 1)[0]]
        parts = (X[train], y[train], X[test], y[test])
        peer = theirs[name]
        own = {k: v for k, v in peer["params"].items() if k not in ("metric", "verbosity")}
        both = losses(*chosen(*parts[:2]), parts), losses(own, peer["trees"], parts)
        differences.setdefault(name.rsplit(" ", 1)[0], []).append(both[0] - both[1])
        told.setdefault(name.rsplit(" ", 1)[0], []).append(both)
    for name, parts in differences.items():
        rows = np.concatenate(parts)
        drawn = np.random.default_rng(0).choice(rows, (4_000, len(rows))).mean(axis=1)
        low, high = np.percentile(drawn, [2.5, 97.5])
        ours, peer = (np.concatenate([b[i] for b in told[name]]).mean() for i in (0, 1))
        print(f"{name}: log loss {ours:.4f}, LightGBMTunerCV {peer:.4f}, ", end="")
        print(f"difference {rows.mean():+.4f} ({low:+.4f} to {high:+.4f})")
        assert low <= 0, name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", action="store_true", help="LightGBMTunerCV as well")
    is_peer = parser.parse_args().peer
    cost()
    if is_peer:
        against_tuner()
