"""Walk-forward: windows that leak nothing, typed results, runs that go on where they stopped."""

import json
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import TimeSeriesSplit

from gem_detector.comparison import episode_scores
from gem_detector.core import InputError
from gem_detector.intervals import Rows
from gem_detector.leakage import random_walk_rows
from gem_detector.ledger import ResearchLedger
from gem_detector.score_intervals import (
    auc_with_interval,
    first_signals,
    resampling_blocks,
    scores_with_intervals,
)
from gem_detector.signals import signal_scores
from gem_detector.stability import chosen_features, nogueira_index
from gem_detector.thresholds import episode_groups
from gem_detector.time_windows import WindowLengths, time_windows
from gem_detector.track_record import performance_of_runs
from gem_detector.walk_forward import WalkForwardOptimizer
from gem_detector.window_outcomes import WindowStatus

HOUR = 3_600 * 10**9
FIRST = 1_782_864_000  # 2026-07-01, s


def market(n: int = 3_000, seed: int = 0, step_s: int = 60) -> pd.DataFrame:
    "Rows with a planted signal."
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 4)), columns=list("abcd"))
    p = 1 / (1 + np.exp(-(2 * X.a + X.b - 2.5)))
    return X.assign(timestamp=FIRST + step_s * np.arange(n), is_gem=(rng.random(n) < p).astype(int))


def optimizer(folder: Path, **options: Any) -> WalkForwardOptimizer:
    "Six windows over 3,000 rows."
    sizes = {
        "train_window_size": Rows(1_200),
        "test_window_size": Rows(300),
        "step_size": Rows(300),
    }
    return WalkForwardOptimizer(
        **{**sizes, "results_dir": folder, "min_train_size": 500, **options}
    )


def tables(folder: Path) -> dict[str, bytes]:
    "The files of a run, the picture left out."
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.suffix in (".csv", ".json")
    }


# --- windows


@st.composite
def walks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, WindowLengths]:
    "Rows in any order with repeats and gaps, labels of any length, windows of every kind."
    n = draw(st.integers(20, 120))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    t0 = rng.permutation(np.cumsum(rng.choice([0, 1, 1, 2, 40], n))) * HOUR
    t1 = t0 + rng.integers(0, draw(st.sampled_from([1, 5, 30])), n) * HOUR
    span = int(t0.max() - t0.min()) // HOUR
    by_rows = draw(st.booleans())
    most = n if by_rows else max(span, 6)
    sizes = [draw(st.integers(1, max(most // 3, 1))) for _ in range(3)]
    lengths = [Rows(size) if by_rows else timedelta(hours=size) for size in sizes]
    embargo = draw(st.sampled_from([0, 3 * HOUR, Rows(2), 0.05]))
    return t0, t1, WindowLengths(*lengths, draw(st.booleans()), draw(st.booleans()), embargo)


@given(walks())
@settings(max_examples=150, deadline=None)
def test_every_training_label_is_settled_before_its_test_part(
    walk: tuple[np.ndarray, np.ndarray, WindowLengths],
) -> None:
    t0, t1, lengths = walk
    try:
        windows = time_windows(t0, t1, lengths)
    except InputError as error:
        assert "one window needs" in str(error)
        return
    for window in windows:
        assert (t1[window.train] < window.test_start_ns).all()
        if isinstance(lengths.embargo, int) and not isinstance(lengths.embargo, Rows):
            assert (t1[window.train] < window.test_start_ns - lengths.embargo).all()
        assert (t0[window.train] >= window.train_start_ns).all()
        assert (t0[window.test] >= window.test_start_ns).all()
        assert (t0[window.test] < window.test_end_ns).all()
        assert (np.diff(t0[window.train]) >= 0).all() and (np.diff(t0[window.test]) >= 0).all()
        assert not set(window.train.tolist()) & set(window.test.tolist())
        assert window.n_purged >= 0
    tested = np.concatenate([window.test for window in windows])
    if lengths.step == lengths.test:
        assert len(np.unique(tested)) == len(tested)
    if not isinstance(lengths.test, Rows):  # no row that could be tested is passed over
        for window in windows:
            inside = (t0 >= window.test_start_ns) & (t0 < window.test_end_ns)
            assert set(np.flatnonzero(inside)) == set(window.test.tolist())


@given(
    n=st.integers(140, 400), gap=st.integers(0, 12), test=st.integers(5, 20), k=st.integers(2, 5)
)
@settings(max_examples=60, deadline=None)
def test_expanding_windows_by_rows_are_time_series_split(
    n: int, gap: int, test: int, k: int
) -> None:
    at = np.arange(n)
    first = n - k * test
    cut = time_windows(at, at + gap, WindowLengths(Rows(first), Rows(test), Rows(test), True))
    theirs = list(TimeSeriesSplit(k, test_size=test, gap=gap).split(at))
    assert len(cut) == len(theirs)
    for window, (train, tested) in zip(cut, theirs):
        assert np.array_equal(window.train, train) and np.array_equal(window.test, tested)


def test_windows_by_rows_are_skfolios() -> None:
    model_selection = pytest.importorskip("skfolio.model_selection")
    at, gap = np.arange(500), 9
    for expanding in (False, True):
        theirs = model_selection.WalkForward(
            test_size=40, train_size=100, purged_size=gap, expand_train=expanding
        )
        lengths = WindowLengths(Rows(100 + gap), Rows(40), Rows(40), expanding)
        ours = time_windows(at, at + gap, lengths)
        for window, (train, tested) in zip(ours, theirs.split(at.reshape(-1, 1)), strict=True):
            assert np.array_equal(window.train, train) and np.array_equal(window.test, tested)


def test_a_day_of_bars_is_a_whole_day() -> None:
    t0 = np.arange(4 * 24) * HOUR  # the last bar is stamped 23:00
    days = WindowLengths(timedelta(days=2), timedelta(days=1), timedelta(days=1))
    assert [len(window.test) for window in time_windows(t0, t0, days)] == [24, 24]
    assert len(time_windows(t0[:-3], t0[:-3], days)) == 1


def test_windows_are_the_same_for_every_kind_of_time(tmp_path: Path) -> None:
    df = market(2_000)
    stamps = pd.to_datetime(df.timestamp, unit="s", utc=True)
    kinds: dict[str, Any] = {
        "s": df.timestamp,
        "float s": df.timestamp + 0.0,
        "ms": df.timestamp * 1_000,
        "us": df.timestamp * 10**6,
        "ns": df.timestamp * 10**9,
        "aware": stamps,
        "naive": stamps.dt.tz_localize(None),
        "zone": stamps.dt.tz_convert("Asia/Tokyo"),
        "text": stamps.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    walk = WalkForwardOptimizer(timedelta(hours=12), timedelta(hours=5), timedelta(hours=5))
    want = walk.create_windows(df, horizon=timedelta(minutes=20))
    for kind, times in kinds.items():
        got = walk.create_windows(df.assign(timestamp=times), horizon=timedelta(minutes=20))
        assert [w.test_start_ns for w in got] == [w.test_start_ns for w in want], kind
        assert all(np.array_equal(g.train, w.train) for g, w in zip(got, want)), kind


# --- scores


@given(st.integers(0, 10_000), st.integers(1, 60))
@settings(max_examples=80, deadline=None)
def test_counts_of_episodes_by_a_slow_count(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    ids = np.repeat(rng.choice([-1, -1, 0], n), rng.integers(1, 5, n))
    number = np.cumsum(np.r_[True, np.diff(ids) != 0])
    ids = np.where(ids < 0, -1, number)
    y, signal = (ids >= 0).astype(int), rng.random(len(ids)) < 0.4
    found = scores_with_intervals(signal, y, ids, np.arange(len(ids)), n_bootstrap=5)
    hits = sum(signal[ids == one].any() for one in set(ids[ids >= 0].tolist()))
    false = int((signal & (ids < 0)).sum())
    assert found["n_hits"] == hits and found["n_false_alarms"] == false
    assert found["n_episodes"] == len(set(ids[ids >= 0].tolist()))
    assert first_signals(signal, episode_groups(ids, len(ids))).sum() == hits + false
    counted = episode_scores(signal, y, ids)
    for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1_score")):
        assert np.array_equal(found[name], counted[key], equal_nan=True)
    if hits + false:
        assert found["precision"] == hits / (hits + false)
        assert found["precision_low"] <= found["precision"] <= found["precision_high"]


@given(st.integers(0, 10_000), st.integers(2, 200))
@settings(max_examples=60, deadline=None)
def test_blocks_are_as_long_as_a_label_and_cut_no_episode(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    t0 = np.cumsum(rng.integers(0, 4, n))
    t1 = t0 + rng.integers(0, 9, n)
    episode = np.where(rng.random(n) < 0.3, np.arange(n) // 6, -1)
    block = resampling_blocks(t0, t1, episode)
    assert (np.diff(block) >= 0).all() and (np.diff(block) <= 1).all() and block[0] == 0
    begin = np.flatnonzero(np.r_[True, np.diff(block) > 0])
    assert (np.diff(t0[begin]) > (t1 - t0).max()).all()
    at = begin[1:]
    assert ((episode[at] < 0) | (episode[at] != episode[at - 1])).all()
    for first, stop in zip(begin, [*at, n]):  # and none is longer than it has to be
        reached = np.flatnonzero(t0 > t0[first] + (t1 - t0).max())
        needed = reached[0] if len(reached) else n
        assert (episode[needed:stop] == episode[needed - 1]).all()


def test_auc_interval_covers_where_rows_are_independent() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        y = rng.integers(0, 2, 300)
        _, low, high = auc_with_interval(rng.normal(size=300) + y, y, np.arange(300), 200)
        covered += low <= 0.7602 <= high  # Φ(1/√2)
    assert covered >= 52


def test_nogueira_by_its_own_words() -> None:
    rng = np.random.default_rng(0)
    z = rng.random((7, 9)) < 0.4
    m, d = z.shape
    p, k = z.mean(axis=0), z.sum(axis=1).mean()
    want = 1 - np.mean([m / (m - 1) * q * (1 - q) for q in p]) / (k / d * (1 - k / d))
    assert math.isclose(nogueira_index(z)[0], want)
    assert chosen_features(np.full((1, 4), np.nan)).shape == (0, 4)


# --- runs


def test_the_callers_frame_and_its_order_do_not_matter(tmp_path: Path) -> None:
    df = market()
    mixed = df.sample(frac=1.0, random_state=0)
    before = mixed.copy()
    ask: dict[str, Any] = {
        "horizon": timedelta(minutes=20),
        "num_boost_round": 40,
        "params": {"num_leaves": 7},
    }
    one, two = optimizer(tmp_path / "1"), optimizer(tmp_path / "2")
    one.run_optimization(df, list("abcd"), **ask)
    two.run_optimization(mixed, list("abcd"), **ask)
    assert mixed.equals(before) and list(mixed.index) == list(before.index)
    assert one.results_ == two.results_
    assert one.get_aggregate_metrics() == two.get_aggregate_metrics()


def test_nothing_behind_a_test_part_changes_what_was_said_in_it(tmp_path: Path) -> None:
    df = market()
    ask: dict[str, Any] = {
        "horizon": timedelta(minutes=20),
        "num_boost_round": 40,
        "params": {"num_leaves": 7},
    }
    whole, cut = optimizer(tmp_path / "1"), optimizer(tmp_path / "2")
    whole.run_optimization(df, list("abcd"), **ask)
    cut.run_optimization(df[:2_100], list("abcd"), **ask)
    n = len(cut.predictions_)
    assert n == 900
    pd.testing.assert_frame_equal(whole.predictions_[:n], cut.predictions_)


class Killed(KeyboardInterrupt):
    "As if the process had been ended."


def counting(log: Path, kill_at: int | None) -> Callable[..., dict[str, Any]]:
    "A tune that writes down each call, and may end the run at one of them."

    def tune(X: pd.DataFrame, y: pd.Series, t1: np.ndarray) -> dict[str, Any]:
        calls = len(log.read_text()) if log.exists() else 0
        if kill.exists() and calls == int(kill.read_text()):
            raise Killed
        log.write_text("x" * (calls + 1))
        return {"C": 0.5}

    kill = log.with_suffix(".kill")
    if kill_at is not None:
        kill.write_text(str(kill_at))
    return tune


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    df, log = market(), tmp_path / "log"
    ask: dict[str, Any] = {"estimator": LogisticRegression(), "horizon": timedelta(minutes=20)}
    with pytest.raises(Killed):
        optimizer(tmp_path / "run").run_optimization(df, list("abcd"), tune=counting(log, 3), **ask)
    assert len(log.read_text()) == 3 and not (tmp_path / "run" / "aggregate_metrics.json").exists()
    log.with_suffix(".kill").unlink()
    optimizer(tmp_path / "run").run_optimization(df, list("abcd"), tune=counting(log, None), **ask)
    assert len(log.read_text()) == 6  # three windows were not trained again
    optimizer(tmp_path / "alone").run_optimization(
        df, list("abcd"), tune=counting(tmp_path / "l", None), **ask
    )
    assert tables(tmp_path / "run") == tables(tmp_path / "alone")
    assert {p.name for p in (tmp_path / "run").iterdir()} == set(WalkForwardOptimizer.FILES)


def test_other_rows_are_not_gone_on_with(tmp_path: Path) -> None:
    df, log = market(), tmp_path / "log"
    ask: dict[str, Any] = {"estimator": LogisticRegression(), "horizon": timedelta(minutes=20)}
    with pytest.raises(Killed):
        optimizer(tmp_path / "run").run_optimization(df, list("abcd"), tune=counting(log, 2), **ask)
    log.with_suffix(".kill").unlink()
    other = df.assign(a=df.a + 1e-9)
    optimizer(tmp_path / "run").run_optimization(
        other, list("abcd"), tune=counting(log, None), **ask
    )
    assert len(log.read_text()) == 2 + 6


def test_processes_write_the_same_bytes(tmp_path: Path) -> None:
    df = market(2_400)
    ask: dict[str, Any] = {
        "horizon": timedelta(minutes=20),
        "num_boost_round": 30,
        "params": {"num_leaves": 7},
    }
    for n_jobs in (1, 2):
        optimizer(tmp_path / str(n_jobs), n_jobs=n_jobs).run_optimization(df, list("abcd"), **ask)
    assert tables(tmp_path / "1") == tables(tmp_path / "2")


def test_overlapping_windows_pool_the_newest_model(tmp_path: Path) -> None:
    df = market(2_400)
    walk = optimizer(tmp_path, test_window_size=Rows(400), step_size=Rows(200))
    walk.run_optimization(
        df, list("abcd"), estimator=LogisticRegression(), horizon=timedelta(minutes=20)
    )
    said = walk.predictions_
    twice = said[said.duplicated("row", keep=False)]
    assert len(twice) and (twice.groupby("row").is_pooled.sum() == 1).all()
    newest = twice.loc[twice.groupby("row").window.idxmax()]
    assert newest.is_pooled.all()
    assert walk.get_aggregate_metrics()["pooled_n_rows"] == said.row.nunique()


def test_windows_that_cannot_be_scored_are_told(tmp_path: Path) -> None:
    df = market(3_000)
    df.loc[1_500:1_799, "is_gem"] = 0  # a quiet test part
    holes = df[(df.index < 2_100) | (df.index >= 2_400)]
    minutes = [timedelta(minutes=m) for m in (1_200, 300, 300)]
    walk = WalkForwardOptimizer(*minutes, results_dir=tmp_path, min_train_size=1_000)
    results = walk.run_optimization(
        holes, list("abcd"), estimator=LogisticRegression(), horizon=timedelta(minutes=5)
    )
    status = [result.status for result in results]
    assert status[0] == WindowStatus.SCORED and status[1] == WindowStatus.ONE_CLASS_TEST
    assert status[3] == WindowStatus.NO_TEST_ROWS and status[4] == WindowStatus.SHORT_TRAINING
    assert results[1].roc_auc is None and results[1].recall is None and results[4].f1 is None
    for result in results:
        scores = (result.precision, result.recall, result.f1, result.roc_auc)
        assert all(score is None or math.isfinite(score) for score in scores)
        assert bool(result.reason) == (result.status != WindowStatus.SCORED)
    text = (tmp_path / "aggregate_metrics.json").read_text()
    stored = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in a JSON file"))
    assert stored["n_windows"] == 6 and stored["n_by_status"]["no test rows"] == 1
    said = pd.read_csv(tmp_path / "all_predictions.csv")
    assert np.isclose(roc_auc_score(said.is_gem, said.probability), stored["pooled_roc_auc"])


def test_all_windows_too_short_is_a_result_too(tmp_path: Path) -> None:
    walk = optimizer(tmp_path, min_train_size=5_000)
    results = walk.run_optimization(market(), list("abcd"), horizon=1)
    assert {r.status for r in results} == {WindowStatus.SHORT_TRAINING}
    assert math.isnan(walk.get_aggregate_metrics()["mean_f1"])
    assert json.loads((tmp_path / "aggregate_metrics.json").read_text())["mean_f1"] is None


def test_episodes_weights_fees_and_the_sidecar(tmp_path: Path) -> None:
    df = market()
    t0 = df.timestamp.to_numpy() * 10**9
    sidecar = pd.DataFrame({"t0": t0, "t1": t0 + 20 * 60 * 10**9, "weight": 1.0})
    sidecar["net_bps"] = np.where(df.is_gem == 1, 6.0, -4.0)
    runs = np.cumsum(np.r_[True, np.diff(df.is_gem) != 0])
    sidecar["episode_id"] = np.where(df.is_gem == 1, runs, -1)
    walk = optimizer(tmp_path)
    results = walk.run_optimization(df, list("abcd"), sidecar=sidecar, num_boost_round=40)
    agg = walk.get_aggregate_metrics()
    assert agg["purged"] and all(r.threshold_method == "utility" for r in results if r.is_scored)
    assert agg["pooled_n_episodes"] < df.is_gem.sum()
    assert agg["pooled_net_bps"] == 6 * agg["pooled_n_hits"] - 4 * agg["pooled_n_false_alarms"]
    with pytest.raises(InputError, match="knows the label"):
        walk.run_optimization(df.assign(net_bps=1.0), ["a", "net_bps"], horizon=1)


def test_without_label_ends_it_warns_and_says_so(tmp_path: Path) -> None:
    walk = optimizer(tmp_path)
    with pytest.warns(UserWarning, match="rows are not purged"):
        walk.run_optimization(market(), list("abcd"), estimator=LogisticRegression())
    assert walk.get_aggregate_metrics()["purged"] is False


# --- nothing where there is nothing


def null_run(folder: Path, seed: int, n_rows: int) -> dict[str, Any]:
    "A walk-forward over a random walk."
    X, y, (at, _) = random_walk_rows(seed, n_rows, horizon=20)
    walk = pd.DataFrame(X, columns=list("abcde")).assign(is_gem=y, timestamp=FIRST + 60 * at)
    walk_forward = WalkForwardOptimizer(
        Rows(1_040), Rows(200), Rows(200), results_dir=folder, min_train_size=900
    )
    walk_forward.run_optimization(
        walk,
        list("abcde"),
        horizon=Rows(20),
        params={"num_leaves": 7, "learning_rate": 0.1},
        num_boost_round=100,
        early_stopping_rounds=20,
    )
    return walk_forward.get_aggregate_metrics()


def test_random_walks_hold_no_skill(tmp_path: Path) -> None:
    runs = [null_run(tmp_path, seed, 3_000) for seed in range(20, 24)]
    covers = [run["pooled_roc_auc_low"] <= 0.5 <= run["pooled_roc_auc_high"] for run in runs]
    assert sum(covers) >= 3
    assert abs(np.mean([run["pooled_roc_auc"] for run in runs]) - 0.5) < 0.06


@pytest.mark.verify
def test_many_random_walks_hold_no_skill(tmp_path: Path) -> None:
    runs = [null_run(tmp_path, seed, 4_000) for seed in range(100, 140)]
    covers = [run["pooled_roc_auc_low"] <= 0.5 <= run["pooled_roc_auc_high"] for run in runs]
    assert np.mean(covers) >= 0.85
    assert abs(np.mean([run["pooled_roc_auc"] for run in runs]) - 0.5) < 0.02


# --- real days


def july(folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
    "27 days of minutes; which side of a 15 bps barrier comes first within 20 minutes; when."
    parts = [pd.read_csv(path) for path in sorted(folder.glob("*.csv"))]
    df = pd.concat(parts).drop_duplicates("minute_epoch").sort_values("minute_epoch")
    df = df.reset_index(drop=True)
    t, px = df.minute_epoch.to_numpy(), np.log(df.close.to_numpy())
    y, end = np.full(len(df), -1), t.copy()
    for i in range(len(df)):
        stop = np.searchsorted(t, t[i] + 20, "right")
        moved = px[i:stop] - px[i]
        touched = np.flatnonzero(np.abs(moved) >= 15e-4)
        last = touched[0] if len(touched) else len(moved) - 1
        y[i], end[i] = int(moved[last] > 0), t[i + last]
    for lag in (1, 5, 20, 60):
        df[f"return_{lag}"] = np.r_[np.full(lag, np.nan), px[lag:] - px[:-lag]]
    return df.assign(is_gem=y), end * 60 * 10**9


@pytest.mark.data
def test_july_over_gaps_and_empty_columns(tmp_path: Path, gem_data: Path) -> None:
    df, t1 = july(gem_data / "coinbase-btcusd-1m-2026-07")
    features = ["book_imb", "ofi", "trades", "volume", "buy_share"]
    features += [name for name in df.columns if name.startswith("return_")]
    assert df[features].isna().any().all() or df.volume.isna().any()
    days = [timedelta(days=d) for d in (10, 3, 3)]
    walk = WalkForwardOptimizer(*days, results_dir=tmp_path)
    ask: dict[str, Any] = {
        "time_column": "minute_utc",
        "num_boost_round": 60,
        "params": {"num_leaves": 15, "learning_rate": 0.1},
    }
    results = walk.run_optimization(df, features, t1=t1, **ask)
    assert len(results) >= 4 and all(r.is_scored for r in results)
    agg = walk.get_aggregate_metrics()
    assert agg["purged"] and 0.4 < agg["pooled_roc_auc"] < 0.7
    shifted = []
    for days_off in (5, 11, 17):
        other = df.assign(is_gem=np.roll(df.is_gem.to_numpy(), days_off * 1440))
        walk.run_optimization(other, features, t1=t1, **ask)
        shifted.append(walk.get_aggregate_metrics()["pooled_roc_auc"])
    assert abs(np.mean(shifted) - 0.5) < 0.03
    with pytest.raises(InputError, match="one window needs 37 days"):
        long = [timedelta(days=d) for d in (30, 7, 7)]
        WalkForwardOptimizer(*long, results_dir=tmp_path).run_optimization(
            df, features, t1=t1, **ask
        )


# --- what a run is worth


def paid(df: pd.DataFrame) -> np.ndarray:
    "A gem earns 10 bps, anything else loses 5."
    return np.where(df.is_gem == 1, 10.0, -5.0)


def test_mistyped_keywords_are_refused(tmp_path: Path) -> None:
    df = market(1_500)
    walk = WalkForwardOptimizer(Rows(800), Rows(300), Rows(300), results_dir=tmp_path)
    with pytest.raises(TypeError, match="net_bsp"):
        walk.run_optimization(df, list("abcd"), horizon=1, net_bsp=paid(df))  # type: ignore[call-arg]


def test_runs_are_deflated_by_the_ledger(tmp_path: Path) -> None:
    df, others = market(2_400), {}
    page = ResearchLedger(tmp_path / "ledger").page("market")
    cut = (Rows(800), Rows(400), Rows(400))
    for strength in (0.01, 1.0):
        walk = WalkForwardOptimizer(
            *cut, results_dir=tmp_path / "runs", min_train_size=100, ledger=page
        )
        model = LogisticRegression(C=strength)
        about: dict[str, Any] = {"estimator": model, "horizon": Rows(5), "net_bps": paid(df)}
        walk.run_optimization(df, list("abcd"), **about)
        others[str(strength)] = walk.predictions_
    walk.run_optimization(df, list("abcd"), **about)  # the same again is no new trial
    assert page.n_trials() == 2
    report = walk.overfitting_report({"0.01": others["0.01"]}, n_bars=96, n_partitions=8)
    assert (report.n_configurations, report.n_trials, report.counted_by) == (2, 2, "ledger")
    assert report.pbo is not None and report.dsr is not None and report.dsr <= report.psr
    stored = json.loads((tmp_path / "runs" / "aggregate_metrics.json").read_text())
    assert stored["overfitting"]["n_trials"] == 2 and stored["overfitting"]["pbo"] is None
    # the bars add up to what the run earned
    pool = walk.predictions_[walk.predictions_.is_pooled == 1]
    performance = performance_of_runs({"run": walk.predictions_}, 96)
    assert np.isclose(performance.run.sum(), pool.net_bps[pool.is_signal == 1].sum())


def test_the_report_shows_when_the_final_period_was_opened(tmp_path: Path) -> None:
    df = market(1_500)
    page = ResearchLedger(tmp_path / "ledger", commit="c0ffee").page("market")
    for _ in range(2):
        page.open_final("2026-07-20", "2026-07-27", study="final", at_ns=1_785_000_000 * 10**9)
    walk = WalkForwardOptimizer(
        Rows(800), Rows(300), Rows(300), results_dir=tmp_path, min_train_size=100, ledger=page
    )
    about: dict[str, Any] = {"estimator": LogisticRegression(), "horizon": 1, "net_bps": paid(df)}
    walk.run_optimization(df, list("abcd"), **about)
    first, second = walk.overfitting_report().final_openings
    assert "c0ffee" in first and "2026-07-25" in first and "NOT" not in first and "NOT" in second


@given(st.integers(0, 10**6), st.integers(2, 60))
def test_both_counts_of_signals_agree(seed: int, n: int) -> None:
    "Signals counted over rows, and over the rows at which they were sent."
    rng = np.random.default_rng(seed)
    ids = np.where(rng.random(n) < 0.5, np.sort(rng.integers(0, 6, n)), -1)
    is_signal = rng.random(n) < 0.4
    over = episode_scores(is_signal, ids >= 0, ids)
    sent = signal_scores(np.flatnonzero(is_signal), ids)
    for name in ("n_signals", "n_gems", "precision", "recall"):
        assert np.array_equal(over[name], sent[name], equal_nan=True)
