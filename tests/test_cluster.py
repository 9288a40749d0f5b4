"""Windows and trials on two dask workers, trials on PostgreSQL: the same, whoever is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import optuna
import pandas as pd
import pytest
from postgres import postgres_server, programs
from test_hpo import ASK, QUICK, split

from gem_detector.hpo import HyperparameterOptimizer
from gem_detector.intervals import Rows
from gem_detector.studies import counted_trials
from gem_detector.walk_forward import WalkForwardOptimizer


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    "A client of two worker processes on loopback, watched by a nanny each."
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(host="127.0.0.1", **options) as local,
        distributed.Client(local) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    "The address of a database on loopback."
    pytest.importorskip("psycopg")
    if programs() is None:
        pytest.skip("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    with postgres_server() as address:
        yield address


# --- windows


def walked(folder: Path, n_trees: int = 60) -> dict[str, bytes]:
    "Eight windows over planted rows; the files without the picture."
    rng = np.random.default_rng(0)
    df = pd.DataFrame(rng.normal(size=(3_600, 4)), columns=list("abcd"))
    p = 1 / (1 + np.exp(2.5 - 2 * df.a - df.b))
    df["timestamp"] = 1_782_864_000 + 60 * np.arange(len(df))
    df["is_gem"] = (rng.random(len(df)) < p).astype(int)
    walk = WalkForwardOptimizer(
        Rows(1_200), Rows(300), Rows(300), results_dir=folder, min_train_size=500
    )
    walk.run_optimization(
        df, list("abcd"), num_boost_round=n_trees, early_stopping_rounds=0, horizon=Rows(5)
    )
    assert not list(folder.glob(".unfinished-*"))
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".png"}


def test_two_workers_write_the_same_files(cluster: Any, tmp_path: Path) -> None:
    alone = walked(tmp_path / "alone")
    with joblib.parallel_config("dask"):
        shared = walked(tmp_path / "shared")
    assert len(alone) == 4 and alone == shared


def test_a_killed_worker_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    alone, folder = walked(tmp_path / "alone", 500), tmp_path / "shared"
    before, left = set(cluster.run(os.getpid).values()), []

    def kill_one() -> None:
        "As soon as the first window is done."
        deadline = time.monotonic() + 60
        while not (done := list(folder.glob(".unfinished-*/*.npz"))):
            if time.monotonic() > deadline:
                return
            time.sleep(0.002)
        left.append(8 - len(done))
        os.kill(min(before), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with joblib.parallel_config("dask"):
        shared = walked(folder, 500)
    killer.join()
    assert left and left[0] >= 1  # it was ended in the middle
    assert alone == shared
    cluster.wait_for_workers(2, timeout=60)
    assert min(before) not in cluster.run(os.getpid).values()


# --- trials


def search(name: str, n_trials: int, folder: Path, address: str) -> HyperparameterOptimizer:
    "A search whose trials are in a database."
    return HyperparameterOptimizer(name, folder, n_trials=n_trials, storage=address, space=QUICK)


@pytest.mark.verify
def test_two_workers_share_a_study_on_postgresql(
    cluster: Any, postgres: str, tmp_path: Path
) -> None:
    one = search("shared", 5, tmp_path, postgres)
    with joblib.parallel_config("dask"):
        one.optimize_lightgbm(*split(), "roc_auc", **ASK)
    table = one.get_study_summary()
    assert len(table) == 5 and set(table.state) <= {"complete", "pruned"}
    assert table.learning_rate.nunique() == 5  # none was drawn twice
    study = optuna.load_study(study_name="shared", storage=postgres)
    workers = [trial.user_attrs["worker"] for trial in counted_trials(study)]
    assert len(set(workers)) == 2


@pytest.mark.verify
def test_one_worker_on_postgresql_is_as_on_a_journal(postgres: str, tmp_path: Path) -> None:
    one = search("alone", 6, tmp_path / "one", postgres)
    one.optimize_lightgbm(*split(), "roc_auc", **ASK)
    two = HyperparameterOptimizer("alone", tmp_path / "two", n_trials=6, space=QUICK)
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
    storage = optuna.storages.RDBStorage(postgres)
    deadline, n_done = time.monotonic() + 90, 0
    while n_done < 3 and time.monotonic() < deadline and child.poll() is None:
        if "killed" in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name="killed", storage=storage)
            n_done = len(counted_trials(study))
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert 3 <= n_done < 40
    one = search("killed", n_done + 5, tmp_path, postgres)
    one.optimize_lightgbm(*split(), "roc_auc", **ASK)
    table = one.get_study_summary()
    assert len(table) == n_done + 5 and set(table.state) <= {"complete", "pruned"}
    running = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    assert not running and table.learning_rate.nunique() == len(table)
