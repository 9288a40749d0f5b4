"""The classifier under scikit-learn's own checks; the pipeline, its refusals and its files."""

import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from gem_detector.calibration import calibration_error
from gem_detector.checkpoints import Checkpoint
from gem_detector.core import InputError
from gem_detector.gem_classifier import DEFAULT_PARAMS, GemClassifier, resolve_params
from gem_detector.intervals import LabelIntervals
from gem_detector.lgbm import LightGBMPipeline, permutation_importance, shap_importance
from gem_detector.model_files import BUNDLE, read_files, write_files
from gem_detector.model_inputs import training_rows
from gem_detector.splits import PurgedKFold, time_blocks
from gem_detector.training import _fold_scores, score_predictions

EXPECTED = {  # check: why it cannot hold
    "check_no_attributes_set_in_init": "LightGBM's parameters arrive as **params and are kept",
}
NS = 1_000_000_000


@parametrize_with_checks([GemClassifier()], expected_failed_checks=lambda _: EXPECTED)
def test_scikit_learn_checks(estimator: GemClassifier, check: Callable[..., None]) -> None:
    check(estimator)


def market(n: int = 2_500, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    "Rows with a planted signal, a timestamp and a target; and the true probabilities."
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    p = 1 / (1 + np.exp(-(1.8 * x[:, 0] - x[:, 1] - 2)))
    df = pd.DataFrame(x, columns=[f"x{i}" for i in range(6)]).mask(rng.random((n, 6)) < 0.05)
    df["timestamp"] = 1_767_225_600.0 + np.arange(n) / 8
    df["is_gem"] = (rng.random(n) < p).astype(int)
    return df, p


COLUMNS = [f"x{i}" for i in range(6)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> LightGBMPipeline:
    "A model that several tests look at."
    pipeline = LightGBMPipeline(tmp_path_factory.mktemp("models") / "primary", {"num_leaves": 7})
    X, y = pipeline.prepare_features(market()[0], COLUMNS)
    pipeline.train(X, y, 200, 20, horizon=2 * NS)
    return pipeline


# --- parameters


def test_the_documented_defaults() -> None:
    documented = {
        "objective": "binary",
        "metric": "auc",
        "boosting": "gbdt",
        "num_leaves": 31,
        "learning_rate": 0.05,
        "feature_fraction": 0.8,
        "bagging_fraction": 0.8,
        "scale_pos_weight": 10.0,
        "bagging_freq": 1,  # not in the document, and without it the fraction is dead
    }
    assert DEFAULT_PARAMS.items() >= documented.items() and "is_unbalance" not in DEFAULT_PARAMS


def test_the_default_bagging_is_alive() -> None:
    df, _ = market(800)
    p = [
        GemClassifier(5, bagging_fraction=f).fit(df[COLUMNS], df.is_gem).predict_proba(df[COLUMNS])
        for f in (0.5, 0.9)
    ]
    assert not np.array_equal(*p)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"is_unbalance": True, "scale_pos_weight": 10.0}, "both weigh the rare class"),
        ({"unbalance": True, "scale_pos_weight": 1.0}, "both weigh the rare class"),
        ({"boosting": "goss", "bagging_freq": 2}, "goss draws its own rows"),
        ({"data_sample_strategy": "goss", "subsample": 0.5}, "goss draws its own rows"),
        ({"subsample": 0.5, "subsample_freq": 0}, "does nothing"),
        ({"boosting": "dart", "early_stopping": 5}, "dart has no early stopping"),
        ({"boosting": "rf"}, "it is 'gbdt', 'dart' or 'goss'"),
        ({"objective": "regression"}, "binary target"),
        ({"num_leaves": 9, "max_depth": 3}, "at most 8"),
        ({"learning_rat": 0.1}, "near matches: learning_rate"),
        ({"eta": 0.1, "learning_rate": 0.2}, "disagree"),
        ({"drop_rate": 0.1}, "drop_rate does nothing without boosting='dart'"),
        ({"boosting": "dart", "other_rate": 0.1}, "without data_sample_strategy='goss'"),
        ({"weight": "w"}, "use sample_weight"),
        ({"fs": "splits.json"}, "content hash does not cover"),
        ({"ignore_feature": "1"}, "leave the column out"),
        ({"bagging_by_query": True}, "another objective"),
        ({"n_estimators": 0}, "num_iterations=0: it is a whole number of at least 1"),
        ({"num_leaves": "many"}, "whole number of at least 2"),
        ({"metric": "bogus"}, "'binary_logloss' or 'binary_error'"),
        ({"metric": ["auc", "binary_error"]}, "watches one"),
        ({"tree_learner": "voting"}, "it is 'serial'"),
        ({"force_row_wise": True, "force_col_wise": True}, "exclude each other"),
    ],
)
def test_contradictory_and_dead_parameters(params: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_params(params)
    with pytest.raises(InputError, match=message):
        LightGBMPipeline("models", params)


@pytest.mark.parametrize(
    "dead",
    [
        {"drop_rate": 0.5, "max_drop": 1, "skip_drop": 0.1, "drop_seed": 9, "uniform_drop": True},
        {"top_rate": 0.4, "other_rate": 0.3},
        {"linear_lambda": 3.0, "extra_seed": 9, "monotone_penalty": 2.0},
        {"num_grad_quant_bins": 8, "stochastic_rounding": False, "top_k": 3, "gpu_device_id": 1},
        {"cat_l2": 50.0, "cat_smooth": 1.0, "min_data_per_group": 7, "max_cat_to_onehot": 9},
        {"weight_column": 0, "label_column": 1, "group_column": 2, "header": True},
        {"alpha": 0.5, "fair_c": 3.0, "eval_at": [1], "label_gain": [1, 2], "reg_sqrt": True},
    ],
)
def test_lightgbm_itself_ignores_what_is_refused(dead: dict) -> None:
    df, _ = market(600)
    texts = []
    for more in ({}, dead):
        data = lgb.Dataset(df[COLUMNS], df.is_gem, params={"verbosity": -1})
        params = {"objective": "binary", "num_threads": 1, "verbosity": -1, "bagging_freq": 1}
        booster = lgb.train(params | {"bagging_fraction": 0.7} | more, data, 5)
        texts.append(booster.model_to_string().split("\nparameters:")[0])
    assert texts[0] == texts[1]
    for name, value in dead.items():
        with pytest.raises(InputError, match=name):
            resolve_params({name: value})


def test_lengths_among_the_parameters_are_lengths(tmp_path: Path) -> None:
    df, _ = market(600)
    X, y = df[COLUMNS], df.is_gem
    for model in (GemClassifier(n_estimators=7), GemClassifier(7)):
        assert model.fit(X, y).booster_.num_trees() == 7
    staged = GemClassifier(n_estimators=7).fit(X, y, checkpoint=Checkpoint(tmp_path / "c.json", 3))
    assert staged.booster_.num_trees() == 7
    for wrong in (GemClassifier(0), GemClassifier(5, -1)):
        with pytest.raises(InputError, match="num_boost_round has to be at least 1"):
            wrong.fit(X, y)


def test_what_the_user_did_not_say_yields() -> None:
    columnwise = resolve_params({"force_col_wise": True})
    assert "force_row_wise" not in columnwise and columnwise["force_col_wise"]
    assert "scale_pos_weight" not in resolve_params({"is_unbalance": True})
    goss = resolve_params({"boosting_type": "goss"})
    assert goss["boosting"] == "gbdt" and goss["data_sample_strategy"] == "goss"
    assert not {"bagging_fraction", "bagging_freq"} & set(goss)
    assert resolve_params({"max_depth": 2})["num_leaves"] == 4


def test_what_lightgbm_refuses_is_an_input_error() -> None:
    df, _ = market(200)
    with pytest.raises(InputError, match=r"LightGBM cannot train: .*learning_rate"):
        GemClassifier(learning_rate=-1.0).fit(df[COLUMNS], df.is_gem)


# --- rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda df: df.assign(is_gem=0), "only one class"),
        (lambda df: df.assign(is_gem=df.is_gem.where(df.x0 < 1)), "missing values"),
        (lambda df: df.assign(is_gem=df.is_gem * 2), "has to be 0 or 1"),
        (lambda df: df.drop(columns="x3"), "missing columns: x3"),
        (lambda df: df.assign(x3="text"), "features are numbers"),
        (lambda df: df.assign(timestamp=1.0), "no unit"),
    ],
)
def test_frames_that_cannot_be_used(
    change: Callable[[pd.DataFrame], pd.DataFrame], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        LightGBMPipeline(tmp_path).prepare_features(change(market(100)[0]), COLUMNS)


@pytest.mark.parametrize("name", ["t0", "t1", "net_bps", "weight", "episode_id", "timestamp"])
def test_the_sidecar_is_no_feature(name: str, tmp_path: Path) -> None:
    df = market(100)[0].assign(**{name: 1.0})
    with pytest.raises(InputError, match="cannot be a feature"):
        LightGBMPipeline(tmp_path).prepare_features(df, [*COLUMNS, name])


def test_values_that_cannot_be_used_are_input_errors(tmp_path: Path) -> None:
    df, _ = market(900)
    X, y, n = df[COLUMNS], df.is_gem, len(df)
    twice = pd.concat([X, X[["x0"]]], axis=1)
    pipeline = LightGBMPipeline(tmp_path / "m", {"num_leaves": 7})
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: pipeline.train(X, y, horizon=NS, sample_weight=np.full(n, np.inf)), "finite"),
        (lambda: pipeline.train(X, y, horizon=NS, sample_weight=np.zeros(n)), "0 in every row"),
        (lambda: pipeline.train(X, y, horizon=NS, net_bps=np.ones(n - 1)), "net_bps has to be one"),
        (lambda: pipeline.train(X, y, horizon=NS, net_bps=np.full(n, np.nan)), "not finite in"),
        (lambda: pipeline.train(X, y, horizon=NS, episode_id=np.ones(n)), "episode_id has to be"),
        (lambda: pipeline.train(twice, y, horizon=NS), "named twice: x0"),
        (lambda: pipeline.prepare_features(df.assign(z=1), ["x0", "q"]), "missing columns: q"),
        (
            lambda: pipeline.prepare_features(pd.concat([df, df[["x0"]]], axis=1), COLUMNS),
            "stand there twice: x0",
        ),
        (
            lambda: pipeline.train(X, y, 0, t0=np.arange(n), horizon=2),
            "num_boost_round has to be at least 1",
        ),
        (lambda: LightGBMPipeline("m", {"decision_threshold": 7}), "decision_threshold=7"),
        (lambda: LightGBMPipeline("m", {"decision_threshold": "0.5"}), "decision_threshold='0.5'"),
        (lambda: GemClassifier(5).fit(X, y).predict(twice), "stand there twice: x0"),
        (lambda: pipeline.train(np.array([["a"]] * n), y, horizon=NS), "features are numbers"),
    ]
    for call, message in wrong:
        with pytest.raises(InputError, match=message):
            call()
    assert not (tmp_path / "m").exists()


def test_weights_calibrate_the_folds_too(tmp_path: Path) -> None:
    "A row of weight 3 is three rows: to the trees and to the calibrator of its fold."
    df, _ = market(1_500)
    X, y = df[COLUMNS].reset_index(drop=True), df.is_gem.reset_index(drop=True)
    weight = np.where(y == 1, 3.0, 1.0)
    pipeline = LightGBMPipeline(tmp_path, {"num_leaves": 7, "scale_pos_weight": 1.0})
    seen = []
    for w in (None, weight):
        rows = training_rows(X, y, t0=np.arange(len(X)), horizon=5, sample_weight=w)
        fold = next(PurgedKFold(5, intervals=(rows.labels.t0, rows.labels.t1)).split())
        seen.append(_fold_scores(rows, fold, pipeline.user_params, 60, 20)[0].mean())
    odds = [p / (1 - p) for p in seen]
    assert 2 < odds[1] / odds[0] < 4.5  # calibrated to the weighted base rate


def test_nullable_and_object_columns_are_numbers(trained: LightGBMPipeline) -> None:
    X, _ = trained.prepare_features(market(50)[0], COLUMNS)
    X = X.assign(x0=X.x0.round())
    X.iloc[3, 0] = np.nan
    for form in (X.x0.astype("Int64"), X.x0.astype(object).where(X.x0.notna(), None)):
        assert np.array_equal(trained.predict(X.assign(x0=form)), trained.predict(X))


def test_infinite_is_missing_and_missing_is_kept(trained: LightGBMPipeline) -> None:
    df = market(300)[0][COLUMNS]
    infinite, missing = df.copy(), df.copy()
    infinite.iloc[::7, 0], missing.iloc[::7, 0] = -np.inf, np.nan
    assert np.array_equal(trained.predict(infinite), trained.predict(missing))
    assert not np.array_equal(trained.predict(missing), trained.predict(missing.fillna(0)))
    assert trained.metrics.n_nan > 0 and trained.metrics.n_inf == 0


def test_columns_are_matched_by_name_and_type(trained: LightGBMPipeline) -> None:
    df = market(100)[0][COLUMNS]
    p = trained.predict(df)
    assert np.array_equal(trained.predict(df[df.columns[::-1]].assign(more=1)), p)
    assert np.array_equal(trained.predict(df.to_numpy()), p)
    rows = [trained.predict(pd.DataFrame([row]))[0] for row in df.head(5).to_dict("records")]
    assert np.array_equal(rows, p[:5])  # a live row at a time
    assert np.allclose(trained.predict_proba(df), np.column_stack([1 - p, p]))
    wrong = (
        (df.drop(columns=["x1", "x4"]), "missing feature columns: x1, x4"),
        (df.to_numpy()[:, :5], "of that width"),
        (df.assign(x2=df.x2 > 0), "x2' is bool"),
    )
    for frame, message in wrong:
        with pytest.raises(InputError, match=message):
            trained.predict(frame)


def test_without_the_reach_of_labels_a_warning_and_purged_false(tmp_path: Path) -> None:
    pipeline = LightGBMPipeline(tmp_path, {"num_leaves": 4})
    X, y = pipeline.prepare_features(market(600)[0], COLUMNS)
    with pytest.warns(UserWarning, match="not purged") as caught:
        metrics = pipeline.train(X, y, 20, 5)
    assert len(caught) == 1 and metrics.purged is False
    assert json.loads((tmp_path / "metrics.json").read_text())["purged"] is False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pipeline.train(X, y, 20, 5, t1=X.index + NS).purged


@given(st.integers(30, 300), st.integers(0, 40), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_the_three_blocks_share_no_moment(n: int, longest: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    t0 = rng.integers(0, 1_000, n)
    labels = LabelIntervals(t0, t0 + rng.integers(0, longest + 1, n), True)
    fit, stop, score = time_blocks(labels)
    for early, late in ((fit, stop), (fit, score), (stop, score)):
        if len(early) and len(late):
            assert labels.t1[early].max() < labels.t0[late].min()


# --- training


def test_metrics_are_what_scikit_learn_says_of_the_last_block(tmp_path: Path) -> None:
    pipeline = LightGBMPipeline(tmp_path, {"num_leaves": 7})
    X, y = pipeline.prepare_features(market()[0], COLUMNS)
    metrics = pipeline.train(X, y, 200, 20, horizon=2 * NS)
    p, truth = pipeline.predict(X[2_000:]), y[2_000:]
    is_signal = p >= pipeline.decision_threshold
    assert metrics.n_score == len(truth) and metrics.n_positive == truth.sum()
    assert metrics.roc_auc == pytest.approx(roc_auc_score(truth, p))
    assert metrics.avg_precision == pytest.approx(average_precision_score(truth, p))
    assert metrics.precision == pytest.approx(precision_score(truth, is_signal))
    assert metrics.recall == pytest.approx(recall_score(truth, is_signal))
    assert metrics.roc_auc > 0.75 and metrics.best_iteration < 200


def test_same_seed_same_bytes_on_any_number_of_threads(tmp_path: Path) -> None:
    texts = []
    for name, params in {"a": {}, "b": {"num_threads": 2}, "c": {"seed": 1}}.items():
        pipeline = LightGBMPipeline(tmp_path / name, {"num_leaves": 7} | params)
        X, y = pipeline.prepare_features(market(900)[0], COLUMNS)
        pipeline.train(X, y, 40, 10, horizon=NS)
        texts.append((tmp_path / name / "model.txt").read_bytes())
    assert texts[0] == texts[1] and b"[num_threads: 1]" in texts[1]
    trees = [re.split(rb"\nparameters:", text)[0] for text in texts]
    assert trees[0] == trees[1] != trees[2]


def test_what_a_search_found_is_taken(tmp_path: Path) -> None:
    found = {"n_estimators": 30, "decision_threshold": 0.123, "boosting_type": "dart"}
    pipeline = LightGBMPipeline(tmp_path, {**found, "num_leaves": 4})
    X, y = pipeline.prepare_features(market(600)[0], COLUMNS)
    with pytest.warns(UserWarning, match="dart has no early stopping"):
        metrics = pipeline.train(X, y, horizon=NS)
    assert (metrics.best_iteration, metrics.decision_threshold) == (30, 0.123)
    assert metrics.threshold_method == "given"


def test_utility_sets_the_threshold_where_money_is_known(tmp_path: Path) -> None:
    df, _ = market()
    pipeline = LightGBMPipeline(tmp_path, {"num_leaves": 7})
    X, y = pipeline.prepare_features(df, COLUMNS)
    net_bps = np.where(y == 1, 5.0, -15.0)  # one gem in four trades only just pays
    dear = pipeline.train(X, y, 100, 20, horizon=NS, net_bps=net_bps)
    plain = pipeline.train(X, y, 100, 20, horizon=NS)
    assert (dear.threshold_method, plain.threshold_method) == ("utility", "f1")
    assert dear.decision_threshold > plain.decision_threshold


def test_refit_uses_every_row_and_says_so(tmp_path: Path) -> None:
    pipeline = LightGBMPipeline(tmp_path, {"num_leaves": 7})
    X, y = pipeline.prepare_features(market(900)[0], COLUMNS)
    scored = pipeline.train(X, y, 40, 10, horizon=NS)
    before = pipeline.predict(X)
    again = pipeline.train(X, y, 40, 10, horizon=NS, refit=True)
    assert again.refit and again.roc_auc == scored.roc_auc
    assert not np.array_equal(pipeline.predict(X), before)


def test_probabilities_out_of_fold_have_not_seen_their_rows(trained: LightGBMPipeline) -> None:
    X, y = trained.prepare_features(market()[0], COLUMNS)
    cv = PurgedKFold(4, intervals=(X.index, X.index + NS))
    p = trained.out_of_fold(X, y, cv)
    flipped = y.copy()
    flipped.iloc[:600] = 1 - flipped.iloc[:600]
    again = trained.out_of_fold(X, flipped, cv)
    assert np.array_equal(p[:600], again[:600]) and not np.array_equal(p[700:], again[700:])
    assert calibration_error(p, y, 5) < 0.05


def test_cross_validation_pools_and_finds_nothing_in_noise(tmp_path: Path) -> None:
    pipeline = LightGBMPipeline(tmp_path, {"num_leaves": 7, "learning_rate": 0.1})
    X, y = pipeline.prepare_features(market()[0], COLUMNS)
    table = pipeline.cross_validate(X, y, 4, 60, 15, horizon=NS)
    assert table.n["pooled"] == len(y) == table.n[:4].sum() and table.roc_auc["pooled"] > 0.75
    coin = pd.Series(np.random.default_rng(0).permutation(y), index=y.index)
    noise = pipeline.cross_validate(X, coin, 4, 60, 15, horizon=NS)
    assert abs(noise.roc_auc["pooled"] - 0.5) < 0.05


def test_importance_by_every_measure(trained: LightGBMPipeline) -> None:
    X, y = trained.prepare_features(market(900)[0], COLUMNS)
    cv = PurgedKFold(3, intervals=(X.index, X.index + NS))
    permuted = permutation_importance(GemClassifier(30, num_leaves=7), X, y, cv)
    assert trained.model is not None
    tops = [
        next(iter(trained.get_feature_importance())),
        next(iter(trained.get_feature_importance("split"))),
        next(iter(shap_importance(trained.model, X[:50]))),
        permuted.index[0],
    ]
    assert tops == ["x0"] * 4
    with pytest.raises(InputError, match="'gain' or 'split'"):
        trained.get_feature_importance("magic")


def test_undefined_scores_are_nan() -> None:
    none = score_predictions(np.array([0.2, 0.3]), np.array([0.0, 0.0]), 0.5)
    assert all(np.isnan(value) for value in none.values())


# --- files


def test_four_files_and_the_way_back(trained: LightGBMPipeline) -> None:
    names = {"model.txt", "params.json", "metrics.json", "features.json"}
    assert {path.name for path in trained.model_dir.iterdir()} == names
    again = LightGBMPipeline(trained.model_dir)
    again.load_model()
    df = market(200)[0]
    assert np.array_equal(again.predict(df), trained.predict(df))
    assert again.metrics == trained.metrics and again.params == trained.params
    assert again.decision_threshold == trained.decision_threshold


@pytest.mark.parametrize("name", ["model.txt", "params.json", "metrics.json", "features.json"])
def test_a_changed_file_is_refused(trained: LightGBMPipeline, name: str, tmp_path: Path) -> None:
    texts = read_files(trained.model_dir, LightGBMPipeline.FILES)
    text = texts[name]
    at = [match.start() for match in re.finditer(r"\d", text)][-3]
    texts[name] = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
    write_files(tmp_path, texts)
    with pytest.raises(InputError, match="do not belong together"):
        LightGBMPipeline(tmp_path).load_model()


def test_newer_and_missing_models_are_refused(trained: LightGBMPipeline, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model in"):
        LightGBMPipeline(tmp_path).load_model()
    texts = read_files(trained.model_dir, LightGBMPipeline.FILES)
    card = json.loads(texts["params.json"]) | {"version": 99}
    write_files(tmp_path, texts | {"params.json": json.dumps(card)})
    with pytest.raises(InputError, match="install a newer"):
        LightGBMPipeline(tmp_path).load_model()


KILLED = """
import os, signal, sys
from gem_detector import model_files
folder, stop_at = sys.argv[1], int(sys.argv[2])
write, calls = model_files.write_atomic, 0
def counted(path, data):
    global calls
    if calls == stop_at:
        os.kill(os.getpid(), signal.SIGKILL)
    calls += 1
    write(path, data)
model_files.write_atomic = counted
model_files.write_files(folder, {"a": "new", "b": "new", "c": "new"})
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_kill_9_while_saving_leaves_files_that_belong_together(
    stop_at: int, tmp_path: Path
) -> None:
    write_files(tmp_path, {"a": "old", "b": "old", "c": "old"})
    ran = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(stop_at)], check=False)
    assert ran.returncode == -signal.SIGKILL
    assert set(read_files(tmp_path, "abc").values()) == {"new"}
    write_files(tmp_path, {"a": "next", "b": "next", "c": "next"})
    assert set(read_files(tmp_path, "abc").values()) == {"next"}
    assert not (tmp_path / BUNDLE).exists()


# --- probabilities


def test_calibration_against_known_probabilities(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    df, p_true = market(80_000, seed=1)
    pipeline = LightGBMPipeline(tmp_path, {"num_leaves": 15})
    X, y = pipeline.prepare_features(df, COLUMNS)
    pipeline.train(X[:20_000], y[:20_000], 300, 30, horizon=NS)
    error = calibration_error(pipeline.predict(X[30_000:]), p_true[30_000:])
    record_property("calibration error", round(error, 4))
    assert error <= 0.02
