"""Fees, walked depth and fills against plain Python, and the directions that may not turn."""

from collections.abc import Sequence
from dataclasses import replace
from math import floor, inf, isnan, lcm, nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector.core import NS_PER_MS, Gap, InputError, OrderBookSnapshot, StreamState, Trade
from gem_detector.costs import FeeTable, fee_market, funding_cost_bps
from gem_detector.execution import (
    BookColumns,
    Terms,
    common_lot,
    conversion_rate,
    conversion_rates,
    converted,
    fill_pair,
    floor_to_lot,
    net_edge_bps,
    order_qty,
    two_leg_fills,
    walk,
)
from gem_detector.markets import MARKET_TYPES, built_in

MS = NS_PER_MS
VENUES = [(venue, kind) for venue, kinds in MARKET_TYPES.items() for kind in kinds]


# --- fees


@pytest.mark.parametrize(("venue", "market_type"), VENUES)
def test_every_market_that_can_be_streamed_has_a_dated_base_fee(
    venue: str, market_type: str
) -> None:
    taker = FeeTable().fee(venue, market_type)
    maker = FeeTable().fee(venue, market_type, "maker")
    assert 0 < taker.bps <= 120 and maker.bps <= taker.bps and maker.tier == taker.tier
    assert taker.as_of[:4].isdigit() and taker.source in ("page", "listing", "client")


def test_higher_tiers_never_pay_more_than_the_base() -> None:
    base = FeeTable()
    for row in base.rows:
        if row.as_of >= "2025":
            assert row.bps <= base.fee(row.exchange, row.market_type, row.role).bps


def test_fees_follow_tier_date_and_the_callers_own_figures() -> None:
    assert FeeTable(at="2023-12-31").taker_bps("kraken") == 26.0
    assert FeeTable(at="2026-05-02").taker_bps("kraken") == 40.0
    with pytest.raises(InputError, match="is known by 2019"):
        FeeTable(at="2019-01-01").taker_bps("binance")
    early = FeeTable(tiers={"kraken": "pro_10k"}, at="2024-06-01")  # its base tier is known by then
    with pytest.raises(InputError, match="tier kraken spot 'pro_10k' is known by 2024-06-01"):
        early.taker_bps("kraken")
    with pytest.raises(InputError, match="no fee tier 'vip_1' here"):
        FeeTable(tiers={"coinbase": "vip_1"})
    assert FeeTable.own({"binance": -0.5}).taker_bps("binance", "stable") == -0.5
    with pytest.raises(InputError, match=r"FeeTable\.own"):
        FeeTable.own({"binance": 1.0}).taker_bps("bybit")


def test_every_known_instrument_has_a_fee() -> None:
    fees = FeeTable()
    for market in built_in():
        assert fees.taker_bps(market.exchange, fee_market(market)) > 0


@settings(deadline=None)
@given(
    t0=st.integers(0, 10**18), held=st.integers(0, 10**15), side=st.sampled_from([-1, 1]),
    rate=st.floats(-50, 50),
)  # fmt: skip
def test_funding_adds_up_over_parts(t0: int, held: int, side: int, rate: float) -> None:
    middle = t0 + held // 3
    parts = funding_cost_bps(rate, side, t0, middle) + funding_cost_bps(
        rate, side, middle, t0 + held
    )
    assert np.isclose(parts, funding_cost_bps(rate, side, t0, t0 + held))


# --- walking


def plain_walk(
    levels: Sequence[tuple[float, float]], side: int, qty: float, quote: float, limit: float
) -> tuple[float, float, float, int]:
    "The same, one row after the other, as one would do it on paper."
    got, paid, worst, n = 0.0, 0.0, nan, 0
    for price, there in levels:
        if isnan(price) or (price > limit if side > 0 else price < limit):
            break
        rest = min(qty - got, (quote - paid) / price)
        part = min(there, rest)
        if part > 0:
            got, paid, worst, n = got + part, paid + part * price, price, n + 1
        if rest <= there:
            break
    return got, paid, worst, n


steps = st.lists(
    st.tuples(st.integers(1, 50), st.integers(0, 400)), min_size=0, max_size=12
)  # ticks to the next row, lots there


def ladder_of(rows: list[tuple[int, int]], side: int) -> np.ndarray:
    "Prices away from 100 and quantities, best first."
    ticks = 10_000 + side * np.cumsum([step for step, _ in rows], dtype=float)
    return np.column_stack([ticks / 100, [lots / 100 for _, lots in rows]]).reshape(-1, 2)


@settings(max_examples=300, deadline=None)
@given(
    rows=steps, side=st.sampled_from([-1, 1]), lots=st.integers(0, 3_000) | st.just(None),
    quote=st.floats(0.01, 3_000) | st.just(inf), away=st.integers(0, 300) | st.just(None),
)  # fmt: skip
def test_walk_is_what_one_does_on_paper(
    rows: list[tuple[int, int]], side: int, lots: int | None, quote: float, away: int | None
) -> None:
    ladder = ladder_of(rows, side)
    qty = inf if lots is None else lots / 100
    limit = (inf if side > 0 else 0.0) if away is None else (10_000 + side * away) / 100
    fill = walk(ladder[:, 0], ladder[:, 1], side, qty, quote, limit)
    plain = plain_walk(ladder.tolist(), side, qty, quote, limit)
    assert np.allclose(fill, plain, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert tuple(walk.py_func(ladder[:, 0], ladder[:, 1], side, qty, quote, limit)) == tuple(
        fill
    ) or isnan(fill.worst_px)
    assert fill.qty <= qty and fill.quote <= quote * (1 + 1e-12)


@settings(deadline=None)
@given(qty=st.floats(0, 1e6), power=st.integers(-8, 2))
def test_lots_round_down_and_stay(qty: float, power: int) -> None:
    lot = 10.0**power
    floored = floor_to_lot(qty, lot)
    assert floored <= qty * (1 + 1e-14) + 1e-8 * lot and qty - floored < lot * (1 + 1e-6)
    assert floor_to_lot(floored, lot) == floored


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([1e-4, 1e-2, 0.1, 1.0]))
def test_an_order_is_in_whole_lots_of_both_venues(one: int, other: int, step: float) -> None:
    lots = one * step, other * step
    shared = common_lot(*lots)
    assert shared == common_lot(*lots[::-1]) and common_lot(lots[0], 0.0) == lots[0]
    for lot in lots:
        assert abs(shared / lot - round(shared / lot)) < 1e-9
    assert round(shared / step) == lcm(one, other)
    legs = Terms(1.0, 0, lot_size=lots[0]), Terms(1.0, 0, lot_size=lots[1])
    qty = float(order_qty(1_000.0, 10.0, legs))
    assert abs(qty / shared - round(qty / shared)) < 1e-9 and 100.0 - qty < shared * (1 + 1e-9)


@settings(max_examples=300, deadline=None)
@given(rows=steps, side=st.sampled_from([-1, 1]), k=st.integers(1, 12))
def test_a_walk_for_what_some_rows_hold_touches_no_more(
    rows: list[tuple[int, int]], side: int, k: int
) -> None:
    ladder = ladder_of([(step, lots + 1) for step, lots in rows], side)
    first, anything = ladder[:k], inf if side > 0 else 0.0
    quote, qty = 0.0, 0.0
    for px, held in first.tolist():
        quote, qty = quote + px * held, qty + held
    for wanted in ((inf, quote), (qty, inf)):
        fill = walk(ladder[:, 0], ladder[:, 1], side, *wanted, anything)
        assert fill.n_levels == len(first) and fill.qty == pytest.approx(qty)
        assert not len(first) or fill.worst_px == first[-1, 0]


def test_a_rate_needs_a_book_from_the_decision_to_the_arrival() -> None:
    book = replace(book_event(1 * MS, 1), symbol="USDT/USD")
    gap = Gap(book.exchange, book.symbol, book.ts_recv_ns + 5, "sequence", -1, -1)
    again = replace(book, ts_event_ns=9 * MS, ts_recv_ns=book.ts_recv_ns + 9 * MS)
    columns = BookColumns.from_events([book, gap, again])
    t_ns = columns.ts_engine_ns[[0, 0, 2, 2]] + [0, -1, 0, 1]
    rates = conversion_rates(t_ns, columns, "USD", "USDT", 0.0, Terms(0.0, 0))
    assert np.isfinite(rates).tolist() == [True, False, True, False]
    across = conversion_rates(t_ns[:1], columns, "USD", "USDT", 0.0, Terms(0.0, 8 * MS))
    assert np.isnan(across).all()


@settings(deadline=None)
@given(
    px=st.floats(0.5, 2), touch=st.floats(1, 1e6), amount=st.floats(0.01, 100),
    side=st.sampled_from([1, -1]),
)  # fmt: skip
def test_conversion_at_size_is_never_better_than_at_the_touch(
    px: float, touch: float, amount: float, side: int
) -> None:
    levels = px * (1 + side * 0.01 * np.arange(3)), np.full(3, touch)
    at_touch, at_size = converted(*levels, side, 0.0), converted(*levels, side, amount)
    assert isnan(at_size) or at_size <= at_touch * (1 + 1e-12)


# --- two legs against plain Python


def random_columns(rng: np.random.Generator, n: int, n_levels: int, name: str) -> BookColumns:
    "A book that wanders, with gaps and ladders of different lengths."
    ts_ns = np.cumsum(rng.integers(0, 40 * MS, n)) + 10**18
    mid = 100 + np.cumsum(rng.normal(0, 0.03, n))[:, None]
    away = np.cumsum(rng.uniform(0.005, 0.05, (2, n, n_levels)), axis=2)
    qty = rng.integers(1, 300, (2, n, n_levels)) / 100
    short = np.arange(n_levels) >= rng.integers(1, n_levels + 1, (2, n, 1))
    px = np.where(short, nan, np.stack([mid - away[0], mid + away[1]]))
    qty = np.where(short, nan, qty)
    known = rng.random(n) > 0.02
    recv_ns = ts_ns + 20 * MS
    return BookColumns(
        name, "BTC/USDT", "spot", recv_ns, ts_ns, px[0], qty[0], px[1], qty[1], known
    )


def levels_at(book: BookColumns, at_ns: int, side: int) -> list[tuple[float, float]]:
    "What an order that takes this side meets."
    row = [i for i in range(len(book)) if book.ts_engine_ns[i] <= at_ns][-1]
    px, qty = (book.ask_px, book.ask_qty) if side > 0 else (book.bid_px, book.bid_qty)
    return [(p, q) for p, q in zip(px[row].tolist(), qty[row].tolist()) if p == p]


def stood(book: BookColumns, from_ns: int, to_ns: int) -> bool:
    "Whether the book was known and in sync all the time."
    times = book.ts_engine_ns.tolist()
    if from_ns < times[0] or to_ns > times[-1]:
        return False
    first = max(i for i, ts in enumerate(times) if ts <= from_ns)
    return all(book.is_synced[i] for i, ts in enumerate(times) if i >= first and ts <= to_ns)


def cash(book: BookColumns, at_ns: int, side: int, qty: float, fee_bps: float) -> float:
    "Money in or out for a quantity at any price."
    levels = levels_at(book, at_ns, side)
    got, paid, worst, _ = plain_walk(levels, side, qty, inf, inf if side > 0 else 0.0)
    paid += (qty - got) * worst if got < qty else 0.0
    return -paid * (1 + fee_bps / 1e4) if side > 0 else paid * (1 - fee_bps / 1e4)


def plain_outcome(
    t: int,
    order: Sequence[float],
    books: tuple[BookColumns, BookColumns],
    terms: tuple[Terms, Terms],
    horizon: int,
    funding: float,
) -> tuple[float, float, float, int]:
    "Gain, matched, excess and t1 of one decision, step by step."
    qty, *limits, fx = order
    at = [t + leg.latency_ns for leg in terms]
    end = max(at)
    if not qty > 0 or not all(stood(book, t, a) for book, a in zip(books, at)):
        return nan, nan, nan, end
    got = [
        plain_walk(levels_at(book, a, side), side, qty, inf, limit)
        for book, a, side, limit in zip(books, at, (1, -1), limits)
    ]
    gain = got[1][1] * (1 - terms[1].fee_bps / 1e4) * fx
    gain -= got[0][1] * (1 + terms[0].fee_bps / 1e4)
    excess, matched = got[0][0] - got[1][0], min(got[0][0], got[1][0])
    excess = 0.0 if abs(excess) < 1e-9 * qty else excess
    if excess:
        i = 0 if excess > 0 else 1
        end = t + 2 * max(leg.latency_ns for leg in terms) + terms[i].latency_ns
        side = -1 if excess > 0 else 1
        gain += cash(books[i], end, side, abs(excess), terms[i].fee_bps) * (fx if i else 1.0)
    if horizon >= 0 and matched > 0:
        gain -= got[0][1] * matched / got[0][0] * funding / 1e4
        gain += cash(books[0], at[0] + horizon, -1, matched, terms[0].fee_bps)
        gain += cash(books[1], at[1] + horizon, 1, matched, terms[1].fee_bps) * fx
        end = max(end, at[0] + horizon, at[1] + horizon)
    known = all(stood(book, t, end) for book in books)
    return gain if known else nan, matched, excess, end


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("horizon_ms", [-1, 0, 250])
def test_two_legs_are_what_one_does_on_paper(seed: int, horizon_ms: int) -> None:
    rng = np.random.default_rng(seed)
    books = random_columns(rng, 60, 4, "binance"), random_columns(rng, 60, 4, "bybit")
    legs = tuple(b.leg() for b in books)
    horizon = horizon_ms * MS if horizon_ms >= 0 else -1
    for _ in range(60):
        t = int(rng.integers(books[0].ts_engine_ns[0] - 10 * MS, books[0].ts_engine_ns[-1]))
        slip, qty = rng.choice([0.0, 5.0, 500.0]), rng.integers(0, 800) / 100
        order = np.array([qty, 100 + slip / 10, 100 - slip / 10, rng.uniform(0.99, 1.01)])
        terms = tuple(Terms(rng.uniform(0, 20), int(rng.integers(0, 120)) * MS) for _ in "ab")
        one = fill_pair(t, order, legs, terms, horizon, 2.0)
        plain = plain_outcome(t, order.tolist(), books, terms, horizon, 2.0)
        found = (one.gain, one.matched_qty, one.excess_qty)
        assert np.allclose(found, plain[:3], rtol=1e-10, atol=1e-9, equal_nan=True)
        assert one.t1_ns == plain[3]


# --- directions


def monotone_columns(rng: np.random.Generator, mid: float, n_levels: int, name: str) -> BookColumns:
    "A book whose quotes only get worse for everybody who takes, row by row, and never thinner."
    n = 80
    ts_ns = np.arange(n) * 20 * MS + 10**18
    wider = np.cumsum(rng.exponential(0.004, (2, n)) * (rng.random((2, n)) < 0.4), axis=1)
    away = np.cumsum(rng.uniform(0.01, 0.05, (2, n_levels)), axis=1)
    bid, ask = mid - wider[0][:, None] - away[0], mid + wider[1][:, None] + away[1]
    qty = np.broadcast_to(rng.integers(200, 400, n_levels) / 100, (n, n_levels)).copy()
    known = np.ones(n, bool)
    return BookColumns(name, "BTC/USDT", "spot", ts_ns, ts_ns, bid, qty, ask, qty, known)


def net_at(
    books: tuple[BookColumns, BookColumns], latency_ms: int, fee: float, notional: float,
    slip_bps: float, horizon_ms: int | None,
) -> float:  # fmt: skip
    "What one early decision brings."
    legs = Terms(fee, latency_ms * MS, 0.01), Terms(fee, (latency_ms + 7) * MS, 0.01)
    t_ns = books[0].ts_recv_ns[3:4] + MS
    held = None if horizon_ms is None else horizon_ms * MS
    fills = two_leg_fills(t_ns, *books, legs, notional, slip_bps=slip_bps, horizon_ns=held)
    return float(fills.net_bps[0])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), gap=st.floats(-0.2, 0.6), is_limited=st.booleans(),
    horizon_ms=st.sampled_from([None, None, 100]),
)  # fmt: skip
def test_latency_fee_and_size_never_turn_a_loss_into_a_gain(
    seed: int, gap: float, is_limited: bool, horizon_ms: int | None
) -> None:
    "On books that only get worse: with limits the touch holds the order, else the ladder does."
    rng = np.random.default_rng(seed)
    levels = 1 if is_limited else 5
    low, high = (monotone_columns(rng, 100 + x, levels, name) for x, name in ((0, "a"), (gap, "b")))
    slip = float(rng.choice([0.0, 3.0, 10.0])) if is_limited else inf
    top = 150.0 if is_limited else 500.0
    latencies, fees, sizes = [0, 15, 40, 90, 200], [0.0, 1.0, 5.0, 20.0], np.linspace(20, top, 7)
    base = (40, 1.0, 50.0)
    for at, values in enumerate((latencies, fees, sizes)):
        nets = [
            net_at((low, high), *base[:at], value, *base[at + 1 :], slip, horizon_ms)
            for value in values
        ]
        gains = [net > 1e-9 for net in nets]
        assert not any(isnan(net) for net in nets)
        assert gains == sorted(gains, reverse=True), (at, nets)


@pytest.mark.parametrize("seed", range(4))
def test_cutting_the_data_changes_no_outcome_that_was_known(seed: int) -> None:
    rng = np.random.default_rng(seed)
    books = random_columns(rng, 200, 3, "binance"), random_columns(rng, 200, 3, "bybit")
    t_ns = np.sort(rng.choice(books[0].ts_recv_ns, 80))
    legs = Terms(2.0, 15 * MS), Terms(2.0, 45 * MS)

    def fills(upto: int) -> np.ndarray:
        cut = [cut_columns(book, upto) for book in books]
        found = two_leg_fills(t_ns[t_ns <= upto], *cut, legs, 80.0, horizon_ns=200 * MS)
        return np.where(np.isnan(found.net_bps), nan, found.net_bps)

    whole = fills(10**19)
    for upto in t_ns[[20, 40, 60]].tolist():
        part = fills(upto)
        known = ~np.isnan(part)
        assert np.array_equal(part[known], whole[: len(part)][known])
        last = min(cut_columns(book, upto).ts_engine_ns[-1] for book in books)
        ended = t_ns[t_ns <= upto] + 400 * MS < last
        assert np.array_equal(part[ended], whole[: len(part)][ended], equal_nan=True)


def cut_columns(book: BookColumns, upto: int) -> BookColumns:
    "What had been received by a time."
    n = int(book.row_at(upto)) + 1
    columns = [name for name in book.__slots__ if isinstance(getattr(book, name), np.ndarray)]
    return replace(book, **{name: getattr(book, name)[:n] for name in columns})


@pytest.mark.parametrize("factor", [1e-4, 7.3, 1e5])
def test_price_level_does_not_matter(factor: float) -> None:
    rng = np.random.default_rng(5)
    books = random_columns(rng, 80, 3, "binance"), random_columns(rng, 80, 3, "bybit")
    scaled = [replace(b, bid_px=b.bid_px * factor, ask_px=b.ask_px * factor) for b in books]
    t_ns, legs = books[0].ts_recv_ns[5:50], (Terms(2.0, 15 * MS), Terms(2.0, 45 * MS))
    plain = two_leg_fills(t_ns, *books, legs, 80.0).net_bps
    other = two_leg_fills(t_ns, *scaled, legs, 80.0 * factor).net_bps
    assert np.allclose(plain, other, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert np.isfinite(plain).sum() > 20


# --- columns from events


def book_event(ts: int, n: int, state: StreamState = StreamState.SYNCED) -> OrderBookSnapshot:
    ladder = np.column_stack([100.0 - np.arange(n), np.ones(n)])
    asks = np.column_stack([101.0 + np.arange(n), np.ones(n)])
    return OrderBookSnapshot("okx", "ETH/USDT", ts, ts + 3 * MS, ladder, asks, 1, state)


def test_columns_keep_what_the_events_say() -> None:
    events = [
        Gap("okx", "ETH/USDT", 1 * MS, "reconnect"),
        book_event(2 * MS, 3),
        Trade("okx", "ETH/USDT", 3 * MS, 3 * MS, 100.0, 1.0, "buy", "1"),
        book_event(4 * MS, 1, StreamState.UNVERIFIABLE),
        book_event(5 * MS, 0),
        Gap("okx", "ETH/USDT", 9 * MS, "sequence"),
    ]
    columns = BookColumns.from_events(events, n_levels=2)
    assert columns.bid_px.shape == (5, 2) and columns.market_type == "spot"
    assert columns.is_synced.tolist() == [False, True, False, True, False]
    assert columns.ts_engine_ns.tolist() == [1 * MS, 2 * MS, 4 * MS, 5 * MS, 5 * MS + 1]
    assert np.isnan(columns.ask_px[3]).all()  # an empty book fills nothing
    legs = Terms(1.0, 0), Terms(1.0, 0)
    fills = two_leg_fills(np.array([2 * MS, 8 * MS]), columns, columns, legs, 100.0)
    assert np.isnan(fills.net_bps).all() and (fills.qty == 0).all()


def test_columns_of_a_clock_that_steps_back_stay_in_order() -> None:
    offsets = iter([0, 5 * MS, 0])
    events = [book_event(ts * MS, 1) for ts in (10, 11, 12)]
    columns = BookColumns.from_events(events, correct=lambda ts: ts + next(offsets))
    assert columns.ts_engine_ns.tolist() == [10 * MS, 16 * MS, 16 * MS]


def test_a_conversion_book_without_rows_converts_nothing() -> None:
    empty = replace(book_event(1, 0), symbol="USDT/USD")
    assert isnan(conversion_rate(empty, "USD", "USDT"))
    assert isnan(conversion_rate(empty, "USD", "USDT", 10.0))


# --- real data


def link_columns(gem_data: Path, name: str, exchange: str) -> BookColumns:
    frame = pd.read_csv(gem_data / "link-binance-htx-2021-08-20" / f"orderbook_{name}.csv.gz")
    ns = pd.to_datetime(frame["timestamp"]).to_numpy().astype("datetime64[ns]").astype(np.int64)
    sides = [frame[[f"{kind}{i}" for i in range(1, 11)]].to_numpy() for kind in "b bv a av".split()]
    known = np.ones(len(ns), bool)
    return BookColumns(exchange, "LINK/USDT", "spot", ns, ns, *sides, known)


@pytest.mark.data
def test_the_link_hour(gem_data: Path) -> None:
    link = [link_columns(gem_data, "bnc", "binance"), link_columns(gem_data, "hb", "htx")]
    pairs = [(link[0], link[1]), (link[1], link[0])]
    edge = net_edge_bps.py_func
    gross = [edge(a.ask_px[:, 0], b.bid_px[:, 0], 0.0, 0.0) for a, b in pairs]
    assert [int((g > 0).sum()) for g in gross] == [322, 337]
    assert round(max(float(g.max()) for g in gross), 2) == 8.03
    for fee, wanted in ((1.0, 73), (2.5, 4)):
        fills = [
            two_leg_fills(a.ts_recv_ns, a, b, (Terms(fee, 0), Terms(fee, 0)), 0.01)
            for a, b in pairs
        ]
        assert sum(int((f.net_bps > 0).sum()) for f in fills) == wanted
    dear = {"binance": Terms(10.0, 0), "htx": Terms(20.0, 0)}
    for a, b in pairs:
        fills = two_leg_fills(a.ts_recv_ns, a, b, (dear[a.exchange], dear[b.exchange]), 0.01)
        assert (fills.net_bps > 0).sum() == 0 and len(fills) == 3600
    late = [
        two_leg_fills(
            a.ts_recv_ns[edge(a.ask_px[:, 0], b.bid_px[:, 0], 1.0, 1.0) > 0],
            a,
            b,
            (Terms(1.0, 10**9), Terms(1.0, 10**9)),
            0.01,
            slip_bps=inf,
        )
        for a, b in pairs
    ]
    assert sum(int((f.net_bps > 0).sum()) for f in late) == 33
    assert floor(max(float(np.nanmax(f.net_bps)) for f in late)) < 8
