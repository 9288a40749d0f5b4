"""From bytes to decision in one kernel: every decision as the plain way has it, in every bit."""

from dataclasses import replace

import numpy as np
import pytest

from gem_detector.core import Gap, InputError
from gem_detector.costs import FeeTable
from gem_detector.datasets import Dataset
from gem_detector.detector import Decision, GemDetector
from gem_detector.feature_stream import Sampler
from gem_detector.frame_step import DecidingFeed, FrameDetector, market_name
from gem_detector.frames import Arrival
from gem_detector.gem_models import GemModels, train_gem_models
from gem_detector.market_watch import MarketWatch, WatchSettings, frame_of
from gem_detector.markets import instrument
from gem_detector.memory_link import MemoryLink
from gem_detector.meta_labeling import MetaLabelingConfig
from gem_detector.simulator import Dislocation, VenueSpec, simulate_market
from gem_detector.sync import Feed
from gem_detector.venues.binance import BinanceProtocol
from gem_detector.venues.bybit import BybitProtocol
from gem_detector.venues.okx import OKXProtocol
from gem_detector.wire_faults import Fault

MARKETS = [
    (BinanceProtocol("spot"), instrument("binance", "BTC/USDT")),
    (BinanceProtocol("linear"), instrument("binance", "BTC/USDT:USDT")),
    (BybitProtocol("spot"), instrument("bybit", "BTC/USDT")),
    (OKXProtocol("spot"), instrument("okx", "BTC/USDT")),  # no kernel reads it: events
]
OPTIONS = {"fees": FeeTable.own({"binance": 1.0, "bybit": 1.0, "okx": 1.0}), "depth": 10}
START_NS = 10**18
BAD = {
    "binance BTC/USDT": [Fault("drop", at_s=3.0, n=2, chance=0.01)],
    "binance BTC/USDT:USDT": [Fault("duplicate", at_s=2.0, n=5, chance=0.05)],
    "bybit BTC/USDT": [Fault("truncate", at_s=4.0, n=2, chance=0.01)],
}


def recorded(seed: int, seconds: float, is_bad: bool) -> list[tuple[str, Arrival]]:
    "What arrives of all markets at 2,000 messages a second, in the order of receipt."
    specs = [
        VenueSpec(
            one,
            name=market_name(one),
            change_rate_hz=150.0 if one.exchange == "okx" else 1_200.0,
            batch_ms=100.0 if one.exchange == "okx" else 1.0,
            trade_rate_hz=20.0,
        )
        for _, one in MARKETS
    ]
    planted = [
        Dislocation(specs[2 * (k % 2)].key, START_NS + round(at_s * 1e9), 150.0, 40.0, 2.0)
        for k, at_s in enumerate(np.arange(1.5, seconds - 0.5, max(0.7, seconds / 40)))
    ]
    market = simulate_market(seed, seconds, specs, start_ns=START_NS, dislocations=planted)
    arrivals = []
    for protocol, one in MARKETS:
        name = market_name(one)
        part = replace(market, tapes={name: market.tapes[name]})
        link = MemoryLink(Feed(protocol, [one]), part, BAD.get(name, ()) if is_bad else (), seed)
        arrivals += [(name, arrival) for arrival, _, _ in link.run()]
    return sorted(arrivals, key=lambda pair: pair[1].ts_recv_ns)


def settings_of(kind: str) -> WatchSettings:
    bar_ms = 0.0 if kind == "book" else 100.0
    return WatchSettings(sampler=Sampler(kind), burst_bar_ms=bar_ms, burst_lookback=64)


def models_of(kind: str, folder: str) -> GemModels:
    "Models of half a rule and half chance: their probabilities differ from row to row."
    settings = settings_of("book")
    watch = MarketWatch(settings, fees=OPTIONS["fees"])
    only = FrameDetector(MARKETS, None, step="plain", watch=watch, depth=10)
    rows = [
        one.watched for name, one in recorded(1, 5.0, False) for one in only.on_arrival(name, one)
    ]
    frame, rng = frame_of(rows, settings.features), np.random.default_rng(0)
    odds = np.log1p(frame["net_edge_age_ms"]) - 4 + frame["burst_score"].fillna(0)
    y = (rng.random(len(frame)) < 1 / (1 + np.exp(-odds))).astype(int)
    side = frame[["legs", "burst_score"]].rename(columns={"legs": "trade"})
    side = side.assign(t0=frame.index, t1=frame.index + 10**6, weight=1.0)
    side["episode_id"] = np.where(y, np.arange(len(y)), -1)
    table = frame.drop(columns=["legs", "burst_score"]).assign(is_gem=y)
    config = MetaLabelingConfig("oof", 0.5, min_confidence_gap=0.0)
    data = Dataset(table, side)
    models = train_gem_models(data, settings, folder, config=config, n_trees=60)
    return replace(models, settings=settings_of(kind))


@pytest.fixture(
    scope="module",
    params=["book", *(pytest.param(kind, marks=pytest.mark.verify) for kind in ("bbo", "grid"))],
)
def models(request, tmp_path_factory) -> GemModels:
    return models_of(request.param, str(tmp_path_factory.mktemp("models")))


def assert_equal(models: GemModels, arrivals: list[tuple[str, Arrival]]) -> dict[str, int]:
    "Every decision both ways; what was seen on the way."
    plain = FrameDetector(MARKETS, models, step="plain", **OPTIONS)
    fast = FrameDetector(MARKETS, models, step="compiled", **OPTIONS)
    light = FrameDetector(MARKETS, models, step="compiled", **OPTIONS)
    n_gaps = n_fast = 0
    for name, arrival in arrivals:
        expected, found = plain.on_arrival(name, arrival), fast.on_arrival(name, arrival)
        assert len(found) == len(expected) and all(map(Decision.same_as, found, expected))
        told = [(one.p_primary, one.p_meta, one.watched.burst_score) for one in expected]
        verdicts = light.verdicts(name, arrival)[:, [0, 1, 3]]
        assert np.array_equal(np.array(told).reshape(-1, 3), verdicts, equal_nan=True)
    assert plain.gems == fast.gems == light.gems
    for feed in fast.feeds.values():
        (sync,) = feed.syncs.values()
        n_gaps += sync.counts["gap"]
        n_fast += feed.n_decided if isinstance(feed, DecidingFeed) else 0
    asked = {one.detector.n_asked for one in (plain, fast, light)}
    assert len(asked) == 1
    rows, gems = plain.detector.n_rows, len(plain.gems)
    return {"rows": rows, "asked": asked.pop(), "gems": gems, "gaps": n_gaps, "fast": n_fast}


def test_ten_seconds(models, record_property) -> None:
    arrivals = recorded(2, 10.0, True)
    seen = assert_equal(models, arrivals)
    record_property("seen", seen)
    assert seen["gaps"] > 0 and seen["asked"] > 5 and seen["fast"] > 0.7 * len(arrivals)
    assert seen["gems"] > 0 or models.settings.sampler.kind != "book"


@pytest.mark.verify
@pytest.mark.parametrize("seed", range(11, 16))
def test_a_minute(models, seed, record_property) -> None:
    seen = assert_equal(models, recorded(seed, 60.0, True))
    record_property("seen", seen)
    assert seen["gaps"] > 0 and seen["asked"] > 20 and seen["gems"] > 0


def test_a_venue_that_falls_silent_and_one_that_never_speaks(models) -> None:
    arrivals = [
        (name, one)
        for name, one in recorded(3, 5.0, False)
        if name != "okx BTC/USDT"
        and not (name == "bybit BTC/USDT" and one.ts_recv_ns > START_NS + 3 * 10**9)
    ]
    assert assert_equal(models, arrivals)["rows"] > 20


def test_clocks_take_the_plain_way(models) -> None:
    clocks = {("binance", "BTC/USDT"): lambda venue_ns: venue_ns - 1_000_000}
    fast = FrameDetector(MARKETS, models, clocks=clocks, **OPTIONS)
    plain = FrameDetector(MARKETS, models, step="plain", clocks=clocks, **OPTIONS)
    assert not any(isinstance(feed, DecidingFeed) for feed in fast.feeds.values())
    for name, arrival in recorded(4, 4.0, False):
        found, expected = (one.on_arrival(name, arrival) for one in (fast, plain))
        assert len(found) == len(expected) and all(map(Decision.same_as, found, expected))


def test_what_cannot_be_compiled_or_goes_back_is_refused(models) -> None:
    with pytest.raises(InputError, match="'plain' or 'compiled'"):
        GemDetector(models, step="fast")
    fast = GemDetector(models, step="compiled", fees=OPTIONS["fees"])
    fast.on_event(Gap("binance", "BTC/USDT", 5, "sequence"))
    with pytest.raises(InputError, match="order of their receipt"):
        fast.on_event(Gap("binance", "BTC/USDT", 4, "sequence"))
