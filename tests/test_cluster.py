"""Windows and trials on two dask workers, trials on PostgreSQL: the same, whoever is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from postgres import postgres_server, programs
from test_hpo import ASK, QUICK, split

from gem_detector.hpo import HyperparameterOptimizer
from gem_detector.intervals import Rows
from gem_detector.studies import counted_trials
from gem_detector.walk_forward import WalkForwardOptimizer


@contextmanager
def two_workers() -> Iterator[Any]:
    "A client of two worker processes on loopback, watched by a nanny each."
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(host="127.0.0.1", **options) as local,
        distributed.Client(local) as client,
    ):
        client.wait_for_workers(2, timeout=120)
        yield client


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    "A cluster for the tests that end nobody."
    with two_workers() as client:
        yield client


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    "The address of a database on loopback."
    pytest.importorskip("psycopg")
    if programs() is None:
        pytest.skip("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    with postgres_server() as address:
        yield address


def end_one(client: Any, is_time: Callable[[], bool], ended: list[int]) -> threading.Thread:
    "A thread that ends a worker process as soon as it is time, and says which."
    workers = set(client.run(os.getpid).values())

    def wait_and_end() -> None:
        deadline = time.monotonic() + 120
        while not is_time() and time.monotonic() < deadline:
            time.sleep(0.01)
        ended.append(min(workers))
        os.kill(min(workers), signal.SIGKILL)

    thread = threading.Thread(target=wait_and_end)
    thread.start()
    return thread


# --- windows


def walked(folder: Path, n_trees: int = 60) -> dict[str, bytes]:
    "Six windows over planted rows; the files without the picture."
    rng = np.random.default_rng(0)
    df = pd.DataFrame(rng.normal(size=(2_000, 4)), columns=list("abcd"))
    p = 1 / (1 + np.exp(2.5 - 2 * df.a - df.b))
    df["timestamp"] = 1_782_864_000 + 60 * np.arange(len(df))
    df["is_gem"] = (rng.random(len(df)) < p).astype(int)
    walk = WalkForwardOptimizer(
        Rows(800), Rows(200), Rows(200), results_dir=folder, min_train_size=500
    )
    walk.run_optimization(
        df, list("abcd"), num_boost_round=n_trees, early_stopping_rounds=0, horizon=Rows(5)
    )
    assert len(walk.results_) == 6 and not list(folder.glob(".unfinished-*"))
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".png"}


@pytest.mark.verify
def test_two_workers_write_the_same_files(cluster: Any, tmp_path: Path) -> None:
    alone = walked(tmp_path / "alone")
    with joblib.parallel_config("dask"):
        shared = walked(tmp_path / "shared")
    assert len(alone) == 4 and alone == shared


@pytest.mark.verify
def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    alone, folder = walked(tmp_path / "alone", 300), tmp_path / "shared"
    done: list[Path] = []

    def is_time() -> bool:
        done[:] = folder.glob(".unfinished-*/*.npz")
        return len(done) > 0

    ended: list[int] = []
    with two_workers() as client:
        killer = end_one(client, is_time, ended)
        with joblib.parallel_config("dask"):
            shared = walked(folder, 300)
        killer.join()
    assert ended and 1 <= len(done) < 6  # in the middle
    assert alone == shared


# --- trials


def search(name: str, n_trials: int, folder: Path, address: str | None) -> HyperparameterOptimizer:
    "A search whose trials are in a database; None = in a journal."
    return HyperparameterOptimizer(name, folder, n_trials=n_trials, storage=address, space=QUICK)


@cache
def opened(address: str) -> optuna.storages.RDBStorage:
    "A database, opened once."
    return optuna.storages.RDBStorage(address)


def trials(name: str, address: str) -> list[optuna.trial.FrozenTrial]:
    "Those of a study that count."
    storage = opened(address)
    if name not in optuna.get_all_study_names(storage):
        return []
    return counted_trials(optuna.load_study(study_name=name, storage=storage))


def check_each_once(name: str, address: str, n_trials: int, table: pd.DataFrame) -> None:
    "No trial is lost, doubled or left running."
    found = trials(name, address)
    assert sorted(trial.user_attrs["place"] for trial in found) == list(range(n_trials))
    assert len(table) == n_trials and set(table.state) <= {"complete", "pruned"}
    assert table.learning_rate.nunique() == n_trials
    study = optuna.load_study(study_name=name, storage=opened(address))
    assert not study.get_trials(states=(TrialState.RUNNING,))


def made_ready(address: str) -> None:
    "Import in a worker what a search imports, so that neither works alone at first."
    import gem_detector.hpo

    assert gem_detector.hpo and optuna.storages.RDBStorage(address)


def test_two_workers_share_a_study_on_postgresql(
    cluster: Any, postgres: str, tmp_path: Path
) -> None:
    one = search("shared", 12, tmp_path, postgres)
    one_by_one = [cluster.run(made_ready, postgres, workers=[w]) for w in cluster.nthreads()]
    assert len(one_by_one) == 2
    with joblib.parallel_config("dask"):
        one.optimize_lightgbm(*split(), "roc_auc", **ASK)
    check_each_once("shared", postgres, 12, one.get_study_summary())
    assert len({trial.user_attrs["worker"] for trial in trials("shared", postgres)}) == 2


@pytest.mark.verify
def test_a_search_on_two_workers_outlives_one_of_them(postgres: str, tmp_path: Path) -> None:
    one, ended = search("outlived", 12, tmp_path, postgres), list[int]()
    with two_workers() as client:
        killer = end_one(client, lambda: len(trials("outlived", postgres)) >= 3, ended)
        with joblib.parallel_config("dask"):
            one.optimize_lightgbm(*split(), "roc_auc", **ASK)
        killer.join()
    check_each_once("outlived", postgres, 12, one.get_study_summary())
    before = {trial.user_attrs["worker"] for trial in trials("outlived", postgres)}
    assert ended and len(before) >= 2


def test_one_worker_on_postgresql_is_as_on_a_journal(postgres: str, tmp_path: Path) -> None:
    one = search("alone", 6, tmp_path / "one", postgres)
    one.optimize_lightgbm(*split(), "roc_auc", **ASK)
    two = search("alone", 6, tmp_path / "two", None)
    two.optimize_lightgbm(*split(), "roc_auc", **ASK)
    pd.testing.assert_frame_equal(one.get_study_summary(), two.get_study_summary())


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_cluster import ASK, search, split
search("killed", 40, Path(sys.argv[1]), sys.argv[2]).optimize_lightgbm(*split(), "roc_auc", **ASK)
"""


@pytest.mark.verify
def test_a_worker_killed_in_a_trial_leaves_the_study_usable(postgres: str, tmp_path: Path) -> None:
    code = CHILD.format(tests=str(Path(__file__).parent))
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), postgres])
    deadline, n_done = time.monotonic() + 120, 0
    while n_done < 3 and time.monotonic() < deadline and child.poll() is None:
        n_done = len(trials("killed", postgres))
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    n_done = len(trials("killed", postgres))
    assert 3 <= n_done < 40
    one = search("killed", n_done + 5, tmp_path, postgres)
    one.optimize_lightgbm(*split(), "roc_auc", **ASK)
    check_each_once("killed", postgres, n_done + 5, one.get_study_summary())
