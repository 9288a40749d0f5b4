"""Bad input of every kind, at every face: refused with a sentence, or left out and counted.

And what has to hold whatever comes in: nothing of the future, no order of venues, no price level,
and the same bits live, replayed and in batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf, isnan, nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_features import MARKETS, OWN, SETTINGS, rows_of, same_bits, snapshot, streams

from gem_detector.aggregator import MultiExchangeAggregator
from gem_detector.core import NS_PER_S, Event, InputError, OrderBookSnapshot, StreamState
from gem_detector.decisions import GemRule
from gem_detector.event_days import coins_of, events_between
from gem_detector.execution import BookColumns
from gem_detector.feature_kernels import FEATURES_DOCUMENT
from gem_detector.feature_stream import FEATURES, FeatureStream, Sampler
from gem_detector.features import CrossExchangeFeatureExtractor, CrossExchangeFeatures
from gem_detector.labels import label_gems
from gem_detector.markets import instrument
from gem_detector.recorder import EventWriter, read_events
from gem_detector.simulator import START_NS

S = NS_PER_S
COIN = [("binance", "BTC/USDT"), ("htx", "BTC/USDT"), ("okx", "BTC/USDT")]
GOOD = [(99.0, 1.0), (98.0, 2.0)], [(99.4, 1.5), (99.9, 2.0)]

# fault → book, what counts it in rows, in the extractor, in the aggregator
FAULTS: dict[str, tuple[tuple[list, list], str, str, str]] = {
    "crossed": (([(101.0, 1.0)], [(100.0, 1.0)]), "crossed books", "crossed", "crossed"),
    "locked": (([(100.0, 1.0)], [(100.0, 1.0)]), "crossed books", "crossed", "crossed"),
    "empty": (([], []), "one-sided books", "one-sided", "one-sided"),
    "no bids": (([], [(100.0, 1.0)]), "one-sided books", "one-sided", "one-sided"),
    "no asks": (([(99.0, 1.0)], []), "one-sided books", "one-sided", "one-sided"),
    "nan bid": (
        ([(nan, 1.0), (98.0, 1.0)], GOOD[1]),
        "one-sided books",
        "one-sided",
        "bad numbers",
    ),
    "nan size": (([(99.0, nan), (98.0, 1.0)], GOOD[1]), *["book", "bad number", "bad numbers"]),
    "negative": (([(-99.0, 1.0)], [(100.0, 1.0)]), *["book", "bad number", "bad numbers"]),
    "endless": (([(99.0, 1.0)], [(inf, 1.0)]), *["book", "bad number", "bad numbers"]),
    "size < 0": (([(99.0, -1.0)], [(100.0, 1.0)]), *["book", "bad number", "bad numbers"]),
}
FAULTS = {
    k: (b, "books with a bad number" if r == "book" else r, x, a)
    for k, (b, r, x, a) in FAULTS.items()
}


def books_at(ts_ns: int, *which: int) -> list[OrderBookSnapshot]:
    "Good books of some venues, a little apart in price."
    shift = [0.0, 0.03, -0.02]
    return [
        snapshot(COIN[k], ts_ns + k, *([(px + shift[k], qty) for px, qty in side] for side in GOOD))
        for k in which
    ]


# --- a book that cannot be


@pytest.mark.parametrize("fault", FAULTS)
def test_rows_with_a_broken_book_are_those_without_its_venue(fault: str) -> None:
    "Nothing of it is in any feature, and it is counted."
    sides, counted, _, _ = FAULTS[fault]
    good = [book for k in range(5) for book in books_at(START_NS + k * S, 0, 1, 2)]
    broken = snapshot(COIN[2], START_NS + 5 * S, *sides)
    with_it = rows_of([*good, broken], "bbo")
    lost = rows_of([*good, replace(broken, state=StreamState.SUSPECT)], "bbo")
    assert with_it.index.equals(lost.index) and with_it["n_venues"].iloc[-1] == 2
    assert same_bits(with_it, lost)
    assert with_it.attrs["counts"][counted] == 1 and lost.attrs["counts"][counted] == 0
    assert lost.attrs["counts"]["unproven books"] == 1
    two = rows_of([*books_at(START_NS, 0), snapshot(COIN[2], START_NS + 2, *sides)], "bbo")
    assert len(two) == 0 and two.attrs["counts"]["rows"] == 0  # not a row of zeros


def quote_of(sides: tuple[list, list]) -> dict[str, float]:
    "The touch as a dictionary; nan where there is none."
    (bid, bid_qty), (ask, ask_qty) = (side[0] if side else (nan, nan) for side in sides)
    sizes = {"bid_size": bid_qty, "ask_size": ask_qty}
    return {"best_bid": bid, "best_ask": ask, **sizes, "timestamp": 1.7e9}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_extractor_leaves_a_broken_quote_out(fault: str) -> None:
    sides, _, reason, _ = FAULTS[fault]
    found: list[CrossExchangeFeatures | None] = []
    for names in (("a", "b", "c"), ("a", "b")):
        extractor = CrossExchangeFeatureExtractor()
        quotes = {name: quote_of(GOOD) for name in names}
        quotes["b"]["best_ask"] = 99.5
        if "c" in quotes:
            quotes["c"] = quote_of(sides)
        found.append(extractor.extract_features(quotes, []))
        if "c" in quotes:
            assert extractor.counts == {f"quotes left out: {reason}": 1}
            assert extractor.extract_features({n: quotes[n] for n in ("a", "c")}, []) is None
    assert found[0] is not None and found[1] is not None
    ours, theirs = (CrossExchangeFeatureExtractor().to_dict(one) for one in found if one)
    assert same_bits(list(ours.values()), list(theirs.values()))


@pytest.mark.parametrize("fault", FAULTS)
def test_the_aggregator_says_why(fault: str) -> None:
    sides, _, _, reason = FAULTS[fault]
    markets = {name: instrument(name, symbol) for name, symbol in COIN}
    aggregator = MultiExchangeAggregator(markets, now_ns=lambda: START_NS + S)
    for book in books_at(START_NS, 0, 1):
        aggregator.on_book(book.exchange, book)
    aggregator.on_book("okx", snapshot(COIN[2], START_NS + 5, *sides))
    assert set(aggregator.get_best_bid_ask()) == {"binance", "htx"}
    pairs = aggregator.get_arbitrage_opportunities(0.0)
    assert not [one for one in pairs if "okx" in (one["buy_exchange"], one["sell_exchange"])]
    assert any(reason in str(line) and "okx" in str(line) for line in aggregator.rejected())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_label_on_a_broken_book_is_not_known(fault: str) -> None:
    "Neither a gem nor a negative; where a side is empty, nothing fills."
    sides = FAULTS[fault][0]
    columns = {
        name: BookColumns.from_events(
            [
                snapshot(market, START_NS, *GOOD),
                snapshot(market, START_NS + S, *(sides if k == 1 else GOOD)),
                snapshot(market, START_NS + 2 * S, *GOOD),
            ]
        )
        for k, (name, market) in enumerate((("binance", COIN[0]), ("okx", COIN[2])))
    }
    rule = GemRule(50.0, latency_ms={"binance": 10.0, "okx": 10.0})
    labels = label_gems(np.array([START_NS + S + S // 2]), columns, rule, fees=OWN)
    if fault in ("no bids", "no asks"):  # such a book can be: nothing fills there, and that costs
        assert not labels.frame()["is_gem"].any()
    else:
        assert len(labels.frame()) == 0 and not np.isfinite(labels.net_bps).any()


# --- time, names


@contextmanager
def refused(sentence: str) -> Iterator[None]:
    "One sentence, in small letters, without a stop."
    with pytest.raises(InputError, match=sentence) as told:
        yield
    said = str(told.value)
    assert "\n" not in said and not said.endswith(".")


def test_a_venue_that_vanishes_and_comes_back() -> None:
    "Left out a minute after its last book, back with its next one; meanwhile it is counted."
    events: list[Event] = []
    for k in range(200):
        which = (0, 1, 2) if k < 20 or k >= 150 else (0, 1)
        events += books_at(START_NS + k * S, *which)
    frame = rows_of(events, Sampler(step_ms=1_000))
    at = (frame.index - START_NS) / S
    gone = (at > 80) & (at < 150)
    assert set(frame.loc[gone, "n_venues"]) == {2} and set(frame.loc[gone, "n_left_out"]) == {1}
    assert set(frame.loc[at > 151, "n_venues"]) == {3} == set(frame.loc[at < 79, "n_venues"])
    assert frame.loc[(at > 20) & (at < 79), "max_silence_ms"].is_monotonic_increasing


def test_time_that_runs_backwards_and_stamps_that_repeat() -> None:
    first, second = books_at(START_NS, 0, 1)
    stream = FeatureStream(fees=OWN, settings=SETTINGS)
    stream.on_event(second)
    with refused("in the order of their receipt"):
        stream.on_event(first)
    stream.on_event(replace(first, ts_recv_ns=second.ts_recv_ns))  # the same stamp is no fault
    with refused("time went back"):
        stream.advance(START_NS)
    twice = [first, first, second, second]
    assert len(rows_of(sorted(twice, key=lambda e: e.ts_recv_ns), "bbo")) == 1
    extractor = CrossExchangeFeatureExtractor()
    for stamp in (2.0, 1.0, 1.0):
        extractor.update("a", 100.0, 1.0, stamp)
    assert extractor.counts == {"stamps that went back": 2}
    for stamp in (nan, -1.0):
        with refused("seconds UTC"):
            extractor.update("a", 100.0, 1.0, stamp)


def test_names_that_nobody_knows() -> None:
    (book,) = books_at(START_NS, 0)
    with refused("no taker fee of mtgox"):
        rows_of([replace(book, exchange="mtgox")])
    with refused("BTCUSDT"):
        rows_of([replace(book, symbol="BTCUSDT")])
    with refused("one coin: BTC, not ETH"):
        rows_of([book, replace(book, symbol="ETH/USDT")])
    with refused("unknown features: rsi"):
        FeatureStream(features=["rsi"])
    markets = {"binance": instrument(*COIN[0])}
    with refused("unknown name 'okx'"):
        MultiExchangeAggregator(markets).on_book("okx", book)


@pytest.mark.parametrize("wrong", ["dear", None, [1.0]])
def test_dictionaries_of_something_else_are_refused(wrong: Any) -> None:
    extractor, good = CrossExchangeFeatureExtractor(), quote_of(GOOD)
    with refused("prices and sizes are numbers"):
        extractor.extract_features({"a": good, "b": good | {"best_bid": wrong}}, [])
    with refused("profit_bps is a"):
        extractor.extract_features({"a": good, "b": good}, [{"profit_bps": wrong}])
    for order in (("a", "b"), ("b", "a")):  # a stamp that is missing hides no other
        stamps = dict(zip(order, (nan, 1.7e9)))
        quotes = {name: good | {"timestamp": stamps[name]} for name in ("a", "b")}
        features = extractor.extract_features(quotes, None)
        assert features is not None and features.timestamp == 1.7e9
        assert isnan(features.best_arb_opportunity_bps)  # nobody looked, so it is not 0


# --- whatever comes in


@settings(max_examples=25, deadline=None)
@given(streams(), st.sampled_from(["grid", "bbo", "cusum"]))
def test_live_replay_and_batch_are_the_same_bits(events: list[Event], sampler: str) -> None:
    "One by one, read back from a recording in two ways, and in one go."
    batch = rows_of(events, sampler)
    live = FeatureStream(fees=OWN, settings=SETTINGS, sampler=sampler)
    rows = [row for event in events for row in live.on_event(event)]
    assert same_bits([row.values for row in rows], batch[list(FEATURES)]) or not rows
    assert [row.ts_recv_ns for row in rows] == batch.index.tolist()
    if not any(isinstance(event, OrderBookSnapshot) for event in events):
        return
    with TemporaryDirectory() as name:
        with EventWriter(Path(name), 13) as writer:
            for event in events:
                writer.write(event)
        (coin,) = coins_of(name)
        again = [read_events(name), list(events_between(coin.files, 0, 2**62))]
    for read in again:
        replayed = rows_of(read, sampler)
        assert replayed.index.equals(batch.index) and same_bits(replayed, batch)
        assert replayed.attrs["counts"] == batch.attrs["counts"]


@settings(max_examples=20, deadline=None)
@given(streams(), st.integers(-24, 24), st.sampled_from(["grid", "bbo"]))
def test_no_feature_knows_the_price_level(events: list[Event], power: int, sampler: str) -> None:
    "A factor of two to some power changes no digit of a ratio; of logarithms only the last."
    factor, scaled = 2.0**power, list[Event]()
    for event in events:
        if isinstance(event, OrderBookSnapshot) and event.symbol != "USDT/USD":
            sides = (side * [factor, 1.0] for side in (event.bids, event.asks))
            event = replace(event, **dict(zip(("bids", "asks"), sides)))
        scaled.append(event)
    small = replace(SETTINGS, notional=SETTINGS.notional * factor)
    one, two = rows_of(events, sampler), rows_of(scaled, sampler, settings=small)
    lagged = [name for name in FEATURES if "lead" in name]  # the best of many lags: ties may fall
    rest = [name for name in FEATURES if name not in lagged]
    assert np.allclose(one[rest], two[rest], rtol=1e-6, atol=1e-6, equal_nan=True)
    assert np.array_equal(np.isnan(one[lagged]), np.isnan(two[lagged]))


@settings(max_examples=20, deadline=None)
@given(streams(), st.randoms(use_true_random=False))
def test_the_order_in_which_venues_appear_does_not_matter(events: list[Event], random: Any) -> None:
    "Numbers are given in the order of arrival; they change the last digits of a sum at most."
    # stamps of a recording differ; of two books in one microsecond the one with the lower number
    # counts as decided first, which moves its return by an update between two blocks
    events = [replace(e, ts_recv_ns=e.ts_recv_ns + 2_000 * i) for i, e in enumerate(events)]
    first = [snapshot(market, START_NS - S, [], []) for market in MARKETS]
    shuffled = random.sample(first, len(first))
    one, two = (rows_of([*head, *events], "bbo") for head in (first, shuffled))
    lagged = [name for name in FEATURES if "lead" in name]  # the best of many lags: ties may fall
    rest = [name for name in FEATURES if name not in lagged]
    assert one.index.equals(two.index)
    assert np.allclose(one[rest], two[rest], rtol=1e-9, atol=1e-9, equal_nan=True)
    assert np.array_equal(np.isnan(one[lagged]), np.isnan(two[lagged]))
    assert tuple(one.columns[1:]) == FEATURES and set(FEATURES_DOCUMENT) <= set(FEATURES)
