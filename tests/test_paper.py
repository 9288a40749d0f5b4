"""Paper trading: the label's fills to the bit, nothing sold twice, no unverified fill."""

import argparse
import json
from dataclasses import replace
from functools import cache
from math import inf
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_labels import MARKETS, columns, random_books, random_rule

from gem_detector.accounts import Account, Reserved, Stock, balancing
from gem_detector.cli import plain
from gem_detector.core import NS_PER_MS, NS_PER_S, InputError
from gem_detector.costs import FeeTable
from gem_detector.decisions import GemRule, Legs, outcome_bps, venues_of
from gem_detector.edge_command import add_edge_arguments, books_of_recording, edge_page
from gem_detector.edge_map import ALL, CELL, EdgeGrid, crossing, edge_map
from gem_detector.execution import BookColumns, walk
from gem_detector.labels import GemLabels, label_gems
from gem_detector.liquidity import Liquidity, Side, take_out
from gem_detector.pairs import BasisRule
from gem_detector.paper import (
    AS_LABELS,
    SKIPPED,
    Decisions,
    PaperRule,
    decisions_at,
    foresight,
    paper_trade,
    promised_decisions,
    random_decisions,
)
from gem_detector.paper_results import latency_decay, net_of_moving, paper_summary
from gem_detector.planting import Desk, planted_market, tape_books
from gem_detector.session import finished, follow

MS, S = NS_PER_MS, NS_PER_S
DESK = Desk()
RULE = GemRule(DESK.notional, latency_ms=DESK.latency_ms, basis=BasisRule(hold_s=DESK.hold_s))
seeds = st.integers(0, 2**32 - 1)


@cache
def planted(seed: int) -> tuple[dict[str, BookColumns], GemLabels]:
    "A market with gems and decoys, and its labels."
    market, _ = planted_market(seed, minutes=6, gems=6, decoys=1, desk=DESK)
    books = tape_books(market)
    t_ns = np.arange(market.start_ns, market.end_ns, 200 * MS)
    return books, label_gems(t_ns, books, RULE, fees=DESK.fees)


# --- the label, bit for bit


@pytest.mark.parametrize("seed", range(6))
def test_perfect_foresight_earns_exactly_the_labels_of_its_episodes(seed: int) -> None:
    books, labels = planted(seed)
    decisions, episodes = foresight(labels), labels.episodes()
    result = paper_trade(decisions, books, RULE, AS_LABELS, fees=DESK.fees)
    rows = [
        np.flatnonzero(labels.is_gem & (labels.t0 == t) & (labels.leg == leg))[0]
        for t, leg in zip(episodes.start_ns, episodes.leg)
    ]
    assert len(rows) >= 4
    net_bps = labels.net_bps[rows]
    assert np.array_equal(result.trades["net_bps"].to_numpy(), net_bps)
    assert result.net_bps == net_bps.sum() > 0
    assert not result.moves["cost"].any()


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_switched_off_every_trade_is_the_label(seed: int) -> None:
    "On any books with gaps, thin levels, failing legs and conversions; nan where it is nan."
    t_ns, books = random_books(seed)
    rule, fees = random_rule(seed)
    labels = label_gems(t_ns, books, rule, fees=fees, markets=MARKETS)
    perfect = paper_trade(foresight(labels), books, rule, AS_LABELS, fees=fees, markets=MARKETS)
    assert perfect.net_bps == labels.net_bps[np.searchsorted(t_ns, foresight(labels).t_ns)].sum()
    venues = venues_of(books, rule, fees, MARKETS)
    decisions = random_decisions(30, (0, 21 * S), labels.legs, seed)
    result = paper_trade(decisions, books, rule, AS_LABELS, fees=fees, markets=MARKETS)
    for row, t, leg in zip(result.trades.itertuples(), decisions.t_ns, decisions.leg):
        net, t1 = outcome_bps(np.array([t]), labels.legs[leg], venues, rule)
        if row.status == "no order":
            assert np.isnan(net[0])
        elif np.isfinite(net[0]):
            assert row.net_bps == net[0] and row.t1 == t1[0]
        else:  # the label does not know; paper may know that a leg did not fill
            assert row.status in ("unknown", "one leg", "missed")


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_the_first_trade_is_the_same_with_and_without_memory(seed: int) -> None:
    t_ns, books = random_books(seed)
    rule, fees = random_rule(seed)
    legs = label_gems(t_ns, books, rule, fees=fees, markets=MARKETS).legs
    first = Decisions(t_ns[5:6], np.array([seed % len(legs)]), np.zeros(1, np.int64), legs)
    remembering = replace(AS_LABELS, remembers=True)
    one, other = (
        paper_trade(first, books, rule, paper, fees=fees, markets=MARKETS)
        for paper in (AS_LABELS, remembering)
    )
    assert one.trades.equals(other.trades)


# --- nothing is sold twice


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_a_level_gives_no_more_than_it_shows_as_long_as_it_stands(seed: int) -> None:
    rng = np.random.default_rng(seed)
    t_ns, books = random_books(seed)
    name = list(books)[seed % len(books)]
    book = Liquidity(books[name])
    side_px, side_qty = book.shown.ask_px, book.shown.ask_qty
    given_out = np.zeros_like(side_qty)
    for _ in range(12):
        decided, wait = int(rng.choice(t_ns)), int(rng.integers(0, 3 * S))
        row = int(np.searchsorted(book.shown.ts_ns, decided + wait, "right")) - 1
        if row < 0 or np.searchsorted(book.shown.ts_ns, decided, "right") == 0:
            continue
        before = book.left.ask_qty.copy()
        want = float(rng.exponential(np.nanmean(side_qty)))
        fill = walk(side_px[row], book.left.ask_qty[row], 1, want, inf, inf)
        assert book.take(decided + wait, 1, fill.qty, decided) <= 1e-9 * max(fill.qty, 1.0)
        given_out += before - book.left.ask_qty
        assert (given_out <= side_qty * (1 + 1e-12)).all() and (book.left.ask_qty >= 0).all()
        row_decided = int(np.searchsorted(book.shown.ts_ns, decided, "right")) - 1
        assert np.array_equal(before[:row_decided], book.left.ask_qty[:row_decided], equal_nan=True)
    assert np.array_equal(book.left.bid_qty, book.shown.bid_qty)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_taking_out_matches_a_slow_oracle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, depth = int(rng.integers(1, 12)), int(rng.integers(1, 4))
    px = np.sort(rng.choice(np.arange(5.0), (n, 1)) + rng.choice(3, (1, depth)) + 1.0, axis=1)
    shown = rng.integers(1, 3, (n, depth)).astype(float)
    px += 10.0 * np.arange(depth)  # no price twice in a row
    row, first, qty = int(rng.integers(n)), int(rng.integers(n)), float(rng.uniform(0, 5))
    first = min(first, row)
    side = Side(px, shown, shown * rng.uniform(0, 1, (n, depth)))
    left = side.left.copy()
    rest = take_out(side, row, first, qty)
    for level in range(depth):
        part = min(left[row, level], qty) if qty > 0 else 0.0
        qty -= part
        for step in (range(row, n), range(row - 1, first - 1, -1)):
            for i in step:
                at = np.flatnonzero((px[i] == px[row, level]) & (shown[i] == shown[row, level]))
                if not len(at):
                    break
                left[i, at] = np.maximum(left[i, at] - part, 0.0)
    assert np.array_equal(left, side.left) and rest == max(qty, 0.0)


def steady(
    ask: float, bid: float, qty: float, is_synced: np.ndarray | None = None
) -> tuple[dict[str, BookColumns], tuple[Legs, ...]]:
    "Two spot books that never change for 20 s: buy at Binance, sell at the other."
    ns = np.arange(0, 20 * S, S // 10)
    books = {}
    for name, (b, a) in {"binance": (ask - 1, ask), "other": (bid, bid + 1)}.items():
        sides = (np.full((len(ns), 1, 2), (px, qty)) for px in (b, a))
        known = is_synced if name == "other" else None
        book = columns("binance", ns, ns, *sides, known)
        books[name] = book if name == "binance" else replace(book, exchange="bybit")
    return books, (Legs("arbitrage", "binance", "other"),)


OTHER = replace(MARKETS["binance"], exchange="bybit")
TWO = {"binance": MARKETS["binance"], "other": OTHER}
FREE = FeeTable.own({"binance": 0.0, "bybit": 0.0})
HALF = GemRule(notional=50.0, latency_ms=100.0, slip_bps=20.0)  # half a coin at 100


def trade(books, legs, at_s, rule=HALF, paper=None, fees=FREE):  # type: ignore[no-untyped-def]
    decisions = decisions_at((np.array(at_s) * S).astype(np.int64), [0] * len(at_s), legs, 0)
    calm = paper or PaperRule(jitter_ms=0.0, stock=Stock(move_bps=0.0))
    return paper_trade(decisions, books, rule, calm, fees=fees, markets=TWO)


def test_a_level_that_never_changes_is_sold_once() -> None:
    books, legs = steady(100.0, 101.0, qty=1.2)
    got = trade(books, legs, [1, 2, 3, 4]).trades
    assert got["matched_qty"].round(9).tolist() == [0.5, 0.5, 0.2, 0.0]
    assert got["status"].tolist() == ["filled", "filled", "part filled", "missed"]
    free = trade(books, legs, [1, 2, 3, 4], paper=replace(AS_LABELS, one_open=True)).trades
    assert free["matched_qty"].tolist() == [0.5] * 4


def test_a_level_that_changes_can_be_had_again() -> None:
    books, legs = steady(100.0, 101.0, qty=0.5)
    for book in books.values():
        book.ask_qty[25:] += 0.01  # from 2.5 s on
        book.bid_qty[25:] += 0.01
    got = trade(books, legs, [1, 2, 3]).trades
    assert got["matched_qty"].tolist() == [0.5, 0.0, 0.5]


# --- states, legs, gates


def test_no_fill_on_a_book_that_is_not_synced_at_arrival() -> None:
    known = np.ones(200, bool)
    known[11:13] = False  # 1.1 s to 1.3 s: seen synced at 1.05 s, not at its arrival
    books, legs = steady(100.0, 101.0, 5.0, known)
    got = trade(books, legs, [1.05, 5.0]).trades
    assert got["status"].tolist() == ["one leg", "filled"]
    assert got["matched_qty"].tolist() == [0.0, 0.5] and got["excess_qty"].tolist() == [0.5, 0.0]
    assert got["gain"][0] == -0.5  # bought at 100, flattened at 99
    blind = trade(books, legs, [1.15]).trades
    assert blind["status"].tolist() == ["no order"]  # not seen synced: nothing is sent


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_no_leg_ever_fills_on_an_unverified_book(seed: int) -> None:
    t_ns, books = random_books(seed)
    rule, fees = random_rule(seed)
    legs = label_gems(t_ns, books, rule, fees=fees, markets=MARKETS).legs
    decisions = random_decisions(30, (0, 20 * S), legs, seed)
    paper = PaperRule(jitter_ms=0.0, one_open=False)
    got = paper_trade(decisions, books, rule, paper, fees=fees, markets=MARKETS)
    for row, leg in zip(got.trades.itertuples(), decisions.leg):
        if row.status in (*SKIPPED, "unknown"):
            continue
        for name, px in ((legs[leg].buy, row.buy_px), (legs[leg].sell, row.sell_px)):
            book = books[name]
            at_ns = row.t0 + int(rule.latency_of(book.exchange) * MS)
            i = np.searchsorted(book.ts_engine_ns, at_ns, "right") - 1
            assert np.isnan(px) or book.is_synced[i]


def test_one_open_trade_a_pair_and_one_trade_an_episode() -> None:
    books, legs = steady(100.0, 101.0, 500.0)
    at_ns = (np.array([1.0, 1.05, 1.5, 3.0]) * S).astype(np.int64)
    decisions = decisions_at(at_ns, [0] * 4, legs, S)
    paper = PaperRule(jitter_ms=0.0)
    got = paper_trade(decisions, books, HALF, paper, fees=FREE, markets=TWO)
    assert got.trades["status"].tolist() == ["filled", "open", "episode", "filled"]


def test_a_recording_that_ends_leaves_the_outcome_unknown_and_out_of_the_sum() -> None:
    books, legs = steady(100.0, 101.0, 5.0)
    got = trade(books, legs, [1.0, 19.85])
    assert got.trades["status"].tolist() == ["filled", "unknown"] and len(got.settled) == 1
    assert got.net_bps == got.trades["net_bps"][0] == 100.0


def test_jitter_is_seeded_and_never_early() -> None:
    books, labels = planted(1)
    decisions, paper = foresight(labels), PaperRule(jitter_ms=60.0, seed=3)
    one, same = (paper_trade(decisions, books, RULE, paper, fees=DESK.fees) for _ in range(2))
    assert one.trades.equals(same.trades)
    other = paper_trade(decisions, books, RULE, replace(paper, seed=4), fees=DESK.fees)
    assert not one.trades.equals(other.trades)
    still = paper_trade(decisions, books, RULE, AS_LABELS, fees=DESK.fees)
    assert (one.trades["t1"] >= still.trades["t1"]).all()


# --- money and coins


def test_money_and_coins_limit_and_moving_costs() -> None:
    books, legs = steady(100.0, 101.0, 500.0)
    poor = PaperRule(jitter_ms=0.0, stock=Stock(money=120.0, move_at=1.0))
    assert trade(books, legs, [1, 2, 3, 4], paper=poor).trades["status"].tolist() == [
        *["filled"] * 2,
        *["money"] * 2,
    ]
    bare = PaperRule(jitter_ms=0.0, stock=Stock(coins=0.9, move_at=1.0))
    assert trade(books, legs, [1, 2], paper=bare).trades["status"].tolist() == ["filled", "coins"]
    moved = trade(books, legs, [1, 2, 3], paper=PaperRule(jitter_ms=0.0, stock=Stock(move_bps=20)))
    assert moved.moves["coins"].tolist() == [1.5]
    assert moved.moves["cost"].sum() == pytest.approx(1.5 * 100 * 20 / 1e4)
    assert moved.net == pytest.approx(3 * 0.5 - 0.3)


def test_moved_coins_arrive_later() -> None:
    books, legs = steady(100.0, 101.0, 500.0)
    stock = Stock(coins=1.0, move_at=0.5, move_s=5.0)
    at_s = [1, 2, 3, 4, 8]
    got = trade(books, legs, at_s, paper=PaperRule(jitter_ms=0.0, stock=stock))
    assert got.trades["status"].tolist() == ["filled", "filled", "coins", "coins", "filled"]
    assert got.moves["ts_ns"].iloc[0] == 2 * S


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_transfers_sum_to_nothing_and_never_overshoot(drift: list[float]) -> None:
    before = np.array(drift)
    change = balancing(before)
    assert abs(change.sum()) <= 1e-9 * max(np.abs(before).max(), 1.0)
    assert (np.abs(before + change) <= np.abs(before) * (1 + 1e-9) + 1e-9).all()
    assert (np.sign(before + change) * np.sign(before) >= -1e-9).all() or np.allclose(
        (before + change)[np.sign(before + change) != np.sign(before)], 0, atol=1e-6
    )


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_an_account_loses_nothing(seed: int) -> None:
    "Free money and coins add up to the beginning and the gains once everything has arrived."
    rng = np.random.default_rng(seed)
    names = {"a": True, "b": True, "c": False}
    account, gains = Account(names, Stock(1e6, 100.0, move_at=float(rng.uniform(0.01, 1)))), 0.0
    for t in range(20):
        account.update(t * S)
        buy, sell = rng.permutation(["a", "b"])
        order = Reserved(buy, sell, 500.0, 5.0, 101.0)
        gain = float(rng.normal(0, 5))
        if not account.lacks(order):
            account.trade(order, t * S, t * S + 10, account.change_of(order, 5.0, 505.0, gain))
            gains += gain
    account.close()
    account.update(10**18)
    assert account.held.sum(axis=1) == pytest.approx([3e6 + gains, 200.0])
    assert (account.held[1] >= -1e-9).all()


# --- who knows nothing pays


def test_zero_foresight_loses_the_fees() -> None:
    "Random trades on eight markets: the mean net is below zero with 95 % certainty."
    means = []
    for seed in range(8):
        market, _ = planted_market(seed, minutes=4, gems=2, decoys=0, desk=DESK)
        books = tape_books(market)
        legs = planted(0)[1].legs
        span = market.start_ns + 40 * S, market.end_ns - 10 * S
        decisions = random_decisions(60, span, legs, seed)
        result = paper_trade(decisions, books, RULE, PaperRule(seed=seed), fees=DESK.fees)
        assert len(result.settled) > 40
        means.append(result.net / len(result.settled) / RULE.notional * 1e4)
    spread = 2.36 * np.std(means, ddof=1) / np.sqrt(len(means))  # t of 7
    assert np.mean(means) + spread < -10  # the fees of two legs alone are about 15 bps
    assert max(means) < 0


def test_following_the_promise_earns_no_more_than_its_labels_by_pair() -> None:
    books, labels = planted(2)
    venues = venues_of(books, RULE, DESK.fees)
    seen = promised_decisions(labels.t0, labels.legs, venues, RULE)
    result = paper_trade(seen, books, RULE, AS_LABELS, fees=DESK.fees)
    for row, t, leg in zip(result.trades.itertuples(), seen.t_ns, seen.leg):
        net, _ = outcome_bps(np.array([t]), labels.legs[leg], venues, RULE)
        assert row.net_bps == net[0]


def test_mistakes_are_named() -> None:
    books, labels = planted(0)
    with pytest.raises(InputError, match="no book of coinbase"):
        paper_trade(foresight(labels), {k: books[k] for k in ("binance", "bybit")}, RULE)
    with pytest.raises(InputError, match="ascending times"):
        Decisions(np.array([2, 1]), np.zeros(2, int), np.zeros(2, int), labels.legs)


# --- summary, map, command


def test_a_summary_adds_up_and_covers_a_known_mean() -> None:
    books, labels = planted(3)
    result = paper_trade(foresight(labels), books, RULE, fees=DESK.fees)
    summary = paper_summary(result)
    trades = result.trades
    assert summary["net"] == pytest.approx(result.net)
    assert summary["net"] == pytest.approx(net_of_moving(result).sum())
    assert summary["trades"] + summary["unknown"] + sum(summary["skipped"].values()) == len(trades)
    assert 0 <= summary["hit_rate_low"] <= summary["hit_rate"] <= summary["hit_rate_high"] <= 1


def test_the_edge_decays_with_latency() -> None:
    books, labels = planted(1)
    added = (0.0, 300.0, 3_000.0)
    decay = latency_decay(foresight(labels), books, RULE, AS_LABELS, added, fees=DESK.fees)
    assert decay["mean_bps"].iloc[0] > decay["mean_bps"].iloc[-1]
    assert decay["mean_bps"].iloc[0] > RULE.min_net_bps


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_crossing_lies_where_the_line_falls_to_zero(y: list[float]) -> None:
    x = np.arange(1.0, len(y) + 1)
    found = float(crossing(x, np.array(y))[0])
    if y[0] <= 0:
        assert found == 0.0
    elif min(y) > 0:
        assert found == inf
    else:
        assert np.interp(found, x, y) == pytest.approx(0, abs=1e-6)
        assert (np.array(y)[x < found - 1e-9] > 0).all()


@cache
def small_map():  # type: ignore[no-untyped-def]
    books, labels = planted(4)
    free = FeeTable.own(dict.fromkeys(("binance", "bybit", "coinbase"), 0.0))
    grid = EdgeGrid((5.0, 400.0), (1_000.0, 20_000.0), {"desk": DESK.fees, "free": free})
    return edge_map(books, labels.t0, RULE, grid), books, labels


def test_the_map_is_paper_trading_cell_by_cell() -> None:
    edges, books, labels = small_map()
    rule = replace(RULE, notional=1_000.0, latency_ms=400.0)
    seen = promised_decisions(labels.t0, labels.legs, venues_of(books, rule, DESK.fees), rule)
    result = paper_trade(seen, books, rule, fees=DESK.fees)
    cell = edges.cells.iloc[
        edges.pick(tier="desk", notional=1_000.0, latency_ms=400.0, pair=ALL)
    ].iloc[0]
    assert cell["net"] == pytest.approx(result.net) and cell["trades"] == len(result.settled)
    whole = edges.cells["pair"] == ALL
    by_pair = edges.cells[~whole].groupby(CELL[:3])["net"].sum()
    assert by_pair.to_numpy() == pytest.approx(
        edges.cells[whole].groupby(CELL[:3])["net"].sum().to_numpy()
    )
    assert (edges.cells["net_low"] <= edges.cells["net_high"]).all()


def test_break_even_and_capacity_have_intervals_around_them() -> None:
    edges, _, _ = small_map()
    even, most = edges.break_even(), edges.capacity()
    assert len(even) == 2 * 2 * 5 and (even["low"] <= even["high"]).all()
    assert len(most) == 2 * 2 * 5 and (most["low"] <= most["high"]).all()
    assert set(most["notional"]) <= {0.0, 1_000.0, 20_000.0}


def edge_args(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_edge_arguments(parser)
    return parser.parse_args(list(words))


QUICK = ("--latency", "20,400", "--size", "1000", "--tier", "lowest", "--levels", "5")


def test_edge_writes_a_page_a_picture_and_a_table_that_say_they_are_simulated(
    tmp_path: Path,
) -> None:
    out = tmp_path / "edge"
    page = edge_page(edge_args("--seed", "1", "--minutes", "5", "--out", str(out), *QUICK))
    assert sorted(path.name for path in out.iterdir()) == ["edge.csv", "edge.html", "edge.png"]
    assert (out / "edge.png").read_bytes()[1:4] == b"PNG"
    text = (out / "edge.html").read_text(encoding="utf-8")
    assert "simulated prices, seed 1" in text and "What is left out" in text and "http-" not in text
    told = json.loads(json.dumps(plain(page.as_dict()), allow_nan=False))
    assert told["is_simulated"] and len(told["cells"]) == 2 * 5
    again = edge_page(edge_args("--seed", "1", "--minutes", "5", "--out", str(out), *QUICK))
    assert again.edges.cells.equals(page.edges.cells)


def test_edge_reads_what_the_recorder_wrote(tmp_path: Path) -> None:
    market, _ = planted_market(5, minutes=0.5, gems=0, decoys=0)
    finished(follow(market, tmp_path / "day"))
    books, told = books_of_recording(tmp_path / "day", 5)
    assert told == "corrected by round trips" and len(books) == 4
    (tmp_path / "tables").mkdir()
    (tmp_path / "day" / "books").rename(tmp_path / "tables" / "books")
    tables, told = books_of_recording(tmp_path / "tables", 5)
    assert told.startswith("not corrected") and list(tables) == sorted(books)
    for name, book in tables.items():
        assert np.array_equal(
            book.bid_px, books[name].bid_px[books[name].is_synced], equal_nan=True
        )
    out = tmp_path / "edge"
    page = edge_page(edge_args(str(tmp_path / "day"), "--out", str(out), *QUICK))
    assert page.source == "recorded: day" and not page.as_dict()["is_simulated"]


@pytest.mark.parametrize(
    "words, reason",
    [
        (["nowhere"], "no folder that a recorder filled"),
        (["--tier", "cheap"], "it is base, lowest, free"),
        (["--tier", "kraken=gold"], "kraken has no fee tier"),
        (["--size", "0,5"], "notional needs rising numbers"),
    ],
)
def test_mistakes_leave_no_folder(words: list[str], reason: str, tmp_path: Path) -> None:
    out = tmp_path / "edge"
    with pytest.raises(InputError, match=reason):
        edge_page(edge_args("--minutes", "5", *words, "--out", str(out)))
    assert not out.exists()


@pytest.mark.parametrize("words", [["--latency", "9,5"], ["--minutes", "x"], ["--step-ms", "0"]])
def test_arguments_that_are_no_numbers_are_refused(words: list[str]) -> None:
    with pytest.raises(argparse.ArgumentError, match="number"):
        edge_args(*words)
