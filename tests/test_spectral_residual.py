"""Saliency, detector and burst filter against plain NumPy, published outputs, and the future."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector import burst_score, saliency
from gem_detector.baselines import DifferenceZ, RobustZ, RollingZ
from gem_detector.burst_score import burst_scores, fold_bars
from gem_detector.core import InputError
from gem_detector.detection_quality import f1, tuned_elsewhere
from gem_detector.saliency import (
    EXTENSIONS,
    NORMALISERS,
    SaliencySettings,
    SlidingSaliency,
    extension_value,
    point_saliency,
)
from gem_detector.saliency_published import ms_saliency
from gem_detector.spectral_residual import (
    BurstConfirmationFilter,
    CombinedDetector,
    SpectralResidualDetector,
    anomaly_runs,
)

SETTINGS = st.builds(
    SaliencySettings,
    window_size=st.integers(8, 40),
    mag_window=st.sampled_from([1, 3, 7, 15]),
    score_window=st.integers(1, 50),
    extension=st.sampled_from(EXTENSIONS),
    extension_points=st.integers(1, 8),
    slope_points=st.integers(1, 6),
    center=st.booleans(),
    normalise=st.sampled_from(NORMALISERS),
)


def noise(kind: str, n: int, seed: int = 0) -> np.ndarray:
    "Series of several kinds."
    rng = np.random.default_rng(seed)
    return {
        "normal": lambda: rng.normal(size=n),
        "cauchy": lambda: rng.standard_cauchy(n),
        "lognormal": lambda: rng.lognormal(0, 1, n),
        "walk": lambda: 6e4 + np.cumsum(rng.normal(size=n)),
        "ticks": lambda: 100 + 0.1 * np.round(np.cumsum(rng.normal(0, 0.3, n))),
        "wave": lambda: np.sin(np.arange(n) / 5) + rng.normal(0, 0.05, n),
        "giants": lambda: rng.normal(size=n) + 1e12 * (rng.random(n) < 2e-3),
    }[kind]()


KINDS = ["normal", "cauchy", "lognormal", "walk", "ticks", "wave", "giants"]


def furthest(found: np.ndarray, expected: np.ndarray) -> float:
    "Largest difference in a saliency or its normaliser, relative to what is usual."
    usual = np.maximum(expected[:, 1:], 1e-300)
    return float(np.max(np.abs(found - expected) / usual, where=expected[:, 1:] > 0, initial=0))


def windows(x: np.ndarray, which: SaliencySettings, first: int) -> np.ndarray:
    "Saliency of each window on its own, in plain NumPy."
    size = which.window_size
    ends = range(first, len(x))
    return np.array([point_saliency(x[i - size + 1 : i + 1], which) for i in ends])


# --- saliency


def test_the_ramp() -> None:
    ramp = np.arange(50.0)
    assert extension_value(ramp, "paper") == 50 and extension_value(ramp, "exclude_newest") == 49


@given(which=SETTINGS, kind=st.sampled_from(KINDS), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_sliding_equals_each_window_alone(which: SaliencySettings, kind: str, seed: int) -> None:
    if kind == "walk" and not which.center:
        return  # the level of 60,000 is then part of the result, and of its rounding
    x = noise(kind, 150, seed)
    rows = SlidingSaliency(which).series(x)
    first = which.window_size - 1
    assert np.isnan(rows[:first]).all() and np.isfinite(rows[first:]).all()
    assert furthest(rows[first:], windows(x, which, first)) < 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_sliding_equals_windows_after_a_million_points(kind: str) -> None:
    which = SaliencySettings(64)
    x = noise(kind, 1_000_000)
    rows = SlidingSaliency(which).series(x)
    assert furthest(rows[-400:], windows(x[-464:], which, 64)) < 1e-9


@pytest.mark.verify
@pytest.mark.parametrize("size", [288, 1440])
@pytest.mark.parametrize("kind", ["normal", "walk", "giants"])
def test_wide_windows_after_a_million_points(kind: str, size: int) -> None:
    which = SaliencySettings(size)
    x = noise(kind, 1_000_000)
    rows = SlidingSaliency(which).series(x)
    assert furthest(rows[-100:], windows(x[-size - 100 :], which, size)) < 1e-9


@pytest.mark.parametrize("size", [288, 1440])
def test_wide_windows_equal_each_window_alone(size: int) -> None:
    which = SaliencySettings(size)
    x = noise("walk", size + 20_000)
    rows = SlidingSaliency(which).series(x)
    assert furthest(rows[-30:], windows(x[-size - 30 :], which, size)) < 1e-9


def test_plain_twins_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, volume = noise("cauchy", 80), noise("lognormal", 80)
    which = SaliencySettings(24, normalise="rms")
    compiled = SlidingSaliency(which).series(x)
    bursts = burst_scores(np.exp(1e-6 * x), volume, lookback=30)
    stamps = np.cumsum(np.arange(80) % 7 * 40)
    folded = fold_bars(stamps, volume, volume, 100, 5)
    for module in (saliency, burst_score):
        for name in dir(module):
            if hasattr(getattr(module, name), "py_func"):
                monkeypatch.setattr(module, name, getattr(module, name).py_func)
    plain = SlidingSaliency(which).series(x)
    assert np.allclose(plain, compiled, rtol=1e-9, atol=1e-12, equal_nan=True)
    again = burst_scores(np.exp(1e-6 * x), volume, lookback=30)
    assert np.allclose(again[0], bursts[0], equal_nan=True) and np.array_equal(again[1], bursts[1])
    for one, other in zip(burst_score.fold_bars(stamps, volume, volume, 100, 5), folded):
        assert np.array_equal(one, other)


@given(cut=st.integers(0, 200), unit=st.sampled_from([2.0**-800, 1e-7, 3.3, 1e200]), which=SETTINGS)
@settings(max_examples=40, deadline=None)
def test_later_values_and_units_change_nothing(
    cut: int, unit: float, which: SaliencySettings
) -> None:
    x = noise("wave", 200)
    sliding = SlidingSaliency(which)
    rows = sliding.series(x)
    assert np.array_equal(sliding.series(x[:cut]), rows[:cut], equal_nan=True)
    scaled = sliding.series(unit * x)[which.window_size - 1 :]
    assert furthest(scaled, rows[which.window_size - 1 :]) < 1e-8


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("constant", [0.0, 0.1, -6e4, 1e-300])
def test_constants(extension: str, center: bool, constant: float) -> None:
    detector = SpectralResidualDetector(16, extension=extension, center=center, normalise="rms")
    scores = detector.score([constant] * 60)
    assert np.isnan(scores[:15]).all()
    assert np.isfinite(scores[15:]).all() and np.abs(scores[15:]).max() <= 1 + 1e-9
    if center:
        assert (scores[15:] == 0).all()
    after_a_giant = detector.score([1e15] + [constant] * 60)[40:]
    assert not center or (after_a_giant == 0).all()


def test_gaps_close() -> None:
    x = noise("normal", 200)
    holes = np.insert(x, [3, 60, 60, 150], [np.nan, np.inf, -np.inf, 1e301])
    for detector in (SpectralResidualDetector(32), CombinedDetector(32)):
        found = detector.score(holes)
        is_gap = ~(np.abs(holes) < 1e300)
        assert np.isnan(found[is_gap]).all() or isinstance(detector, CombinedDetector)
    found = SpectralResidualDetector(32).score(holes)
    expected = SpectralResidualDetector(32).score(x)
    assert np.array_equal(found[np.abs(holes) < 1e300], expected, equal_nan=True)


# --- published outputs


@pytest.mark.parametrize("name", ["nyc_taxi", "machine_temperature", "sample"])
def test_published_implementations(name: str, gem_data: Path) -> None:
    rows = list(csv.DictReader((gem_data / f"sr-golden/{name}.csv").open()))
    column = {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}
    for key, knobs in (
        ("ms_score_z40", {"compat": "ms"}),
        ("ms_score_z21", {"compat": "ms", "score_window": 21}),
        ("alibi_score", {"compat": "alibi", "score_window": 21}),
    ):
        scores = SpectralResidualDetector(**knobs).score(column["value"])
        assert np.allclose(scores, column[key], rtol=0, atol=1e-9), key
    magnitude = ms_saliency(column["value"])
    assert np.allclose(magnitude, column["ms_mag"], rtol=0, atol=1e-9)
    detector = SpectralResidualDetector(compat="ms")
    flags = [point.is_anomaly for point in detector.detect(column["value"])]
    assert np.array_equal(flags, column["ms_score_z40"] > 0.3)


# --- detector

KNOBS = st.fixed_dictionaries(
    {},
    optional={
        "side": st.sampled_from(["up", "down", "both"]),
        "normalise": st.sampled_from(NORMALISERS),
        "extension": st.sampled_from(EXTENSIONS),
        "min_change": st.sampled_from([0.5, 2.0]),
        "alarm_rate": st.just(0.02),
    },
)


@given(knobs=KNOBS, kind=st.sampled_from(KINDS), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_observing_equals_detecting(knobs: dict, kind: str, seed: int) -> None:
    x = noise(kind, 400, seed)
    x[50] = np.nan
    detector = SpectralResidualDetector(20, **knobs)
    whole = detector.detect(x, np.arange(400.0))
    for i, (value, expected) in enumerate(zip(x, whole)):
        found = detector.observe(value, float(i))
        assert found.timestamp == expected.timestamp and found.is_anomaly == expected.is_anomaly
        assert np.array_equal(found.anomaly_score, expected.anomaly_score, equal_nan=True)
        assert found.threshold == expected.threshold


def test_sides_split_the_score() -> None:
    x = noise("normal", 300)
    both, up, down = (
        SpectralResidualDetector(32, side=side, normalise="rms").score(x)
        for side in ("both", "up", "down")
    )
    assert np.array_equal(both, np.maximum(up, down), equal_nan=True)
    x[200] += 15
    assert SpectralResidualDetector(32, side="up").score(x)[200] > 3
    assert SpectralResidualDetector(32, side="down").score(x)[200] < -3


def test_a_jump_after_constancy_is_an_anomaly_of_its_sign() -> None:
    x = np.r_[np.full(60, 7.0), 8.0]
    for side, is_anomaly in (("up", True), ("down", False), ("both", True)):
        assert SpectralResidualDetector(side=side).detect(x)[-1].is_anomaly == is_anomaly


@pytest.mark.parametrize("kind", ["normal", "t3", "lognormal"])
@pytest.mark.parametrize("normalise", NORMALISERS)
def test_the_alarm_rate_is_kept(kind: str, normalise: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_t(3, 60_000) if kind == "t3" else noise(kind, 60_000)
    for rate in (1e-3, 5e-3):
        detector = SpectralResidualDetector(64, alarm_rate=rate, normalise=normalise)
        share = np.mean([point.is_anomaly for point in detector.detect(x)])
        assert rate / 2 < share < 2 * rate


@pytest.mark.parametrize("moves", ["normal", "t3", "lognormal"])
def test_the_filter_raises_no_more_than_the_wanted_bursts(moves: str) -> None:
    rng = np.random.default_rng(5)
    step = {
        "normal": lambda: rng.normal(size=60_000),
        "t3": lambda: rng.standard_t(3, 60_000),
        "lognormal": lambda: rng.choice([-1, 1], 60_000) * rng.lognormal(0, 1, 60_000),
    }[moves]()
    price = 100 * np.exp(np.cumsum(1e-5 * step))
    burst_filter = BurstConfirmationFilter(min_burst_score=0.1, alarm_rate=1e-3)
    share = burst_filter.scores(price, rng.lognormal(0, 1, 60_000)).is_burst[5_000:].mean()
    assert 5e-4 < share < 2e-3


def test_times_of_any_zone_are_seconds_utc() -> None:
    x = np.r_[np.full(60, 7.0), 8.0, 9.0, 12.0]
    utc = pd.date_range("2026-03-29", periods=63, freq="h", tz="UTC")
    expected = utc.astype("datetime64[ns, UTC]").asi8 / 1e9
    detector = SpectralResidualDetector()
    forms = (
        utc,
        utc.tz_convert("Europe/Berlin"),
        pd.Series(utc.tz_convert("America/New_York")),
        utc.tz_localize(None),
        utc.tz_localize(None).to_numpy().astype("datetime64[s]"),
        list(utc.to_pydatetime()),
        list(utc.tz_convert("Asia/Kolkata").to_pydatetime()),
        [stamp.isoformat() for stamp in utc.tz_convert("Asia/Tokyo")],
        expected,
    )
    bursts = detector.detect_bursts(x, expected, min_duration=1)
    assert bursts and bursts[0]["start_time"] == expected[60]
    for stamps in forms:
        assert [point.timestamp for point in detector.detect(x, stamps)] == expected.tolist()
        assert detector.detect_bursts(x, stamps, min_duration=1) == bursts
    for broken in (utc.where(utc != utc[5]), np.where(np.arange(63) == 5, np.nan, expected)):
        for ask in (detector.detect, detector.detect_bursts):
            with pytest.raises(InputError, match=r"1 time.* missing"):
                ask(x, broken)


@pytest.mark.parametrize("compat", ["ms", "alibi"])
def test_published_codes_hear_every_knob_or_refuse_it(compat: str) -> None:
    x = noise("wave", 200)
    plain = SpectralResidualDetector(compat=compat).score(x)
    knobs = {"extension": "paper", "center": False, "normalise": "rms", "side": "up"}
    knobs |= {"extension_points": 3, "slope_points": 4, "mag_window": 5, "score_window": 30}
    for name, value in knobs.items():
        try:
            other = SpectralResidualDetector(compat=compat, **{name: value}).score(x)
        except InputError as error:
            assert f"{name}={value!r} changes nothing" in str(error)
        else:
            assert not np.allclose(other, plain)


def test_bursts_are_the_runs_of_anomalies() -> None:
    x = noise("normal", 400)
    x[200:210:2] += 12
    detector = SpectralResidualDetector(64)
    flags = np.array([point.is_anomaly for point in detector.detect(x)])
    scores = detector.score(x)
    bursts = detector.detect_bursts(x, min_duration=3, max_gap=2)
    assert [(b["start_idx"], b["end_idx"]) for b in bursts] == anomaly_runs(flags, 3, 2)
    assert any(200 <= b["start_idx"] <= 210 for b in bursts)
    for burst in bursts:
        part = scores[burst["start_idx"] : burst["end_idx"] + 1]
        assert burst["duration_points"] == len(part)
        assert burst["max_score"] == part.max() and np.isclose(burst["mean_score"], part.mean())
    assert detector.detect_bursts(x[:30]) == [] and detector.detect_bursts([]) == []


@given(
    flags=st.lists(st.booleans(), max_size=30),
    least=st.integers(1, 5),
    gap=st.integers(0, 4),
)
def test_runs_are_as_defined(flags: list[bool], least: int, gap: int) -> None:
    expected, run = [], []
    for i, flag in enumerate([*flags, *[False] * (gap + 1)]):
        if flag:
            run.append(i)
        elif run and i - run[-1] > gap:
            expected.append((run[0], run[-1]))
            run = []
    expected = [(a, b) for a, b in expected if b - a + 1 >= least]
    assert anomaly_runs(np.array(flags, bool), least, gap) == expected


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: SpectralResidualDetector(window_size=6), "window_size must be at least 8"),
        (lambda: SpectralResidualDetector(window_size=64.0), "window_size must be a whole number"),
        (lambda: SpectralResidualDetector(window_size=True), "window_size must be a whole number"),
        (lambda: SpectralResidualDetector(extension_points=10**6), "at most window_size=20"),
        (lambda: BurstConfirmationFilter(lookback_window=50.5), "must be a whole number"),
        (lambda: BurstConfirmationFilter(min_confidence=1.5), "min_confidence from 0 to 1"),
        (lambda: BurstConfirmationFilter(min_confidence=math.nan), "min_confidence from 0 to 1"),
        (lambda: BurstConfirmationFilter(min_burst_score=math.inf), "must be above 0"),
        (lambda: BurstConfirmationFilter(max_age_s=0), "must be above 0"),
        (lambda: BurstConfirmationFilter(bar_ns=1e9), "bar_ns must be a whole number"),
        (lambda: BurstConfirmationFilter(bar_ns=-1), "bar_ns must be a whole number"),
        (lambda: BurstConfirmationFilter().filter_signal(0.5, 2), "side must be -1, 0 or 1"),
        (lambda: SpectralResidualDetector(mag_window=4), "odd"),
        (lambda: SpectralResidualDetector(score_window=0), "score_window must be at least 1"),
        (lambda: SpectralResidualDetector(threshold_multiplier=0), "above 0"),
        (lambda: SpectralResidualDetector(normalise="max"), "normalise must be one of"),
        (lambda: SpectralResidualDetector(compat="sranodec"), "compat must be"),
        (lambda: SpectralResidualDetector(compat="ms").update(1.0), "whole series"),
        (lambda: SpectralResidualDetector(compat="ms").score([1.0] * 5), "at least 12 values"),
        (lambda: SpectralResidualDetector().detect([1.0], [1.0, 2.0]), "2 timestamps for"),
        (lambda: anomaly_runs(np.zeros(3, bool), 0), "min_duration"),
        (lambda: BurstConfirmationFilter(min_burst_score=0), "above 0"),
        (lambda: BurstConfirmationFilter(watch="both"), "watch must be one of"),
        (lambda: BurstConfirmationFilter().update(0.0, 1.0, 0.0), "price must be above 0, not 0"),
        (lambda: BurstConfirmationFilter().update(1.0, -2.0, 0.0), "volume must be 0 or more"),
        (lambda: BurstConfirmationFilter(bar_ns=5).update(1.0, 1.0, math.nan), "time of each tick"),
        (lambda: BurstConfirmationFilter().filter_signal(1.5), "between 0 and 1, not 1.5"),
        (lambda: burst_scores([1.0], [1.0, 2.0]), "1 prices but 2 volumes"),
        (lambda: burst_scores([1.0], [1.0], [0.5], bar_ns=5), "integer time"),
    ],
)
def test_errors_name_the_thing_and_the_rule(call: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


# --- combined


def test_two_of_three_must_agree() -> None:
    x = noise("walk", 500)
    parts = (RollingZ(32), DifferenceZ(32), SpectralResidualDetector(32, normalise="rms"))
    expected = np.sort(np.abs([part.score(x) for part in parts]), axis=0)[1]
    combined = CombinedDetector(32)
    found = combined.score(x)
    known = np.isfinite(found)
    assert known.sum() == 500 - 33 and np.array_equal(found[known], expected[known])
    assert np.array_equal([combined.update(value) for value in x], found, equal_nan=True)


def test_combined_on_labelled_records(gem_data: Path) -> None:
    instants = json.loads((gem_data / "nab/combined_labels.json").read_text())
    series, labels = {}, {}
    for path in sorted((gem_data / "nab").glob("real*/*.csv")):
        name = f"{path.parent.name}/{path.name}"
        rows = list(csv.DictReader(path.open()))
        series[name] = np.array([float(row["value"]) for row in rows])
        times = [row["timestamp"] for row in rows]
        labels[name] = [times.index(instant) for instant in instants[name]]
    best = {"realKnownCause": 0.0, "realTraffic": 0.0}
    for part in (RollingZ(128), DifferenceZ(128), SpectralResidualDetector(128, normalise="rms")):
        counts = tuned_elsewhere({s: np.abs(part.score(x)) for s, x in series.items()}, labels)
        for group in best:
            total = sum(count for s, count in counts.items() if s.startswith(group))
            best[group] = max(best[group], float(f1(total)))
    combined = CombinedDetector(128)
    counts = tuned_elsewhere({s: combined.score(x) for s, x in series.items()}, labels)
    for group, single in best.items():
        total = sum(count for s, count in counts.items() if s.startswith(group))
        assert float(f1(total)) > single - 0.03, group  # the notebook states by how much


# --- burst filter


def ticks_of(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    "Prices, volumes and times in seconds with everything that goes wrong."
    rng = np.random.default_rng(seed)
    price = 100 * np.exp(np.cumsum(1e-4 * rng.standard_t(3, n) * (rng.random(n) < 0.5)))
    volume = rng.lognormal(0, 1, n) * (rng.random(n) < 0.8)
    seconds = 1.7e9 + np.cumsum(rng.exponential(0.03, n)) + (rng.random(n) < 0.02) * -0.2
    price[rng.random(n) < 0.03], volume[rng.random(n) < 0.03] = np.nan, np.inf
    seconds[n // 2 :] += 30  # a long silence
    return price, volume, seconds


@given(
    seed=st.integers(0, 99),
    watch=st.sampled_from(burst_score.WATCH),
    bar_ns=st.sampled_from([0, 50_000_000, 400_000_000]),
    alarm_rate=st.sampled_from([None, 0.02]),
)
@settings(max_examples=25, deadline=None)
def test_filter_streamed_is_whole(
    seed: int, watch: str, bar_ns: int, alarm_rate: float | None
) -> None:
    price, volume, seconds = ticks_of(seed, 500)
    knobs = {"watch": watch, "bar_ns": bar_ns, "alarm_rate": alarm_rate}
    streamed = BurstConfirmationFilter(12, 2.0, **knobs)
    whole = streamed.scores(price, volume, seconds)
    for i in range(len(price)):
        streamed.update(price[i], volume[i], seconds[i])
        is_burst, score = streamed.confirm_burst()
        assert np.array_equal(score, whole.score[i], equal_nan=True)
        assert (is_burst, streamed.limit_) == (whole.is_burst[i], whole.limit[i])
        assert streamed.direction_ == whole.direction[i]
    assert np.isfinite(whole.score).any()


def test_filter_ignores_units_and_the_future() -> None:
    price, volume, seconds = ticks_of(0, 600)
    whole = BurstConfirmationFilter(30).scores(price, volume, seconds)
    other = BurstConfirmationFilter(30).scores(3e4 * price, 1e-5 * volume, seconds)
    assert np.allclose(whole.score, other.score, atol=1e-7, equal_nan=True)
    part = BurstConfirmationFilter(30).scores(price[:400], volume[:400], seconds[:400])
    assert np.array_equal(part.score, whole.score[:400], equal_nan=True)


@given(
    confidences=st.lists(st.floats(0, 1), min_size=2, max_size=10),
    side=st.sampled_from([-1, 0, 1]),
    last=st.floats(0, 200),
    step=st.sampled_from([-1e-3, 0.0, 1e-3]),
)
@settings(max_examples=60, deadline=None)
def test_the_gate_rises_with_the_confidence(
    confidences: list[float], side: int, last: float, step: float
) -> None:
    price, volume = 100 + 0.01 * noise("normal", 60), noise("lognormal", 60)
    burst_filter = BurstConfirmationFilter(30)
    for i in range(60):
        burst_filter.update(price[i], volume[i], float(i))
    burst_filter.update(price[-1] * (1 + step), last, 60.0)
    answers = [burst_filter.filter_signal(c, side) for c in sorted(confidences)]
    assert answers == sorted(answers, key=lambda answer: answer[1])
    assert [take for take, _ in answers] == sorted(take for take, _ in answers)
    is_burst, score = burst_filter.confirm_burst()
    for confidence, (take, adjusted) in zip(sorted(confidences), answers):
        against = side * np.sign(step) < 0
        expected = 0.0 if against else confidence * min(1.0, score / 3.0)
        assert adjusted == expected and take == (is_burst and not against and adjusted >= 0.5)


def test_filter_knows_nothing_before_its_window_is_full_and_after_a_reset() -> None:
    burst_filter = BurstConfirmationFilter(20)
    assert burst_filter.filter_signal(1.0) == (False, 0.0)
    for i in range(30):
        is_burst, score = burst_filter.confirm_burst()
        assert math.isnan(score) == (i < 20) and not (is_burst and i < 20)
        burst_filter.update(100.0, 1.0 + i % 3, float(i))
    assert burst_filter.confirm_burst()[1] == burst_filter.score_
    burst_filter.reset()
    assert math.isnan(burst_filter.confirm_burst()[1])


def test_a_burst_is_over_when_the_next_point_is_ordinary() -> None:
    volume = noise("lognormal", 300)
    burst_filter = BurstConfirmationFilter()
    for i in range(300):
        burst_filter.update(100.0, volume[i], float(i))
    burst_filter.update(100.0, 200.0, 300.0)
    assert burst_filter.confirm_burst()[0] and burst_filter.filter_signal(0.9) == (True, 0.9)
    burst_filter.update(100.0, 1.0, 301.0)
    assert not burst_filter.confirm_burst()[0] and not burst_filter.filter_signal(0.9)[0]


def test_an_old_tick_confirms_nothing() -> None:
    volume = noise("lognormal", 300)
    burst_filter = BurstConfirmationFilter(max_age_s=2.0)
    for i in range(300):
        burst_filter.update(100.0, volume[i], float(i))
    burst_filter.update(100.0, 200.0, 300.0)
    assert burst_filter.confirm_burst(301.5)[0] and burst_filter.filter_signal(0.9, 0, 302.0)[0]
    assert burst_filter.confirm_burst(302.1) == (False, 0.0)
    assert burst_filter.filter_signal(0.9, 0, 400.0) == (False, 0.0)
    assert burst_filter.confirm_burst()[0]  # no clock: as of the newest tick


@pytest.mark.parametrize("change", [1.0, 1.0001, 1.2, 1.45])
@pytest.mark.parametrize("watch", burst_score.WATCH)
def test_a_tiny_change_after_constancy_is_no_burst(change: float, watch: str) -> None:
    burst_filter = BurstConfirmationFilter(20, watch=watch)
    for i in range(60):  # equal volumes, and a price that rises by equal steps
        burst_filter.update(100 * math.exp(1e-4 * i), 5.0, float(i))
    burst_filter.update(100 * math.exp(1e-4 * (59 + change)), 5.0 * change, 60.0)
    assert burst_filter.confirm_burst() == (False, 0.0)
    burst_filter.update(100 * math.exp(1e-4 * (69 + change)), 50.0, 61.0)
    assert burst_filter.confirm_burst()[0]  # ten times the usual is one


def test_a_clock_closes_bars_without_a_tick() -> None:
    volume = noise("lognormal", 200)
    burst_filter = BurstConfirmationFilter(50, bar_ns=1_000_000_000)
    for i in range(200):
        burst_filter.update(100.0, volume[i], float(i))
    burst_filter.update(100.0, 500.0, 200.0)
    assert not burst_filter.confirm_burst()[0]  # its bar is still open
    assert burst_filter.confirm_burst(201.0)[0]
    assert burst_filter.confirm_burst(202.0) == (False, 0.0)  # an empty bar


@pytest.mark.parametrize("m, least", [(10, 0.0), (20, 0.0), (50, 0.9), (100, 0.95)])
def test_bursts_in_lognormal_volume(m: float, least: float) -> None:
    "One false alarm in 1,000 ticks for both; each spike is the newest tick when it is judged."
    volume = noise("lognormal", 60_000, 7)
    at = np.arange(500, 60_000, 101)
    spiked = volume.copy()
    spiked[at] = m
    price = 100 * np.exp(np.cumsum(1e-5 * noise("normal", 60_000, 8)))
    for watch in ("volume", "either"):
        burst_filter = BurstConfirmationFilter(watch=watch)
        robust = RobustZ(100)
        limit = np.nanquantile(burst_filter.scores(price, volume).score, 0.999)
        usual = np.nanquantile(robust.score(np.log(volume)), 0.999)
        found = np.mean(burst_filter.scores(price, spiked).score[at] > limit)
        theirs = np.mean(robust.score(np.log(spiked))[at] > usual)
        assert found >= least and found > theirs - (0.02 if watch == "volume" else 0.1)


@pytest.mark.verify
def test_bursts_over_many_seeds(record_property: pytest.FixtureRequest) -> None:
    "The mean over seeds: one seed's threshold rests on a hundred noise points."
    for m in (10, 20, 50, 100):
        gains = []
        for seed in range(20):
            volume = noise("lognormal", 100_000, seed)
            at = np.arange(500, 100_000, 101)
            spiked = volume.copy()
            spiked[at] = m
            recalls = []
            for score in (
                lambda v: burst_scores(np.ones(len(v)), v, watch="volume")[0],
                lambda v: RobustZ(100).score(np.log(v)),
            ):
                limit = np.nanquantile(score(volume), 0.999)
                recalls.append(np.mean(score(spiked)[at] > limit))
            gains.append(recalls)
        ours, robust = np.mean(gains, axis=0)
        record_property(f"m={m}", f"{ours:.3f} beside robust z {robust:.3f}")
        assert ours > robust - 0.02 and (m < 100 or ours >= 0.95)


@pytest.mark.parametrize("moves", ["normal", "t3"])
def test_a_score_of_three_is_one_in_a_thousand(moves: str) -> None:
    rng = np.random.default_rng(9)
    step = rng.normal(size=100_000) if moves == "normal" else rng.standard_t(3, 100_000)
    price = 100 * np.exp(np.cumsum(1e-5 * step))
    for watch in burst_score.WATCH:
        scores = burst_scores(price, rng.lognormal(0, 1, 100_000), watch=watch)[0]
        assert np.nanmean(scores > 3) < 1.5e-3
        assert watch == "price" or np.nanmean(scores > 2) > 4e-3  # and not by never speaking
