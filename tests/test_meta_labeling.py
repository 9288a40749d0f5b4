"""Meta-labeling: nothing learned from answers, no gain claimed that is none, and the files."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from gem_detector.comparison import compare_at_equal_count, episode_scores
from gem_detector.core import InputError
from gem_detector.leakage import out_of_fold
from gem_detector.lgbm import LightGBMPipeline
from gem_detector.meta_labeling import (
    MetaLabeler,
    MetaLabelingConfig,
    accepted,
    meta_features,
    recent_record,
)
from gem_detector.splits import PurgedKFold

NS = 1_000_000_000
HORIZON = 2 * NS


def market(seed: int, n: int = 6_000) -> tuple[pd.DataFrame, pd.Series, pd.DataFrame]:
    "Rows, gems, and a regime that only `side` shows and in which signals fail."
    rng = np.random.default_rng(seed)
    is_hostile = np.repeat(rng.random(n // 60) < 0.35, 60)
    X = pd.DataFrame(rng.normal(size=(n, 4)), columns=["edge", "age", "depth", "noise"])
    p = 1 / (1 + np.exp(-(2.2 * X.edge - X.age - 0.7))) * np.where(is_hostile, 0.25, 1.0)
    y = pd.Series((rng.random(n) < p).astype(int))
    side = pd.DataFrame({"regime": is_hostile + 0.3 * rng.normal(size=n)})
    X.index = pd.Index(1_767_225_600 * NS + np.arange(n) * NS // 8, name="ts_recv_ns")
    y.index = side.index = X.index
    return X, y, side


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> LightGBMPipeline:
    "A primary trained on the first two thirds of market 0."
    X, y, _ = market(0)
    pipeline = LightGBMPipeline(tmp_path_factory.mktemp("primary"), {"num_leaves": 7})
    pipeline.train(X[:4_000], y[:4_000], 200, 20, horizon=HORIZON)
    return pipeline


@pytest.fixture(scope="module")
def labeler(primary: LightGBMPipeline, tmp_path_factory: pytest.TempPathFactory) -> MetaLabeler:
    "Trained with the regime on the same rows."
    X, y, side = market(0)
    trained = MetaLabeler(primary, tmp_path_factory.mktemp("meta"), MetaLabelingConfig("oof", 0.65))
    trained.train_meta_model(X[:4_000], y[:4_000], side[:4_000], horizon=HORIZON)
    return trained


# --- decisions


def test_the_documented_configuration() -> None:
    config = MetaLabelingConfig()
    found = (config.primary_threshold, config.meta_threshold, config.min_confidence_gap)
    assert found == (0.5, 0.7, 0.2)
    for wrong in ({"primary_threshold": 2}, {"meta_threshold": "oof"}, {"min_confidence_gap": -1}):
        with pytest.raises(InputError, match="from 0 to 1"):
            MetaLabelingConfig(**wrong)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_a_row_is_accepted_by_all_three_limits(
    p: float, p_meta: float, primary: float, meta: float, gap: float
) -> None:
    config = MetaLabelingConfig(primary, meta, gap)
    expected = p >= primary and p_meta >= meta and 2 * p_meta - 1 >= gap
    assert accepted(np.array([p]), np.array([p_meta]), primary, config)[0] == expected
    assert not accepted(np.array([p]), np.array([np.nan]), primary, config)[0]


# --- nothing is learned from answers


def test_a_memorising_primary_on_noise_has_the_base_rate(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(3_000, 3)), columns=list("abc"))
    y = rng.integers(0, 2, 3_000)
    memory = KNeighborsClassifier(1).fit(X, y)
    assert (memory.predict(X) == y).all()
    labeler = MetaLabeler(memory, tmp_path)
    labeler.train_meta_model(X, y, horizon=20)
    assert labeler.meta_model is not None
    count = labeler.meta_model.n_candidates
    error = np.sqrt(y.mean() * (1 - y.mean()) / count)
    assert count > 1_000 and abs(labeler.meta_model.candidate_precision - y.mean()) <= 3 * error


def test_cutting_the_data_off_changes_no_meta_feature_before(primary: LightGBMPipeline) -> None:
    X, y, side = market(1, 600)
    X = X.mask(np.random.default_rng(0).random(X.shape) < 0.2)
    p, t0 = primary.predict(X), X.index.to_numpy()
    side = side.assign(record=recent_record(p, y, t0, t0 + HORIZON, 0.4))
    whole = meta_features(p, X, side, ["edge", "age"])
    for cut in (1, 37, 300):
        record = recent_record(p[:cut], y[:cut], t0[:cut], t0[:cut] + HORIZON, 0.4)
        early = side[:cut].assign(record=record)
        part = meta_features(primary.predict(X[:cut]), X[:cut], early, ["edge", "age"])
        assert part.equals(whole[:cut])


@given(st.integers(0, 2**31), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_the_recent_record_counts_settled_outcomes_only(seed: int, n_last: int) -> None:
    rng = np.random.default_rng(seed)
    t0 = np.sort(rng.integers(0, 60, 40))
    t1 = t0 + rng.integers(0, 15, 40)
    p, y = rng.random(40), rng.integers(0, 2, 40)
    found = recent_record(p, y, t0, t1, 0.5, n_last)
    for i in range(40):
        settled = [j for j in np.argsort(t1, kind="stable") if p[j] >= 0.5 and t1[j] < t0[i]]
        expected = np.mean(y[settled[-n_last:]]) if settled else np.nan
        assert found[i] == pytest.approx(expected, nan_ok=True)


def test_one_row_is_decided_as_among_many(labeler: MetaLabeler) -> None:
    X, _, side = market(2, 240)
    many = labeler.predict_with_meta(X, side)
    for i in range(0, 240, 17):
        one = labeler.predict_with_meta(X[i : i + 1], side[i : i + 1])
        for column, whole in zip(one, many):
            assert np.array_equal(column, whole[i : i + 1], equal_nan=True)


def test_answers_are_no_side_information(labeler: MetaLabeler, tmp_path: Path) -> None:
    X, y, side = market(0, 600)
    for name in ("net_bps", "t1", "episode_id"):
        with pytest.raises(InputError, match="knows the label"):
            MetaLabeler(labeler.primary_model, tmp_path).train_meta_model(
                X, y, side.assign(**{name: 1.0}), horizon=1
            )


# --- gains


def test_a_hidden_regime_gains_ten_points_at_equal_count(labeler: MetaLabeler) -> None:
    X, y, side = market(0)
    found = labeler.evaluate_meta_system(X[4_000:], y[4_000:], side[4_000:])
    better = found["improvement"]
    assert set(found) == {"primary", "meta_filtered", "improvement"}
    assert better["verdict"] == "gain" and better["gain"] >= 0.1 and better["low"] > 0
    assert better["n_signals"] == found["meta_filtered"]["n_signals"]
    assert better["precision_at_equal_count"] == found["meta_filtered"]["precision"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_new_is_no_gain(seed: int, tmp_path: Path) -> None:
    "A primary that ranks as well as its features allow leaves nothing for a filter to find."
    X, y, _ = market(seed, 4_500)
    primary = LogisticRegression().fit(X[:3_000], y[:3_000])
    labeler = MetaLabeler(primary, tmp_path, MetaLabelingConfig("oof", 0.5, 0.0))
    labeler.train_meta_model(X[:3_000], y[:3_000], horizon=HORIZON)
    found = labeler.evaluate_meta_system(X[3_000:], y[3_000:])
    assert found["improvement"]["precision"] > 0  # fewer signals are better ones …
    assert found["improvement"]["verdict"] == "no gain"  # … and that is no merit of the filter


@given(st.integers(0, 2**31), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_equal_count_by_the_definition(seed: int, levels: int) -> None:
    "Ties at the cut: the mean over all orders of equal rows."
    rng = np.random.default_rng(seed)
    n = 30
    p, kept, y = rng.integers(0, levels, n) / levels, rng.random(n) < 0.4, rng.random(n) < 0.5
    found = compare_at_equal_count(p, kept, y, n_bootstrap=2)
    if not kept.any():
        assert np.isnan(found["gain"])
        return
    orders = [np.lexsort((rng.random(n), -p))[: kept.sum()] for _ in range(1_000)]
    mean = np.mean([y[order].mean() for order in orders])
    assert found["primary_precision"] == pytest.approx(mean, abs=0.05)
    assert found["precision"] == pytest.approx(y[kept].mean())


def test_signals_are_counted_in_episodes() -> None:
    p = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    episode = np.array([3, 3, 3, -1, -1])
    found = compare_at_equal_count(p, p > 0.55, [1, 1, 1, 0, 1], episode, n_bootstrap=10)
    assert found["n_signals"] == 2 and found["precision"] == found["primary_precision"] == 0.5
    scores = episode_scores([0, 1, 1, 0, 0], [1, 1, 1, 0, 1], episode)
    assert (scores["precision"], scores["recall"], scores["n_gems"]) == (1.0, 0.5, 2)


@pytest.mark.verify
def test_no_gain_is_claimed_too_often(record_property: Callable[[str, object], None]) -> None:
    "A filter that only knows what the primary knows: a gain is claimed in few of 300 markets."
    claims = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        seen = rng.normal(size=800)
        y = rng.random(800) < 1 / (1 + np.exp(1 - seen))
        blurred = seen + 0.3 * rng.normal(size=800)
        twin = seen + 0.3 * rng.normal(size=800)  # as good as the primary, errors of its own
        p = 1 / (1 + np.exp(1 - blurred))
        filtered = compare_at_equal_count(p, twin > 0.8, y, n_bootstrap=300, seed=seed)
        claims += filtered["verdict"] == "gain"
    record_property("share of false claims", claims / 300)
    assert claims / 300 <= 0.06


# --- faces and files


def test_five_files_and_the_way_back(labeler: MetaLabeler) -> None:
    names = {"model.txt", "params.json", "metrics.json", "features.json", "best_params.json"}
    assert {path.name for path in labeler.meta_model_dir.iterdir()} == names
    X, _, side = market(3, 300)
    again = MetaLabeler(labeler.primary_model, labeler.meta_model_dir)
    again.load_meta_model()
    pairs = zip(again.predict_with_meta(X, side), labeler.predict_with_meta(X, side))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
    assert again.config == labeler.config
    stricter = MetaLabeler(
        labeler.primary_model, labeler.meta_model_dir, MetaLabelingConfig("oof", 0.9)
    )
    stricter.load_meta_model()  # limits given by hand stay
    assert stricter.config.meta_threshold == 0.9
    assert (
        stricter.predict_with_meta(X, side)[2].sum() < labeler.predict_with_meta(X, side)[2].sum()
    )


def test_changed_files_and_other_primaries_are_refused(
    labeler: MetaLabeler, tmp_path: Path
) -> None:
    for path in labeler.meta_model_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    best = json.loads((tmp_path / "best_params.json").read_text())
    best["primary_threshold"] = 0.01
    (tmp_path / "best_params.json").write_text(json.dumps(best))
    with pytest.raises(InputError, match="do not belong together"):
        MetaLabeler(labeler.primary_model, tmp_path).load_meta_model()
    X, y, _ = market(5, 900)
    other = LightGBMPipeline(tmp_path / "other", {"num_leaves": 4})
    other.train(X, y, 10, 5, horizon=HORIZON)
    with pytest.raises(InputError, match="another primary model"):
        MetaLabeler(other, labeler.meta_model_dir).load_meta_model()


def test_meta_probabilities_exist_for_signals_only(labeler: MetaLabeler) -> None:
    X, _, side = market(4, 300)
    p, p_meta, final = labeler.predict_with_meta(X, side)
    assert labeler.meta_model is not None
    is_candidate = p >= labeler.meta_model.primary_threshold
    assert np.array_equal(np.isfinite(p_meta), is_candidate) and set(final) <= {0, 1}
    assert final.dtype.kind == "i" and not final[~is_candidate].any()


def test_any_classifier_may_be_the_primary(tmp_path: Path) -> None:
    X, y, side = market(6, 2_400)
    forest = RandomForestClassifier(20, max_depth=4, random_state=0, n_jobs=1)
    forest.fit(X[:1_600], y[:1_600])
    labeler = MetaLabeler(forest, tmp_path, MetaLabelingConfig("oof", 0.6))
    labeler.train_meta_model(X[:1_600], y[:1_600], side[:1_600], horizon=HORIZON)
    cv = PurgedKFold(5, intervals=(X.index[:1_600], X.index[:1_600] + HORIZON))
    p = out_of_fold(forest, X[:1_600], y[:1_600], cv)
    assert labeler.meta_model is not None
    kept = (p >= labeler.meta_model.primary_threshold)[y[:1_600] == 1].mean()
    assert 0.9 <= kept < 0.91  # nine gems in ten
    assert labeler.meta_model.n_candidates == (p >= labeler.meta_model.primary_threshold).sum()
    assert labeler.predict_with_meta(X[1_600:], side[1_600:])[2].sum() > 0


def test_without_the_reach_of_labels_the_meta_model_says_so(
    primary: LightGBMPipeline, tmp_path: Path
) -> None:
    X, y, _ = market(0, 1_500)
    labeler = MetaLabeler(primary, tmp_path, MetaLabelingConfig("oof"))
    with pytest.warns(UserWarning, match="not purged") as caught:
        metrics = labeler.train_meta_model(X, y)
    assert len(caught) == 1 and metrics.purged is False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert labeler.train_meta_model(X, y, t1=X.index + HORIZON).purged


def test_what_cannot_be_done_is_said(labeler: MetaLabeler, tmp_path: Path) -> None:
    X, y, side = market(0, 600)
    primary = labeler.primary_model
    few = MetaLabelingConfig(primary_threshold=0.99)
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: labeler.predict_with_meta(X), "side has to hold regime"),
        (lambda: labeler.predict_with_meta(X, side[:5]), "5 rows"),
        (lambda: labeler.predict_with_meta(X, side.reset_index(drop=True)), "different indexes"),
        (lambda: labeler.predict_with_meta(X[["edge"]], side), "missing feature columns"),
        (lambda: MetaLabeler(primary, tmp_path).predict_with_meta(X), "no meta model yet"),
        (lambda: MetaLabeler(primary, tmp_path).load_meta_model(), "no model in"),
        (
            lambda: MetaLabeler(primary, tmp_path, few).train_meta_model(X, y, horizon=1),
            'primary_threshold="oof" takes more',
        ),
    ]
    for call, message in wrong:
        with pytest.raises(InputError, match=message):
            call()


def test_the_documents_training_calls(tmp_path: Path) -> None:
    "Steps 2 and 3 of the training example, word for word but for the folders."
    X, y, _ = market(7, 3_000)
    stamps = pd.to_datetime(X.index, utc=True).strftime("%Y-%m-%dT%H:%M:%S.%f")
    X.assign(timestamp=stamps, is_gem=y).to_csv(tmp_path / "historical_features.csv", index=False)
    df = pd.read_csv(tmp_path / "historical_features.csv")
    feature_cols = [c for c in df.columns if c not in ["timestamp", "is_gem"]]
    best_params = {"boosting_type": "gbdt", "num_leaves": 15, "reg_alpha": 0.1, "n_estimators": 80}
    primary_pipeline = LightGBMPipeline(
        model_dir=tmp_path / "models/primary",
        params=best_params,
    )
    X, y = primary_pipeline.prepare_features(df, feature_cols, "is_gem")
    with pytest.warns(UserWarning, match="not purged"):
        metrics = primary_pipeline.train(X, y)
    meta_labeler = MetaLabeler(
        primary_model=primary_pipeline,
        meta_model_dir=tmp_path / "models/meta",
    )
    with pytest.warns(UserWarning, match="not purged"):
        meta_metrics = meta_labeler.train_meta_model(X, y)
    assert metrics.roc_auc > 0.6 and meta_metrics.n_score > 100
    primary_model = LightGBMPipeline(tmp_path / "models/primary")
    primary_model.load_model()
    again = MetaLabeler(primary_model, tmp_path / "models/meta")
    again.load_meta_model()
    _, _, final_pred = again.predict_with_meta(pd.DataFrame([dict(df[feature_cols].iloc[0])]))
    assert final_pred[0] in (0, 1)


def test_evaluation_and_nulls_refuse_what_are_no_outcomes(labeler: MetaLabeler) -> None:
    X, y, side = (table[4_000:] for table in market(0))
    n = len(y)
    size = np.ones(n)
    wrong: list[tuple[dict, str]] = [
        ({"y": y * 2}, "0 or 1"),
        ({"y": y[:-1].to_numpy()}, "one value for each of the"),
        ({"y": y.astype(float).mask(y == 1)}, "rows are neither"),
        ({"y": y.reset_index(drop=True)}, "different indexes"),
        ({"n_bootstrap": 0}, "n_bootstrap=0"),
        ({"n_bootstrap": -5}, "n_bootstrap=-5"),
        ({"n_bootstrap": 1.5}, "n_bootstrap=1.5"),
        ({"size": size[:-1]}, "size has to be one number"),
        ({"size": size * np.inf}, "finite and above 0"),
        ({"size": -size}, "finite and above 0"),
        ({"size": ["a"] * n}, "size has to be one number"),
        ({"episode_id": np.zeros(n)}, "episode_id has to be one whole number"),
        ({"side": side.iloc[:-1]}, "side has"),
    ]
    for change, message in wrong:
        given_ = {"X": X, "y": y, "side": side} | change
        with pytest.raises(InputError, match=message):
            labeler.evaluate_meta_system(**given_)
        if set(change) == {"y"}:
            with pytest.raises(InputError, match=message):
                labeler.null_scores(**given_)
