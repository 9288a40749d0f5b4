"""Drift: numbers against slow counts, calm weeks stay calm, planted shifts are seen."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from gem_detector.calibration import calibration_error
from gem_detector.core import NS_PER_S, InputError
from gem_detector.drift import (
    adversarial_auc,
    calibration_drift,
    drift_report,
    periods,
    population_stability,
    stability_edges,
    upper_limit,
)

WEEK = 7 * 86_400 * NS_PER_S


def market(seed: int, n_weeks: int, n: int = 300) -> pd.DataFrame:
    "Two slow columns and a fast one, `n` rows a week from a Thursday on."
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n * n_weeks, 3))
    for i in range(1, len(x)):
        x[i, :2] = 0.9 * x[i - 1, :2] + 0.44 * x[i, :2]
    stamps = 1_767_225_600 * NS_PER_S + np.arange(len(x)) * (WEEK // n)
    index = pd.Index(stamps, name="ts_recv_ns")
    return pd.DataFrame(x, columns=["slow", "slower", "fast"], index=index)


@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_population_stability_by_counting(seed: int, n: int, n_edges: int) -> None:
    rng = np.random.default_rng(seed)
    edges = np.unique(rng.normal(size=n_edges))
    pair = []
    samples = [np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)) for _ in range(2)]
    for values in samples:
        bounds = [-np.inf, *edges, np.inf]
        counts = [((values >= a) & (values < b)).sum() for a, b in zip(bounds, bounds[1:])]  # noqa: RUF007
        counts = np.array([*counts, np.isnan(values).sum()]) + 0.5
        pair.append(counts / counts.sum())
    expected = sum((a - b) * np.log(a / b) for a, b in zip(*pair))
    assert population_stability(*samples, edges) == pytest.approx(expected)
    assert population_stability(*samples[::-1], edges) == pytest.approx(expected) and expected >= 0


def test_one_more_number_of_the_same_kind_stays_below_the_limit() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(4_000, 9))
    above = np.mean([row[-1] > upper_limit(row[:-1]) for row in drawn])
    assert 0.005 < above < 0.016
    assert upper_limit([1, 2, 3]) == pytest.approx(2 + t.ppf(0.99, 2) * np.sqrt(4 / 3))


def test_periods_are_calendar_weeks_in_time_order() -> None:
    frame = market(0, 3)
    shuffled = frame.sample(frac=1, random_state=0)
    parts = periods(shuffled)
    assert all((part.index // WEEK).nunique() == 1 for part in parts)
    assert pd.concat(parts).index.is_monotonic_increasing
    dated = frame.set_axis(pd.to_datetime(frame.index, utc=True))
    assert [len(part) for part in periods(dated)] == [len(part) for part in parts]


def test_a_calm_market_is_calm_and_a_shift_is_seen(record_property: Callable[..., None]) -> None:
    train = market(1, 8)
    alarms = [drift_report(train, market(seed, 1)).is_drift for seed in range(20, 28)]
    record_property("false alarms of 8", sum(alarms))
    assert sum(alarms) <= 1
    later = market(30, 1)
    moved = drift_report(train, later.assign(fast=later.fast + 1.0))
    assert moved.is_drift and moved.features.index[0] == "fast"
    lost = drift_report(train, later.assign(fast=np.nan))
    assert lost.is_drift and lost.features.missing_now["fast"] == 1.0


def test_blocks_keep_neighbours_in_time_from_being_recognised() -> None:
    "Two halves of one slow walk: on shuffled folds a classifier tells them apart, on blocks less."
    a, b = market(2, 1, 600), market(3, 1, 600)
    blocked = adversarial_auc(a, b)
    rng = np.random.default_rng(0)
    shuffled = adversarial_auc(a.iloc[rng.permutation(600)], b.iloc[rng.permutation(600)])
    assert blocked < shuffled


def test_calibration_drift_is_rare_when_there_is_none() -> None:
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(40):
        p = rng.beta(1, 5, 400)
        alarms.append(calibration_drift(p, rng.random(400) < p).is_drift)
    assert sum(alarms) <= 3
    p = rng.beta(1, 5, 2_000)
    y = rng.random(2_000) < p / 2
    found = calibration_drift(p, y)
    assert found.is_drift and found.error == calibration_error(p, y, 10)


@pytest.mark.verify
def test_calm_weeks_raise_few_alarms(record_property: Callable[..., None]) -> None:
    "One chance in a hundred is asked for; few weeks that share neighbours give about two."
    alarms = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        p = rng.beta(1, 5, 400)
        y = (rng.random(400) < p).astype(int)
        calm = drift_report(market(1_000 + seed, 8), market(5_000 + seed, 1), p=p, y=y)
        alarms.append(calm.is_drift)
    record_property("false alarms of 150", sum(alarms))
    assert sum(alarms) <= 8  # 5 %: two standard errors above 2 %


@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.sampled_from([4, 10]))
@settings(max_examples=60, deadline=None)
def test_a_mass_point_has_a_bin_of_its_own(values: list[int], n_bins: int) -> None:
    edges = stability_edges(values, n_bins)
    assert (np.diff(edges) > 0).all()
    place = np.searchsorted(edges, np.array(values, float), "right")
    for value, count in zip(*np.unique(values, return_counts=True)):
        if len(set(values)) <= n_bins or count > 2 * len(values) / n_bins:
            beside = np.searchsorted(edges, [value - 0.01, value + 0.01], "right")
            assert not {place[values.index(int(value))]} & set(beside)


@pytest.mark.parametrize("before, now", [(0.0, 0.05), (0.01, 0.08), (0.97, 0.8), (1.0, 0.9)])
def test_a_flag_that_moves_is_seen(before: float, now: float) -> None:
    rng = np.random.default_rng(0)
    train, later = market(1, 8), market(30, 1)
    train = train.assign(flag=(rng.random(len(train)) < before).astype(float))
    calm = later.assign(flag=(rng.random(len(later)) < before).astype(float))
    moved = later.assign(flag=(rng.random(len(later)) < now).astype(float))
    assert not drift_report(train, calm).features.is_drift["flag"]
    assert drift_report(train, moved).features.is_drift["flag"]


def test_a_constant_feature_is_calm_and_its_change_is_seen() -> None:
    train, later = market(1, 8), market(30, 1)[:-7]  # periods of unequal length
    report = drift_report(train.assign(c=3.0), later.assign(c=3.0))
    assert not report.features.is_drift["c"] and report.features.psi["c"] < 1e-3
    assert drift_report(train.assign(c=3.0), later.assign(c=4.0)).features.is_drift["c"]


def test_infinite_is_missing_as_in_training() -> None:
    train, later = market(1, 8), market(30, 1)
    broken = later.assign(fast=np.inf)
    report = drift_report(train, broken)
    assert report.is_drift and report.features.missing_now["fast"] == 1.0
    lost = drift_report(train, later.assign(fast=np.nan))
    assert report.features.equals(lost.features) and report.auc == lost.auc
    nullable = train.assign(fast=train.fast.round().astype("Int64"))
    nullable.iloc[5, 2] = pd.NA
    assert np.isfinite(drift_report(nullable, nullable[-300:]).auc)


def test_numbers_for_monitoring_are_plain_and_finite() -> None:
    p = np.full(200, 0.5)
    report = drift_report(market(1, 8), market(9, 1), p=p, y=np.arange(200) % 2)
    stats = report.get_stats()
    assert all(type(value) is float and np.isfinite(value) for value in stats.values())
    wanted = {"is_drift", "adversarial_auc", "adversarial_limit", "psi_fast", "calibration_error"}
    assert wanted <= set(stats)
    other = drift_report(market(1, 8), market(9, 1)[["fast", "slow", "slower"]])
    assert other.auc == report.auc  # columns are matched by name


def test_refusals_name_the_rule() -> None:
    train = market(0, 6)
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: drift_report(train[:600], train), "at least 4"),
        (lambda: drift_report(train, train[["fast"]]), "missing feature columns: slow, slower"),
        (lambda: drift_report(train, train, y=[1]), "together"),
        (lambda: upper_limit([0.5, 0.6]), "at least 3"),
        (lambda: calibration_drift([0.5] * 20, [1] * 20), "at least 100"),
        (lambda: adversarial_auc(train, train[["fast"]]), "same columns"),
        (lambda: adversarial_auc(train, train[:1]), "at least 50"),
        (lambda: drift_report(train, train[:1]), "1 rows of now: at least 100"),
        (lambda: drift_report(train, train[:0]), "0 rows of now"),
        (lambda: drift_report(train[:0], train), "0 training periods"),
        (lambda: drift_report(train, train.assign(fast="x")), "features are numbers"),
        (lambda: drift_report(train, train.to_numpy()), "have to be frames"),
        (lambda: drift_report(train, train, chance=1.5), "chance=1.5"),
        (lambda: drift_report(train, train, period_ns=0), "period_ns=0"),
        (lambda: drift_report(pd.concat([train, train], axis=1), train), "named twice"),
    ]
    for call, message in wrong:
        with pytest.raises(InputError, match=message):
            call()
