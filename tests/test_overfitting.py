"Overfitting statistics: CSCV by its definition, on noise and on skill; published Sharpe numbers."

import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gem_detector.core import InputError
from gem_detector.overfitting import (
    TrackRecord,
    deflated_sharpe_ratio,
    expected_maximum_sharpe,
    minimum_track_record_length,
    pbo_cscv,
    performance_matrix,
    probabilistic_sharpe_ratio,
    sharpe_ratios,
    track_record,
    trial_clusters,
)


def noise(seed: int, n_bars: int = 1_000, n_configurations: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_bars, n_configurations))


# --- probability of backtest overfitting


def test_noise_is_chosen_from_in_vain() -> None:
    for n_partitions in (8, 10):
        found = [pbo_cscv(noise(seed), n_partitions).pbo for seed in range(100)]
        assert 0.45 <= np.mean(found) <= 0.55


def test_skill_is_found_again() -> None:
    better = noise(0) + np.r_[0.3, np.zeros(49)]
    result = pbo_cscv(better, 16)
    assert result.pbo < 0.001 and (result.chosen == 0).mean() > 0.99 and result.p_loss < 0.01


@given(st.integers(0, 10**6), st.integers(2, 7), st.sampled_from([2, 4, 6]), st.integers(12, 40))
def test_what_does_not_matter(seed: int, n: int, n_partitions: int, n_bars: int) -> None:
    matrix = noise(seed, n_bars, n)
    result = pbo_cscv(matrix, n_partitions)
    order = np.random.default_rng(seed).permutation(n)
    shuffled = pbo_cscv(matrix[:, order], n_partitions)
    assert np.array_equal(shuffled.logits, result.logits)
    assert np.array_equal(order[shuffled.chosen], result.chosen)
    doubled = pbo_cscv(matrix * np.r_[[2.0] * n], n_partitions)  # exact in binary
    assert np.array_equal(doubled.logits, result.logits)
    turned = pbo_cscv(matrix[::-1], n_partitions) if n_bars % n_partitions == 0 else result
    assert np.allclose(np.sort(turned.logits), np.sort(result.logits))


@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(2, 5))
def test_copies_tie(seed: int, n: int, copies: int) -> None:
    matrix = noise(seed, 40, n)
    copied = pbo_cscv(np.tile(matrix, copies), 4)
    assert np.array_equal(copied.chosen, pbo_cscv(matrix, 4).chosen)  # the first of equals
    all_one = pbo_cscv(np.tile(matrix[:, :1], copies), 4)
    assert not all_one.logits.any() and all_one.pbo == 0.0


def test_configurations_that_never_trade_are_no_skill() -> None:
    quiet = np.c_[np.zeros((400, 3)), -np.abs(noise(0, 400, 3))]
    result = pbo_cscv(quiet, 8)
    assert (result.chosen == 0).all() and not result.in_sample.any()
    only_once = np.zeros((400, 2))
    only_once[:50, 1] = noise(1, 50, 1)[:, 0] + 5
    assert np.isfinite(pbo_cscv(only_once, 8).logits).all()


@pytest.mark.parametrize(
    ("performance", "n_partitions", "says"),
    [
        (noise(0).T, 16, "transposed"),
        (
            pd.DataFrame(noise(0, 60, 60), columns=pd.date_range("2026", periods=60)),
            4,
            "transposed",
        ),
        (np.where(noise(0) > 3, np.nan, 0.0), 16, "missing"),
        (np.where(noise(0) > 3, np.inf, 0.0), 16, "infinite"),
        (noise(0)[:, :1], 16, "at least 2"),
        (noise(0)[:, 0], 16, "bars × configurations"),
        ([["a", "b"]] * 9, 2, "numbers"),
        (noise(0), 15, "even"),
        (noise(0), 0, "even"),
        (noise(0), -2, "even"),
        (noise(0), True, "even"),
        (noise(0), 26, "24"),
        (noise(0, 31, 5), 16, "at least 2 bars a block"),
    ],
)
def test_input_is_refused(performance: object, n_partitions: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        pbo_cscv(performance, n_partitions)


def test_blocks_are_longer_than_the_labels() -> None:
    assert pbo_cscv(noise(0, 160, 5), 8, horizon_bars=19.9).n_partitions == 8
    with pytest.raises(InputError, match="not longer than the label horizon"):
        pbo_cscv(noise(0, 160, 5), 8, horizon_bars=20)


def test_more_configurations_than_bars_with_times() -> None:
    frame = pd.DataFrame(noise(0, 40, 60), pd.date_range("2026", periods=40, freq="h"))
    assert pbo_cscv(frame, 4).n_configurations == 60


def test_sixteen_blocks_take_a_moment(record_property: Callable[[str, object], None]) -> None:
    matrix, spent = noise(0), []
    for _ in range(3):
        start = time.perf_counter()
        assert len(pbo_cscv(matrix, 16).logits) == 12_870
        spent.append(time.perf_counter() - start)
    record_property("pbo_cscv 16 x 50, ms", round(min(spent) * 1e3))
    assert min(spent) < 1.0


# --- Sharpe ratios


def test_published_numbers() -> None:
    "Bailey and López de Prado 2012 and 2014, as printed."
    fund = TrackRecord(24, 0.458, -2.448, 10.164)
    assert probabilistic_sharpe_ratio(fund) == pytest.approx(0.913, abs=5e-4)
    assert probabilistic_sharpe_ratio(TrackRecord(24, 0.458)) == pytest.approx(0.982, abs=5e-4)
    best = TrackRecord(1250, 2.5 / 250**0.5, -3.0, 10.0)
    assert expected_maximum_sharpe(100, 0.5 / 250) == pytest.approx(0.1132, abs=5e-5)
    assert deflated_sharpe_ratio(best, 100, 0.5 / 250) == pytest.approx(0.9004, abs=5e-5)
    assert deflated_sharpe_ratio(best, 46, 0.5 / 250) == pytest.approx(0.9505, abs=5e-5)
    for per_year, years in ((252, 2.73), (52, 2.83), (12, 3.24)):
        bars = minimum_track_record_length(TrackRecord(99, 2 / per_year**0.5), per_year**-0.5)
        assert bars / per_year == pytest.approx(years, abs=5e-3)


@given(st.integers(0, 10**6), st.integers(10, 400), st.floats(-0.5, 0.5))
def test_the_formulas_written_out(seed: int, n_bars: int, mean: float) -> None:
    returns = np.random.default_rng(seed).standard_t(4, n_bars) + mean
    ratio = returns.mean() / returns.std()
    variance = 1 - stats.skew(returns, bias=False) * ratio
    variance += (stats.kurtosis(returns, bias=False, fisher=False) - 1) / 4 * ratio**2
    want = stats.norm.cdf((ratio - 0.1) * np.sqrt((n_bars - 1) / variance))
    assert probabilistic_sharpe_ratio(returns, 0.1) == pytest.approx(want, abs=1e-12)
    scaled = probabilistic_sharpe_ratio(returns * 8, 0.1)
    assert scaled == pytest.approx(want, abs=1e-9)


@given(st.floats(0.01, 0.5), st.floats(-2, 2), st.floats(3, 12), st.floats(0.55, 0.999))
def test_the_length_is_just_enough(ratio: float, skew: float, tails: float, sure: float) -> None:
    tails = max(tails, skew**2 + 1.5)
    bars = minimum_track_record_length(TrackRecord(50, ratio, skew, tails), 0.0, sure)
    enough = max(int(np.ceil(bars)), 2)
    assert probabilistic_sharpe_ratio(TrackRecord(enough, ratio, skew, tails)) >= sure - 1e-9
    if enough > 3:
        fewer = TrackRecord(enough - 2, ratio, skew, tails)
        assert probabilistic_sharpe_ratio(fewer) < sure


@given(st.integers(2, 10**5), st.floats(1e-6, 1.0))
def test_more_trials_deflate_more(n_trials: int, variance: float) -> None:
    low, high = (expected_maximum_sharpe(n, variance) for n in (n_trials, n_trials + 1))
    assert 0 <= low < high
    record = TrackRecord(500, 0.1, -0.5, 5.0)
    deflated = deflated_sharpe_ratio(record, n_trials, variance)
    assert deflated <= probabilistic_sharpe_ratio(record)


def test_a_search_over_noise_is_not_believed() -> None:
    "Over many searches, DSR above 0.95 is about as rare as it says; PSR nearly always cries wolf."
    deflated, naive = [], []
    for seed in range(200):
        tried = noise(seed, 300, 40)
        ratios = sharpe_ratios(tried)
        best = tried[:, ratios.argmax()]
        naive.append(probabilistic_sharpe_ratio(best))
        deflated.append(deflated_sharpe_ratio(best, 40, ratios.var(ddof=1)))
    assert np.mean(np.array(naive) > 0.95) > 0.8 and np.mean(np.array(deflated) > 0.95) < 0.05


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: track_record([1.0, 2.0, 3.0]), "at least 4 bars"),
        (lambda: track_record([1.0] * 9), "bars that differ"),
        (lambda: track_record([1.0, np.nan] * 9), "missing"),
        (lambda: TrackRecord(1, 0.5), "at least 2"),
        (lambda: TrackRecord(9, np.nan), "finite"),
        (lambda: TrackRecord(9, 1.0, 3.0, 3.0), "too far out"),
        (lambda: probabilistic_sharpe_ratio([1.0, 2, 3, 4], np.nan), "benchmark_sharpe"),
        (lambda: minimum_track_record_length([1.0, 2, 3, 4], confidence=0.2), "confidence"),
        (lambda: deflated_sharpe_ratio([1.0, 2, 3, 4], 0, 0.1), "n_trials"),
        (lambda: deflated_sharpe_ratio([1.0, 2, 3, 4], 9, -0.1), "var_sharpe"),
        (lambda: trial_clusters(noise(0), 1.5), "min_correlation"),
    ],
)
def test_odd_numbers_are_refused(call: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()  # type: ignore[operator]


# --- the effective number of trials


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 6))
def test_planted_ideas_are_counted(seed: int, n_ideas: int, copies: int) -> None:
    rng = np.random.default_rng(seed)
    ideas = np.repeat(rng.normal(size=(800, n_ideas)), copies, axis=1)
    groups = trial_clusters(ideas + 0.4 * rng.normal(size=ideas.shape))
    want = np.repeat(np.arange(n_ideas), copies)
    assert len(set(zip(groups, want))) == n_ideas == groups.max() + 1


def test_matrix_is_not_changed() -> None:
    matrix = noise(3)
    before = matrix.copy()
    pbo_cscv(matrix, 8), trial_clusters(matrix), performance_matrix(matrix)
    assert np.array_equal(matrix, before)
