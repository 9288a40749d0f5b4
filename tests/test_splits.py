"""Splits: nothing that trains has seen what is tested, nothing more is dropped, and fast."""

import time
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_validate
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from gem_detector.core import NS_PER_S, InputError
from gem_detector.intervals import Rows, label_intervals, span_of, times_ns
from gem_detector.leakage import audit_leakage, out_of_fold
from gem_detector.splits import (
    CombinatorialPurgedCV,
    PurgedKFold,
    WalkForwardSplit,
    purge,
    time_blocks,
)


@st.composite
def labels(draw: st.DrawFn, least: int = 12) -> tuple[np.ndarray, np.ndarray]:
    "Unsorted rows of several symbols: repeated stamps, gaps, labels of any length, also of none."
    n = draw(st.integers(least, 60))
    symbols = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stamps = np.sort(rng.integers(0, draw(st.integers(5, 400)), n))
    stamps[n // 2 :] += draw(st.sampled_from([0, 1_000]))
    t0 = rng.permutation(np.repeat(stamps, symbols))
    longest = draw(st.sampled_from([0, 3, 30, 300]))
    return t0, t0 + rng.integers(0, longest + 1, len(t0))


def overlaps(t0: np.ndarray, t1: np.ndarray, rows: np.ndarray, test: np.ndarray) -> np.ndarray:
    "Which rows share a moment with a test row, by comparing each with each."
    return ((t0[rows][:, None] <= t1[test]) & (t1[rows][:, None] >= t0[test])).any(axis=1)


def splitters(t0: np.ndarray, t1: np.ndarray, embargo: object = 0) -> list:
    "One of each kind over the same rows."
    spans = (t0, t1)
    return [
        PurgedKFold(3, intervals=spans, embargo=embargo),
        CombinatorialPurgedCV(4, 2, intervals=spans, embargo=embargo),
        WalkForwardSplit(3, intervals=spans, embargo=embargo),
        WalkForwardSplit(intervals=spans, train_size=100, test_size=40, embargo=embargo),
        WalkForwardSplit(intervals=spans, train_size=Rows(9), test_size=Rows(4), embargo=embargo),
    ]


@given(labels(), st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_purge_is_the_definition(spans: tuple[np.ndarray, np.ndarray], embargo: int) -> None:
    t0, t1 = spans
    test = np.arange(0, len(t0), 5)
    expected = overlaps(t0, t1, np.arange(len(t0)), test)
    late = (t0[:, None] > t1[test]) & (t0[:, None] <= t1[test] + embargo)
    kept = purge(t0, t1, np.c_[t0, t1][test], embargo)
    assert np.array_equal(kept, ~(expected | late.any(axis=1)))


@given(labels())
@settings(max_examples=60, deadline=None)
def test_no_train_label_meets_a_test_label_and_nothing_else_is_dropped(
    spans: tuple[np.ndarray, np.ndarray],
) -> None:
    t0, t1 = spans
    for cv in splitters(t0, t1):
        try:
            folds = list(cv.split(t0))
        except InputError as error:
            walk = isinstance(cv, WalkForwardSplit)
            assert ("to train on before it" if walk else "no row is left") in str(error)
            continue
        assert cv.get_n_splits() == len(folds)
        for train, test in folds:
            assert not np.intersect1d(train, test).size
            assert not overlaps(t0, t1, train, test).any()
            rest = np.setdiff1d(np.arange(len(t0)), np.r_[train, test])
            if not isinstance(cv, WalkForwardSplit):  # there, later rows are left out too
                assert overlaps(t0, t1, rest, test).all()
            else:
                assert t1[train].max() < t0[test].min()


@given(labels(), st.sampled_from([7, Rows(3), 0.05, timedelta(microseconds=0.02)]))
@settings(max_examples=60, deadline=None)
def test_an_embargo_only_drops_more(
    spans: tuple[np.ndarray, np.ndarray], embargo: int | float | timedelta
) -> None:
    t0, t1 = spans
    plain, held = (splitters(t0, t1, value)[0] for value in (0, embargo))
    try:
        pairs = list(zip(plain.split(), held.split()))
    except InputError as error:
        assert "no row is left" in str(error)
        return
    for (train, test), (fewer, same) in pairs:
        assert np.array_equal(test, same) and np.isin(fewer, train).all()
        for row in np.setdiff1d(train, fewer):  # what went lies behind the end of a test label
            assert (t1[test] < t0[row]).any()


def test_row_embargo_counts_rows_behind_each_end() -> None:
    t0 = np.array([0, 10, 20, 30, 30, 40, 50])
    kept = purge(t0, t0, [[10, 10]], Rows(2))
    assert kept.tolist() == [1, 0, 0, 0, 0, 1, 1]  # both rows at 30: no half of a stamp trains
    assert purge(t0, t0, [[50, 50]], Rows(2)).tolist() == [1, 1, 1, 1, 1, 1, 0]
    assert np.array_equal(purge(t0, t0, [[10, 10]], 2 / 7), kept)


@pytest.mark.parametrize("embargo", [2**62, 10**18, timedelta(days=50_000)])
def test_a_very_long_embargo_drops_all_behind_and_nothing_before(embargo: object) -> None:
    "Nanoseconds of today and more than a century fit into 64 bits together."
    t0 = 1_767_225_600 * NS_PER_S + np.arange(100) * NS_PER_S
    for test in (slice(40, 50), slice(0, 5)):
        kept = purge(t0, t0, np.c_[t0, t0][test], embargo)
        assert np.array_equal(np.flatnonzero(kept), np.arange(test.start))


def test_durations_are_exact_nanoseconds() -> None:
    assert span_of(np.timedelta64(5, "ns"), 9) == 5 and span_of(timedelta(days=1), 9) == 86_400e9
    assert span_of(np.timedelta64(90, "m"), 9) == 5_400 * NS_PER_S


def test_datetimes_are_nanoseconds() -> None:
    stamps = pd.date_range("2026-01-01", periods=40, freq="min", tz="UTC")
    t0 = times_ns(stamps)
    ends = stamps + timedelta(minutes=3)
    by_date = PurgedKFold(4, intervals=(stamps, ends), embargo=timedelta(minutes=2))
    by_ns = PurgedKFold(4, intervals=(t0, t0 + 180 * NS_PER_S), embargo=np.timedelta64(120, "s"))
    for (train, test), (train_ns, test_ns) in zip(by_date.split(), by_ns.split()):
        assert np.array_equal(train, train_ns) and np.array_equal(test, test_ns)


def test_splitters_follow_the_scikit_learn_protocol() -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(300, 3)), columns=list("abc"))
    y = (X.a + rng.normal(size=300) > 0).astype(int)
    t0 = np.arange(300)
    for cv in splitters(t0, t0 + 5):
        scores = cross_validate(DecisionTreeClassifier(max_depth=2), X, y, cv=cv)["test_score"]
        search = GridSearchCV(DecisionTreeClassifier(), {"max_depth": [1, 2]}, cv=cv).fit(X, y)
        assert len(scores) == cv.get_n_splits(X, y) == search.n_splits_
    cv = PurgedKFold(5, intervals=(t0, t0 + 5))
    model = KNeighborsClassifier()
    theirs = cross_val_predict(model, X, y, cv=cv, method="predict_proba")[:, 1]
    assert np.array_equal(out_of_fold(model, X, y, cv), theirs)


def test_paths_cover_each_row_once_from_a_split_that_tested_it() -> None:
    t0 = np.random.default_rng(0).permutation(120)
    cv = CombinatorialPurgedCV(6, 2, intervals=(t0, t0 + 3))
    splits = list(cv.split())
    assert cv.get_n_splits() == 15 and cv.paths.shape == (5, 6)
    walked = cv.path_predictions([np.full(len(test), k) for k, (_, test) in enumerate(splits)])
    tested = np.zeros((15, 120), bool)
    for k, (_, test) in enumerate(splits):
        tested[k, test] = True
    for path in walked.astype(int):
        assert tested[path, np.arange(120)].all()
    assert (np.sort(walked, axis=0)[1:] > np.sort(walked, axis=0)[:-1]).all()  # no split used twice


def test_calendar_windows_pass_over_gaps() -> None:
    day = 86_400 * NS_PER_S
    t0 = np.concatenate([np.arange(10), np.arange(20, 30)]) * day  # ten days are missing
    cv = WalkForwardSplit(
        intervals=(t0, t0), train_size=timedelta(days=3), test_size=timedelta(days=2)
    )
    folds = [(t0[train] // day, t0[test] // day) for train, test in cv.split()]
    assert cv.get_n_splits() == len(folds)
    assert [test.tolist() for _, test in folds][-1] == [27, 28] or folds[-1][1][-1] == 29
    for train, test in folds:
        assert test.min() - train.min() <= 3 and train.max() < test.min()
    last = WalkForwardSplit(
        2, intervals=(t0, t0), train_size=timedelta(days=3), test_size=timedelta(days=2)
    )
    assert [test.tolist() for _, test in last.split()] == [
        np.flatnonzero(np.isin(t0 // day, test)).tolist() for _, test in folds[-2:]
    ]
    grown = WalkForwardSplit(
        intervals=(t0, t0), train_size=3 * day, test_size=2 * day, is_expanding=True
    )
    assert all(train[0] == 0 for train, _ in grown.split())


def test_time_blocks_are_disjoint_and_purged() -> None:
    rng = np.random.default_rng(1)
    t0 = rng.permutation(1_000)
    labels = label_intervals(np.zeros((1_000, 1)), t0=t0, t1=t0 + rng.integers(0, 50, 1_000))
    blocks = time_blocks(labels, (0.5, 0.3, 0.2))
    assert len(np.unique(np.concatenate(blocks))) == sum(map(len, blocks)) <= 1_000
    for early, late in pairwise(blocks):
        assert labels.t1[early].max() < labels.t0[late].min()


def test_lengths_and_times_are_refused_with_a_reason() -> None:
    t0 = np.arange(100)
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: span_of(True, 5), "has to be a duration"),
        (lambda: span_of(float("nan"), 5), "whole ns"),
        (lambda: times_ns([1, 2]), "no unit"),
        (lambda: purge(t0, t0[:5], [[1, 2]]), "of one length"),
        (lambda: PurgedKFold(101, intervals=(t0, t0)), "more than the 100 rows"),
        (lambda: CombinatorialPurgedCV(3, 3, intervals=(t0, t0)), "does not hold"),
        (lambda: next(WalkForwardSplit(100, intervals=(t0, t0)).split()), "too few"),
        (lambda: label_intervals(t0, t1=t0), "t1 needs t0"),
        (lambda: WalkForwardSplit(intervals=(t0[:0], t0[:0])), "needs rows"),
        (lambda: span_of(np.timedelta64(3, "M"), 5), "no fixed length"),
        (lambda: span_of(2**63, 5), "longer than 146 years"),
        (lambda: span_of(timedelta.max, 5), "longer than 146 years"),
        (lambda: span_of(np.timedelta64(400, "W") * 10**6, 5), "longer than 146 years"),
        (lambda: span_of(np.timedelta64("NaT"), 5), "at least 0"),
        (lambda: purge(t0, t0, [[1, 2]], 10**19), "longer than 146 years"),
        (lambda: label_intervals(t0, t0=t0, horizon=10**19), "longer than 146 years"),
        (
            lambda: list(
                WalkForwardSplit(intervals=(t0, t0 + 100), train_size=50, test_size=9).split()
            ),
            "no test window of 100 rows",
        ),
        (
            lambda: WalkForwardSplit(
                intervals=(t0, t0), train_size=2**62, test_size=9
            ).get_n_splits(),
            "no test window of 100 rows",
        ),
    ]
    for call, message in wrong:
        with pytest.raises(InputError, match=message):
            call()


def test_audit_finds_what_leaks() -> None:
    tree = DecisionTreeClassifier(min_samples_leaf=5, random_state=0)
    kfold = audit_leakage(tree, KFold(5, shuffle=True, random_state=0), n_rows=1_500, n_seeds=4)
    assert kfold.verdict.iloc[0] == "leak"
    few = audit_leakage(tree, lambda s: PurgedKFold(3, intervals=s), n_rows=600, n_seeds=3)
    assert few.verdict.iloc[0] in ("inconclusive", "clean")
    rng = np.random.default_rng(2)
    X, y, t0 = rng.normal(size=(600, 3)), rng.integers(0, 2, 600), np.arange(600)

    class Overlapping(PurgedKFold):
        "Trains on everything, the test rows too."

        def _may_train(self, test: np.ndarray) -> np.ndarray:
            return np.ones(len(self.t0), bool)

    table = audit_leakage(
        tree, lambda s: Overlapping(5, intervals=s), X, y, intervals=(t0, t0), n_rows=1_000
    )
    assert table.verdict["shuffled labels"] == "leak"


# --- against others' code; 25 times is the bar, and outputs are equal before speed counts


def test_equal_to_purgedcv_and_faster(record_property: Callable[[str, object], None]) -> None:
    peer = pytest.importorskip("purgedcv")
    rng = np.random.default_rng(0)
    n = 50_000
    t0 = np.sort(rng.integers(0, 10**8, n))
    t1 = t0 + rng.integers(0, 200_000, n)
    dates = [pd.Series(pd.to_datetime(column)) for column in (t0, t1 + 1)]  # theirs are half-open
    theirs = peer.PurgedKFold(
        6,
        prediction_times=dates[0],
        evaluation_times=dates[1],
        embargo=pd.Timedelta(99_999, "ns"),
    )
    ours = PurgedKFold(6, intervals=(t0, t1), embargo=100_000)
    X = np.zeros((n, 1))
    for (train, test), (peer_train, peer_test) in zip(ours.split(X), theirs.split(X)):
        assert np.array_equal(train, peer_train) and np.array_equal(test, peer_test)

    def best_s(cv: object) -> float:
        spent = []
        for _ in range(3):
            start = time.process_time()
            assert sum(1 for _ in cv.split(X)) == 6  # type: ignore[attr-defined]
            spent.append(time.process_time() - start)
        return min(spent)

    ratio = best_s(theirs) / best_s(ours)
    record_property("times as fast as purgedcv", round(ratio, 1))
    assert ratio >= 25


def test_equal_to_risklabai() -> None:
    validation = "RiskLabAI.backtest.validation.combinatorial_purged"
    peer = pytest.importorskip(validation, exc_type=ImportError)

    rng = np.random.default_rng(1)
    days = pd.date_range("2026-01-01", periods=300, freq="h")
    ends = days + pd.to_timedelta(rng.integers(0, 20, 300), "h")
    theirs = peer.CombinatorialPurged(6, 2, pd.Series(ends, index=days))
    ours = CombinatorialPurgedCV(6, 2, intervals=(days, ends))
    frame = pd.DataFrame({"x": np.zeros(300)}, index=days)
    for (train, test), (peer_train, peer_test) in zip(ours.split(frame), theirs.split(frame)):
        assert np.array_equal(test, peer_test) and np.array_equal(train, peer_train)


# --- long


@pytest.mark.verify
def test_canary_over_more_seeds(record_property: Callable[[str, object], None]) -> None:
    "Purged, nothing is found on random walks; unpurged, the same test shows the leak."
    knn = KNeighborsClassifier(5)

    def walk(is_purged: bool) -> Callable[..., WalkForwardSplit]:
        return lambda s: WalkForwardSplit(
            200, intervals=s if is_purged else (s[0], s[0]), train_size=Rows(300)
        )

    clean = audit_leakage(knn, walk(True), n_seeds=20).iloc[0]
    leaky = audit_leakage(knn, walk(False), n_seeds=6).iloc[0]
    record_property("AUC purged", round(clean.auc, 3))
    record_property("AUC unpurged", round(leaky.auc, 3))
    assert abs(clean.auc - 0.5) <= 0.03 and clean.verdict == "clean"
    assert leaky.auc > 0.55 and leaky.verdict == "leak"
