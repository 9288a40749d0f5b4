"""Error control on planted truth: the promise, the power, the account and the alarm."""

import json
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from gem_detector.acceptance import (
    OnlineAcceptance,
    benjamini_hochberg,
    bet_size,
    conformal_p_values,
    first_of_runs,
    is_promise_broken,
    kelly_size,
    lord_level,
    plot_realised_fdp,
)
from gem_detector.core import InputError

Record = Callable[[str, object], None]


def fdp(accepted: np.ndarray, is_gem: np.ndarray) -> float:
    "The share of false ones among the accepted, 0 where there are none."
    return float((accepted & ~is_gem).sum() / max(accepted.sum(), 1))


def power(accepted: np.ndarray, is_gem: np.ndarray) -> float:
    "The share of gems that were accepted."
    return float((accepted & is_gem).sum() / max(is_gem.sum(), 1))


def signals(rng: np.random.Generator, n: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    "Scores of which one in ten is a gem's, and which."
    is_gem = rng.random(n) < 0.1
    return rng.normal(size=n) + shift * is_gem, is_gem


def one_by_one(scores: np.ndarray, nulls: np.ndarray, q: float) -> np.ndarray:
    "What an account accepts."
    acceptance = OnlineAcceptance(nulls, q)
    return np.array([acceptance.accept(score).is_accepted for score in scores])


def check_promise(q: float, draws: int, record: Record, is_online: bool) -> None:
    "Mean false discovery proportion and power over fresh nulls and signals."
    found = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        scores, is_gem = signals(rng, 1_000, 4.0 if is_online else 3.0)
        nulls = rng.normal(size=5_000)
        p = conformal_p_values(scores, nulls)
        ours = one_by_one(scores, nulls, q) if is_online else benjamini_hochberg(p, q)
        best = benjamini_hochberg(norm.sf(scores), q)  # true p-values, all at once
        found.append((fdp(ours, is_gem), power(ours, is_gem), power(best, is_gem)))
    share, ours, theirs = np.mean(found, axis=0)
    error = np.std([row[0] for row in found], ddof=1) / np.sqrt(draws)
    record("mean false discovery proportion", round(share, 4))
    record("power against true p-values", round(ours / theirs, 3))
    assert share <= q + 2 * error
    assert ours >= 0.9 * theirs


@pytest.mark.parametrize("q", [0.1, 0.2])
def test_a_batch_keeps_its_promise_and_finds_the_gems(q: float, record_property: Record) -> None:
    check_promise(q, 300, record_property, is_online=False)


@pytest.mark.parametrize("q", [0.1, 0.2])
def test_one_by_one_keeps_its_promise_and_finds_the_gems(q: float, record_property: Record) -> None:
    check_promise(q, 12, record_property, is_online=True)


@pytest.mark.verify
@pytest.mark.parametrize("q", [0.1, 0.2])
def test_one_by_one_over_300_draws(q: float, record_property: Record) -> None:
    check_promise(q, 300, record_property, is_online=True)


@pytest.mark.parametrize("q", [0.1, 0.2])
def test_the_monitor_fires_under_drift_and_not_without(q: float) -> None:
    "False signals that begin to score like half a gem: off; without drift hardly ever."
    fired = {0.0: 0, 2.0: 0}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        nulls = rng.normal(size=5_000)
        for drift in fired:
            scores, is_gem = signals(rng, 1_500, 4.0)
            scores[500:] += drift * ~is_gem[500:]
            acceptance = OnlineAcceptance(nulls, q)
            for score, truth in zip(scores, is_gem):
                decision = acceptance.accept(score)
                if decision.is_accepted and not acceptance.settle(decision.number, bool(truth)):
                    break
            fired[drift] += not acceptance.is_on
    assert fired[2.0] == 10 and fired[0.0] <= 1


def test_switched_off_it_accepts_and_spends_nothing_until_calibrated_again() -> None:
    rng = np.random.default_rng(0)
    acceptance = OnlineAcceptance(rng.normal(size=1_000), 0.2)
    for _ in range(10):
        decision = acceptance.accept(9.0)
        assert decision.is_accepted
        if not acceptance.settle(decision.number, False):
            break
    assert not acceptance.is_on and acceptance.realised_fdp == 1.0
    level = acceptance.next_level
    off = acceptance.accept(9.0)
    assert (off.number, off.is_accepted, acceptance.next_level) == (0, False, level)
    acceptance.recalibrate(rng.normal(size=1_000) + 3)
    assert acceptance.accept(9.0).is_accepted and np.isnan(acceptance.realised_fdp)


def test_an_account_without_success_runs_dry_and_says_so() -> None:
    acceptance = OnlineAcceptance(np.linspace(0, 1, 400), 0.1)
    lasted = 0
    while not acceptance.is_dry:
        assert not acceptance.accept(0.5).is_accepted
        lasted += 1
    assert 8 <= lasted <= 12  # about q (m + 1) / 4
    assert not acceptance.accept(9.0).is_accepted  # not even the highest score


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0.01, 0.5))
@settings(max_examples=100, deadline=None)
def test_benjamini_hochberg_by_its_definition(p: list[float], q: float) -> None:
    n = len(p)
    counts = [k for k in range(1, n + 1) if sorted(p)[k - 1] <= q * k / n]
    expected = max(counts, default=0)
    accepted = benjamini_hochberg(p, q)
    assert accepted.sum() == expected
    assert not expected or max(np.array(p)[accepted]) == sorted(p)[expected - 1]


@given(st.integers(1, 40), st.integers(0, 2**31), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_conformal_p_values_by_counting(m: int, seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    nulls, score = rng.integers(0, levels, m) / levels, rng.random(8)
    p = conformal_p_values(score, nulls)
    assert p.tolist() == [(1 + int((nulls >= s).sum())) / (m + 1) for s in score]


def test_conformal_p_values_are_valid_over_exchangeable_draws() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 30, (4_000, 40))  # with many ties
    p = np.array([conformal_p_values(row[:1], row[1:])[0] for row in drawn])
    for u in (0.05, 0.1, 0.3, 0.7):
        assert (p <= u).mean() <= u + 3 * np.sqrt(u * (1 - u) / 4_000)


@given(st.integers(0, 2**31), st.sampled_from([0.05, 0.1, 0.3]), st.floats(0, 0.5))
@settings(max_examples=40, deadline=None)
def test_levels_paid_never_exceed_what_was_earned(seed: int, q: float, share: float) -> None:
    "The account is what keeps the promise: the sum of levels stays below q times the acceptances."
    rng = np.random.default_rng(seed)
    acceptance, paid, accepted = OnlineAcceptance(rng.random(400), q), 0.0, 0
    for _ in range(120):
        decision = acceptance.accept(2.0 if rng.random() < share else 0.0)
        paid, accepted = paid + decision.level, accepted + decision.is_accepted
        assert paid <= q * max(accepted, 1) + 1e-12


def test_levels_are_the_published_sum() -> None:
    c, q, accepted, now = 7.0, 0.1, [2, 5, 6], 9
    weights = (np.arange(1, 400_000) + c) ** -2.0
    gamma = weights / weights.sum()
    expected = q * (gamma[now - 1] + gamma[now - 5 - 1] + gamma[now - 6 - 1])
    lags = [now, *(now - then for then in accepted[1:])]
    assert lord_level(lags, q, c) == pytest.approx(expected, rel=1e-4)


def test_a_restart_goes_on_to_the_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    nulls, (scores, is_gem) = rng.normal(size=900), signals(rng, 600, 3.5)
    whole, parts = OnlineAcceptance(nulls, 0.2), OnlineAcceptance(nulls, 0.2)
    for i, (score, truth) in enumerate(zip(scores, is_gem)):
        if i % 50 == 49:
            parts.save(tmp_path / "acceptance.json")
            parts = OnlineAcceptance.restore(tmp_path / "acceptance.json")
        one, other = whole.accept(score), parts.accept(score)
        assert one == other
        if one.is_accepted and i % 3:  # some are settled later or never
            assert whole.settle(one.number, bool(truth)) == parts.settle(one.number, bool(truth))
    assert whole.realised_fdp == parts.realised_fdp
    (tmp_path / "acceptance.json").write_text("{}")
    with pytest.raises(InputError, match="not a saved acceptance"):
        OnlineAcceptance.restore(tmp_path / "acceptance.json")


def test_what_settles_after_a_recalibration_is_not_held_against_it() -> None:
    rng = np.random.default_rng(0)
    acceptance = OnlineAcceptance(rng.normal(size=1_000), 0.2)
    old = [acceptance.accept(9.0).number for _ in range(20)]
    acceptance.recalibrate(rng.normal(size=1_000))
    assert all(acceptance.settle(number, False) for number in old) and acceptance.is_on
    assert np.isnan(acceptance.realised_fdp)
    new = [acceptance.accept(9.0).number for _ in range(20)]
    assert not [acceptance.settle(number, False) for number in new][-1]


@pytest.mark.parametrize("q", [0.05, 0.1, 0.3, 0.5])
def test_the_smallest_window_can_ring(q: float) -> None:
    least = next(n for n in range(1, 99) if is_promise_broken(n, n, q))
    nulls = np.random.default_rng(0).random(400)
    for window in (least - 1, 0, -1, 7.5, True):
        with pytest.raises(InputError, match=f"at least {least}"):
            OnlineAcceptance(nulls, q, window)
    acceptance = OnlineAcceptance(nulls, q, least)
    for _ in range(least):
        acceptance.settle(acceptance.accept(9.0).number, False)
    assert not acceptance.is_on


@pytest.mark.parametrize(
    "change",
    [
        {"window": -1},
        {"window": "50"},
        {"q": 2},
        {"n_tests": -3},
        {"n_tests": 1.5},
        {"accepted": [2, 1]},
        {"accepted": ["a"]},
        {"pending": [2]},
        {"settled": [0.3]},
        {"settled": 1},
        {"is_on": "yes"},
        {"null_scores": ["x"] * 400},
        {"null_scores": [0.1]},
        {"calibrated_at": 99},
        {"n_tests": None},
    ],
)
def test_an_account_that_cannot_be_is_not_restored(change: dict, tmp_path: Path) -> None:
    acceptance = OnlineAcceptance(np.linspace(0, 1, 400), 0.1)
    for score in (9.0, 0.0, 9.0):
        acceptance.accept(score)
    path = tmp_path / "acceptance.json"
    acceptance.save(path)
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | change))
    with pytest.raises(InputError, match=r"acceptance\.json: "):
        OnlineAcceptance.restore(path)
    del state["settled"]
    path.write_text(json.dumps(state))
    with pytest.raises(InputError, match="'settled' is missing"):
        OnlineAcceptance.restore(path)


@pytest.mark.parametrize("n", [0, 1, 5, 60])
@pytest.mark.filterwarnings("error")
def test_the_rolling_share_is_drawn_of_any_number(n: int) -> None:
    line = plot_realised_fdp(np.arange(n) % 2 == 0, 0.1).lines[0]
    assert np.isfinite(line.get_ydata()).all() and (len(line.get_xdata()) > 0) == (n > 0)
    plt.close("all")


def accepted_one(nulls: np.ndarray) -> OnlineAcceptance:
    "An account with one acceptance, number 1."
    acceptance = OnlineAcceptance(nulls, 0.1)
    acceptance.accept(9.0)
    return acceptance


def test_runs_bets_and_refusals() -> None:
    second = 10**9
    t0 = np.array([0, 0.4, 1.3, 2.9, 3.0]) * second
    rows = first_of_runs(t0.astype(np.int64), [1, 1, 1, 1, 0])
    assert rows.tolist() == [0, 3]
    assert (np.diff(bet_size(np.linspace(0, 1, 101))) >= 0).all()
    assert kelly_size(0.5, 10.0, 5.0, 1.0) == pytest.approx(0.25)
    assert is_promise_broken(0, 0, 0.1) is False
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: conformal_p_values([0.1], []), "at least one"),
        (lambda: benjamini_hochberg([0.1], 0.0), "between 0 and 1"),
        (lambda: OnlineAcceptance(np.ones(79), 0.1), "needs at least 80"),
        (lambda: OnlineAcceptance(np.ones(200), 0.1).settle(1, True), "was not accepted"),
        (lambda: first_of_runs([2, 1], [1, 1]), "has to rise"),
        (lambda: kelly_size(0.5, 0.0, 1.0), "above 0"),
        (lambda: kelly_size(1.5, 2.0, 1.0), "from 0 to 1"),
        (lambda: kelly_size(0.5, np.nan, 1.0), "gain_bps has to be finite"),
        (lambda: bet_size([1.2]), "from 0 to 1"),
        (lambda: bet_size([0.7], -0.1), "step=-0.1"),
        (lambda: benjamini_hochberg([0.1, np.nan], 0.1), "without nan"),
        (lambda: conformal_p_values("a", [0.1]), "score has to be numbers"),
        (lambda: first_of_runs([1, 2], [1]), "one whole number of ns for each"),
        (lambda: first_of_runs([1, 2], [1, 1], -5), "gap_ns=-5"),
        (lambda: accepted_one(np.ones(200)).settle(1, "yes"), "is_gem='yes'"),
        (lambda: accepted_one(np.ones(200)).settle(1, 0.5), "is_gem=0.5"),
    ]
    for call, message in wrong:
        with pytest.raises(InputError, match=message):
            call()
