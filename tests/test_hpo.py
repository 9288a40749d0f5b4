"""Search: every score is earned, every failure is told, and a killed search goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector import studies, trial_search
from gem_detector.core import InputError
from gem_detector.gem_classifier import GemClassifier
from gem_detector.hpo import HyperparameterOptimizer, MultiObjectiveOptimizer, knee_of
from gem_detector.intervals import Rows
from gem_detector.ledger import ResearchLedger
from gem_detector.lgbm import LightGBMPipeline
from gem_detector.search_space import SearchSpace
from gem_detector.trial_scores import Measure, judged_rows, made_folds, score_params
from gem_detector.trial_selection import trial_performance

QUICK = SearchSpace(learning_rate=(0.05, 0.3), dart_trees=(20, 40))
ASK: dict[str, Any] = {"horizon": Rows(10), "num_boost_round": 60, "early_stopping_rounds": 15}


def rows(n: int = 1_200, seed: int = 0) -> tuple[pd.DataFrame, pd.Series]:
    "Rows with a planted signal."
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 4)), columns=list("abcd"))
    return X, pd.Series((rng.random(n) < 1 / (1 + np.exp(-(2 * X.a + X.b - 2)))).astype(int))


def search(folder: Path, n_trials: int = 8, **options: Any) -> HyperparameterOptimizer:
    "A short search."
    return HyperparameterOptimizer("s", folder, n_trials=n_trials, space=QUICK, **options)


def split(n: int = 800) -> tuple[pd.DataFrame, pd.Series, pd.DataFrame, pd.Series]:
    "Training and validation rows."
    X, y = rows()
    return X[:n], y[:n], X[n:], y[n:]


# --- the space


def trains(n: int) -> None:
    "Whether random draws of the whole space all train."
    X, y = rows(400)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    space = SearchSpace()
    for _ in range(n):
        params = space.suggest(study.ask())
        own = {k: v for k, v in params.items() if k != "num_iterations"}
        model = GemClassifier(2, **own).fit(X, y)
        assert np.isfinite(model.predict_proba(X)).all()


def test_random_draws_of_the_space_train() -> None:
    with studies.quiet_optuna():
        trains(80)


@pytest.mark.verify
def test_five_hundred_random_draws_train() -> None:
    with studies.quiet_optuna():
        trains(500)


# --- who judges


@given(n=st.integers(60, 300), k=st.integers(0, 30), seed=st.integers(0, 1_000))
@settings(max_examples=40, deadline=None)
def test_no_training_label_reaches_into_the_judges_rows(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    index = pd.Index(np.cumsum(rng.integers(0, 3, n)) + 10**18, name="ts_recv_ns")
    X = pd.DataFrame(rng.normal(size=(n, 2)), index, columns=["a", "b"])
    y = pd.Series(np.arange(n) % 2, index)
    t1 = index.to_numpy() + rng.integers(0, k + 1, n)
    cut = n * 2 // 3
    made = judged_rows(X[:cut], y[:cut], X[cut:], y[cut:], t1=t1[:cut])
    train, judge = made.parts[0]
    assert (t1[train] < index[cut:].min()).all()
    assert np.array_equal(judge, np.arange(cut, n))
    assert len(train) == (t1[:cut] < index[cut]).sum()
    for train, judge in judged_rows(X, y, t1=t1, n_splits=3).parts:
        meets = (index[train].to_numpy()[:, None] <= t1[judge]) & (
            t1[train][:, None] >= index[judge].to_numpy()
        )
        assert not meets.any()


def test_the_judge_has_no_say_in_the_model() -> None:
    X, y, X_val, y_val = split()
    params = {"num_leaves": 7, "learning_rate": 0.1}
    turned = pd.Series(1 - y_val.to_numpy(), y_val.index)
    scores = []
    for judge in (y_val, turned):
        folds = made_folds(judged_rows(X, y, X_val, judge, horizon=Rows(10)))
        scores.append(score_params(params, folds, [Measure("roc_auc")], 60, 10))
    assert scores[0].trees == scores[1].trees
    assert np.isclose(scores[0].values[0], 1 - scores[1].values[0])


# --- trials


def test_a_seed_gives_a_table_and_another_seed_another(tmp_path: Path) -> None:
    tables = []
    for folder, seed in (("1", 0), ("2", 0), ("3", 1)):
        one = search(tmp_path / folder, 5, seed=seed)
        one.optimize_lightgbm(*split(), "roc_auc", **ASK)
        tables.append(one.get_study_summary())
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].equals(tables[2])
    done = tables[0][tables[0].state == "complete"]
    assert done.roc_auc.between(0.5, 1.0).all() and done.roc_auc.nunique() == len(done)


def test_a_failing_trial_is_a_failure_with_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = trial_search.score_params
    calls = []

    def sometimes(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise ValueError("the rows are crooked")
        return honest(*args)

    monkeypatch.setattr(trial_search, "score_params", sometimes)
    one = search(tmp_path, 8)
    one.optimize_lightgbm(*split(), "f1", **ASK)
    table = one.get_study_summary()
    assert table.state[2] == "fail" and np.isnan(table.f1[2])
    assert table.error[2] == "ValueError: the rows are crooked"
    assert one.best_score == table.f1[table.state == "complete"].max() > 0.3


def test_many_failures_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> Any:
        raise ValueError("nothing trains")

    monkeypatch.setattr(trial_search, "score_params", never)
    with pytest.raises(InputError, match=r"10 of 10 trials failed.*nothing trains"):
        search(tmp_path, 50).optimize_lightgbm(*split(), "f1", **ASK)


def test_an_error_of_ours_is_no_failed_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise KeyError("a mistake in the program")

    monkeypatch.setattr(trial_search, "score_params", broken)
    with pytest.raises(KeyError, match="a mistake"):
        search(tmp_path).optimize_lightgbm(*split(), "f1", **ASK)
    assert not len(search(tmp_path).get_study_summary())


def test_a_score_that_is_nan_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = trial_search.score_params

    def empty(*args: Any) -> Any:
        score = honest(*args)
        return type(score)((float("nan"),), score.trees, score.decision_threshold)

    monkeypatch.setattr(trial_search, "score_params", empty)
    with pytest.raises(InputError, match="the score is"):
        search(tmp_path, 3).optimize_lightgbm(*split(), "f1", **ASK)


@pytest.mark.parametrize("metric", ["precision", "recall", "avg_precision"])
def test_every_metric_can_be_searched(tmp_path: Path, metric: str) -> None:
    X, y = rows(900)
    one = search(tmp_path, 3, pruner="halving")
    one.optimize_lightgbm(X, y, metric=metric, n_splits=3, **ASK)
    assert 0 < one.best_score <= 1


def test_log_loss_is_minimized(tmp_path: Path) -> None:
    one = search(tmp_path, 4, direction="minimize", pruner=None)
    one.optimize_lightgbm(*split(), "log_loss", **ASK)
    table = one.get_study_summary()
    assert one.best_score == table.log_loss.min() and (table.state == "complete").all()


# --- killed and shared

CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_hpo import ASK, search, split
search(Path(sys.argv[1]), 9).optimize_lightgbm(*split(), "roc_auc", **ASK)
"""


def test_killed_and_resumed_is_as_if_left_alone(tmp_path: Path) -> None:
    code = CHILD.format(tests=str(Path(__file__).parent))
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "killed")])
    journal, deadline = tmp_path / "killed" / "s.journal", time.monotonic() + 60
    while time.monotonic() < deadline and child.poll() is None:
        if journal.exists() and journal.read_text().count('"op_code":4') >= 4:
            break
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    one = search(tmp_path / "killed", 9)
    begun = len(one.get_study_summary())
    one.optimize_lightgbm(*split(), "roc_auc", **ASK)
    two = search(tmp_path / "alone", 9)
    two.optimize_lightgbm(*split(), "roc_auc", **ASK)
    assert 2 <= begun <= 8  # it was ended in the middle
    pd.testing.assert_frame_equal(one.get_study_summary(), two.get_study_summary())
    best = [
        json.loads((tmp_path / k / "best_params.json").read_text()) for k in ("killed", "alone")
    ]
    assert best[0] == best[1]


def test_two_workers_share_a_study(tmp_path: Path) -> None:
    one = search(tmp_path, 7, n_jobs=2)
    one.optimize_lightgbm(*split(), "roc_auc", **ASK)
    table = one.get_study_summary()
    assert len(table) == 7 and set(table.state) <= {"complete", "pruned"}
    assert table.learning_rate.nunique() == 7  # none was drawn twice


def test_a_trial_too_many_is_closed_again() -> None:
    study = studies.open_study("s", optuna.storages.InMemoryStorage(), ["maximize"], {})
    others = [study.ask() for _ in range(2)]  # running elsewhere
    for other in others:
        other.set_user_attr("worker", "elsewhere:1")
    studies.run_trials(study, lambda trial: trial.suggest_float("x", 0, 1), 3)
    assert len(studies.counted_trials(study)) == 1
    assert studies.close_interrupted(study) == 0  # other machines' trials are left alone
    for other in others:
        study.tell(other, 0.5)
    assert len(studies.counted_trials(study)) == 3


def test_trials_of_other_machines_keep_their_places(tmp_path: Path) -> None:
    one = search(tmp_path, 2)
    one.optimize_lightgbm(*split(), "roc_auc", **ASK)
    one._opened().enqueue_trial({}, user_attrs={"worker": "elsewhere:1"})
    one._opened().ask()
    with pytest.warns(UserWarning, match="1 of 4 trials are kept for elsewhere:1"):
        search(tmp_path, 4).optimize_lightgbm(*split(), "roc_auc", **ASK)
    assert len(one.get_study_summary()) == 3
    with pytest.warns(UserWarning, match="1 of 5 trials are kept"):  # as the warning says
        search(tmp_path, 5).optimize_lightgbm(*split(), "roc_auc", **ASK)
    assert len(one.get_study_summary()) == 4


def test_a_study_of_another_question_is_refused(tmp_path: Path) -> None:
    X, y, X_val, y_val = split()
    search(tmp_path, 2).optimize_lightgbm(X, y, X_val, y_val, "f1", **ASK)
    for options, ask, what in (
        ({"direction": "minimize"}, {"metric": "log_loss"}, "directions, metric"),
        ({"space": SearchSpace()}, {}, "space"),
        ({}, {"X_train": X + 1.0}, "data"),
        ({}, {"horizon": Rows(11)}, "data"),
        ({}, {"num_boost_round": 61}, "trees"),
    ):
        given_ = {"X_train": X, "y_train": y, "X_val": X_val, "y_val": y_val, "metric": "f1"}
        made = {"n_trials": 2, "space": QUICK} | options
        other = HyperparameterOptimizer("s", tmp_path, **made)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=f"other {what}"):
            other.optimize_lightgbm(**{**given_, **ASK, **ask})


def test_logging_of_optuna_is_left_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    before = optuna.logging.get_verbosity()
    search(tmp_path, 2).optimize_lightgbm(*split(), "f1", **ASK)
    assert optuna.logging.get_verbosity() == before
    assert "A new study" not in capfd.readouterr().err


# --- two measures


def test_the_front_is_not_beaten_and_its_params_train(tmp_path: Path) -> None:
    both = MultiObjectiveOptimizer("m", tmp_path, n_trials=10, space=QUICK)
    X, y, X_val, y_val = split()
    found = both.optimize_precision_recall(X, y, X_val, y_val, **ASK)
    table, front = both.get_study_summary(), both.pareto_front()
    assert len(table) == 10 and len(front) == len(found) and front.is_knee.sum() == 1
    for at in front.itertuples():
        better = (table.precision >= at.precision) & (table.recall >= at.recall)
        better &= (table.precision > at.precision) | (table.recall > at.recall)
        assert not better.any()
    knee = found[int(front.is_knee.to_numpy().argmax())]
    assert json.loads((tmp_path / "best_params.json").read_text()) == knee
    assert json.loads((tmp_path / "pareto_params.json").read_text()) == found
    pipeline = LightGBMPipeline(tmp_path / "model", knee)
    metrics = pipeline.train(X, y, 40, 10, horizon=Rows(10))
    assert metrics.decision_threshold == knee["decision_threshold"]
    assert metrics.threshold_method == "given"
    with pytest.raises(InputError, match="both to be maximized"):
        MultiObjectiveOptimizer("m", tmp_path, ["maximize", "minimize"])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_the_knee_is_one_of_the_points(points: list[tuple[float, float]]) -> None:
    assert 0 <= knee_of(np.array(points)) < len(points)


# --- what choosing costs


def paid_search(folder: Path, n_trials: int, page: Any = None, **options: Any) -> Any:
    "A search that knows what trades earn."
    X, y = rows(900)
    one = search(folder, n_trials, ledger=page, **options)
    net = np.where(y == 1, 10.0, -5.0)
    one.optimize_lightgbm(X, y, metric="f1", n_splits=3, net_bps=net, **ASK)
    return one, net


def test_pruned_trials_are_counted_and_judged_on_the_same_bars(tmp_path: Path) -> None:
    page = ResearchLedger(tmp_path / "ledger").page("rows")
    one, net = paid_search(tmp_path / "s", 14, page)
    table = one.get_study_summary()
    assert (table.state == "pruned").any()
    earned = trial_performance(one._search, one._opened())
    assert list(earned.columns) == list(table.trial[table.state != "fail"])
    assert earned.index.size == trial_search.N_BARS and np.isfinite(earned.to_numpy()).all()
    report = one.overfitting_report(n_outer=0)
    assert report.n_configurations == report.n_trials == len(earned.columns) == page.n_trials()
    # a complete trial's bars are those of its signals, whose threshold the judge had no part in
    done = int(table.trial[table.state == "complete"].iloc[0])
    params = one._opened().trials[done].user_attrs["params"]
    folds = made_folds(one._search.rows)
    score = score_params(params, folds, [Measure("f1")], 60, 15, with_signals=True)
    assert score.is_signal is not None
    assert np.isclose(earned[done].sum(), net[score.is_signal].sum())
    for fold in folds:
        fold.y_judge[:] = 1 - fold.y_judge
    other = score_params(params, folds, [Measure("f1")], 60, 15, with_signals=True)
    assert np.array_equal(other.is_signal, score.is_signal)


def test_all_studies_on_the_data_deflate(tmp_path: Path) -> None:
    page = ResearchLedger(tmp_path / "ledger").page("rows")
    first, _ = paid_search(tmp_path / "1", 4, page)
    alone = first.overfitting_report(n_outer=0)
    again, _ = paid_search(tmp_path / "1", 6, page)  # continued: the same study
    assert page.n_trials() == 6
    paid_search(tmp_path / "2", 5, page, seed=1)  # another seed: another study
    report = again.overfitting_report(n_outer=0)
    assert (alone.n_trials, report.n_trials, report.counted_by) == (4, 11, "ledger")
    assert report.ledger_head == page.ledger.head()


def test_nested_is_below_best_on_noise(tmp_path: Path) -> None:
    rng, bias = np.random.default_rng(0), []
    for seed in range(3):
        X = pd.DataFrame(rng.normal(size=(500, 4)), columns=list("abcd"))
        y = (rng.random(500) < 0.4).astype(int)
        one = search(tmp_path / str(seed), 6, seed=seed)
        one.optimize_lightgbm(
            X, y, metric="roc_auc", n_splits=3, horizon=Rows(5), num_boost_round=20
        )
        report = one.overfitting_report()
        assert report.pbo is None and "net_bps" in report.reasons[0]
        bias.append(report.best_score - report.nested_score)
    assert np.mean(bias) > 0


def test_labels_longer_than_blocks_have_no_pbo(tmp_path: Path) -> None:
    X, y = rows(900)
    one = search(tmp_path, 2)
    long = {"horizon": Rows(60), "num_boost_round": 20}
    one.optimize_lightgbm(
        X, y, metric="f1", n_splits=3, net_bps=np.where(y == 1, 1.0, -1.0), **long
    )
    report = one.overfitting_report(n_outer=0)
    assert report.pbo is None and "label horizon" in report.reasons[-1] and report.dsr is not None


@pytest.mark.parametrize(
    "wrong", [{"sample_weight": [1.0]}, {"net_bps": [1.0]}, {"episode_id": [1]}]
)
def test_columns_beside_the_rows_are_checked(wrong: dict[str, Any]) -> None:
    X, y = rows(200)
    with pytest.raises(InputError, match="one number for each"):
        judged_rows(X, y, horizon=Rows(5), **wrong)


def test_another_search_of_this_process_is_left_alone(tmp_path: Path) -> None:
    study = studies.open_study("s", optuna.storages.InMemoryStorage(), ["maximize"], {})

    def objective(trial: optuna.Trial) -> float:
        assert studies.close_interrupted(study) == 0  # this very trial is under way
        return trial.suggest_float("x", 0, 1)

    studies.run_trials(study, objective, 3)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3


def test_pictures_are_written(tmp_path: Path) -> None:
    one = search(tmp_path, 6)
    one.optimize_lightgbm(*split(), "roc_auc", **ASK)
    for draw, name in (
        (one.plot_optimization_history, "optimization_history.png"),
        (one.plot_slices, "slices.png"),
        (one.plot_param_importances, "param_importances.png"),
    ):
        assert draw().axes and (tmp_path / name).read_bytes().startswith(b"\x89PNG")
