"""The simulated market: exact, seeded, right on its own terms, honest about what was planted."""

import os
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector.core import BPS, NS_PER_MS, NS_PER_S, InputError
from gem_detector.facts import Touch, crossing_bps, lead_correlations
from gem_detector.fair_price import FairSpec
from gem_detector.ladder import Out, _cut, _emit, _place, empty_ladder
from gem_detector.simulator import (
    DEFAULT_VENUES,
    START_NS,
    USDT_USD,
    Dislocation,
    Market,
    VenueSpec,
    VenueTape,
    decimal,
    simulate_market,
)

VENUES = (*DEFAULT_VENUES, USDT_USD)
NAMES = [spec.key for spec in VENUES]
SPEC = {spec.key: spec for spec in VENUES}
# base-tier taker fees, bps: less than two of them is worth nothing
FEE_BPS = {"binance": 10.0, "bybit": 5.5, "coinbase": 120.0}


@cache
def market(seed: int = 1, duration_s: float = 30.0) -> Market:
    "Four venues, nothing planted."
    return simulate_market(seed, duration_s, VENUES)


def columns(tape: VenueTape) -> dict[str, np.ndarray]:
    "The arrays of a tape by name."
    named = {name: getattr(tape, name) for name in tape.__slots__}
    return {name: value for name, value in named.items() if isinstance(value, np.ndarray)}


def is_same(one: VenueTape, other: VenueTape) -> bool:
    "Whether two tapes hold the same numbers."
    pairs = zip(columns(one).values(), columns(other).values())
    return all(np.array_equal(a, b) for a, b in pairs)


# --- one seed, one market


def test_the_same_seed_gives_the_same_market() -> None:
    again = simulate_market(1, 30.0, VENUES)
    assert all(is_same(again.tapes[name], market().tapes[name]) for name in NAMES)
    assert np.array_equal(again.fair_px, market().fair_px)
    assert np.array_equal(again.fair_ts_ns, market().fair_ts_ns)


def test_another_seed_gives_another_market() -> None:
    assert not any(is_same(market(2).tapes[name], market().tapes[name]) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_venue_does_not_depend_on_the_others(name: str) -> None:
    alone = simulate_market(1, 30.0, [SPEC[name]])
    assert is_same(alone.tapes[name], market().tapes[name])


def test_compiled_and_plain_kernels_give_the_same_bits() -> None:
    code = (
        "import hashlib\n"
        "from gem_detector.simulator import *\n"
        "venues = (*DEFAULT_VENUES, USDT_USD)\n"
        "gem = Dislocation('binance', START_NS + 10**9, 400, size_bps=20, depth_qty=0.5)\n"
        "digest = hashlib.blake2b()\n"
        "for tape in simulate_market(3, 3.0, venues, dislocations=[gem]).tapes.values():\n"
        "    for name in tape.__slots__:\n"
        "        column = getattr(tape, name)\n"
        "        digest.update(column.tobytes() if hasattr(column, 'tobytes') else b'')\n"
        "print(digest.hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"NUMBA_DISABLE_JIT": flag},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for flag in ("0", "1")
    }
    assert len(digests) == 1


# --- the book


@pytest.mark.parametrize("name", NAMES)
def test_every_update_keeps_the_book_whole(name: str) -> None:
    "Against dictionaries: each level is set once, every row changes something, the touch is right."
    tape = market().tapes[name]
    sides: dict[int, dict[int, int]] = {1: {}, -1: {}}
    depth = SPEC[name].depth_levels
    for i in range(len(tape)):
        rows = list(zip(*(column.tolist() for column in tape.levels(i))))
        assert rows and len({row[:2] for row in rows}) == len(rows)
        for side, tick, lots in rows:
            assert sides[side].get(tick, 0) != lots and lots >= 0
            if lots:
                sides[side][tick] = lots
            else:
                del sides[side][tick]
        bid, ask = max(sides[1]), min(sides[-1])
        assert 0 < bid < ask and len(sides[1]) == len(sides[-1]) == depth
        assert (tape.best_bid_tick[i], tape.best_bid_lots[i]) == (bid, sides[1][bid])
        assert (tape.best_ask_tick[i], tape.best_ask_lots[i]) == (ask, sides[-1][ask])
        if i % 97 == 0 or i == len(tape) - 1:
            bids, asks = tape.ladder_at(i)
            assert bids.tolist() == [list(level) for level in sorted(sides[1].items())[::-1]]
            assert asks.tolist() == [list(level) for level in sorted(sides[-1].items())]


@pytest.mark.parametrize("name", NAMES)
def test_trades_meet_the_touch_and_take_no_more_than_is_there(name: str) -> None:
    tape = market(1, 120.0).tapes[name]
    met, is_buy = tape.trade_after_update, tape.trade_side > 0
    there = np.where(is_buy, tape.best_ask_lots[met], tape.best_bid_lots[met])
    assert np.array_equal(
        tape.trade_tick, np.where(is_buy, tape.best_ask_tick[met], tape.best_bid_tick[met])
    )
    assert (tape.trade_lots > 0).all() and len(met) > 5
    for side in (True, False):
        taken = np.bincount(met[is_buy == side], tape.trade_lots[is_buy == side], len(tape))
        assert (taken[met[is_buy == side]] <= there[is_buy == side]).all()


@pytest.mark.parametrize("name", NAMES)
def test_times_are_in_order(name: str) -> None:
    tape, spec = market(1, 120.0).tapes[name], SPEC[name]
    met = tape.trade_after_update
    assert tape.ts_engine_ns[0] == START_NS and (np.diff(tape.ts_engine_ns) > 0).all()
    assert tape.ts_engine_ns[-1] < START_NS + 120 * NS_PER_S
    assert (tape.trade_ts_engine_ns >= tape.ts_engine_ns[met]).all()
    assert (tape.trade_ts_engine_ns < tape.ts_engine_ns[met + 1]).all()
    engine, send, recv = (
        np.concatenate([getattr(tape, name), getattr(tape, "trade_" + name)])
        for name in ("ts_engine_ns", "ts_send_ns", "ts_recv_ns")
    )
    order = np.argsort(engine, kind="stable")
    assert (np.diff(send[order]) >= 0).all() and (np.diff(recv[order]) >= 0).all()
    assert (send - engine >= spec.gateway_ms / 2 * NS_PER_MS - 1).all()
    assert (recv - send >= spec.wire_ms * NS_PER_MS - 1).all()
    assert tape.clock_offset_ns == spec.clock_offset_ms * NS_PER_MS


@given(
    moves=st.lists(
        st.tuples(
            st.sampled_from(["place", "cut"]),
            st.integers(0, 1),
            st.integers(1, 12),
            st.integers(0, 3),
        ),
        max_size=40,
    )
)
@settings(max_examples=200, deadline=None)
def test_the_ladder_agrees_with_dictionaries(moves: list[tuple[str, int, int, int]]) -> None:
    "Placing and cutting in any order, and the rows that go out turn the old book into the new one."
    depth = 4
    ladder, truth = empty_ladder(depth), ({}, {})
    rows = np.zeros((64, 3), np.int64), np.zeros((1, 4), np.int64)
    counts = np.zeros(len(moves), np.int64), np.zeros((len(moves), 4), np.int64)
    out = Out(empty_ladder(depth), *counts, *rows, np.zeros(2, np.int64))
    sent: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for i, (what, side, tick, lots) in enumerate(moves):
        key, book = (2 * side - 1) * tick, truth[side]
        if what == "cut":
            _cut(ladder, side, key)
            for other in [k for k in book if k < key]:
                del book[other]
        else:
            _place(ladder, side, key, lots)
            book.pop(key, None)
            if lots:
                book[key] = lots
            for other in sorted(book)[depth:]:
                del book[other]
        out.used[0] = 0
        _emit(ladder, out, i)
        for sign, row_tick, row_lots in out.levels[: out.used[0]].tolist():
            row_side = 0 if sign > 0 else 1
            sent[row_side][(2 * row_side - 1) * row_tick] = row_lots
        for s in range(2):
            n = ladder.filled[s]
            kept = dict(zip(ladder.key[s, :n].tolist(), ladder.lots[s, :n].tolist()))
            assert kept == truth[s] and list(kept) == sorted(kept)
            assert {k: q for k, q in sent[s].items() if q} == truth[s]


@given(st.integers(0, 10**12), st.sampled_from([0.1, 0.01, 0.5, 2.5, 1e-3, 1e-5, 1e-8, 1.0]))
def test_decimals_are_what_their_text_means(steps: int, step: float) -> None:
    assert decimal(steps, step) == float(steps * Decimal(str(step)))
    assert decimal(np.array([steps]), step)[0] == decimal(steps, step)


# --- what the market is like


def test_a_lag_is_seen_as_a_lead_of_the_other() -> None:
    base = replace(SPEC["bybit"], basis_bps=0.0, lag_ms=0.0)
    for lag_ms in (60, 160, 300):
        late = replace(base, lag_ms=lag_ms, name="late")
        tapes = simulate_market(4, 300.0, [base, late]).tapes
        leads_ms, correlation = lead_correlations(tapes["bybit"].touch(), tapes["late"].touch())
        assert abs(leads_ms[correlation.argmax()] - lag_ms) <= 40


def test_a_burst_is_one_in_volume_too() -> None:
    tape = market(6, 900.0).tapes["binance"]
    touch = tape.touch()
    grid = np.arange(touch.ts_ns[0], touch.ts_ns[-1], NS_PER_S)
    moves = np.abs(np.diff(np.log(touch.mid[touch.row_at(grid)])))
    volume = np.diff(
        np.append(0, np.cumsum(touch.trade_qty))[np.searchsorted(touch.trade_ts_ns, grid)]
    )
    assert np.corrcoef(moves, np.log1p(volume))[0, 1] > 0.4


def test_flow_leans_to_where_the_price_goes() -> None:
    tape = market(6, 900.0).tapes["binance"]
    mid = tape.best_bid_tick + tape.best_ask_tick
    flow = np.bincount(tape.trade_after_update, tape.trade_side, len(tape))[:-1]
    move = np.sign(np.diff(mid))
    is_both = (move != 0) & (flow != 0)
    assert np.mean(np.sign(flow[is_both]) == move[is_both]) > 0.75
    imbalance = tape.best_bid_lots / (tape.best_bid_lots + tape.best_ask_lots)
    assert imbalance[:-1][move > 0].mean() > imbalance[:-1][move < 0].mean() + 0.1


def in_usdt(touch: Touch, usdt_usd: Touch) -> Touch:
    "What BTC/USD costs and brings in USDT, each way at the side that can be had."
    i = usdt_usd.row_at(touch.ts_ns)
    bid, ask = touch.bid_px / usdt_usd.ask_px[i], touch.ask_px / usdt_usd.bid_px[i]
    return replace(touch, bid_px=bid, ask_px=ask)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_nothing_planted_nothing_pays_after_fees(seed: int) -> None:
    touches = {name: tape.touch() for name, tape in market(seed, 900.0).tapes.items()}
    touches["coinbase"] = in_usdt(touches["coinbase"], touches.pop("coinbase_usdt"))
    for one, other in (("binance", "bybit"), ("binance", "coinbase"), ("bybit", "coinbase")):
        grid = np.arange(START_NS, START_NS + 900 * NS_PER_S, 10 * NS_PER_MS)
        edge = crossing_bps(touches[one], touches[other], grid)
        assert edge.max() < FEE_BPS[one] + FEE_BPS[other], (one, other)
        assert np.percentile(edge, 99) < 8.0  # 4 bps of it are the basis
        assert np.percentile(edge, 99.99) < 15.5  # even without Coinbase's fee


# --- what is planted


def plant(duration_ms: float, **fields: float) -> Dislocation:
    "Something on Binance after ten seconds."
    return Dislocation("binance", START_NS + 10 * NS_PER_S, duration_ms, **fields)


@given(
    size_bps=st.sampled_from([-60.0, -25.0, 12.0, 30.0, 150.0]),
    duration_ms=st.floats(1, 3000),
    depth_qty=st.floats(0.001, 20),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_a_shift_lasts_and_holds_what_it_says(
    size_bps: float, duration_ms: float, depth_qty: float, seed: int
) -> None:
    gem = plant(duration_ms, size_bps=size_bps, depth_qty=depth_qty)
    m = simulate_market(seed, 15.0, DEFAULT_VENUES[:1], dislocations=[gem])
    tape, ts_ns = m.tapes["binance"], m.tapes["binance"].ts_engine_ns
    first, end = np.searchsorted(ts_ns, [gem.start_ns, gem.end_ns])
    assert ts_ns[first] == gem.start_ns and ts_ns[end] == gem.end_ns
    fair = m.fair_px[m.path.row_at(ts_ns)]
    away = (tape.price(tape.best_bid_tick + tape.best_ask_tick) / 2 / fair - 1) * BPS
    assert (
        np.abs(away[first:end] - size_bps).max() < 4.5
    )  # quotes stick, and the venue has its noise
    assert np.abs(away[first - 20 : first]).max() < 4.5 and np.abs(away[end : end + 20]).max() < 4.5
    for i in {first, end - 1}:
        exposed = tape.ladder_at(i)[0 if size_bps > 0 else 1]
        price, qty = tape.price(exposed[:, 0]), tape.qty(exposed[:, 1])
        beyond = np.sign(size_bps) * (price / fair[i] - 1) * BPS > 5.0  # on the shifted side
        assert beyond.tolist() == [True] + [False] * (len(price) - 1)
        assert qty[0] == pytest.approx(depth_qty, abs=0.6e-5)


def test_a_planted_market_is_the_same_until_then_and_elsewhere() -> None:
    gem = plant(500, size_bps=40, depth_qty=1)
    planted, plain = simulate_market(1, 30.0, VENUES, dislocations=[gem]), market()
    for name in NAMES[1:]:
        assert is_same(planted.tapes[name], plain.tapes[name])
    one, other = planted.tapes["binance"], plain.tapes["binance"]
    n = int(np.searchsorted(one.ts_engine_ns, gem.start_ns))
    rows = one.level_start[n]
    for name in ("ts_engine_ns", "ts_send_ns", "ts_recv_ns", "best_bid_tick", "best_ask_lots"):
        assert np.array_equal(getattr(one, name)[:n], getattr(other, name)[:n])
    assert np.array_equal(one.level_lots[:rows], other.level_lots[:rows])
    assert planted.dislocations == (gem,)


def test_a_stale_venue_trades_on_unseen() -> None:
    stale = plant(5000, kind="stale")
    one = simulate_market(1, 30.0, VENUES, dislocations=[stale]).tapes["binance"]
    other = market().tapes["binance"]
    assert np.array_equal(one.level_lots, other.level_lots)
    for recv_ns in (one.ts_recv_ns, one.trade_ts_recv_ns):
        assert not ((recv_ns >= stale.start_ns) & (recv_ns < stale.end_ns)).any()
    assert (one.ts_recv_ns >= other.ts_recv_ns).all()
    before = other.ts_recv_ns < stale.start_ns
    assert np.array_equal(one.ts_recv_ns[before], other.ts_recv_ns[before])


def test_a_wrong_clock_is_in_the_stamps_only() -> None:
    slow = plant(5000, kind="clock", clock_ms=-250)
    one = simulate_market(1, 30.0, VENUES, dislocations=[slow]).tapes["binance"]
    assert is_same(one, market().tapes["binance"])
    times = np.array([slow.start_ns - 1, slow.start_ns, slow.end_ns - 1, slow.end_ns])
    offset = SPEC["binance"].clock_offset_ms
    expected = np.array([offset, offset - 250, offset - 250, offset]) * NS_PER_MS
    assert np.array_equal(one.stamp_ns(times) - times, expected)
    assert one.stamp_ns(times[1]) == times[1] + expected[1]


def test_a_depeg_is_in_every_price_in_usd_and_no_other() -> None:
    depeg = Dislocation("USDT", START_NS + 10 * NS_PER_S, 8000, size_bps=-30, kind="depeg")
    moved, plain = simulate_market(1, 30.0, VENUES, dislocations=[depeg]), market()
    at_ns = np.array([START_NS + 14 * NS_PER_S])
    for name in NAMES:
        one, other = moved.tapes[name].touch(), plain.tapes[name].touch()
        fall = (one.mid[one.row_at(at_ns)] / other.mid[other.row_at(at_ns)] - 1)[0] * BPS
        assert abs(fall + 30) < 3 if "coinbase" in name else fall == 0
    in_one = in_usdt(moved.tapes["coinbase"].touch(), moved.tapes["coinbase_usdt"].touch())
    grid = np.arange(START_NS + 9 * NS_PER_S, START_NS + 20 * NS_PER_S, 10 * NS_PER_MS)
    assert crossing_bps(in_one, moved.tapes["binance"].touch(), grid).max() < 12


def test_stamps_take_one_time_or_many() -> None:
    tape = market().tapes["coinbase"]
    assert tape.stamp_ns(5) == 5 + 15 * NS_PER_MS
    assert tape.stamp_ns(tape.ts_send_ns).shape == tape.ts_send_ns.shape
    assert tape.stamp_ns(tape.ts_send_ns) is not tape.ts_send_ns


# --- what cannot be simulated


BTC_EUR = replace(DEFAULT_VENUES[0].instrument, symbol="BTC/EUR", quote="EUR")
ETH_USDT = replace(DEFAULT_VENUES[0].instrument, symbol="ETH/USDT", base="ETH")


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"seed": -1}, "seed >= 0"),
        ({"duration_s": 0}, "duration_s > 0"),
        ({"venues": []}, "a name of its own"),
        ({"venues": [DEFAULT_VENUES[0]] * 2}, "a name of its own"),
        ({"venues": [replace(DEFAULT_VENUES[0], name="USDT")]}, "none is USDT"),
        ({"venues": [VenueSpec(BTC_EUR)]}, "USDT or USD, not EUR"),
        ({"venues": [*DEFAULT_VENUES, VenueSpec(ETH_USDT, name="eth")]}, "one coin"),
        ({"dislocations": [Dislocation("okx", START_NS + 1, 10)]}, "none of"),
        ({"dislocations": [Dislocation("bybit", START_NS, 10)]}, "within the market"),
        ({"dislocations": [Dislocation("bybit", START_NS + 1, 10**6)]}, "within the market"),
    ],
)
def test_what_cannot_be_simulated_is_said(arguments: dict, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        simulate_market(**{"seed": 1, **arguments})


def test_odd_venues_work() -> None:
    "Two levels a side, no trades, no delays, a market shorter than a batch."
    spec = replace(
        DEFAULT_VENUES[0],
        depth_levels=2,
        trade_rate_hz=0,
        gateway_ms=0,
        wire_ms=0,
        wire_jitter_ms=0,
    )
    tape = simulate_market(1, 5.0, [spec]).tapes["binance"]
    assert len(tape.trade_tick) == 0 and np.array_equal(tape.ts_recv_ns, tape.ts_engine_ns)
    assert all(len(side) == 2 for side in tape.ladder_at(len(tape) - 1))
    short = simulate_market(1, 0.05, [spec]).tapes["binance"]
    assert len(short) == 1 and short.level_start.tolist() == [0, 4]
    deep = simulate_market(1, 5.0, [replace(spec, depth_levels=2000, spread_ticks=300)])
    assert len(deep.tapes["binance"].ladder_at(10)[0]) == 2000


def test_blocks_of_draws_do_not_show() -> None:
    "A tape far longer than one block: nothing happens where one block ends and the next begins."
    tape = market(1, 900.0).tapes["binance"]
    assert tape.level_start[-1] > 4 * (1 << 15)
    assert (tape.best_bid_tick < tape.best_ask_tick).all()
    counts = np.diff(tape.level_start)
    assert counts.min() > 0 and counts[1:].max() <= 4 * SPEC["binance"].depth_levels
    bids, asks = tape.ladder_at(len(tape) - 1)
    assert bids[0, 0] == tape.best_bid_tick[-1] and len(bids) == len(asks) == 50
    assert all(a > b for a, b in pairwise(bids[:, 0].tolist()))


@pytest.mark.verify
@pytest.mark.parametrize("seed", range(20))
def test_an_hour_of_four_venues(seed: int) -> None:
    m = simulate_market(seed, 3600.0, VENUES, fair=FairSpec(bursts_per_min=4))
    for name, tape in m.tapes.items():
        assert (tape.best_bid_tick < tape.best_ask_tick).all()
        for i in np.linspace(0, len(tape) - 1, 20).astype(int):
            bids, asks = tape.ladder_at(int(i))
            assert len(bids) == len(asks) == SPEC[name].depth_levels
            assert bids[0].tolist() == [tape.best_bid_tick[i], tape.best_bid_lots[i]]
            assert asks[0].tolist() == [tape.best_ask_tick[i], tape.best_ask_lots[i]]
