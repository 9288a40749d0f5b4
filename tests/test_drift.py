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
    ]
    for call, message in wrong:
        with pytest.raises(InputError, match=message):
            call()
