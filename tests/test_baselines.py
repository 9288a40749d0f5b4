"""Trailing scores and alarm thresholds against NumPy, hand and the future; rates on known noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector import baselines
from gem_detector.baselines import (
    Z_MAX,
    AlarmThreshold,
    DifferenceZ,
    RobustZ,
    RollingZ,
    median_and_mad,
    pareto_fit,
    replace_sorted,
)
from gem_detector.core import InputError

KINDS = [RollingZ, DifferenceZ, RobustZ]
VALUES = st.one_of(
    st.floats(-1e6, 1e6, allow_subnormal=False),
    st.sampled_from([0.0, 1.0, 1.0, 1.0, float("nan"), float("inf")]),
)


def by_hand(kind: type, window: int, series: list[float]) -> np.ndarray:
    "Each point against the finite values before it, in plain NumPy."
    scores, known = np.full(len(series), np.nan), []
    last = np.nan
    for i, x in enumerate(series):
        if not np.isfinite(x):
            continue
        if kind is DifferenceZ:
            x, last = x - last, x
            if np.isnan(x):
                continue
        if len(known) >= window:
            past = np.array(known[-window:])
            if kind is RobustZ:
                center = np.median(past)
                scale = 1.4826 * np.median(np.abs(past - center))
                if scale <= 1.4826e-12 * abs(center):
                    scale = 1.2533 * np.mean(np.abs(past - center))
            else:
                center, scale = past.mean(), past.std(ddof=1)
                if np.ptp(past) == 0:
                    center, scale = past[0], 0.0
            change = x - center
            if abs(change) <= 1e-12 * max(abs(x), abs(center)):
                scores[i] = 0.0
            elif abs(change) >= Z_MAX * scale:
                scores[i] = np.copysign(Z_MAX, change)
            else:
                scores[i] = change / scale
        known.append(x)
    return scores


@pytest.mark.parametrize("kind", KINDS)
@given(series=st.lists(VALUES, max_size=40), window=st.integers(3, 9))
@settings(max_examples=150, deadline=None)
def test_scores_equal_plain_numpy(kind: type, series: list[float], window: int) -> None:
    found = kind(window).score(series)
    expected = by_hand(kind, window, series)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    # where the scatter is rounding alone the quotient of two roundings is anything
    shown = np.nan_to_num(np.abs(expected)) < 1e5
    assert np.allclose(found[shown], expected[shown], rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
@given(series=st.lists(VALUES, max_size=60), cut=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_streamed_is_whole_and_later_values_change_nothing(
    kind: type, series: list[float], cut: int
) -> None:
    detector = kind(7)
    whole = detector.score(series)
    assert np.array_equal([detector.update(x) for x in series], whole, equal_nan=True)
    assert np.array_equal(detector.score(series[:cut]), whole[:cut], equal_nan=True)
    detector.reset()
    assert np.array_equal([detector.update(x) for x in series], whole, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [1e-250, 1e-9, 7.3, 1e250])
def test_scale_does_not_matter(kind: type, unit: float) -> None:
    x = np.random.default_rng(0).standard_t(3, 500)
    assert np.allclose(kind(50).score(unit * x), kind(50).score(x), rtol=1e-9, equal_nan=True)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_median_and_mad_equal_numpy(values: list[float]) -> None:
    median, mad = median_and_mad(np.sort(values))
    expected = np.median(values)
    assert np.isclose(median, expected)
    assert np.isclose(mad, np.median(np.abs(np.array(values) - expected)), atol=1e-6)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=60), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_a_sorted_window_stays_sorted(values: list[int], size: int) -> None:
    ordered, count = np.full(size, np.nan), 0
    for i, value in enumerate(values):
        old = float(values[i - size]) if i >= size else np.nan
        count = replace_sorted(ordered, count, old, float(value))
        assert ordered[:count].tolist() == sorted(values[max(i - size + 1, 0) : i + 1])


def test_plain_twins_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(1).standard_t(3, 300)
    x[40], x[100:130] = np.nan, 1.0
    compiled = [kind(20).score(x) for kind in KINDS]
    limits = AlarmThreshold(0.02, memory=250).thresholds(x)
    for name in dir(baselines):
        if hasattr(getattr(baselines, name), "py_func"):
            monkeypatch.setattr(baselines, name, getattr(baselines, name).py_func)
    for kind, expected in zip(KINDS, compiled):
        assert np.allclose(kind(20).score(x), expected, rtol=1e-12, equal_nan=True)
    plain = AlarmThreshold(0.02, memory=250).thresholds(x)
    assert np.allclose(plain, limits, rtol=1e-9, equal_nan=True)


# --- thresholds


def drawn(noise: str, seed: int, n: int) -> np.ndarray:
    "Independent noise of three kinds."
    rng = np.random.default_rng(seed)
    if noise == "t3":
        return rng.standard_t(3, n)
    return rng.normal(size=n) if noise == "normal" else rng.lognormal(0, 1, n)


@pytest.mark.parametrize("noise", ["normal", "t3", "lognormal"])
@pytest.mark.parametrize("rate", [1e-2, 1e-3])
def test_realised_rate_is_within_half_and_twice_the_wanted(noise: str, rate: float) -> None:
    for seed in range(3):
        scores = drawn(noise, seed, 60_000)
        realised = np.mean(scores > AlarmThreshold(rate).thresholds(scores)) / rate
        assert 0.5 <= realised <= 2, (seed, realised)


@pytest.mark.verify
@pytest.mark.parametrize("method", ["tail", "quantile"])
def test_realised_rate_over_many_seeds(method: str, record_property: pytest.FixtureRequest) -> None:
    for noise in ("normal", "t3", "lognormal"):
        for rate in (1e-2, 1e-3):
            realised = []
            for seed in range(20):
                scores = drawn(noise, seed, 100_000)
                limits = AlarmThreshold(rate, method=method).thresholds(scores)
                realised.append(np.mean(scores > limits) / rate)
            record_property(f"{noise} {rate}", f"{min(realised):.2f} to {max(realised):.2f}")
            assert min(realised) >= 0.5 and max(realised) <= 2


def test_the_quantile_is_that_of_the_memory() -> None:
    scores = np.random.default_rng(2).normal(size=400)
    limit = AlarmThreshold(0.05, method="quantile", memory=100)
    found = limit.thresholds(scores)
    assert np.isnan(found[:20]).all()
    for i in (20, 99, 150, 399):
        past = np.sort(scores[max(i - 100, 0) : i])
        rank = min((len(past) + 1) * 0.95, len(past)) - 1
        assert np.isclose(found[i], np.interp(rank, np.arange(len(past)), past))


def test_equal_scores_give_a_threshold_they_do_not_pass() -> None:
    for method in ("tail", "quantile"):
        limits = AlarmThreshold(1e-2, method=method).thresholds(np.zeros(1000))
        assert (limits[200:] == 0).all()


def test_the_tail_fit_finds_the_shape() -> None:
    rng = np.random.default_rng(3)
    for shape in (-0.2, 0.1, 0.3):
        draws = np.sort((rng.random(20_000) ** -shape - 1) / shape)
        assert np.allclose(pareto_fit(draws), (shape, 1.0), atol=0.06)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: RollingZ(2), "at least 3, not 2"),
        (lambda: RollingZ().score([[1.0]]), r"one dimension, but its shape is \(1, 1\)"),
        (lambda: RollingZ().score(["x"]), "must be numbers"),
        (lambda: AlarmThreshold(1.0), "between 0 and 1"),
        (lambda: AlarmThreshold(method="x"), '"tail" or "quantile"'),
        (lambda: AlarmThreshold(1e-3, method="quantile", memory=500), "at least 1000"),
    ],
)
def test_errors_name_the_thing_and_the_rule(call: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_a_start_that_the_memory_never_reaches_is_refused() -> None:
    with pytest.raises(InputError, match="start=3000"):
        AlarmThreshold(start=3000, memory=2000)
