"""Calibrators against slow oracles and scikit-learn; thresholds against trying each of them."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from gem_detector.calibration import (
    CALIBRATORS,
    calibration_error,
    calibrator_from,
    choose_calibrator,
    cross_calibrated,
    fit_calibrator,
    log_loss,
    reliability,
)
from gem_detector.core import InputError
from gem_detector.splits import PurgedKFold
from gem_detector.thresholds import bootstrap_sums, choose_threshold


@st.composite
def scored(draw: st.DrawFn, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    "Scores with many repeats, and labels of both classes."
    n = draw(st.integers(least, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    score = rng.integers(0, draw(st.sampled_from([3, 10, 1_000])), n) / 1_000
    y = (rng.random(n) < draw(st.sampled_from([0.1, 0.5, 0.9]))).astype(float)
    y[:2] = [0, 1]
    return score, y


def with_a_new_row(score: np.ndarray, y: np.ndarray, new: float, label: int) -> float:
    "The isotonic value of a new row that is put among the others: the definition."
    group = np.unique(np.r_[score, new], return_inverse=True)[1]
    total = np.bincount(group).astype(float)
    positives = np.bincount(group, np.r_[y, label])
    return float(isotonic_regression(positives / total, weights=total).x[group[-1]])


@given(scored())
@settings(max_examples=100, deadline=None)
def test_venn_abers_is_two_isotonic_fits_for_every_place(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    score, y = rows
    at = np.unique(np.r_[score, score + 0.0005, -1e-9 + score.min(), 1.0])
    low, high = fit_calibrator("venn_abers", score, y).bounds(at)  # type: ignore[attr-defined]
    assert np.allclose(low, [with_a_new_row(score, y, s, 0) for s in at], atol=1e-12)
    assert np.allclose(high, [with_a_new_row(score, y, s, 1) for s in at], atol=1e-12)
    assert (low <= high + 1e-12).all() and (np.diff(low) >= -1e-12).all()


@given(scored(5))
@settings(max_examples=60, deadline=None)
def test_isotonic_equals_scikit_learn_away_from_0_and_1(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    score, y = rows
    theirs = IsotonicRegression(out_of_bounds="clip").fit(score, y)
    edge = 1 / (len(y) + 2)
    at = np.unique(score)
    expected = np.clip(theirs.predict(at), edge, 1 - edge)
    assert np.allclose(fit_calibrator("isotonic", score, y).predict(at), expected, atol=1e-9)


def test_beta_equals_logistic_regression_on_its_two_logarithms() -> None:
    rng = np.random.default_rng(0)
    score = rng.uniform(0.01, 0.99, 4_000)
    y = (rng.random(4_000) < score**2).astype(int)
    terms = np.column_stack([np.log(score), -np.log1p(-score)])
    theirs = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1_000).fit(terms, y)
    ours = fit_calibrator("beta", score, y).predict(score)
    assert np.abs(ours - theirs.predict_proba(terms)[:, 1]).max() < 2e-3


@given(scored(8), st.sampled_from(CALIBRATORS))
@settings(max_examples=80, deadline=None)
def test_every_calibrator_rises_stays_inside_and_survives_json(
    rows: tuple[np.ndarray, np.ndarray], kind: str
) -> None:
    calibrator = fit_calibrator(kind, *rows)
    at = np.linspace(0, 1, 257)
    p = calibrator.predict(at)
    assert (np.diff(p) >= -1e-12).all() and ((p >= 0) & (p <= 1)).all()
    again = calibrator_from(json.loads(json.dumps(calibrator.as_dict())))
    assert np.array_equal(again.predict(at), p)


@pytest.mark.parametrize("kind", ["isotonic", "venn_abers"])
def test_a_weight_of_two_is_a_row_twice(kind: str) -> None:
    rng = np.random.default_rng(3)
    score, y = rng.random(200), rng.integers(0, 2, 200)
    weight = rng.integers(1, 3, 200)
    weighted = fit_calibrator(kind, score, y, weight).predict(score)
    repeated = fit_calibrator(kind, np.repeat(score, weight), np.repeat(y, weight)).predict(score)
    assert np.abs(weighted - repeated).max() < 0.02  # the new row's own weight differs


def test_many_rows_and_rows_without_weight_count_as_they_should() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(1, 9, 60_000)
    y = rng.random(60_000) < p
    skewed = p**0.4
    cv = PurgedKFold(3, intervals=(np.arange(60_000), np.arange(60_000)))
    calibrator, losses = choose_calibrator(skewed, y, cv)
    assert calibration_error(calibrator.predict(skewed), p) < 0.005
    assert losses["none"] > min(losses.values()) and set(losses) == set(CALIBRATORS)
    half = fit_calibrator("beta", skewed, y, np.arange(60_000) < 30_000)
    assert half == fit_calibrator("beta", skewed[:30_000], y[:30_000])


def test_cross_calibration_never_shows_a_row_its_own_label() -> None:
    rng = np.random.default_rng(0)
    score, y = rng.random(300), rng.integers(0, 2, 300)
    cv = PurgedKFold(3, intervals=(np.arange(300), np.arange(300) + 5))
    p = cross_calibrated("isotonic", score, y, cv)
    flipped = y.copy()
    flipped[:100] = 1 - flipped[:100]
    again = cross_calibrated("isotonic", score, flipped, cv)
    assert np.array_equal(p[:100], again[:100]) and not np.array_equal(p[100:], again[100:])


def test_reliability_counts_every_row() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(1_001)
    table = reliability(p, rng.random(1_001) < p)
    assert table.n.sum() == 1_001 and table.n.max() - table.n.min() <= 1
    assert ((table.low <= table.came) & (table.came <= table.high)).all()
    assert log_loss([0.5, 0.5], [0, 1]) == pytest.approx(np.log(2))


# --- thresholds


def utility_at(p: np.ndarray, net: np.ndarray, episode: np.ndarray, threshold: float) -> float:
    "The first row of each episode that reaches the threshold, one after the other."
    total, taken = 0.0, set()
    for i in range(len(p)):
        if p[i] >= threshold and (episode[i] < 0 or episode[i] not in taken):
            taken.add(episode[i])
            total += net[i]
    return total


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([2, 5, 100]))
@settings(max_examples=100, deadline=None)
def test_the_utility_of_every_threshold_is_exact(n: int, seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.integers(0, levels + 1, n) / levels
    net = rng.integers(-9, 10, n).astype(float)
    episode = rng.integers(-2, 4, n)
    choice = choose_threshold(p, net > 0, net_bps=net, episode_id=episode, n_bootstrap=5)
    for threshold, value in zip(choice.thresholds, choice.values):
        assert value == utility_at(p, net, episode, threshold)
    assert utility_at(p, net, episode, choice.threshold) == choice.value
    assert choice.value == max(0.0, choice.values.max())


def test_f1_by_name_is_the_best_f1() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(500).round(2)
    y = (rng.random(500) < p**3).astype(int)
    choice = choose_threshold(p, y, method="f1", net_bps=np.ones(500))
    f1 = [2 * (y * (p >= t)).sum() / (y.sum() + (p >= t).sum()) for t in np.unique(p)]
    assert choice.value == pytest.approx(max(f1)) and choice.method == "f1"
    assert choice.low < choice.value < choice.high
    assert choice.n_signals == (p >= choice.threshold).sum()


def test_the_interval_over_episodes_is_wider_than_over_rows() -> None:
    rng = np.random.default_rng(0)
    earned = np.repeat(rng.normal(size=200), 10)  # ten rows of an episode share their fate
    by_row = bootstrap_sums(earned[:, None], 400)
    by_episode = bootstrap_sums(earned.reshape(200, 10).sum(axis=1)[:, None], 400)
    assert by_episode.std() > 1.05 * by_row.std()  # runs of rows catch a part of it
    assert np.array_equal(by_row, bootstrap_sums(earned[:, None], 400))  # seeded
    assert bootstrap_sums(np.empty((0, 2)), 3).tolist() == [[0, 0]] * 3


@pytest.mark.verify
def test_the_interval_covers(record_property: Callable[[str, object], None]) -> None:
    "Of 95 % intervals over independent episodes, 95 in 100 hold the truth."
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(300):
        earned = rng.exponential(size=(150, 1))
        low, high = np.percentile(bootstrap_sums(earned, 300, seed), [2.5, 97.5])
        inside += low <= 150 <= high
    record_property("coverage", inside / 300)
    assert 0.87 <= inside / 300 <= 0.98


def test_refusals_name_the_rule() -> None:
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: fit_calibrator("magic", [0.1], [1]), "it is one of"),
        (lambda: fit_calibrator("beta", [0.1, 0.2], [1, 1]), "both classes"),
        (lambda: choose_threshold([0.5], [1], net_bps=[np.nan]), "finite net_bps"),
        (lambda: choose_threshold([0.5], [1], net_bps=[1.0], episode_id=[1, 2]), "each of the 1"),
        (lambda: choose_threshold([2.0], [1]), "from 0 to 1"),
    ]
    for call, message in wrong:
        with pytest.raises(InputError, match=message):
            call()
