"""The compiled forest against LightGBM, bit for bit, over models and rows of every kind."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gem_detector.core import InputError
from gem_detector.decision_trees import parse_trees, walked_scores
from gem_detector.forest import CompiledForest, SingleRow, masked_scores, masks_of

BASE = {"objective": "binary", "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 2}
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
EDGES = [0.0, -0.0, 1e-36, -1e-36, 1.0000000180025095e-35, -1.0000000180025095e-35, 2e-35, -2e-35]
ODD = [np.nan, np.inf, -np.inf, 1e300, -1e300, -0.5, -1.0, 3.7, 1e10, 2.0**31, 63.0, 64.0, *EDGES]


@st.composite
def models(draw: st.DrawFn) -> tuple[lgb.Booster, np.ndarray]:
    "A small model of any kind that masks can hold, and rows that try its borders."
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, k = draw(st.integers(60, 300)), draw(st.integers(1, 5))
    X = rng.normal(size=(n, k))
    X[:, 0] = rng.integers(-2, draw(st.sampled_from([3, 80])), n)  # a count, perhaps a category
    X[rng.random(X.shape) < draw(st.sampled_from([0.0, 0.1, 0.5]))] = np.nan
    X[rng.random(X.shape) < draw(st.sampled_from([0.0, 0.1, 0.5]))] = 0.0
    X[rng.random(X.shape) < 0.02] = 1e-36
    y = (np.nan_to_num(X).sum(axis=1) + rng.normal(size=n) > 0).astype(int)
    y[:2] = [0, 1]
    params = BASE | {
        "num_leaves": draw(st.sampled_from([2, 7, 31, 32, 33, 64, 65, 129, 300])),
        "boosting": draw(st.sampled_from(["gbdt", "gbdt", "dart"])),
        "use_missing": draw(st.booleans()),
        "zero_as_missing": draw(st.booleans()),
        "objective": draw(st.sampled_from(["binary", "binary", "cross_entropy", "regression"])),
        "extra_trees": draw(st.booleans()),
        "max_cat_to_onehot": draw(st.sampled_from([1, 4, 100])),
        "min_data_per_group": 2,
        "cat_smooth": 1.0,
        "min_data_in_bin": 1,
        "seed": draw(st.integers(0, 99)),
    }
    if params["objective"] == "binary":
        params["sigmoid"] = draw(st.sampled_from([1.0, 0.7]))
    chosen = draw(st.sampled_from([[], [0]]))
    if chosen:
        X[:, 0] = np.where(X[:, 0] < 0, np.nan, X[:, 0])
    data = lgb.Dataset(X, y, categorical_feature=chosen, params={"max_bin": 255})
    booster = lgb.train(params, data, draw(st.sampled_from([1, 2, 13])))
    rows = np.concatenate([X[:50], rng.normal(size=(60, k)), rng.choice(ODD, (60, k))])
    nodes = parse_trees(booster.model_to_string()).nodes
    for column in range(k):  # just on thresholds, and one step beside them
        own = nodes["threshold"][nodes["feature"] == column]
        if len(own):
            at = rng.choice(own, 60)
            near = np.nextafter(at, rng.choice([-np.inf, np.inf], 60))
            rows = np.concatenate([rows, np.tile(rows[:1], (60, 1))])
            rows[-60:, column] = np.where(rng.random(60) < 0.5, at, near)
    return booster, rows


@given(models())
@SETTINGS
def test_every_route_equals_lightgbm_in_every_bit(model: tuple[lgb.Booster, np.ndarray]) -> None:
    booster, rows = model
    expected = booster.predict(rows, num_threads=1)
    for route in ("masks", "walk", "lightgbm"):
        forest = CompiledForest.from_booster(booster, route)
        assert np.array_equal(forest.predict(rows), expected), route
        assert [forest.predict_row(x) for x in rows[:5]] == expected[:5].tolist(), route


@given(models())
@settings(SETTINGS, max_examples=8)
def test_kernels_equal_their_plain_twins(model: tuple[lgb.Booster, np.ndarray]) -> None:
    booster, rows = model
    trees, rows = parse_trees(booster.model_to_string()), rows[-20:]
    expected = booster.predict(rows, num_threads=1)
    masks = masks_of(trees)
    arrays = (masks.features, masks.entries, masks.states, masks.leaf_values, trees.sigmoid)
    assert np.array_equal(masked_scores.py_func(rows, *arrays), expected)
    arrays = (trees.nodes, trees.roots, trees.leaf_values, trees.categories, trees.sigmoid)
    assert np.array_equal(walked_scores.py_func(rows, *arrays), expected)


def trained(n: int = 600, k: int = 6, **params: object) -> tuple[lgb.Booster, np.ndarray]:
    "A model of normal columns with missing values, and its rows."
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, k))
    y = (X[:, 0] + X[:, 1] * X[:, 2] + rng.normal(size=n) > 0).astype(int)
    X[rng.random(X.shape) < 0.1] = np.nan
    rounds = int(params.pop("rounds", 20))  # type: ignore[call-overload]
    return lgb.train(BASE | params, lgb.Dataset(X, y), rounds), X


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}, "averaged trees"),
        ({"linear_tree": True}, "linear models in leaves"),
        ({"objective": "cross_entropy_lambda"}, "objective cross_entropy_lambda"),
        ({"objective": "regression", "reg_sqrt": True}, "objective regression sqrt"),
        ({"objective": "poisson"}, "objective poisson"),
    ],
)
def test_what_cannot_be_exact_is_asked_of_lightgbm(params: dict, reason: str) -> None:
    booster, X = trained(**params)
    forest = CompiledForest.from_booster(booster)
    assert (forest.route, forest.reason) == ("lightgbm", reason)
    expected = booster.predict(X, num_threads=1)
    assert np.array_equal(forest.predict(X), expected)
    assert [forest.predict_row(x) for x in X[:50]] == expected[:50].tolist()
    with pytest.raises(InputError, match="only route='lightgbm' is exact"):
        CompiledForest.from_booster(booster, "walk")


def test_the_best_iteration_counts_as_in_lightgbm(tmp_path: Path) -> None:
    booster, X = trained()
    booster.best_iteration = 7  # of 20
    booster.save_model(tmp_path / "model.txt")
    for forest in (
        CompiledForest.from_booster(booster),
        CompiledForest.from_booster(booster, "lightgbm"),
        CompiledForest.from_file(tmp_path / "model.txt"),
    ):
        assert np.array_equal(forest.predict(X), booster.predict(X, num_threads=1))


def test_a_forest_without_trees_or_splits() -> None:
    booster, X = trained(min_data_in_leaf=400, rounds=3)
    forest = CompiledForest.from_booster(booster, "masks")
    assert np.array_equal(forest.predict(X), booster.predict(X, num_threads=1))
    empty = lgb.Booster(BASE, lgb.Dataset(X, np.arange(600) % 2))
    assert CompiledForest.from_booster(empty, "walk").predict(X)[0] == 0.5
    assert CompiledForest.from_booster(empty).predict(X)[0] == 0.5


def test_large_category_numbers_are_exact_too() -> None:
    rng = np.random.default_rng(2)
    X = np.column_stack([rng.integers(0, 12, 900) * 997.0, rng.normal(size=900)])
    y = (X[:, 0] / 997 % 3 == 1).astype(int)
    data = lgb.Dataset(X, y, categorical_feature=[0])
    booster = lgb.train(BASE | {"min_data_per_group": 2}, data, 20)
    rows = np.concatenate([X, [[1.0, 0.0], [997.0 * 12, 0.0], [-3.0, 0.0], [np.nan, 0.0]]])
    for route in (None, "masks", "walk"):
        forest = CompiledForest.from_booster(booster, route)
        assert np.array_equal(forest.predict(rows), booster.predict(rows, num_threads=1))


def test_frames_are_matched_by_name() -> None:
    booster, X = trained(k=3)
    frame = pd.DataFrame(X, columns=["Column_0", "Column_1", "Column_2"])
    for route in ("masks", "walk", "lightgbm"):
        forest = CompiledForest.from_booster(booster, route)
        expected = forest.predict(X)
        assert np.array_equal(forest.predict(frame[frame.columns[::-1]].assign(more=1)), expected)
        for wrong, message in (
            (frame.drop(columns="Column_1"), "missing feature columns: Column_1"),
            (frame.astype({"Column_1": "category"}), "features are numbers"),
            (X[:, :2], "the model has 3 columns"),
            (pd.concat([frame, frame], axis=1), "stand there twice: Column_0"),
            ([["a", 1, 2]], "features are numbers"),
        ):
            with pytest.raises(InputError, match=message):
                forest.predict(wrong)
        with pytest.raises(InputError, match="3 numbers"):
            forest.predict_row(X[0, :2])
    float32 = X.astype(np.float32)
    assert np.array_equal(forest.predict(float32), booster.predict(float32, num_threads=1))


def test_every_way_of_writing_missing_is_one() -> None:
    booster, X = trained(k=3)
    frame = pd.DataFrame(X, columns=["Column_0", "Column_1", "Column_2"]).round()
    frame.iloc[:20, 1] = np.nan
    forest = CompiledForest.from_booster(booster)
    expected = booster.predict(frame.to_numpy(), num_threads=1)
    for form in ("Int64", object):
        other = frame.assign(Column_1=frame.Column_1.astype(form))
        if form is object:
            other["Column_1"] = other.Column_1.where(other.Column_1.notna(), None)
        assert np.array_equal(forest.predict(other), expected)
    row = pd.DataFrame([{"Column_0": 1.0, "Column_1": None, "Column_2": 0.5}])  # a live row
    assert forest.predict(row)[0] == forest.predict_row([1.0, np.nan, 0.5])
    with pytest.raises(InputError, match="features are numbers"):
        forest.predict_row(["a", 1, 2])


def test_what_the_c_interface_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    booster, _ = trained(k=3)
    failing = SimpleNamespace(
        LGBM_BoosterPredictForMatSingleRowFastInit=lambda *arguments: -1,
        LGBM_GetLastError=lambda: b"out of memory",
    )
    monkeypatch.setattr("gem_detector.forest._LIB", failing)
    with pytest.raises(InputError, match="LightGBM cannot predict: out of memory"):
        SingleRow(booster)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    booster, X = trained()
    text = booster.model_to_string()
    multi = lgb.train(
        BASE | {"objective": "multiclass", "num_class": 3}, lgb.Dataset(X, np.arange(600) % 3), 2
    )
    wrong = {
        "not a LightGBM text model": "hello",
        "cut off": text[: len(text) * 2 // 3],
        "several outputs": multi.model_to_string(),
        "do not form one tree": text.replace("right_child=", "right_child=-1 ", 1)
        .replace("right_child=-1 ", "right_child=", 1)
        .replace("left_child=1", "left_child=2", 1),
        "split_feature holds": text.replace("split_feature=", "split_feature=1 ", 1),
        "does not name": text.replace("split_feature=", "split_feature=9", 1),
    }
    for message, content in wrong.items():
        (tmp_path / "model.txt").write_text(content)
        with pytest.raises(InputError, match=message) as caught:
            CompiledForest.from_file(tmp_path / "model.txt")
        assert "model.txt" in str(caught.value)
    (tmp_path / "model.txt").write_bytes(bytes(range(128, 256)) * 9)
    with pytest.raises(InputError, match="not a LightGBM text model: it holds bytes"):
        CompiledForest.from_file(tmp_path / "model.txt")
    with pytest.raises(InputError, match="nowhere"):
        CompiledForest.from_file(tmp_path / "nowhere.txt")
    with pytest.raises(InputError, match="it is 'masks', 'walk' or 'lightgbm'"):
        CompiledForest(text, route="magic")


def test_threads_share_a_forest() -> None:
    booster, X = trained(2_000, rounds=60)
    expected = booster.predict(X, num_threads=1)
    for route in ("masks", "lightgbm"):
        forest = CompiledForest.from_booster(booster, route)
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(forest.predict_row, X)) == expected.tolist()


@pytest.mark.verify
@given(models())
@settings(SETTINGS, max_examples=1_500)
def test_many_more_models(model: tuple[lgb.Booster, np.ndarray]) -> None:
    booster, rows = model
    expected = booster.predict(rows, num_threads=1)
    for route in ("masks", "walk"):
        assert np.array_equal(CompiledForest.from_booster(booster, route).predict(rows), expected)
