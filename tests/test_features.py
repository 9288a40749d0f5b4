"""Feature rows: equal to formulas worked from scratch, blind to future, order and scale."""

import heapq
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from math import exp, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector.compiled_book import CompiledBook
from gem_detector.core import (
    BPS,
    NS_PER_MS,
    NS_PER_S,
    Event,
    Gap,
    InputError,
    OrderBookSnapshot,
    StreamState,
    Trade,
)
from gem_detector.costs import FeeTable
from gem_detector.feature_kernels import FEATURES_DOCUMENT
from gem_detector.feature_stream import FEATURES, FeatureSettings, FeatureStream, Sampler
from gem_detector.features import CrossExchangeFeatureExtractor, feature_frame
from gem_detector.lead_lag import correlation_curve, lead_lag
from gem_detector.markets import instrument
from gem_detector.pairs import BasisRule
from gem_detector.price_history import LAGS_MS, N_BLOCKS, new_history, push_price
from gem_detector.row_features import N_LEVELS
from gem_detector.simulator import (
    DEFAULT_VENUES,
    START_NS,
    USDT_USD,
    Dislocation,
    VenueSpec,
    simulate_market,
)

OWN = FeeTable.own({"binance": 1.0, "bybit": 1.0, "coinbase": 2.0, "okx": 1.0, "htx": 1.0})
SETTINGS = FeatureSettings(
    lookback_window=100, price_history_size=300, basis=BasisRule(window_s=20.0, min_seen_s=1.0)
)
MARKETS = (
    ("binance", "BTC/USDT"),
    ("bybit", "BTC/USDT:USDT"),
    ("coinbase", "BTC/USD"),
    ("coinbase", "USDT/USD"),
)
S = NS_PER_S


def snapshot(
    market: tuple[str, str],
    ts_ns: int,
    bids: Iterable[Sequence[float]],
    asks: Iterable[Sequence[float]],
    state: StreamState = StreamState.SYNCED,
) -> OrderBookSnapshot:
    "A book that took 5 ms to arrive."
    sides = [np.array(list(side), float).reshape(-1, 2) for side in (bids, asks)]
    return OrderBookSnapshot(*market, ts_ns - 5 * NS_PER_MS, ts_ns, sides[0], sides[1], 1, state)


def tape_events(tape: Any) -> list[Event]:
    "Books and trades of one simulated venue, as a stream would yield them."
    book, name = CompiledBook(), (tape.instrument.exchange, tape.instrument.symbol)
    events: list[Event] = []
    for i in range(len(tape)):
        side, tick, lots = tape.levels(i)
        rows = np.column_stack([tape.price(tick), tape.qty(lots)])
        book.apply(rows[side > 0], rows[side < 0])
        times = int(tape.ts_engine_ns[i]), int(tape.ts_recv_ns[i])
        bids, asks = book.top(N_LEVELS)
        events.append(OrderBookSnapshot(*name, *times, bids, asks, i, StreamState.SYNCED))
    for i in range(len(tape.trade_tick)):
        times = int(tape.trade_ts_engine_ns[i]), int(tape.trade_ts_recv_ns[i])
        px, qty = float(tape.price(tape.trade_tick[i])), float(tape.qty(tape.trade_lots[i]))
        side_name = "buy" if tape.trade_side[i] > 0 else "sell"
        events.append(Trade(*name, *times, px, qty, side_name, str(i)))
    return sorted(events, key=lambda event: event.ts_recv_ns)


@cache
def simulated(seed: int = 5, duration_s: float = 40.0) -> tuple[Event, ...]:
    "Four simulated books with a dislocation and a gap, in the order of receipt."
    planted = Dislocation("coinbase", START_NS + 20 * S, 2_000, 20.0, 2.0)
    market = simulate_market(seed, duration_s, (*DEFAULT_VENUES, USDT_USD), dislocations=[planted])
    gap: list[Event] = [Gap("bybit", "BTC/USDT:USDT", START_NS + 10 * S, "reconnect")]
    sources = [*map(tape_events, market.tapes.values()), gap]
    return tuple(heapq.merge(*sources, key=lambda event: event.ts_recv_ns))


# --- random events, wild ones among them


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    "A few hundred events of four markets, some of them broken, some at equal times."
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    wild, n = draw(st.sampled_from([0.0, 0.1])), draw(st.integers(5, 250))
    ts_ns, level, events = START_NS, 50_000.0, list[Event]()
    for _ in range(n):
        ts_ns += int(rng.choice([0, 1, 30, 400])) * NS_PER_MS
        level *= 1 + rng.normal() * 1e-4
        market = MARKETS[rng.integers(4)]
        px = 1.0 if market[1] == "USDT/USD" else level
        what = rng.random()
        if what < 0.1:
            side = "buy" if rng.random() < 0.5 else "sell"
            size = float(rng.choice([0.0, nan, rng.random()])) if wild else rng.random()
            events.append(Trade(*market, ts_ns, ts_ns, px, size, side, ""))
        elif what < 0.12:
            events.append(Gap(*market, ts_ns, "sequence"))
        else:
            events.append(random_book(rng, market, ts_ns, px, wild))
    return events


def random_book(
    rng: np.random.Generator, market: tuple[str, str], ts_ns: int, px: float, wild: float
) -> OrderBookSnapshot:
    "A book near a price, now and then broken in one of many ways."
    n = int(rng.integers(1, 13))
    step = px * 1e-5
    bids = [(px - step * (k + rng.random()), rng.integers(0, 4)) for k in range(n)]
    asks = [(px + step * (k + rng.random()), rng.integers(0, 4)) for k in range(n)]
    state = StreamState.SYNCED
    if rng.random() < wild:
        kind = rng.integers(6)
        if kind == 0:
            bids = []
        elif kind == 1:
            asks, bids = [], []
        elif kind == 2:
            bids[0] = (px * 1.01, 1)
        elif kind == 3:
            asks[0] = (nan, 1)
        elif kind == 4:
            bids[0] = (bids[0][0], nan)
        else:
            state = StreamState.UNVERIFIABLE
    return snapshot(market, ts_ns, bids, asks, state)


def rows_of(events: Iterable[Event], sampler: str = "grid", **options: Any) -> pd.DataFrame:
    "The full set with the account's own fees and short windows."
    given_options = {"fees": OWN, "settings": SETTINGS, "sampler": sampler} | options
    return feature_frame(events, **given_options)


def same_bits(one: Any, other: Any) -> bool:
    "Equal to the last bit, nan equal to nan."
    return np.array_equal(np.asarray(one, float), np.asarray(other, float), equal_nan=True)


# --- one kernel, three ways; nothing of the future


@pytest.mark.parametrize("sampler", ["grid", "bbo", "cusum"])
def test_one_event_at_a_time_gives_the_rows_of_the_batch(sampler: str) -> None:
    chosen = Sampler(sampler, threshold_bps=0.5)
    batch = rows_of(simulated(), sampler=chosen, legs=True)
    stream = FeatureStream(fees=OWN, settings=SETTINGS, sampler=chosen)
    rows = [row for event in simulated() for row in stream.on_event(event)]
    assert len(rows) == len(batch) > 20
    assert [row.ts_recv_ns for row in rows] == batch.index.tolist()
    assert same_bits([row.values for row in rows], batch[list(FEATURES)])
    assert [row.timestamp for row in rows] == batch["timestamp"].tolist()
    for name in ("kind", "buy", "sell", "dominant"):
        assert [getattr(row, name) for row in rows] == batch[name].tolist()
    assert rows[5].to_dict().keys() == set(FEATURES)


@settings(max_examples=40, deadline=None)
@given(streams(), st.sampled_from(["grid", "bbo", "cusum"]), st.data())
def test_what_comes_later_changes_no_row(
    events: list[Event], sampler: str, data: st.DataObject
) -> None:
    whole = rows_of(events, sampler)
    cut = data.draw(st.integers(0, len(events)))
    part = rows_of(events[:cut], sampler)
    assert len(part) <= len(whole) and same_bits(part, whole.iloc[: len(part)])
    assert part.index.tolist() == whole.index[: len(part)].tolist()
    if cut:
        assert (part.index <= events[cut - 1].ts_recv_ns).all()
        missing = whole.index[len(part) :]
        assert (missing >= events[cut - 1].ts_recv_ns).all()


@pytest.mark.parametrize("sampler", ["grid", "bbo"])
def test_no_row_knows_of_a_market_that_comes_after_it(sampler: str) -> None:
    names = [("binance", "BTC/USDT"), ("htx", "BTC/USDT"), ("okx", "BTC/USDT")]
    good = [(99.0, 1.0)], [(100.0, 1.0)]
    events = [
        snapshot(names[k % 2 + (k > 20)], START_NS + 30 * k * NS_PER_MS, *good) for k in range(40)
    ]
    live = FeatureStream(fees=OWN, settings=SETTINGS, sampler=sampler)
    rows = [row for event in events[:21] for row in live.on_event(event)]
    rows += live.advance(START_NS + 21 * 30 * NS_PER_MS)
    rows += [row for event in events[21:] for row in live.on_event(event)]
    batch = rows_of(events, sampler)
    assert same_bits([row.values for row in rows], batch[list(FEATURES)])
    early = batch.index < START_NS + 21 * 30 * NS_PER_MS
    assert (batch["n_venues"] + batch["n_left_out"]).tolist() == [2.0] * sum(early) + [3.0] * sum(
        ~early
    )


@settings(max_examples=25, deadline=None)
@given(streams(), st.sampled_from(["grid", "bbo"]))
def test_the_documented_part_is_the_same_alone(events: list[Event], sampler: str) -> None:
    alone = rows_of(events, sampler, features=FEATURES_DOCUMENT)
    assert same_bits(alone, rows_of(events, sampler)[["timestamp", *FEATURES_DOCUMENT]])


def test_timers_make_rows_fall_due_and_change_none() -> None:
    plain = FeatureStream(fees=OWN, settings=SETTINGS)
    timed = FeatureStream(fees=OWN, settings=SETTINGS)
    events, found = simulated()[:1_500], []
    wanted = [row for event in events for row in plain.on_event(event)]
    for before, event in zip([events[0], *events], events):
        found += timed.advance(max(before.ts_recv_ns, event.ts_recv_ns - 1))
        found += timed.on_event(event)
    assert [row.ts_recv_ns for row in found] == [row.ts_recv_ns for row in wanted]
    assert same_bits([row.values for row in found], [row.values for row in wanted])
    last_ns = events[-1].ts_recv_ns
    more = timed.advance(last_ns + S)
    assert [row.ts_recv_ns - more[0].ts_recv_ns for row in more] == [
        k * 100 * NS_PER_MS for k in range(10)
    ]
    with pytest.raises(InputError, match="time went back"):
        timed.advance(last_ns)


def test_the_grid_ends_where_every_book_has_been_silent_too_long() -> None:
    events = list(simulated()[:400])
    late_ns = events[-1].ts_recv_ns + 8 * 3_600 * S
    late = [
        replace_book(event, ts_recv_ns=late_ns + k)
        for k, event in enumerate(events)
        if isinstance(event, OrderBookSnapshot)
    ]
    frame = rows_of([*events, *late])
    assert len(frame) < 800 and frame.index[-1] < late_ns
    assert frame["max_silence_ms"].max() <= 60_000


def replace_book(book: OrderBookSnapshot, **changes: Any) -> OrderBookSnapshot:
    "A book with some fields changed."
    return replace(book, **changes)


# --- order, names and scale


def renamed(events: Iterable[Event], names: dict[str, str]) -> list[Event]:
    "Events with other venue names."
    return [replace(event, exchange=names[event.exchange]) for event in events]


@settings(max_examples=20, deadline=None)
@given(streams(), st.permutations(["binance", "bybit", "coinbase"]))
def test_names_and_their_order_do_not_matter(events: list[Event], names: list[str]) -> None:
    flat = FeeTable.own(dict.fromkeys(names, 1.0))
    other = renamed(events, dict(zip(("binance", "bybit", "coinbase"), names)))
    one, two = (rows_of(these, "bbo", fees=flat) for these in (events, other))
    numbers = [name for name in FEATURES if not name.startswith("lead_lag")]  # of the dominant one
    assert np.allclose(one[numbers], two[numbers], 1e-6, 1e-6, equal_nan=True)


@pytest.mark.parametrize("factor", [2.0**-20, 1e-3, 37.7])
def test_the_price_level_does_not_matter(factor: float) -> None:
    scaled = []
    for event in simulated()[:2_500]:
        if event.symbol != "USDT/USD" and isinstance(event, OrderBookSnapshot):
            sides = (side * [factor, 1.0] for side in (event.bids, event.asks))
            event = replace(event, **dict(zip(("bids", "asks"), sides)))
        scaled.append(event)
    small = replace(SETTINGS, notional=SETTINGS.notional * factor)
    one, two = rows_of(simulated()[:2_500]), rows_of(scaled, settings=small)
    assert np.allclose(one, two, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_the_quantities_scale_out() -> None:
    scaled = []
    for event in simulated()[:2_500]:
        if isinstance(event, OrderBookSnapshot):
            sides = (side * [1.0, 64.0] for side in (event.bids, event.asks))
            event = replace(event, **dict(zip(("bids", "asks"), sides)))
        elif isinstance(event, Trade):
            event = replace(event, size=event.size * 64.0)
        scaled.append(event)
    large = replace(SETTINGS, notional=SETTINGS.notional * 64.0)
    one, two = rows_of(simulated()[:2_500]), rows_of(scaled, settings=large)
    assert np.allclose(one, two, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_the_order_of_the_dictionaries_does_not_matter() -> None:
    quotes = {
        name: {"best_bid": px, "best_ask": px + 1, "bid_size": px / 50, "ask_size": 3.0}
        for name, px in (("a", 100.0), ("b", 100.7), ("c", 101.9))
    }
    profits = [{"profit_bps": p} for p in (5.1, 7.3, 6.2)]
    one, other = (CrossExchangeFeatureExtractor() for _ in range(2))
    for i in range(200):
        for name in "abc":
            one.update(name, 100 + (i * 7 + ord(name)) % 13, 1.0, 1e9 + i)
            other.update(name, 100 + (i * 7 + ord(name)) % 13, 1.0, 1e9 + i)
    found = one.extract_features(quotes, profits)
    backwards = dict(reversed(list(quotes.items())))
    assert found == other.extract_features(backwards, profits[::-1])


# --- the oracle: every feature from all events, in plain Python and NumPy


class Oracle:
    "What is known at a time, worked out from scratch from the events received by then."

    def __init__(self, events: Sequence[Event], now_ns: int) -> None:
        self.events = [event for event in events if event.ts_recv_ns <= now_ns]
        self.now_ns, self.rule = now_ns, SETTINGS.basis
        self.fees = {m: OWN.taker_bps(m[0]) for m in MARKETS}
        self.books: dict[tuple[str, str], OrderBookSnapshot] = {}
        self.ticks: dict[tuple[str, str], list[tuple[int, float, float, int]]] = {}
        self.changed: dict[tuple[str, str], int] = {}
        self.gaps: dict[tuple[str, str], int] = {}
        self.flows: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
        self.trades: dict[tuple[str, str], list[Trade]] = {}
        self.closings: dict[tuple[Any, Any], list[tuple[int, float]]] = {}
        self.edges: list[tuple[int, float, float, float]] = []
        for n, event in enumerate(self.events):
            self.take(n, event)

    def take(self, n: int, event: Event) -> None:
        "Carry on by one event."
        key = (event.exchange, event.symbol)
        if isinstance(event, Trade):
            if key[1] != "USDT/USD":
                self.trades.setdefault(key, []).append(event)
            return
        if isinstance(event, Gap):
            self.books.pop(key, None)
            self.ticks.pop(key, None)
            self.flows.pop(key, None)
            self.gaps[key] = event.ts_recv_ns
        else:
            old = self.books.get(key)
            if old is None or not np.array_equal(
                [old.bids[0], old.asks[0]], [event.bids[0], event.asks[0]]
            ):
                self.changed[key] = event.ts_recv_ns
            if old is not None:
                flow = [self.level_flow(old, event, k) for k in range(N_LEVELS)]
                self.flows.setdefault(key, []).append((event.ts_recv_ns, flow[0], sum(flow)))
            self.books[key] = event
            if key[1] != "USDT/USD":
                stamp = round(event.ts_recv_ns / 1e9 * 1e6)
                size = event.bid_size + event.ask_size
                self.ticks.setdefault(key, []).append((stamp, event.mid, size, n))
        self.note(key, event.ts_recv_ns)

    @staticmethod
    def level_flow(old: OrderBookSnapshot, new: OrderBookSnapshot, k: int) -> float:
        "Order-flow imbalance of one level."
        if k >= min(len(old.bids), len(old.asks), len(new.bids), len(new.asks)):
            return 0.0
        (pb, qb), (pa, qa) = old.bids[k], old.asks[k]
        (b, q), (a, r) = new.bids[k], new.asks[k]
        return q * (b >= pb) - qb * (b <= pb) - r * (a <= pa) + qa * (a >= pa)

    def rate(self, have: str, want: str) -> tuple[float, float]:
        "Executable rate and its fee."
        if have == want:
            return 1.0, 0.0
        book = self.books.get(("coinbase", "USDT/USD"))
        if book is None:
            return nan, 0.0
        return (book.best_bid if have == "USDT" else 1 / book.best_ask), 2.0

    @staticmethod
    def quote(market: tuple[str, str]) -> str:
        return market[1].split("/")[1].split(":")[0]

    @staticmethod
    def is_perp(market: tuple[str, str]) -> bool:
        return ":" in market[1]

    def note(self, key: tuple[str, str], ts_ns: int) -> None:
        "What closing each pair costs from now on, and the best edges."
        for buy, sell in self.pairs(everyone=True):
            converts = key[1] == "USDT/USD" and self.quote(buy) != self.quote(sell)
            if key in (buy, sell) or converts:
                value = nan
                if buy in self.books and sell in self.books:
                    back, _ = self.rate(self.quote(buy), self.quote(sell))
                    value = (self.books[sell].best_ask / back / self.books[buy].best_bid - 1) * BPS
                self.closings.setdefault((buy, sell), []).append((ts_ns, value))
        now_ns, self.now_ns = self.now_ns, ts_ns
        best = self.best_edges()
        self.edges.append((ts_ns, best["arbitrage"][0], best["basis"][0], best["net"]))
        self.now_ns = now_ns

    def pairs(self, everyone: bool = False) -> list[tuple[Any, Any]]:
        "Ordered pairs of the coin's markets, in the order of names."
        known = sorted(m for m in MARKETS if m[1] != "USDT/USD" and (everyone or m in self.books))
        return [(a, b) for a in known for b in known if a != b]

    @staticmethod
    def trailing(
        steps: Sequence[tuple[int, float]], now_ns: int, tau_s: float
    ) -> tuple[float, float, float]:
        "Mean, standard deviation and weight of a step function, weights fading with age."
        total = square = weight = 0.0
        for (t0, value), (t1, _) in zip(steps, [*steps[1:], (now_ns, nan)]):
            if not isnan(value):
                young, old = (exp(-(now_ns - t) / S / tau_s) for t in (t1, t0))
                total, weight = total + value * (young - old), weight + young - old
                square += value**2 * (young - old)
        if weight == 0:
            return nan, nan, 0.0
        mean = total / weight
        return mean, max(square / weight - mean**2, 0.0) ** 0.5, weight

    def usual(self, buy: Any, sell: Any) -> tuple[float, float]:
        "Trailing mean and spread of closing, nan when not watched long enough."
        steps = self.closings.get((buy, sell), [])
        mean, spread, weight = self.trailing(steps, self.now_ns, self.rule.window_s)
        enough = weight >= 1 - exp(-self.rule.min_seen_s / self.rule.window_s) and weight > 0
        return (mean, spread) if enough else (nan, nan)

    def average(self, market: Any, side: str) -> float:
        "Average price of the size on one side."
        book = self.books[market]
        want = SETTINGS.notional / book.mid
        left, cost = want, 0.0
        for px, qty in (book.asks if side == "buy" else book.bids)[:N_LEVELS]:
            take = min(left, qty)
            left, cost = left - take, cost + take * px
        return cost / want if left <= want * 1e-9 else nan

    def edge(self, buy: Any, sell: Any, at_size: bool) -> tuple[float, float]:
        "Gross and net of one ordered pair."
        books = self.books
        px = self.average(buy, "buy") if at_size else books[buy].best_ask
        got = self.average(sell, "sell") if at_size else books[sell].best_bid
        rate, fee = self.rate(self.quote(sell), self.quote(buy))
        gross = (got * rate / px - 1) * BPS
        fb, fs, fc = self.fees[buy] / BPS, self.fees[sell] / BPS, fee / BPS
        if self.is_perp(buy) or self.is_perp(sell):
            if self.quote(buy) != self.quote(sell):
                return nan, nan
            opening = (fb + fs * got * rate / px) * BPS
            usual, _ = self.usual(buy, sell)
            return gross - usual, gross - usual - 2 * opening
        return gross, ((1 - fs) * (1 - fc) * got * rate / px - 1 - fb) * BPS

    def best_edges(self) -> dict[str, Any]:
        "The best of each kind: gross and net at the touch, gross and net at size."
        found: dict[str, Any] = {"arbitrage": [nan] * 4, "basis": [nan] * 4}
        found |= {"net": nan, "legs": None, "profits": []}
        for buy, sell in self.pairs():
            kind = "basis" if self.is_perp(buy) or self.is_perp(sell) else "arbitrage"
            values = [*self.edge(buy, sell, False), *self.edge(buy, sell, True)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # all nan
                found[kind] = np.nanmax([found[kind], values], axis=0).tolist()
            if not isnan(values[1]) and not values[1] <= found["net"]:
                found |= {"net": values[1], "legs": (buy, sell)}
            if values[1] >= SETTINGS.min_profit_bps:
                found["profits"].append(values[1])
        return found

    # the price history: blocks of a tenth of the window, the last ten of them

    def block_ends(self) -> list[int]:
        "Numbers of the events that ended a block."
        size, ends, counts = SETTINGS.lookback_window // N_BLOCKS, [], dict[Any, int]()
        for n, event in enumerate(self.events):
            key = (event.exchange, event.symbol)
            if isinstance(event, Gap):
                counts[key] = 0
            if isinstance(event, OrderBookSnapshot) and key[1] != "USDT/USD":
                counts[key] = counts.get(key, 0) + 1
                if counts[key] >= size:
                    ends.append(n)
                    counts = {}
        return ends

    def decided(self, a: Any, b: Any, lag_ms: float, upto: int) -> float:
        "Hayashi-Yoshida covariance of all that was decided up to an event."
        t, x = self.path(a, upto)
        u, y = self.path(b, upto)
        t = t + lag_ms * 1_000
        if len(t) == 0 or len(u) == 0:
            return 0.0
        if t[-1] <= u[-1]:
            u, y = u[u < t[-1]], y[u < t[-1]]
        else:
            t, x = t[t <= u[-1]], x[t <= u[-1]]
        if len(t) < 2 or len(u) < 2:
            return 0.0
        overlaps = (t[:-1, None] < u[1:]) & (u[:-1] < t[1:, None])
        return float(np.diff(x) @ overlaps @ np.diff(y))

    def path(self, market: Any, upto: int) -> tuple[np.ndarray, np.ndarray]:
        "Times and log prices of a market up to an event."
        rows = [(us, np.log(px)) for us, px, _, n in self.ticks.get(market, []) if n <= upto]
        array = np.array(rows, float).reshape(-1, 2)
        return array[:, 0], array[:, 1]

    def window(self, ends: list[int], n_fast: int) -> tuple[int, int]:
        "First and last event of a window: after the first one, up to the last one."
        first = ends[-n_fast - 1] if len(ends) > n_fast else -1
        return first, ends[-1]

    def slow_blocks(self, ends: list[int]) -> int:
        "Fast blocks in the slow window: nine whole slow ones and the one being filled."
        ratio = SETTINGS.price_history_size // SETTINGS.lookback_window
        return (N_BLOCKS - 1) * ratio + (len(ends) - 1) % ratio + 1

    def vol(self, market: Any, n_fast: int) -> float:
        "Volatility over a window of blocks."
        ends = self.block_ends()
        if not ends:
            return nan
        first, last = self.window(ends, n_fast)
        _, x = self.path(market, last)
        k = len(self.path(market, first)[0])
        moves = np.diff(x)[max(k - 1, 0) :]
        if len(moves) < 20:
            return nan
        started = [event for event in self.events if event.symbol != "USDT/USD"]
        begin = next(e for e in started if isinstance(e, OrderBookSnapshot))
        if first >= 0:
            begin = self.events[first]
        span = round(self.events[last].ts_recv_ns / 1e3) - round(begin.ts_recv_ns / 1e3)
        return float(np.sqrt((moves**2).sum() / (span / 1e6)) * BPS)


@cache
def oracle_rows(now_ns: int) -> tuple[pd.Series, Oracle]:
    "A row of the grid, and the oracle at its time."
    frame = rows_of(simulated(), legs=True)
    return frame.loc[now_ns], Oracle(simulated(), now_ns)


MOMENTS = [START_NS + round(second * S) for second in (9.9, 14.3, 20.5, 23.7)]


@pytest.mark.parametrize("now_ns", MOMENTS)
def test_edges_are_what_the_formulas_say(now_ns: int) -> None:
    row, oracle = oracle_rows(now_ns)
    best = oracle.best_edges()
    arbitrage, basis = best["arbitrage"], best["basis"]
    wanted = {
        "best_gross_edge_bps": arbitrage[0],
        "best_net_edge_bps": arbitrage[1],
        "best_gross_edge_at_size_bps": arbitrage[2],
        "best_net_edge_at_size_bps": arbitrage[3],
        "best_basis_gross_edge_bps": basis[0],
        "best_basis_net_edge_bps": basis[1],
        "best_basis_gross_edge_at_size_bps": basis[2],
        "best_basis_net_edge_at_size_bps": basis[3],
        "best_arb_opportunity_bps": max(best["profits"], default=0.0),
        "arb_opportunity_count": len(best["profits"]),
        "avg_arb_profit_bps": np.mean(best["profits"]) if best["profits"] else 0.0,
    }
    edges = oracle.edges
    for k, name, floor in (
        (1, "edge_age_ms", 0.0),
        (2, "basis_edge_age_ms", 0.0),
        (3, "net_edge_age_ms", 5.0),
    ):
        stands = [edge[k] >= floor if k == 3 else edge[k] > floor for edge in edges]
        since = len(stands) - stands[::-1].index(False) if False in stands else 0
        age = (now_ns - edges[since][0]) / NS_PER_MS if stands[-1] else 0.0
        wanted[name] = nan if isnan(edges[-1][k]) else age
    mean, _, weight = oracle.trailing([(t, net) for t, _, _, net in edges], now_ns, 20.0)
    wanted["edge_excess_bps"] = best["net"] - mean if weight else nan
    for name, value in wanted.items():
        assert np.isclose(row[name], value, rtol=1e-7, atol=1e-6, equal_nan=True), name
    buy, sell = best["legs"]
    assert (row["buy"], row["sell"]) == (" ".join(buy), " ".join(sell))
    assert row["kind"] == ("basis" if oracle.is_perp(buy) or oracle.is_perp(sell) else "arbitrage")


@pytest.mark.parametrize("now_ns", MOMENTS)
def test_legs_and_market_are_what_the_formulas_say(now_ns: int) -> None:
    row, oracle = oracle_rows(now_ns)
    books, wanted = oracle.books, {}
    venues = sorted(m for m in books if m[1] != "USDT/USD")
    buy, sell = oracle.best_edges()["legs"]
    flows, sums = {}, {}
    for market in venues:
        book = books[market]
        weights = [exp(-(now_ns - t) / S) for t, _, _ in oracle.flows.get(market, [])]
        touch = sum(w * f for w, (_, f, _) in zip(weights, oracle.flows.get(market, [])))
        depth = sum(w * f for w, (_, _, f) in zip(weights, oracle.flows.get(market, [])))
        qty = book.bids[:N_LEVELS, 1].sum() + book.asks[:N_LEVELS, 1].sum()
        flows[market] = touch / (book.bid_size + book.ask_size), depth / qty
        sums[market] = trade_sums(oracle.trades.get(market, []), now_ns)
    for leg, market in (("buy", buy), ("sell", sell)):
        book = books[market]
        both = book.bid_size + book.ask_size
        wanted |= {
            f"{leg}_leg_age_ms": (now_ns - oracle.changed[market]) / NS_PER_MS,
            f"{leg}_leg_silence_ms": (now_ns - book.ts_recv_ns) / NS_PER_MS,
            f"{leg}_leg_spread_bps": book.spread_bps,
            f"{leg}_leg_queue_imbalance": (book.bid_size - book.ask_size) / both,
            f"{leg}_leg_ofi": flows[market][0],
            f"{leg}_leg_depth_ofi": flows[market][1],
            f"{leg}_leg_trade_imbalance": pressure(sums[market])[0],
        }
    rate, _ = oracle.rate(oracle.quote(sell), oracle.quote(buy))
    raw = (books[sell].best_bid * rate / books[buy].best_ask - 1) * BPS
    mean, spread = oracle.usual(buy, sell)
    wanted["leg_microprice_edge_bps"] = (
        books[sell].microprice * rate / books[buy].microprice - 1
    ) * BPS
    wanted["leg_deviation_z"] = (raw - mean) / spread
    wanted["leg_fill_ratio"] = (
        min(books[buy].best_ask * books[buy].ask_size, books[sell].best_bid * books[sell].bid_size)
        / SETTINGS.notional
    )
    micro = [books[m].microprice for m in venues]
    wanted["microprice_gap_bps"] = (max(micro) - min(micro)) / (max(micro) + min(micro)) * 2 * BPS
    wanted["ofi"], wanted["depth_ofi"] = np.mean(list(flows.values()), axis=0)
    wanted["trade_imbalance"], wanted["trade_intensity"] = pressure(np.sum(list(sums.values()), 0))
    wanted["max_silence_ms"] = max(now_ns - books[m].ts_recv_ns for m in venues) / NS_PER_MS
    wanted["mean_spread_bps"] = np.mean([books[m].spread_bps for m in venues])
    wanted["n_venues"], wanted["n_left_out"] = len(venues), 3 - len(venues)
    wanted["peg_bps"] = (books["coinbase", "USDT/USD"].mid - 1) * BPS
    gaps = [oracle.gaps[m] for m in venues if m in oracle.gaps]
    wanted["time_since_gap_ms"] = (now_ns - max(gaps)) / NS_PER_MS if gaps else nan
    basis, excess = [], []
    for spot in venues:
        for perp in venues:
            if oracle.is_perp(perp) and not oracle.is_perp(spot):
                rate, _ = oracle.rate("USDT", oracle.quote(spot))
                basis.append((books[perp].mid * rate / books[spot].mid - 1) * BPS)
                there, back = oracle.usual(spot, perp)[0], oracle.usual(perp, spot)[0]
                excess.append(basis[-1] - (there - back) / 2)
    wanted["basis_bps"] = np.mean(basis) if basis else nan
    wanted["basis_excess_bps"] = np.nanmean(excess) if np.isfinite(excess).any() else nan
    for name, value in wanted.items():
        assert np.isclose(row[name], value, rtol=1e-6, atol=1e-5, equal_nan=True), name


def trade_sums(trades: Sequence[Trade], now_ns: int) -> np.ndarray:
    "Bought, sold, volume of an ordinary second, trades, trades of an ordinary second."
    if not trades:
        return np.zeros(5)
    age_s = np.array([now_ns - trade.ts_recv_ns for trade in trades]) / S
    size, bought = np.array([t.size for t in trades]), np.array([t.side == "buy" for t in trades])
    quick, slow = np.exp(-age_s), np.exp(-age_s / 60)
    usual = 1 / 60 / (1 - np.exp(-max(age_s[0], 1.0) / 60))
    volumes = (size * quick * bought).sum(), (size * quick * ~bought).sum()
    return np.array([*volumes, (size * slow).sum() * usual, quick.sum(), slow.sum() * usual])


def pressure(sums: Sequence[float]) -> tuple[float, float]:
    "Imbalance and intensity."
    bought, sold, usual, now, ordinary = sums
    if ordinary == 0:
        return nan, nan
    return (bought - sold) / (bought + sold + usual), now / ordinary


@pytest.mark.parametrize("now_ns", MOMENTS)
def test_history_features_are_what_the_definitions_say(now_ns: int) -> None:
    row, oracle = oracle_rows(now_ns)
    ends = oracle.block_ends()
    venues = sorted(m for m in oracle.books if m[1] != "USDT/USD")
    first, last = oracle.window(ends, N_BLOCKS)
    vols = [oracle.vol(m, N_BLOCKS) for m in venues]
    slow = [oracle.vol(m, oracle.slow_blocks(ends)) for m in venues]
    assert np.isclose(row["realised_vol_bps"], np.nanmean(vols), rtol=1e-6)
    assert np.isclose(row["vol_burst_ratio"], np.nanmean(np.array(vols) / slow), rtol=1e-6)
    assert np.isclose(row["cross_exchange_vol_ratio"], np.nanmin(vols) / np.nanmax(vols), rtol=1e-6)
    assert np.isclose(row["vol_dispersion"], np.nanstd(vols) / np.nanmean(vols), rtol=1e-6)
    raw = []
    for a, b in combinations(venues, 2):
        squares = []
        for market in (a, b):
            k = len(oracle.path(market, first)[0])
            moves = np.diff(oracle.path(market, last)[1])[max(k - 1, 0) :]
            squares.append((moves**2).sum() if len(moves) >= 20 else nan)
        added = oracle.decided(a, b, 0, last) - oracle.decided(a, b, 0, first)
        with np.errstate(invalid="ignore"):  # a price that never moved: nan
            raw.append(added / np.sqrt(squares[0] * squares[1]))
    gap_inside = any(first < n for n, e in enumerate(oracle.events) if isinstance(e, Gap))
    if not gap_inside:  # what a gap took away is not in the oracle's sums
        assert np.isclose(row["hy_correlation_raw"], np.nanmean(raw), rtol=1e-6)
        clipped = np.clip(raw, -1, 1)
        assert np.isclose(row["price_sync_correlation"], np.nanmean(clipped), rtol=1e-6)
        assert np.isclose(row["hy_correlation_min"], np.nanmin(clipped), rtol=1e-6)


def test_the_documented_prices_are_what_numpy_says() -> None:
    frame = rows_of(simulated(), features=FEATURES_DOCUMENT)
    for now_ns in MOMENTS:
        books = {
            (event.exchange, event.symbol): event
            for event in simulated()
            if isinstance(event, OrderBookSnapshot) and event.ts_recv_ns <= now_ns
        }
        quotes = [books[m] for m in sorted(books) if m[1] != "USDT/USD"]
        mid = np.array([book.mid for book in quotes])
        size = np.array([book.bid_size + book.ask_size for book in quotes])
        bid, ask = (
            np.array([getattr(b, f"{s}_size") for b in quotes]).sum() for s in ("bid", "ask")
        )
        gaps = [abs(a - b) for a, b in combinations(mid, 2)]
        share = np.abs(mid - mid.mean()) / np.abs(mid - mid.mean()).sum()
        vwap = np.average(mid, weights=size)
        touch = min(b.best_ask for b in quotes) - max(b.best_bid for b in quotes)
        wanted = {
            "price_dispersion": mid.std() / mid.mean() * BPS,
            "max_price_spread_bps": max(gaps) / mid.mean() * BPS,
            "min_price_spread_bps": min(gaps) / mid.mean() * BPS,
            "price_entropy": -(share * np.log(np.where(share > 0, share, 1))).sum(),
            "vw_price_dispersion": np.sqrt(np.average((mid - vwap) ** 2, weights=size))
            / vwap
            * BPS,
            "volume_concentration": ((size / size.sum()) ** 2).sum(),
            "depth_imbalance_ratio": (bid - ask) / (bid + ask),
            "consolidated_spread_bps": touch / mid.mean() * BPS,
        }
        for name, value in wanted.items():
            assert np.isclose(frame.loc[now_ns, name], value, rtol=1e-7, atol=1e-9), name


# --- bad input is an error or a counted value


def test_broken_books_are_left_out_and_counted() -> None:
    a, b = ("binance", "BTC/USDT"), ("okx", "BTC/USDT")
    good = [(99.0, 1.0)], [(100.0, 1.0)]
    broken = {
        "crossed books": ([(101.0, 1.0)], [(100.0, 1.0)]),
        "one-sided books": ([], [(100.0, 1.0)]),
        "one-sided books ": ([], []),
        "one-sided books  ": ([(nan, 1.0)], [(100.0, 1.0)]),
        "books with a bad number": ([(99.0, nan)], [(100.0, 1.0)]),
        "books with a bad number ": ([(99.0, -1.0)], [(100.0, 1.0)]),
        "books with a bad number  ": ([(99.0, 1.0)], [(np.inf, 1.0)]),
    }
    for case, sides in broken.items():
        name = case.strip()
        events = [snapshot(a, START_NS, *good), snapshot(b, START_NS + 1, *good)]
        events += [snapshot(b, START_NS + 2, *sides), snapshot(b, START_NS + 3, *good)]
        frame = rows_of(events, "bbo")
        counts = frame.attrs["counts"]
        assert counts[name] == 1 and counts["books"] == 3
        assert frame.index.tolist() == [START_NS + 1, START_NS + 3]
    unproven = snapshot(b, START_NS + 2, *good, state=StreamState.UNVERIFIABLE)
    events = [snapshot(a, START_NS, *good), snapshot(b, START_NS + 1, *good), unproven]
    counts = rows_of(events, "bbo").attrs["counts"]
    assert counts["unproven books"] == 1 and counts["one-sided books"] == 0


def test_unknown_names_are_refused() -> None:
    book = snapshot(("binance", "BTC/USDT"), START_NS, [(99.0, 1.0)], [(100.0, 1.0)])
    cases = {
        "no taker fee of mtgox": {"exchange": "mtgox"},
        "one coin: BTC, not ETH": {"symbol": "ETH/USDT"},
        "symbol": {"symbol": "BTCUSDT"},
    }
    for message, changes in cases.items():
        with pytest.raises(InputError, match=message):
            rows_of([book, replace_book(book, **changes)])
    for message, options in {
        "unknown features: rsi": {"features": ["rsi"]},
        "unknown features: none given": {"features": []},
        "unknown sampler 'hourly'": {"sampler": "hourly"},
    }.items():
        with pytest.raises(InputError, match=message):
            rows_of([book], **options)
    with pytest.raises(InputError, match="at most 16 markets"):
        rows_of([replace_book(book, symbol=f"BTC/USD{c}") for c in "ABCDEFGHIJKLMNOPQ"])
    extractor = CrossExchangeFeatureExtractor()
    with pytest.raises(InputError, match="no 'best_ask'"):
        extractor.extract_features({"a": {"best_bid": 1.0, "bid_size": 1.0}}, [])


def test_no_events_make_an_empty_table() -> None:
    frame = rows_of([])
    assert len(frame) == 0 and list(frame.columns) == ["timestamp", *FEATURES]


def test_a_venue_that_vanishes_is_left_out_after_its_time() -> None:
    a, b, c = (("binance", "BTC/USDT"), ("okx", "BTC/USDT"), ("htx", "BTC/USDT"))
    good = [(99.0, 1.0)], [(100.0, 1.0)]
    events = [snapshot(m, START_NS + k, *good) for k, m in enumerate((a, b, c))]
    for second in range(1, 90):
        events += [snapshot(m, START_NS + second * S + k, *good) for k, m in enumerate((a, b))]
    frame = rows_of(events)
    after = frame.index > START_NS + 60 * S + 2
    assert set(frame.loc[after, "n_venues"]) == {2} and set(frame.loc[after, "n_left_out"]) == {1}
    assert set(frame.loc[~after, "n_venues"]) == {3}


@pytest.mark.parametrize("how", ["gap", "crossed", "unproven", "empty"])
def test_a_touch_that_is_lost_makes_a_row_of_the_others(how: str) -> None:
    a, b, c = (("binance", "BTC/USDT"), ("okx", "BTC/USDT"), ("htx", "BTC/USDT"))
    good = [(99.0, 1.0)], [(100.0, 1.0)]
    lost = {
        "gap": Gap(*c, START_NS + S, "sequence"),
        "crossed": snapshot(c, START_NS + S, good[1], good[0]),
        "unproven": snapshot(c, START_NS + S, *good, StreamState.SUSPECT),
        "empty": snapshot(c, START_NS + S, [], []),
    }[how]
    events = [snapshot(m, START_NS + k, *good) for k, m in enumerate((a, b, c))]
    again = replace(lost, ts_recv_ns=lost.ts_recv_ns + S)  # nothing left to lose
    frame = rows_of([*events, lost, again], sampler="bbo")
    assert frame["n_venues"].tolist() == [2, 3, 2]
    assert frame.index[-1] == lost.ts_recv_ns


def test_paths_without_a_common_time_have_no_leader() -> None:
    early, late = np.arange(10) * S, np.arange(9, 19) * S
    px = np.linspace(100.0, 101.0, 10)
    for ask in (lead_lag, lambda *paths: correlation_curve(*paths, np.zeros(1))):
        with pytest.raises(InputError, match="without a time in common"):
            ask(early, px, late, px)


def test_equal_stamps_and_stamps_that_go_back() -> None:
    a, b = ("binance", "BTC/USDT"), ("okx", "BTC/USDT")
    books = [
        snapshot(m, START_NS, [(99.0, 1.0)], [(100.0 + k, 1.0)]) for m in (a, b) for k in (0, 1)
    ]
    frame = rows_of(books, "bbo")
    assert frame.index.tolist() == [START_NS, START_NS]
    back = [books[0], replace(books[2], ts_recv_ns=START_NS - 1)]
    with pytest.raises(InputError, match="in the order of their receipt"):
        rows_of(back)
    clocks = {b: lambda ns: ns - 10 * S if ns > START_NS else ns}  # a clock that is set back
    engine = [
        replace(books[2], ts_event_ns=START_NS + k, ts_recv_ns=START_NS + k) for k in range(3)
    ]
    stream = FeatureStream(fees=OWN, clocks=clocks)
    list(stream.on_events(engine))
    assert stream.counts["stamps that went back"] == 2 and stream.counts["books"] == 3


def test_clocks_bring_prices_to_one_time() -> None:
    "A venue that is 200 ms slower to reach us follows by receipt, but not by engine time."
    rng = np.random.default_rng(0)
    names, events, clocks = (("binance", "BTC/USDT"), ("okx", "BTC/USDT")), [], {}
    walk = 100 * np.exp(np.cumsum(rng.normal(size=4_000)) * 1e-4)
    for market, delay_ms, ahead_ms in ((names[0], 5, 40), (names[1], 205, -70)):
        clocks[market] = lambda ns, ahead_ms=ahead_ms: ns - ahead_ms * NS_PER_MS
        for i in np.sort(rng.choice(4_000, 1_200, False)).tolist():
            engine_ns = START_NS + 25 * i * NS_PER_MS
            rows = np.array([[walk[i] * 0.9999, 1.0]]), np.array([[walk[i] * 1.0001, 1.0]])
            stamp = engine_ns + ahead_ms * NS_PER_MS
            recv = engine_ns + delay_ms * NS_PER_MS
            events.append(OrderBookSnapshot(*market, stamp, recv, *rows, 1, StreamState.SYNCED))
    events.sort(key=lambda event: event.ts_recv_ns)
    by_receipt, by_engine = (
        feature_frame(events, fees=OWN, clocks=given_clocks) for given_clocks in (None, clocks)
    )
    last = [frame["pair_lead_ms"].iloc[-1] for frame in (by_receipt, by_engine)]
    assert abs(last[0] - 200) < 30 and last[1] < 15


def test_the_extractor_counts_what_it_leaves_out() -> None:
    extractor = CrossExchangeFeatureExtractor(lookback_window=10, price_history_size=20)
    for price in (nan, 0.0, -1.0, np.inf):
        extractor.update("a", price, 1.0, 1e9)
    assert extractor.counts["prices that are none"] == 4 and not extractor.price_history
    for i in range(30):
        extractor.update("a", 100.0, nan if i % 2 else 0.0, 1e9 + i)
    extractor.update("a", 100.0, 0.0, 1e9)
    assert extractor.counts["stamps that went back"] == 1
    assert len(extractor.price_history["a"]) == 20 == len(extractor.timestamp_history["a"])
    assert extractor.timestamp_history["a"][0] == 1e9 + 11
    with pytest.raises(InputError, match="seconds UTC"):
        extractor.update("a", 1.0, 1.0, nan)
    with pytest.raises(InputError, match="lookback_window"):
        CrossExchangeFeatureExtractor(lookback_window=100, price_history_size=50)
    for name in "bcdefghijklmnop":
        extractor.update(name, 1.0, 1.0, 1e9)
    with pytest.raises(InputError, match="at most 16"):
        extractor.update("q", 1.0, 1.0, 1e9)


def test_nothing_known_is_nan_and_zero_volume_is_defined() -> None:
    extractor = CrossExchangeFeatureExtractor()
    quote = {
        "best_bid": 99.0,
        "best_ask": 101.0,
        "bid_size": 0.0,
        "ask_size": 0.0,
        "timestamp": 1e9,
    }
    found = extractor.extract_features({"a": quote, "b": dict(quote)}, [])
    assert found is not None and found.timestamp == 1e9 and found.dominant_exchange == "a"
    row = extractor.to_dict(found)
    assert tuple(row) == FEATURES_DOCUMENT and all(type(value) is float for value in row.values())
    zero = (
        "price_dispersion max_price_spread_bps min_price_spread_bps price_entropy "
        "vw_price_dispersion depth_imbalance_ratio best_arb_opportunity_bps arb_opportunity_count"
    )
    assert all(row[name] == 0.0 for name in zero.split()) and row["volume_concentration"] == 0.5
    unknown = "price_sync_correlation lead_lag_coefficient cross_exchange_vol_ratio vol_dispersion"
    assert all(isnan(row[name]) for name in unknown.split())


def test_prices_that_stand_still_have_no_correlation() -> None:
    extractor = CrossExchangeFeatureExtractor()
    quote = {
        "best_bid": 99.0,
        "best_ask": 101.0,
        "bid_size": 1.0,
        "ask_size": 1.0,
        "timestamp": 1e9,
    }
    for i in range(300):
        for name in "ab":
            extractor.update(name, 100.0, 2.0, 1e9 + i)
    found = extractor.extract_features({"a": quote, "b": quote}, [])
    assert found is not None and isnan(found.price_sync_correlation)
    assert found.cross_exchange_vol_ratio == 1.0 and found.vol_dispersion == 0.0


# --- statistics on planted truth


def mids(lag_ms: float, seed: int, duration_s: float = 600.0) -> list[np.ndarray]:
    "Engine times and mids of two simulated venues of about 20 updates a second."
    first = VenueSpec(instrument("binance", "BTC/USDT"), batch_ms=50)
    second = VenueSpec(instrument("okx", "BTC/USDT"), batch_ms=50, lag_ms=lag_ms)
    tapes = simulate_market(seed, duration_s, (first, second)).tapes.values()
    return [column for tape in tapes for column in (tape.touch().ts_ns, tape.touch().mid)]


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_lead_is_found(seed: int) -> None:
    found = lead_lag(*mids(200, seed))
    assert abs(found.lead_ms - 200) < 10 and found.p_value < 0.001
    ts_a, px_a, ts_b, px_b = mids(200, seed)
    mirrored = lead_lag(ts_b, px_b, ts_a, px_a)
    assert np.isclose(mirrored.lead_ms, -found.lead_ms)
    assert np.isclose(mirrored.p_value, found.p_value) and np.isclose(
        mirrored.coefficient, found.coefficient
    )


def rejections(seeds: Iterable[int], duration_s: float) -> int:
    "How often a lead is claimed at the 5 % level where there is none."
    return sum(lead_lag(*mids(0, seed, duration_s)).p_value < 0.05 for seed in seeds)


def test_no_lead_is_found_where_there_is_none() -> None:
    assert rejections(range(40), 120.0) <= 5  # 1 in 100 would have more by chance


@pytest.mark.verify
def test_no_lead_is_found_where_there_is_none_on_200_seeds(record_property: Any) -> None:
    found = rejections(range(1_000, 1_200), 600.0)
    record_property("rejections of 200", found)
    assert found <= 17


def test_asynchronous_ticks_do_not_create_correlation() -> None:
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        sides = []
        for n in (400, 150):
            ts_ns = np.sort(rng.integers(0, 60 * S, n))
            sides += [ts_ns, 100 * np.exp(np.cumsum(rng.normal(size=n)) * 1e-4)]
        found.append(correlation_curve(*sides, np.array([-100, 0, 100])))
    assert abs(np.mean(found)) < 0.015 and np.std(found) < 0.15


def test_the_history_forgets_what_left_its_window() -> None:
    "Ten windows later nothing is left of the first, not even a rounding error."
    rng = np.random.default_rng(1)
    updates = [(int(rng.integers(2)), 1_000 * i, exp(rng.normal() * 1e-3)) for i in range(3_000)]
    long, short = new_history(20, 40), new_history(20, 40)
    for v, time_us, px in updates:
        push_price(*long, v, time_us, px, 1.0)
    blocks_end = ends_of(updates, 2)
    start = blocks_end[len(blocks_end) // 2]
    for v, time_us, px in updates[start + 1 :]:
        push_price(*short, v, time_us, px, 1.0)
    assert same_bits(long.sums.found.vol_bps[:2], short.sums.found.vol_bps[:2])
    assert same_bits(long.sums.found.volume[:2], short.sums.found.volume[:2])


def ends_of(updates: Sequence[tuple[int, int, float]], block: int) -> list[int]:
    "Where blocks end."
    counts, ends = [0, 0], []
    for n, (v, _, _) in enumerate(updates):
        counts[v] += 1
        if counts[v] == block:
            counts = [0, 0]
            ends.append(n)
    return ends


def test_leads_of_the_history_agree_with_the_whole_curve() -> None:
    ts_a, px_a, ts_b, px_b = mids(150, 3, 60.0)
    h = new_history(1_000, 10_000)
    updates = [(int(t) // 1_000, 0, p) for t, p in zip(ts_a, px_a)]
    updates += [(int(t) // 1_000, 1, p) for t, p in zip(ts_b, px_b)]
    for time_us, v, px in sorted(updates):
        push_price(*h, v, time_us, px, 1.0)
    whole = lead_lag(ts_a, px_a, ts_b, px_b)
    assert abs(h.sums.found.lead_ms[0, 1] - whole.lead_ms) < 25
    assert h.sums.lags_us.tolist() == [lag * 1_000 for lag in LAGS_MS]


# --- real data


def link_events(gem_data: Path) -> list[Event]:
    "The recorded hour of LINK/USDT on two venues, and a last moment."
    sources = []
    for name, exchange in (("bnc", "binance"), ("hb", "htx")):
        frame = pd.read_csv(gem_data / f"link-binance-htx-2021-08-20/orderbook_{name}.csv.gz")
        stamps = pd.to_datetime(frame["timestamp"]).to_numpy().astype("datetime64[ns]").astype(int)
        rows = [frame[[f"{side}1", f"{side}v1"]].to_numpy(float)[:, None, :] for side in ("b", "a")]
        market = (exchange, "LINK/USDT")
        sources.append([snapshot(market, ts, bid, ask) for ts, bid, ask in zip(stamps, *rows)])
    last = replace(sources[0][-1], ts_recv_ns=sources[0][-1].ts_recv_ns + S)
    return [*heapq.merge(*sources, key=lambda event: event.ts_recv_ns), last]


def test_the_recorded_hour_of_link(gem_data: Path) -> None:
    events, sampler = link_events(gem_data), Sampler(step_ms=1_000)
    for fees, n_net in (((0, 0), 659), ((1, 1), 73), ((2.5, 2.5), 4), ((10, 20), 0)):
        table = FeeTable.own(dict(zip(("binance", "htx"), fees)))
        frame = feature_frame(events, sampler=sampler, fees=table, legs=True)
        assert len(frame) == 3_600 and (frame["best_gross_edge_bps"] > 0).sum() == 659
        assert (frame["best_net_edge_bps"] > 0).sum() == n_net
        if n_net == 659:
            crossing = frame[frame["best_gross_edge_bps"] > 0]
            assert crossing["buy"].value_counts().to_dict() == {
                "binance LINK/USDT": 322,
                "htx LINK/USDT": 337,
            }
            assert round(crossing["best_gross_edge_bps"].max(), 2) == 8.03
            assert (frame["consolidated_spread_bps"] < 0).sum() == 659


def test_binance_leads_on_link(gem_data: Path) -> None:
    sides: dict[str, list[Any]] = {}
    for event in link_events(gem_data)[:-1]:
        ts_ns, px = sides.setdefault(event.exchange, [[], []])
        ts_ns.append(event.ts_recv_ns)
        px.append(event.mid)  # type: ignore[union-attr]
    found = lead_lag(
        *map(np.array, sides["binance"] + sides["htx"]), max_lag_ms=5_000, step_ms=1_000
    )
    assert found.excess_ms == 1_000 and found.p_value < 1e-4
    assert np.allclose(found.curve[[4, 6]], [0.03, 0.20], atol=0.01)
