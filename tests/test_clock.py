"""The clock against planted truth, and the sketch against np.percentile."""

import gzip
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector.clock import ClockSync, LatencyByHop, LatencySketch, RecentMinimum
from gem_detector.core import NS_PER_MS, NS_PER_S, InputError

START = 1_770_000_000 * NS_PER_S  # a real epoch: stamps beyond the 53 bits of a float
delays_ms = st.floats(0, 300)
probes = st.lists(
    st.tuples(st.floats(0.001, 600), delays_ms, delays_ms), min_size=1, max_size=100
)  # seconds since the probe before, ms there, ms back


class Planted:
    "A venue clock that runs (1 + drift) times as fast as ours."

    def __init__(self, offset_ns: int, drift: float, resolution_ns: int) -> None:
        self.offset_ns, self.drift, self.resolution_ns = offset_ns, drift, resolution_ns

    def offset(self, local_ns: int) -> int:
        return self.offset_ns + round(self.drift * (local_ns - START))

    def stamp(self, local_ns: int) -> int:
        step = self.resolution_ns or 1
        return (local_ns + self.offset(local_ns)) // step * step


def feed(sync: ClockSync, clock: Planted, trips: list[tuple[float, float, float]]) -> list[int]:
    "Probe a planted clock; after every probe the truth must lie within the error. Round trips, ns."
    now, round_trips = START, []
    for wait_s, there_ms, back_ms in trips:
        send = now + int(wait_s * NS_PER_S)
        arrive = send + int(there_ms * NS_PER_MS)
        now = arrive + int(back_ms * NS_PER_MS)
        sync.add_probe(send, clock.stamp(arrive), now)
        round_trips.append(now - send)
        for when in (now, now + 30 * NS_PER_S, now - NS_PER_S):
            offset, error = sync.offset_at(when)
            assert abs(clock.offset(when) - offset) <= error + 512  # half an ulp of such sums
    return round_trips


@settings(max_examples=150, deadline=None)
@given(
    trips=probes,
    offset_ns=st.integers(-(10**19) // 10, 10**12),
    drift_ppm=st.floats(-99, 99),
    resolution_ns=st.sampled_from([0, 1_000, NS_PER_MS]),
)
def test_truth_is_within_the_error(
    trips: list[tuple[float, float, float]], offset_ns: int, drift_ppm: float, resolution_ns: int
) -> None:
    clock = Planted(offset_ns, drift_ppm * 1e-6, resolution_ns)
    sync = ClockSync(resolution_ns=resolution_ns)
    feed(sync, clock, trips)
    assert sync.step_count == 0  # a steady clock never contradicts itself
    now = sync._now
    assert abs(sync.correct(clock.stamp(now)) - now) <= (
        sync.offset_at(now)[1] * (1 + 2e-4) + resolution_ns + 512
    )


@settings(max_examples=60, deadline=None)
@given(trips=probes, offset_ns=st.integers(-(10**12), 10**12))
def test_error_is_at_most_half_the_smallest_round_trip(
    trips: list[tuple[float, float, float]], offset_ns: int
) -> None:
    "For a clock that is known not to drift the window is the whole of it."
    sync = ClockSync(max_drift_ppm=1e-9, wander_ppm=0.0, window_s=1e9)
    round_trips = feed(sync, Planted(offset_ns, 0.0, 0), trips)
    smallest = min(round_trips[-32:]) if len(trips) > 64 else min(round_trips)
    assert sync.offset_at(sync._now)[1] <= smallest / 2 + len(trips)


def test_drift_is_found_over_an_hour() -> None:
    rng = np.random.default_rng(1)
    for drift_ppm in (-40.0, 0.0, 7.0, 80.0):
        sync = ClockSync(resolution_ns=NS_PER_MS)
        trips = [(30.0, *(5 + rng.exponential(10, 2))) for _ in range(120)]
        round_trips = feed(sync, Planted(10**9, drift_ppm * 1e-6, NS_PER_MS), trips)
        assert abs(sync.drift_ppm - drift_ppm) < 5.0
        assert sync.error_ms < min(round_trips) / NS_PER_MS  # 10 ms of pure way and 1 ms of stamp


def test_a_set_clock_is_noticed_and_left_behind() -> None:
    sync, clock = ClockSync(), Planted(10**9, 0.0, 0)
    feed(sync, clock, [(10.0, 5.0, 5.0)] * 20)
    later = Planted(3 * 10**9, 0.0, 0)  # two seconds on, from one probe to the next
    now = sync._now + 10 * NS_PER_S
    sync.add_probe(now, later.stamp(now + 5 * NS_PER_MS), now + 10 * NS_PER_MS)
    assert sync.step_count == 1 and abs(sync.offset_ms - 3_000) <= sync.error_ms < 5.1
    sync.add_probe(now + NS_PER_S, 0, now)  # our own clock went back during the trip
    assert sync.step_count == 2 and not sync.is_known and math.isnan(sync.offset_ms)


@settings(max_examples=60, deadline=None)
@given(
    latencies=st.lists(st.floats(0, 500), min_size=1, max_size=200),
    offset_ns=st.integers(-(10**12), 10**12),
    drift_ppm=st.floats(-99, 99),
)
def test_messages_give_a_bound_and_no_offset(
    latencies: list[float], offset_ns: int, drift_ppm: float
) -> None:
    clock, sync = Planted(offset_ns, drift_ppm * 1e-6, NS_PER_MS), ClockSync()
    for i, latency in enumerate(latencies):
        send = START + i * NS_PER_S
        sync.add_one_way(clock.stamp(send), send + int(latency * NS_PER_MS))
        assert sync.bound_ms <= clock.offset(sync._now) / NS_PER_MS + 1e-3
    assert math.isnan(sync.offset_ms) and not sync.is_known and sync.conflict_count == 0


values = st.one_of(
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6).map(lambda x: round(x)),
    st.floats(0, 1).map(lambda x: x * 1e-5 - 1_275),
)


@settings(max_examples=200, deadline=None)
@given(data=st.lists(values, min_size=1, max_size=400), p=st.floats(0, 100))
def test_sketch_is_within_its_error(data: list[float], p: float) -> None:
    sketch = LatencySketch()
    for value in data:
        sketch.add(value)
    low, high = (np.percentile(data, p, method=method) for method in ("lower", "higher"))
    origin = sketch.origin if len(data) >= 64 else low
    found = sketch.percentile(p)
    assert low - 0.0101 * abs(low - origin) - 2e-6 <= found
    assert found <= high + 0.0101 * abs(high - origin) + 2e-6
    assert (sketch.minimum, sketch.maximum) == (min(data), max(data))
    assert sketch.count == len(data)


@settings(max_examples=100, deadline=None)
@given(
    first=st.lists(values, max_size=200), second=st.lists(values, max_size=200), p=st.floats(0, 100)
)
def test_merged_sketch_is_within_both_errors(
    first: list[float], second: list[float], p: float
) -> None:
    sketches = LatencySketch(), LatencySketch()
    for sketch, data in zip(sketches, (first, second)):
        for value in data:
            sketch.add(value)
    sketches[0].merge(sketches[1])
    data = first + second
    assert sketches[0].count == len(data)
    if not data:
        assert math.isnan(sketches[0].percentile(p))
        return
    low, high = (np.percentile(data, p, method=method) for method in ("lower", "higher"))
    reach = max(data) - min(data)
    found = sketches[0].percentile(p)
    assert low - 0.0203 * reach - 4e-6 <= found <= high + 0.0203 * reach + 4e-6


def test_one_wild_first_value_does_not_spoil_the_rest() -> None:
    sketch = LatencySketch()
    rng = np.random.default_rng(3)
    data = np.concatenate([[90_000.0], -1_275 + rng.lognormal(0, 0.5, 5_000)])
    for value in data:
        sketch.add(float(value))
    exact = np.percentile(data, 50, method="lower")
    assert abs(sketch.percentile(50) - exact) < 0.01 * (exact - data.min())


def test_sketch_memory_is_bounded() -> None:
    sketch = LatencySketch()
    for value in np.random.default_rng(2).lognormal(0, 8, 50_000):
        sketch.add(float(value))
    assert len(sketch._counts) < 2_500


@settings(max_examples=60, deadline=None)
@given(data=st.lists(st.tuples(st.floats(0, 70), st.floats(-1e3, 1e3)), min_size=1, max_size=80))
def test_recent_minimum_is_over_30_to_60_seconds(data: list[tuple[float, float]]) -> None:
    floor, now, seen = RecentMinimum(60.0), START, []
    for wait_s, value in data:
        now += int(wait_s * NS_PER_S)
        seen.append((now, value))
        found = floor.update(now, value)
        last_30 = min(v for at, v in seen if at > now - 30 * NS_PER_S)
        last_60 = min(v for at, v in seen if at > now - 60 * NS_PER_S)
        assert last_60 <= found <= last_30


@settings(max_examples=60, deadline=None)
@given(latencies=st.lists(st.floats(-5, 300), min_size=1, max_size=150), probed=st.booleans())
def test_no_negative_latency_reaches_the_summary(latencies: list[float], probed: bool) -> None:
    sync = ClockSync()
    if probed:
        sync.add_probe(START, START + NS_PER_S, START)
    hops = LatencyByHop(sync)
    for i, latency in enumerate(latencies):
        send = START + i * NS_PER_MS
        hops.add(0, send + NS_PER_S, send + int(latency * NS_PER_MS))
    wire = hops.summary()["wire"]
    assert min(wire[f"p{p}_ms"] for p in (50, 95, 99)) >= 0
    has_negative = any(int(latency * NS_PER_MS) < -100 for latency in latencies)
    if probed and has_negative:
        assert wire["negative"] > 0 and wire["kind"] == "above minimum"
    if not probed:
        assert wire["negative"] == 0 and wire["kind"] == "above minimum"


def test_refusals_name_the_value() -> None:
    for wrong in ({"window_s": 0.0}, {"max_drift_ppm": -1.0}, {"resolution_ns": -1}):
        name = next(iter(wrong))
        with pytest.raises(InputError, match=f"{name}="):
            ClockSync(**wrong)
    with pytest.raises(InputError, match=r"0\.01 and 0\.02"):
        LatencySketch(0.01).merge(LatencySketch(0.02))


@pytest.mark.data
def test_binance_clock_is_at_least_so_far_ahead(gem_data: Path) -> None:
    pattern = re.compile(rb'(\d+) .*"e":"depthUpdate","E":(\d+)')
    found = {}
    for name in ("spot", "usdm"):
        sync, best, raw = ClockSync(resolution_ns=NS_PER_MS), -math.inf, []
        with gzip.open(gem_data / f"binance-2024-08-08/{name}_btcusdt.gz") as lines:
            for match in filter(None, map(pattern.match, lines)):
                recv, send = int(match[1]), int(match[2]) * NS_PER_MS
                sync.add_one_way(send, recv)
                best = max(best, sync.bound_ms)
                raw.append((recv - send) / NS_PER_MS)
        assert math.isnan(sync.offset_ms) and best == pytest.approx(-min(raw))
        found[name] = best, np.percentile(raw, [1, 50, 99])
    assert found["spot"][0] == pytest.approx(1_274.8, abs=0.05)
    assert found["usdm"][0] == pytest.approx(1_272.4, abs=0.05)
    assert found["usdm"][1] == pytest.approx([-1_271.8, -1_270.1, -1_260.6], abs=0.2)
