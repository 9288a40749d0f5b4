"""The aggregator: what counts, what is turned down and why, starting and stopping, real data."""

import asyncio
import math
from collections.abc import Callable, Iterator
from itertools import permutations
from math import exp, inf, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector.aggregator import Board, MultiExchangeAggregator
from gem_detector.core import (
    NS_PER_MS,
    NS_PER_S,
    FeedError,
    Gap,
    InputError,
    Instrument,
    OrderBookSnapshot,
    StreamState,
    Trade,
)
from gem_detector.costs import FeeTable
from gem_detector.frames import Arrival
from gem_detector.markets import instrument
from gem_detector.pairs import BasisRule
from gem_detector.quotes import HeldAbove, TrailingMean

START = 1_767_225_600 * NS_PER_S
MARKETS = {
    "binance": instrument("binance", "BTC/USDT"),
    "okx": instrument("okx", "BTC/USDT"),
    "coinbase": instrument("coinbase", "BTC/USD"),
    "bybit": instrument("bybit", "BTC/USDT:USDT"),
    "tether": instrument("coinbase", "USDT/USD"),
}
FREE = FeeTable.own(dict.fromkeys(("binance", "okx", "coinbase", "bybit"), 0.0))
Rows = list[tuple[float, float]]


def book(
    name: str, ms: float, bids: Rows, asks: Rows, state: StreamState = StreamState.SYNCED
) -> OrderBookSnapshot:
    "A book of one of the markets, received at a time."
    market, ts_ns = MARKETS[name], START + int(ms * NS_PER_MS)
    sides = (np.array(rows, float).reshape(-1, 2) for rows in (bids, asks))
    return OrderBookSnapshot(market.exchange, market.symbol, ts_ns, ts_ns, *sides, 1, state)


def aggregator(*names: str, **options: Any) -> MultiExchangeAggregator:
    "One without streams."
    return MultiExchangeAggregator({name: MARKETS[name] for name in names}, **options)


def reasons(found: MultiExchangeAggregator) -> dict[tuple[str, str], str]:
    return {(r["buy_exchange"], r["sell_exchange"]): r["reason"] for r in found.rejected()}


# --- memories


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.integers(-3, 3) | st.just(-inf)), min_size=1, max_size=40
    ),
    threshold=st.floats(-4, 4),
)
def test_held_above_is_the_longest_tail_that_never_was_lower(
    steps: list[tuple[int, float]], threshold: float
) -> None:
    held, last, at = HeldAbove(), {}, 1
    for wait, value in steps:
        at += wait
        held.update(at, value)
        last[at] = value  # of several at one time, only the last stood
    times = list(last)
    tail = [i for i in range(len(times)) if all(last[t] >= threshold for t in times[i:])]
    assert held.since_ns(threshold) == (times[tail[0]] if tail else -1)


def test_held_above_forgets_the_oldest_when_full() -> None:
    held = HeldAbove(limit=3)
    for ts_ns in range(1, 11):
        held.update(ts_ns, float(ts_ns - 1))
    assert held.since_ns(5.0) == 7  # the truth is 6: shorter, never longer


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.floats(0.01, 5), st.floats(-50, 50) | st.just(nan)), min_size=1, max_size=20
    ),
    after_s=st.floats(0.01, 5),
)
def test_trailing_mean_is_the_weighted_integral(
    steps: list[tuple[float, float]], after_s: float
) -> None:
    mean, at_s = TrailingMean(window_s=7.0), 0.0
    times, values = [], []
    for step_s, value in steps:
        at_s += step_s
        times.append(START + int(at_s * NS_PER_S))
        values.append(value)
        mean.update(times[-1], value)
    now = times[-1] + int(after_s * NS_PER_S)
    total = weight = 0.0
    for value, t0, t1 in zip(values, times, [*times[1:], now]):
        part = exp(-(now - t1) / 7e9) - exp(-(now - t0) / 7e9)
        if not math.isnan(value):
            total, weight = total + value * part, weight + part
    assert np.isclose(mean.mean(now), total / weight if weight else nan, equal_nan=True)
    assert np.isclose(mean.seen_s(now), -7.0 * math.log(1 - weight))


# --- what counts


CRUMBS = {
    "crossed": ([(101, 1)], [(100, 1)]),
    "locked": ([(100, 1)], [(100, 1)]),
    "one-sided": ([], [(101, 1)]),
    "empty": ([], []),
    "nan": ([(nan, 1)], [(101, 1)]),
    "no quantity": ([(99, 0)], [(101, 1)]),
    "negative": ([(-99, 1)], [(101, 1)]),
}


@pytest.mark.parametrize("name", CRUMBS)
def test_books_that_cannot_be_are_left_out_and_named(name: str) -> None:
    found = aggregator("binance", "okx", fees=FREE)
    found.on_book("binance", book("binance", 0, *CRUMBS[name]))
    found.on_book("okx", book("okx", 0, [(200, 1)], [(201, 1)]))
    assert found.get_arbitrage_opportunities(0.0) == []
    assert set(reasons(found).values()) <= {"crossed", "one-sided", "bad numbers"}
    assert set(found.get_best_bid_ask()) == {"okx"}
    assert set(found.get_best_bid_ask(include_unsynced=True)) == {"binance", "okx"}
    assert np.isnan(found.spread_matrix().to_numpy()).all()
    assert {row[2] for row in found.consolidated_book()["BTC/USDT"]["bids"]} == {"okx"}
    found.on_book("binance", book("binance", 1, [(99, 1)], [(100, 1)]))
    assert len(found.get_arbitrage_opportunities(0.0)) == 1  # healed by the next book


def test_states_keep_a_quote_out() -> None:
    found = aggregator("binance", "okx", fees=FREE)
    found.on_book("okx", book("okx", 0, [(200, 1)], [(201, 1)]))
    assert found.get_arbitrage_opportunities(0.0) == []
    assert set(reasons(found).values()) == {"connecting"}
    unverified = book("binance", 0, [(99, 1)], [(100, 1)], StreamState.UNVERIFIABLE)
    found.on_book("binance", unverified)
    found.get_arbitrage_opportunities(0.0)
    assert set(reasons(found).values()) == {"unverifiable"}
    found.on_book("binance", book("binance", 5, [(99, 1)], [(100, 1)]))
    assert len(found.get_arbitrage_opportunities(0.0)) == 1
    found.on_event("okx", Gap("okx", "BTC/USDT", START + 9 * NS_PER_MS, "sequence"))
    assert found.get_arbitrage_opportunities(0.0) == []
    assert set(reasons(found).values()) == {"suspect"}


def test_time_that_goes_back_and_stamps_that_repeat() -> None:
    found = aggregator("binance")
    found.on_book("binance", book("binance", 10, [(99, 1)], [(100, 1)]))
    found.on_book("binance", book("binance", 10, [(98, 1)], [(100, 1)]))  # the same stamp: taken
    found.on_book("binance", book("binance", 9, [(1, 1)], [(2, 1)]))  # counted, left out
    assert found.get_best_bid_ask()["binance"]["best_bid"] == 98
    assert found.counts == {"books": 2, "out_of_order": 1}
    found.on_event("binance", Trade("binance", "BTC/USDT", 0, 0, 1.0, 1.0, "buy", "1"))
    assert found.get_stats()["fee_tiers"]["binance"].startswith("regular 10 bps")


def test_unknown_names_symbols_and_searches_are_refused() -> None:
    found = aggregator("binance")
    with pytest.raises(InputError, match="unknown name 'okx'"):
        found.on_book("okx", book("okx", 0, [], []))
    with pytest.raises(InputError, match="is BTC/USDT, not BTC/USD"):
        found.on_book("binance", book("coinbase", 0, [], []))
    for options in ({"kind": "x"}, {"size": 0.0}, {"min_persistence_ms": -1.0}):
        with pytest.raises(InputError):
            found.get_arbitrage_opportunities(5.0, **options)
    with pytest.raises(InputError):
        found.get_arbitrage_opportunities(nan)
    with pytest.raises(InputError, match="min_seen_s"):
        BasisRule(window_s=0.0)


# --- edges


def test_both_directions_use_the_buyers_ask_and_the_sellers_bid() -> None:
    found = aggregator("binance", "okx", fees=FREE)
    found.on_book("binance", book("binance", 0, [(99.0, 3)], [(100.0, 2)]))
    found.on_book("okx", book("okx", 4, [(101.0, 1)], [(102.0, 5)]))
    (one,) = found.get_arbitrage_opportunities(0.0)
    assert (one["buy_exchange"], one["buy_price"], one["sell_price"]) == ("binance", 100.0, 101.0)
    assert np.isclose(one["profit_bps"], 100.0) and one["size"] == 1.0
    assert one["age_ms"] == 4.0 and one["timestamp"] == (START + 4 * NS_PER_MS) / NS_PER_S
    (back,) = found.rejected()
    assert back["reason"] == "too little profit" and np.isclose(
        back["gross_bps"], (99 / 102 - 1) * 1e4
    )


def test_a_size_walks_the_proven_rows_in_whole_lots() -> None:
    found = aggregator("binance", "okx", fees=FREE)
    asks = [(100.0, 0.5), (100.5, 0.5), (101.0, 9.0)]
    found.on_book("binance", book("binance", 0, [(99, 1)], asks))
    found.on_book("okx", book("okx", 0, [(102.0, 0.75), (101.5, 0.25)], [(103, 1)]))
    (one,) = found.get_arbitrage_opportunities(0.0, size=1.0000000049)
    assert np.isclose(one["size"], 1.0) and np.isclose(one["buy_price"], 100.25)
    assert np.isclose(one["sell_price"], (0.75 * 102 + 0.25 * 101.5))
    assert found.get_arbitrage_opportunities(0.0, size=1.1) == []
    assert reasons(found)["binance", "okx"] == "not enough depth"
    assert found.get_arbitrage_opportunities(0.0, size=0.01) == []  # 1 USDT
    assert reasons(found)["binance", "okx"] == "below a minimum"
    assert found.get_arbitrage_opportunities(0.0, size=1e-9) == []  # less than one lot
    assert reasons(found)["binance", "okx"] == "below a minimum"


def test_rows_beyond_the_proven_depth_are_not_walked() -> None:
    found = aggregator("binance", "okx", fees=FREE)
    full = book("binance", 0, [(99, 1)], [(100.0, 0.5), (100.5, 5.0)])
    names = {name: getattr(full, name) for name in full.__slots__}
    found.on_book("binance", OrderBookSnapshot(**{**names, "trusted_depth": 1}))
    found.on_book("okx", book("okx", 0, [(102.0, 9)], [(103, 1)]))
    assert len(found.get_arbitrage_opportunities(0.0, size=0.5)) == 1
    assert found.get_arbitrage_opportunities(0.0, size=0.6) == []


def test_currencies_are_never_taken_as_equal() -> None:
    found = aggregator("binance", "coinbase", "tether", fees=FREE)
    found.on_book("binance", book("binance", 0, [(99.9, 1)], [(100.0, 1)]))
    found.on_book("coinbase", book("coinbase", 0, [(101.0, 1)], [(101.1, 1)]))
    assert found.get_arbitrage_opportunities(0.0) == []
    assert set(reasons(found).values()) == {"no conversion"}
    found.on_book("tether", book("tether", 0, [(1.019, 9e6)], [(1.02, 9e6)]))
    (one,) = found.get_arbitrage_opportunities(0.0)  # a dear tether turns the trade around
    assert (one["buy_exchange"], one["sell_exchange"]) == ("coinbase", "binance")
    assert np.isclose(one["gross_bps"], (99.9 * 1.019 / 101.1 - 1) * 1e4)
    assert one["via"] == "tether" and one["conversion_rate"] == 1.019
    found.on_gap("tether", Gap("coinbase", "USDT/USD", START + NS_PER_MS, "sequence"))
    assert found.get_arbitrage_opportunities(0.0) == []
    assert "no conversion" in reasons(found).values()


def test_a_perpetual_is_only_ever_a_basis() -> None:
    found = aggregator("binance", "bybit", fees=FREE, basis=BasisRule(min_seen_s=1.0))
    for ms in range(0, 3_001, 100):
        found.on_book("binance", book("binance", ms, [(100.0 + ms % 200 / 1e6, 1)], [(100.01, 1)]))
        found.on_book("bybit", book("bybit", ms, [(101.0, 1)], [(101.01, 1)]))
    assert found.get_arbitrage_opportunities(0.0) == []  # a percent of premium is no edge
    assert found.get_arbitrage_opportunities(0.0, kind="arbitrage") == [] == found.rejected()
    found.on_book("bybit", book("bybit", 3_100, [(102.0, 1)], [(102.01, 1)]))
    (one,) = found.get_arbitrage_opportunities(0.0)
    assert one["kind"] == "basis" and 90 < one["gross_bps"] < 100 and one["fee_bps"] == 0.0


def test_a_basis_pays_four_fees_and_funding() -> None:
    own = FeeTable.own({"binance": 3.0, "bybit": 2.0})
    rule = BasisRule(min_seen_s=0.0, hold_s=9 * 3600, funding_bps={"bybit": 1.5})
    found = aggregator("binance", "bybit", fees=own, basis=rule)
    found.on_book("binance", book("binance", 0, [(100, 1)], [(100.0001, 1)]))
    found.on_book("bybit", book("bybit", 0, [(100, 1)], [(100.0001, 1)]))
    found.on_alive("binance", START + NS_PER_S)
    fees = {
        one["buy_exchange"]: one["fee_bps"] for one in found.get_arbitrage_opportunities(-100.0)
    }
    assert np.isclose(fees["binance"], 2 * (3 + 2) - 1.5, atol=1e-3)  # short is paid
    assert np.isclose(fees["bybit"], 2 * (3 + 2) + 1.5, atol=1e-3)


def test_persistence_is_that_of_the_touch() -> None:
    found = aggregator("binance", "okx", fees=FREE)
    found.on_book("binance", book("binance", 0, [(99, 1)], [(100, 1)]))
    for ms, bid in ((0, 100.2), (100, 100.5), (200, 100.3), (300, 100.9)):
        found.on_book("okx", book("okx", ms, [(bid, 1)], [(105, 1)]))
    found.on_alive("binance", START + 350 * NS_PER_MS)

    def persistence(min_profit_bps: float) -> list[float]:
        return [one["persistence_ms"] for one in found.get_arbitrage_opportunities(min_profit_bps)]

    assert persistence(10.0) == [350.0] and persistence(25.0) == [250.0]
    assert persistence(50.0) == [50.0] and persistence(95.0) == []
    assert found.get_arbitrage_opportunities(50.0, min_persistence_ms=60.0) == []
    assert reasons(found)["binance", "okx"] == "too young"
    found.on_gap("okx", Gap("okx", "BTC/USDT", START + 360 * NS_PER_MS, "sequence"))
    found.on_book("okx", book("okx", 370, [(100.9, 1)], [(105, 1)]))
    assert persistence(10.0) == [0.0]  # what was before the gap does not count


# --- properties

touches = st.tuples(
    st.floats(90, 110), st.floats(0.001, 2), st.floats(0.01, 5), st.floats(0.01, 5)
)  # bid, spread, quantities


def fed(
    names: tuple[str, ...], events: list[tuple[str, tuple[float, ...]]], scale: float = 1.0
) -> MultiExchangeAggregator:
    "An aggregator that has seen some touches, 100 ms apart."
    found = aggregator(*names, fees=FREE, basis=BasisRule(min_seen_s=0.3))
    for i, (name, (bid, spread, bid_qty, ask_qty)) in enumerate(events):
        factor = 0.01 if name == "tether" else scale
        sides = [(bid * factor, bid_qty)], [((bid + spread) * factor, ask_qty)]
        found.on_book(name, book(name, 100 * i, *sides))
    return found


@settings(max_examples=60, deadline=None)
@given(events=st.lists(st.tuples(st.sampled_from(sorted(MARKETS)), touches), max_size=15))
def test_order_of_venues_and_level_of_prices_do_not_matter(
    events: list[tuple[str, tuple[float, ...]]],
) -> None:
    names = tuple(MARKETS)
    plain = fed(names, events).get_arbitrage_opportunities(-1e9)
    for other in (names[::-1], *list(permutations(names))[7:60:17]):
        assert fed(other, events).get_arbitrage_opportunities(-1e9) == plain
    scaled = fed(names, events, scale=16.0).get_arbitrage_opportunities(-1e9)
    assert len(scaled) == len(plain)
    for key in ("gross_bps", "fee_bps", "profit_bps"):
        one, two = ([o[key] for o in found] for found in (plain, scaled))
        assert np.allclose(one, two, rtol=1e-9, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(st.tuples(st.sampled_from(sorted(MARKETS)), touches), max_size=12),
    fees=st.lists(st.floats(0, 50), min_size=4, max_size=4),
)
def test_edges_are_what_one_computes_by_hand(
    events: list[tuple[str, tuple[float, ...]]], fees: list[float]
) -> None:
    own = dict(zip(("binance", "okx", "coinbase", "bybit"), fees))
    found = aggregator(*MARKETS, fees=FeeTable.own(own), max_age_ms=inf)
    seen: dict[str, tuple[float, ...]] = {}
    for i, (name, (bid, spread, *qty)) in enumerate(events):
        factor = 0.01 if name == "tether" else 1.0
        seen[name] = bid * factor, (bid + spread) * factor
        sides = [(seen[name][0], qty[0])], [(seen[name][1], qty[1])]
        found.on_book(name, book(name, 100 * i, *sides))
    wanted = {}
    for a in seen:
        for b in seen:
            if a == b or not {a, b} <= {"binance", "okx", "coinbase"}:
                continue
            rate, third = 1.0, 1.0
            if (a == "coinbase") != (b == "coinbase"):
                if "tether" not in seen:
                    continue
                rate = seen["tether"][0] if a == "coinbase" else 1 / seen["tether"][1]
                third = 1 - own["coinbase"] / 1e4
            ask, bid = seen[a][1], seen[b][0]
            sold = bid * rate * third * (1 - own[b] / 1e4)
            wanted[a, b] = (sold - ask * (1 + own[a] / 1e4)) / ask * 1e4
    kept = found.get_arbitrage_opportunities(-1e9, kind="arbitrage")
    net = {(one["buy_exchange"], one["sell_exchange"]): one["profit_bps"] for one in kept}
    assert net.keys() == wanted.keys()
    assert np.allclose([net[key] for key in wanted], list(wanted.values()))
    assert [one["profit_bps"] for one in kept] == sorted(net.values(), reverse=True)
    found.get_arbitrage_opportunities(5.0, kind="arbitrage")
    turned_down = {k for k, v in reasons(found).items() if v == "too little profit"}
    assert turned_down == {key for key, value in net.items() if not value >= 5.0}


# --- streams


class Fake:
    "A stream that syncs after a time, or never, or fails."

    def __init__(
        self, market: Instrument, sync_after_s: float | None = 0.0, error: Exception | None = None
    ) -> None:
        self.instrument, self.sync_after_s, self.error = market, sync_after_s, error
        self.state, self.book = StreamState.CONNECTING, None
        self.clock_sync = SimpleNamespace(error_ms=2.5)
        self.calls: dict[str, Callable[[Any], None]] = {}
        self.n_starts, self.n_stops = 0, 0

    def register_book_callback(self, callback: Callable[[Any], None]) -> None:
        self.calls["book"] = callback

    def register_gap_callback(self, callback: Callable[[Any], None]) -> None:
        self.calls["gap"] = callback

    def register_arrival_callback(self, callback: Callable[[Any], None]) -> None:
        self.calls["arrival"] = callback

    async def start(self, timeout: float) -> None:  # noqa: ASYNC109 (as the stream has it)
        self.n_starts += 1
        if self.error is not None:
            raise self.error
        await asyncio.sleep(timeout if self.sync_after_s is None else self.sync_after_s)
        if self.sync_after_s is None:
            raise FeedError("no book came")
        self.state = StreamState.SYNCED

    async def stop(self) -> None:
        self.n_stops += 1
        self.state = StreamState.CLOSED


def fakes(*after_s: float | None) -> dict[str, Fake]:
    markets = [instrument(v, "BTC/USDT") for v in ("binance", "okx", "htx")]
    return {m.exchange: Fake(m, s) for m, s in zip(markets, after_s)}


def test_start_returns_as_soon_as_all_are_synced() -> None:
    async def scenario() -> float:
        streams = fakes(0.01, 0.02, 0.03)
        found = MultiExchangeAggregator(streams, now_ns=lambda: START)
        before = asyncio.get_running_loop().time()
        await found.start_all(timeout=20)
        with pytest.raises(FeedError, match="running already"):
            await found.start_all()
        await found.stop_all()
        assert [stream.n_stops for stream in streams.values()] == [1, 1, 1]
        return asyncio.get_running_loop().time() - before

    assert asyncio.run(scenario()) < 5


def test_start_goes_on_with_two_while_the_third_keeps_trying() -> None:
    async def scenario() -> None:
        streams = fakes(0.0, 0.0, 0.3)
        found = MultiExchangeAggregator(streams, now_ns=lambda: START)
        await found.start_all(timeout=0.05)
        assert streams["htx"].state is StreamState.CONNECTING
        await asyncio.sleep(0.5)
        assert streams["htx"].state is StreamState.SYNCED
        await found.stop_all()

    asyncio.run(scenario())


def test_a_stream_that_fails_is_started_again() -> None:
    async def scenario() -> None:
        streams = fakes(0.0, 0.0, 0.0)
        streams["htx"].error = FeedError("HTTP 403")
        found = MultiExchangeAggregator(streams, now_ns=lambda: START)
        await found.start_all(timeout=0.05)
        assert found.failures == {"htx": "HTTP 403"} == found.get_stats()["failures"]
        streams["htx"].error = None
        for _ in range(300):
            await asyncio.sleep(0.01)
            if streams["htx"].state is StreamState.SYNCED:
                break
        assert streams["htx"].n_starts > 1 and streams["htx"].state is StreamState.SYNCED
        await found.stop_all()

    asyncio.run(scenario())


def test_fewer_than_two_books_raise_and_stop_everything() -> None:
    async def scenario() -> None:
        streams = fakes(0.0, None, None)
        found = MultiExchangeAggregator(streams, now_ns=lambda: START)
        with pytest.raises(FeedError, match=r"fewer than two books within 0.05 s: okx: no answer"):
            await found.start_all(timeout=0.05)
        assert all(stream.n_stops == 1 for stream in streams.values())
        assert found.get_best_bid_ask() == {} and len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


def test_an_error_that_is_no_feed_error_comes_out_at_once() -> None:
    async def scenario() -> None:
        streams = fakes(0.0, None, None)
        streams["okx"].error = InputError("bad symbol")
        found = MultiExchangeAggregator(streams, now_ns=lambda: START)
        with pytest.raises(InputError, match="bad symbol"):
            await found.start_all(timeout=20)
        assert all(stream.n_stops == 1 for stream in streams.values())

    asyncio.run(scenario())


def test_nothing_to_start() -> None:
    with pytest.raises(FeedError, match="no stream"):
        asyncio.run(aggregator("binance").start_all())


def test_only_frames_on_the_socket_of_the_book_prove_it() -> None:
    stream, now = Fake(MARKETS["binance"]), [START]
    board = Board({"binance": stream}, now_ns=lambda: now[0])
    stream.state = StreamState.SYNCED
    stream.calls["arrival"](Arrival(START, "frame", b"", "public"))
    stream.calls["book"](book("binance", 0, [(99, 1)], [(100, 1)]))
    late = START + 2_500 * NS_PER_MS
    now[0] = late
    for arrival in (
        Arrival(late, "frame", b"", "market"),  # another socket
        Arrival(late, "timer", b""),
        Arrival(late, "probe", b""),
    ):
        stream.calls["arrival"](arrival)
        assert board.view().flaws["binance"] == "stale"
    stream.calls["arrival"](Arrival(late, "frame", b"", "public"))  # a heartbeat
    assert board.view().flaws["binance"] == ""
    stream.state = StreamState.SUSPECT
    assert board.view().flaws["binance"] == "suspect"


def test_clock_error_is_carried() -> None:
    streams = fakes(0.0, 0.0)
    streams["okx"].clock_sync.error_ms = 7.0
    found = MultiExchangeAggregator(streams, fees=FREE, now_ns=lambda: START)
    for name, bid in (("binance", 100.0), ("okx", 102.0)):
        streams[name].state = StreamState.SYNCED
        streams[name].calls["book"](book(name, 0, [(bid, 1)], [(bid + 1, 1)]))
    assert found.get_best_bid_ask()["binance"]["clock_error_ms"] == 2.5
    assert found.get_arbitrage_opportunities(0.0)[0]["clock_error_ms"] == 7.0


def test_a_stream_that_ran_before_is_taken_as_it_is() -> None:
    stream = Fake(MARKETS["binance"])
    stream.state, stream.book = StreamState.SYNCED, book("binance", 0, [(99, 1)], [(100, 1)])
    found = MultiExchangeAggregator({"binance": stream}, now_ns=lambda: START)
    assert found.get_best_bid_ask()["binance"]["best_ask"] == 100
    asyncio.run(found.start_all())
    assert stream.n_starts == 0


# --- real data


def link_books(gem_data: Path, exchange: str, name: str) -> Iterator[OrderBookSnapshot]:
    path = gem_data / "link-binance-htx-2021-08-20" / f"orderbook_{name}.csv.gz"
    frame = pd.read_csv(path)
    stamps = pd.to_datetime(frame["timestamp"]).to_numpy().astype("datetime64[ns]")
    b, bv, a, av = (
        frame[[f"{kind}{i}" for i in range(1, 11)]].to_numpy() for kind in "b bv a av".split()
    )
    for ts, bids, asks in zip(
        stamps.astype(int).tolist(), np.stack([b, bv], 2), np.stack([a, av], 2)
    ):
        yield OrderBookSnapshot(exchange, "LINK/USDT", ts, ts, bids, asks, -1, StreamState.SYNCED)


@pytest.mark.data
def test_the_link_hour(gem_data: Path) -> None:
    names = {"binance": "bnc", "htx": "hb"}
    link = [list(link_books(gem_data, *item)) for item in names.items()]

    def hour(fees: FeeTable, **options: Any) -> list[dict[str, Any]]:
        markets = {name: instrument(name, "LINK/USDT") for name in names}
        found, seen = MultiExchangeAggregator(markets, fees=fees), []
        for books in zip(*link):
            for one in books:
                found.on_book(one.exchange, one)
            seen += found.get_arbitrage_opportunities(1e-9, **options)
        return seen

    def own(bps: float) -> FeeTable:
        return FeeTable.own(dict.fromkeys(names, bps))

    free = hour(own(0.0))
    buys = [one["buy_exchange"] for one in free]
    assert (buys.count("binance"), buys.count("htx"), len(buys)) == (322, 337, 659)
    assert round(max(one["gross_bps"] for one in free), 2) == 8.03
    assert len(hour(own(1.0))) == 73 and len(hour(own(2.5))) == 4
    assert hour(FeeTable()) == []  # base tiers: 10 and 20 bps
    sized = hour(own(1.0), size=1.0)  # 27 USDT: above both minimums, walked
    assert 0 < len(sized) < 73 and all(one["size"] == 1.0 for one in sized)
    assert len(hour(own(1.0), min_persistence_ms=1_000.0)) == 33  # still there a second later
