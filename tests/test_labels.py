"""Labels: what acting would have brought, settled once, never easier when slower or dearer."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import inf, nan

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector.aggregator import Board
from gem_detector.barriers import (
    average_uniqueness,
    convergence,
    cusum_rows,
    first_touch,
    triple_barrier,
)
from gem_detector.core import (
    BPS,
    NS_PER_MS,
    NS_PER_S,
    InputError,
    Instrument,
    OrderBookSnapshot,
    StreamState,
)
from gem_detector.costs import FeeTable
from gem_detector.decisions import GemRule, legs_of, outcome_bps, promised_bps, venues_of
from gem_detector.execution import BookColumns
from gem_detector.labels import GemLabels, episodes_of, label_gems, label_onset
from gem_detector.markets import instrument
from gem_detector.pairs import BasisRule, NoEdge, edge_of
from gem_detector.planting import (
    DECOYS,
    GEM,
    PLANTED_VENUES,
    QUIET_NS,
    Desk,
    planted_market,
    tape_books,
)
from gem_detector.simulator import Market

MS, S = NS_PER_MS, NS_PER_S
NO_STEPS = {"lot_size": 0.0, "min_qty": 0.0, "min_notional": 0.0}
MARKETS = {
    name: replace(instrument(*which), **NO_STEPS)
    for name, which in {
        "binance": ("binance", "BTC/USDT"),
        "bybit": ("bybit", "BTC/USDT:USDT"),
        "coinbase": ("coinbase", "BTC/USD"),
        "tether": ("coinbase", "USDT/USD"),
    }.items()
}
VENUES = ("binance", "bybit", "coinbase")
QUICK = BasisRule(window_s=5.0, min_seen_s=0.5, hold_s=1.0)


def columns(
    name: str,
    engine_ns: np.ndarray,
    recv_ns: np.ndarray,
    bids: np.ndarray,
    asks: np.ndarray,
    is_synced: np.ndarray | None = None,
) -> BookColumns:
    "A book over time; bids and asks are (n, L, 2)."
    market, known = MARKETS[name], np.ones(len(engine_ns), bool)
    sides = (side[:, :, i].copy() for side in (bids, asks) for i in (0, 1))
    named = market.exchange, market.symbol, market.market_type
    return BookColumns(
        *named, recv_ns, engine_ns, *sides, known if is_synced is None else is_synced
    )


def random_books(seed: int) -> tuple[np.ndarray, dict[str, BookColumns]]:
    "Four books of up to three levels that cross all the time, with gaps and late news; row times."
    rng = np.random.default_rng(seed)
    books = {}
    for name in MARKETS:
        n = int(rng.integers(2, 40))
        engine_ns = np.sort(rng.integers(0, 20 * S, n))
        late = rng.exponential(rng.choice([1, 50, 500]) * MS, n).astype(np.int64)
        recv_ns = np.maximum.accumulate(engine_ns + late)
        base, wide = (1.0, 0.001) if name == "tether" else (100.0, 0.3)
        mid = base * (1 + rng.normal(0, 0.006, (n, 1)))
        steps = np.cumsum(rng.exponential(wide, (n, 3)), axis=1)
        qty = rng.exponential(rng.choice([0.5, 5]) * 100 / base, (2, n, 3))
        bids, asks = (
            np.stack([mid + sign * steps, q], axis=2) for sign, q in ((-1, qty[0]), (1, qty[1]))
        )
        books[name] = columns(name, engine_ns, recv_ns, bids, asks, rng.random(n) > 0.1)
    return np.sort(rng.integers(0, 22 * S, 40)), books


def random_rule(seed: int) -> tuple[GemRule, FeeTable]:
    "Any size, delay and fee."
    rng = np.random.default_rng([seed, 1])
    rule = GemRule(
        notional=float(rng.choice([10, 100, 500])),
        min_net_bps=float(rng.uniform(0.1, 20)),
        latency_ms={name: float(rng.choice([0, 10, 400])) for name in VENUES},
        slip_bps=float(rng.choice([0, 20, inf])),
        min_promised_bps=float(rng.choice([-inf, -20, 0, 5])),
        basis=QUICK,
    )
    return rule, FeeTable.own({name: float(rng.uniform(0, 15)) for name in VENUES})


def labels_of(
    t_ns: np.ndarray, books: Mapping[str, BookColumns], rule: GemRule, fees: FeeTable
) -> GemLabels:
    return label_gems(t_ns, books, rule, fees=fees, markets=MARKETS)


def until(book: BookColumns, recv_ns: int) -> BookColumns:
    "What had been received by a time."
    n = int(book.row_at(recv_ns)) + 1
    parts = {name: getattr(book, name)[:n] for name in book.__slots__[3:]}
    return replace(book, **parts)


seeds = st.integers(0, 2**32 - 1)


# --- the rule, row by row


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_a_row_is_the_best_of_what_is_sent_at_it_alone(seed: int) -> None:
    t_ns, books = random_books(seed)
    rule, fees = random_rule(seed)
    labels = labels_of(t_ns, books, rule, fees)
    venues = venues_of(books, rule, fees, MARKETS)
    for i, t in enumerate(t_ns):
        at, found = np.array([t]), []
        for way in labels.legs:
            promise = float(promised_bps(at, way, venues, rule)[0])
            net, t1 = outcome_bps(at, way, venues, rule)
            found.append((promise, float(net[0]), int(t1[0])))
        judged = [one for one in found if np.isfinite(one[0])]
        due = [one for one in judged if one[0] >= rule.min_promised_bps]
        sent = due or [max(judged, key=lambda one: one[0])] if judged else []
        nets = [one[1] for one in sent] or [nan]
        assert labels.t1[i] == max([t, *(one[2] for one in sent)])
        if np.isnan(nets).any():
            assert np.isnan(labels.net_bps[i]) and not labels.is_gem[i] and labels.leg[i] == -1
        else:
            assert labels.net_bps[i] == max(nets)
            assert labels.is_gem[i] == (bool(due) and max(nets) >= rule.min_net_bps)
            assert found[labels.leg[i]][1] == max(nets)


@given(seeds, st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_cutting_the_data_off_never_changes_a_label(seed: int, part: float) -> None:
    t_ns, books = random_books(seed)
    rule, fees = random_rule(seed)
    whole = labels_of(t_ns, books, rule, fees)
    cut_ns = int(max(book.ts_recv_ns[0] for book in books.values()) + part * 20 * S)
    kept = {name: until(book, cut_ns) for name, book in books.items()}
    rows = t_ns <= cut_ns
    cut = labels_of(t_ns[rows], kept, rule, fees)
    ended = whole.t1[rows] <= min(book.ts_engine_ns[-1] for book in kept.values())
    assert cut.is_known[ended & whole.is_known[rows]].all()  # all that had ended is known …
    for name in ("t1", "net_bps", "is_gem", "leg", "promised_bps"):
        before, after = getattr(whole, name)[rows], getattr(cut, name)
        same = ended | cut.is_known  # … and nothing is known otherwise
        assert np.array_equal(before[same], after[same], equal_nan=after.dtype.kind == "f"), name


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_neither_the_order_nor_the_names_of_venues_matter(seed: int) -> None:
    t_ns, books = random_books(seed)
    rule, fees = random_rule(seed)
    one = labels_of(t_ns, books, rule, fees)
    other = labels_of(t_ns, dict(reversed(books.items())), rule, fees)
    renamed = {f"z{9 - i}": name for i, name in enumerate(books)}
    named = label_gems(
        t_ns,
        {new: books[old] for new, old in renamed.items()},
        rule,
        fees=fees,
        markets={new: MARKETS[old] for new, old in renamed.items()},
    )
    for name in ("t1", "net_bps", "is_gem"):
        for found in (other, named):
            assert np.array_equal(
                getattr(one, name), getattr(found, name), equal_nan=name == "net_bps"
            )


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_the_price_level_does_not_matter(seed: int) -> None:
    "A coin worth 1,024 times as much, in parts of 1,024, is the same."
    t_ns, books = random_books(seed)
    rule, fees = random_rule(seed)
    one = labels_of(t_ns, books, rule, fees)
    dearer = {
        name: book
        if name == "tether"
        else replace(
            book,
            bid_px=book.bid_px * 1024,
            ask_px=book.ask_px * 1024,
            bid_qty=book.bid_qty / 1024,
            ask_qty=book.ask_qty / 1024,
        )
        for name, book in books.items()
    }
    other = labels_of(t_ns, dearer, rule, fees)
    assert np.allclose(one.net_bps, other.net_bps, rtol=0, atol=1e-6, equal_nan=True)


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_a_book_out_of_sync_gives_no_negative(seed: int) -> None:
    "Every row whose outcome needed a time in which a book was not verified is dropped."
    t_ns, books = random_books(seed)
    rule, fees = random_rule(seed)
    labels = labels_of(t_ns, books, rule, fees)
    for i in np.flatnonzero(labels.is_known):
        way = labels.legs[labels.leg[i]]
        for name in (way.buy, way.sell):
            book = books[name]
            first = np.searchsorted(book.ts_engine_ns, labels.t0[i], "right") - 1
            last = np.searchsorted(book.ts_engine_ns, labels.t0[i] + 1, "right")
            assert first >= 0 and book.is_synced[first:last].all()
            assert book.is_synced[book.row_at(labels.t0[i])]


# --- slower, dearer, larger


def decaying(seed: int, levels: int, qty: float) -> tuple[np.ndarray, dict[str, BookColumns]]:
    "Books whose bids never rise and whose asks never fall: what is there only goes away."
    rng = np.random.default_rng(seed)
    books = {}
    for name in MARKETS:
        ns = np.append(np.sort(rng.integers(0, 20 * S, 30)), 60 * S)
        ns[0] = 0
        base = 1.0 if name == "tether" else 100 * (1 + rng.normal(0, 0.004))
        fade = np.cumsum(rng.exponential(0.0003, (2, len(ns), 1)), axis=1)
        ladder = np.cumsum(rng.exponential(0.0002, (2, 1, levels)), axis=2)
        held = np.full((len(ns), levels), qty * 100 / base) * rng.uniform(0.3, 3, (1, levels))
        bids = np.stack([base * (1 - fade[0] - ladder[0]), held], axis=2)
        asks = np.stack([base * (1 + fade[1] + ladder[1]), held], axis=2)
        books[name] = columns(name, ns, ns, bids, asks)
    return np.arange(0, 18 * S, S // 5), books


def premium(seed: int) -> tuple[np.ndarray, dict[str, BookColumns]]:
    "A perpetual that stands too high or low from second 5 to 12; else, all only gets worse."
    rng, books = np.random.default_rng(seed), {}
    size = 1 + rng.choice([-1, 1]) * rng.uniform(0, 60) / BPS
    for name in ("binance", "bybit"):
        ns = np.unique(np.concatenate([np.arange(0, 31, 5), [12], rng.uniform(0, 30, 40)]) * S)
        fade = np.cumsum(rng.exponential(0.2 / BPS, (2, len(ns), 1)), axis=1)
        is_off = (name == "bybit") & (ns >= 5 * S) & (ns < 12 * S)
        mid = 100 * np.where(is_off, size, 1.0)[:, None]
        held = np.full((len(ns), 3), rng.uniform(0.1, 2)) * rng.uniform(0.3, 3, (1, 3))
        ladder = np.cumsum(rng.exponential(1 / BPS, (2, 1, 3)), axis=2)
        bids = np.stack([mid * (1 - fade[0] - ladder[0]), held], axis=2)
        asks = np.stack([mid * (1 + fade[1] + ladder[1]), held], axis=2)
        ns = ns.astype(np.int64)
        books[name] = columns(name, ns, ns, bids, asks)
    return np.arange(0, 6 * S, S // 10), books


def assert_no_new_gem(before: GemLabels, after: GemLabels) -> None:
    assert not (~before.is_gem & before.is_known & after.is_gem).any()


def raised(
    rule: GemRule, fee_bps: dict[str, float], what: str, venue: str, factor: float
) -> tuple[GemRule, FeeTable]:
    "The same desk, but slower, dearer or larger."
    if what == "latency":
        assert isinstance(rule.latency_ms, dict)
        slow = {**rule.latency_ms, venue: rule.latency_ms[venue] * factor}
        return replace(rule, latency_ms=slow), FeeTable.own(fee_bps)
    if what == "fee":
        return rule, FeeTable.own({**fee_bps, venue: fee_bps[venue] + factor})
    return replace(rule, notional=rule.notional * factor), FeeTable.own(fee_bps)


RAISES = st.sampled_from(["latency", "fee", "size"])


@given(seeds, RAISES, st.sampled_from(VENUES), st.floats(1, 40))
@settings(max_examples=150, deadline=None)
def test_raising_latency_fee_or_size_makes_no_gem(
    seed: int, what: str, venue: str, factor: float
) -> None:
    rng = np.random.default_rng([seed, 2])
    levels, slip_bps = [(1, 10.0), (3, inf)][int(rng.integers(2))]
    t_ns, books = decaying(seed, levels, qty=1.0 if what == "size" else 1_000.0)
    fee_bps = {name: float(rng.uniform(0, 5)) for name in VENUES}
    latency_ms = {name: float(rng.uniform(1, 100)) for name in VENUES}
    rule = GemRule(50.0, 0.5, latency_ms, slip_bps, basis=QUICK)
    before = labels_of(t_ns, books, rule, FeeTable.own(fee_bps))
    assert_no_new_gem(before, labels_of(t_ns, books, *raised(rule, fee_bps, what, venue, factor)))


@given(seeds, RAISES, st.sampled_from(VENUES[:2]), st.floats(1, 10))
@settings(max_examples=150, deadline=None)
def test_raising_latency_fee_or_size_makes_no_gem_of_a_basis(
    seed: int, what: str, venue: str, factor: float
) -> None:
    t_ns, books = premium(seed)
    rng = np.random.default_rng([seed, 2])
    fee_bps = {name: float(rng.uniform(0, 5)) for name in VENUES}
    latency_ms = {name: float(rng.uniform(1, 100)) for name in VENUES}
    notional = 50.0 if what == "size" else 1.0
    rule = GemRule(notional, 0.5, latency_ms, inf, basis=replace(QUICK, hold_s=8.0))
    before = labels_of(t_ns, books, rule, FeeTable.own(fee_bps))
    assert_no_new_gem(before, labels_of(t_ns, books, *raised(rule, fee_bps, what, venue, factor)))


@given(seeds, st.sampled_from(VENUES), st.floats(0, 30))
@settings(max_examples=60, deadline=None)
def test_a_higher_fee_makes_no_gem_on_any_books(seed: int, venue: str, more_bps: float) -> None:
    t_ns, books = random_books(seed)
    rule, fees = random_rule(seed)
    fee_bps = {name: fees.taker_bps(name) for name in VENUES}
    before = labels_of(t_ns, books, rule, fees)
    assert_no_new_gem(
        before, labels_of(t_ns, books, *raised(rule, fee_bps, "fee", venue, more_bps))
    )


def test_the_properties_above_meet_gems() -> None:
    "The random markets hold gems to lose, and rows of every kind."
    fees = FeeTable.own(dict.fromkeys(VENUES, 3.0))
    for made, rule, kind in (
        (
            lambda seed: decaying(seed, 1, 1_000.0),
            GemRule(50.0, 0.5, 50.0, basis=QUICK),
            "arbitrage",
        ),
        (premium, GemRule(1.0, 0.5, 50.0, basis=replace(QUICK, hold_s=8.0)), "basis"),
    ):
        found = [labels_of(*made(seed), rule, fees) for seed in range(30)]
        assert sum(one.is_gem.sum() for one in found) > 100
        assert {one.legs[leg].kind for one in found for leg in one.leg[one.is_gem]} == {kind}
    rows = [labels_of(*random_books(seed), *random_rule(seed)) for seed in range(30)]
    assert sum(one.is_gem.sum() for one in rows) > 50 < sum((~one.is_known).sum() for one in rows)


# --- the simulator


@cache
def planted(seed: int, minutes: float = 10.0, gems: int = 8) -> tuple[Market, pd.DataFrame]:
    return planted_market(seed, minutes, gems)


DESK = Desk()
DESK_RULE = GemRule(DESK.notional, latency_ms=DESK.latency_ms, basis=BasisRule(hold_s=DESK.hold_s))


def times_of(market: Market, books: dict[str, BookColumns], sampler: str) -> np.ndarray:
    "A row every 100 ms, or at every event."
    if sampler == "grid":
        return np.arange(market.start_ns, market.end_ns, 100 * MS)
    return np.unique(np.concatenate([book.ts_recv_ns for book in books.values()]))


@pytest.mark.parametrize("sampler", ["grid", "events"])
@pytest.mark.parametrize("seed", range(6))
def test_planted_gems_are_ones_and_decoys_zeros(seed: int, sampler: str) -> None:
    market, truth = planted(seed)
    books = tape_books(market)
    t_ns = times_of(market, books, sampler)
    labels = label_gems(t_ns, books, DESK_RULE, fees=DESK.fees)
    is_near = np.zeros(len(t_ns), bool)
    for row in truth.itertuples():
        inside = (t_ns >= row.start_ns) & (t_ns <= row.end_ns)
        around = (t_ns >= row.start_ns - S) & (t_ns <= row.end_ns + S)
        if row.label == GEM:
            is_near |= around
            assert labels.is_gem[inside].any(), row
            found = {labels.legs[leg] for leg in labels.leg[inside & labels.is_gem]}
            kinds = {f"{one.buy}>{one.sell}" for one in found}
            assert row.legs in kinds, row
        else:
            assert labels.is_known[around].any() and not labels.is_gem[around].any(), row
    assert not labels.is_gem[~is_near].any()
    assert (~labels.is_known).sum() < 0.005 * len(t_ns)  # the ends of the data
    if sampler == "grid":
        assert len(labels.episodes()) == (truth["label"] == GEM).sum()


@pytest.mark.parametrize("seed", range(4))
def test_nothing_planted_gives_no_gem(seed: int) -> None:
    market, truth = planted(seed, gems=0)
    books = tape_books(market)
    for sampler in ("grid", "events"):
        labels = label_gems(times_of(market, books, sampler), books, DESK_RULE, fees=DESK.fees)
        assert not len(truth) and not labels.is_gem.any()


@pytest.mark.verify
@pytest.mark.parametrize("seed", range(6, 40))
def test_planted_gems_are_ones_and_decoys_zeros_on_many_seeds(seed: int) -> None:
    test_planted_gems_are_ones_and_decoys_zeros(seed, "events")
    test_planted_gems_are_ones_and_decoys_zeros(seed, "grid")


def test_base_tier_fees_leave_no_gem() -> None:
    "What the default desk lives on is nothing to an ordinary account at Coinbase and Bybit."
    market, _ = planted(0)
    labels = label_gems(np.arange(market.start_ns, market.end_ns, 100 * MS), tape_books(market))
    kinds = {labels.legs[leg].kind for leg in labels.leg[labels.is_gem]}
    assert "arbitrage" not in kinds
    assert labels.left_out and all("peg" in why for why in labels.left_out)


def test_planting_is_seeded_even_and_apart() -> None:
    market, truth = planted(3)
    again = planted_market(3, 10.0, 8)
    assert truth.equals(again[1]) and market.dislocations == again[0].dislocations
    assert not truth.equals(planted(4)[1])
    middle_ns = (market.start_ns + market.end_ns) // 2
    halves = truth.groupby([truth["label"], truth["start_ns"] < middle_ns]).size().unstack()
    assert (halves[True] == halves[False]).all() and set(halves.index) == {GEM, *DECOYS}
    assert set(truth.loc[truth["label"] == GEM, "kind"]) == {"arbitrage", "basis"}
    starts, ends = truth["start_ns"].to_numpy(), truth["end_ns"].to_numpy()
    assert starts[0] >= market.start_ns + QUIET_NS and ends[-1] < market.end_ns - 5 * S
    assert (starts[1:] - ends[:-1] > DESK.hold_s * S).all()
    planted_at = {part.start_ns for part in market.dislocations}
    assert set(starts) <= planted_at and len(market.dislocations) == len(truth) + 4  # stale: two


@given(seeds, st.integers(0, 6), st.integers(0, 2))
@settings(max_examples=5, deadline=None)
def test_any_number_can_be_planted(seed: int, gems: int, decoys: int) -> None:
    market, truth = planted_market(seed, 5.0, gems, decoys=decoys)
    counts = truth["label"].value_counts()
    assert counts.get(GEM, 0) == gems and all(counts.get(name, 0) == decoys for name in DECOYS)
    assert list(market.tapes) == list(PLANTED_VENUES)


def test_what_cannot_be_planted_is_refused() -> None:
    with pytest.raises(InputError, match=r"too much to plant: .* plant less or take more minutes"):
        planted_market(0, 2.0, 20)
    with pytest.raises(InputError, match="planting needs"):
        planted_market(0, gems=-1)
    with pytest.raises(InputError, match="a desk needs"):
        Desk(notional=0)


# --- the promise is the aggregator's


def test_the_promise_is_what_the_aggregator_says() -> None:
    market, _ = planted(1)
    books = {
        name: until(book, market.start_ns + 150 * S) for name, book in tape_books(market).items()
    }
    rule = DESK_RULE
    venues = venues_of(books, rule, DESK.fees)
    board = Board(
        {name: venue.market for name, venue in venues.items()},
        fees=DESK.fees,
        basis=rule.basis,
        max_age_ms=inf,
    )
    events = sorted(
        (int(t), name, i) for name, book in books.items() for i, t in enumerate(book.ts_recv_ns)
    )
    legs, _ = legs_of({name: venue.market for name, venue in venues.items()})
    asked = np.arange(market.start_ns + S, market.start_ns + 150 * S, 1_700 * MS)
    expected: dict[tuple[str, str], list[float]] = {(way.buy, way.sell): [] for way in legs}
    pairs = {(pair.buy.name, pair.sell.name): pair for pair in board._pairs}
    done = 0
    for t in asked.tolist():
        while done < len(events) and events[done][0] <= t:
            _, name, i = events[done]
            board.on_book(name, snapshot(books[name], i))
            done += 1
        board._latest_ns = t
        for key, found in expected.items():
            try:
                found.append(edge_of(pairs[key], None, board.view()).net_bps)
            except NoEdge:
                found.append(nan)
    for way in legs:
        promised, told = promised_bps(asked, way, venues, rule), expected[way.buy, way.sell]
        assert np.isfinite(told).sum() > 60
        assert np.allclose(promised, told, rtol=0, atol=0.01, equal_nan=True), way


def snapshot(book: BookColumns, i: int) -> OrderBookSnapshot:
    "The top row of one row."
    sides = (
        np.array([[px[i, 0], qty[i, 0]]])
        for px, qty in ((book.bid_px, book.bid_qty), (book.ask_px, book.ask_qty))
    )
    times = int(book.ts_engine_ns[i]), int(book.ts_recv_ns[i])
    return OrderBookSnapshot(book.exchange, book.symbol, *times, *sides, i, StreamState.SYNCED)


# --- episodes, onset, the sidecar


def naive_episodes(t0: np.ndarray, gem: np.ndarray, leg: np.ndarray, merge_ns: int) -> list[tuple]:
    "Start, end and legs of each, by walking the rows."
    found = []
    for which in set(leg[gem].tolist()):
        rows = [i for i in range(len(t0)) if gem[i] and leg[i] == which]
        runs = [[rows[0]]]
        for i, j in pairwise(rows):
            if j == i + 1 or t0[j] - t0[i] <= merge_ns:
                runs[-1].append(j)
            else:
                runs.append([j])
        found += [(int(t0[run[0]]), int(t0[run[-1]]), which) for run in runs]
    return sorted(found)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 2)), max_size=40))
@settings(max_examples=200, deadline=None)
def test_episodes_are_merged_runs_of_the_same_legs(rows: list[tuple[int, bool, int]]) -> None:
    steps, gem, leg = np.array(rows, np.int64).reshape(-1, 3).T
    t0, gem = np.cumsum(steps), gem.astype(bool)
    found = episodes_of(t0, gem, leg, merge_ns=3)
    told = list(zip(found.start_ns.tolist(), found.end_ns.tolist(), found.leg.tolist()))
    assert sorted(told) == naive_episodes(t0, gem, leg, 3)
    assert (np.diff(found.start_ns) >= 0).all()
    for i, number in enumerate(found.row):
        spans = (found.start_ns <= t0[i]) & (t0[i] <= found.end_ns)
        assert (number >= 0) == spans.any()
        assert number < 0 or spans[number]
        assert not gem[i] or found.leg[number] == leg[i]


@given(seeds, st.floats(0.01, 5))
@settings(max_examples=80, deadline=None)
def test_onset_asks_whether_a_gem_follows(seed: int, horizon_s: float) -> None:
    labels = labels_of(*random_books(seed), *random_rule(seed))
    horizon_ns = round(horizon_s * S)
    onset, t1 = label_onset(labels, horizon_ns)
    for i, t in enumerate(labels.t0):
        later = (labels.t0 > t) & (labels.t0 <= t + horizon_ns)
        if labels.is_gem[i] or not labels.is_known[i]:
            assert np.isnan(onset[i])
        elif (later & labels.is_gem).any():
            first = np.flatnonzero(later & labels.is_gem)[0]
            assert onset[i] == 1 and t1[i] == labels.t1[first]
        elif labels.t0[-1] < t + horizon_ns or not labels.is_known[later].all():
            assert np.isnan(onset[i])
        else:
            assert onset[i] == 0
            assert t1[i] == max([t + horizon_ns, *labels.t1[later].tolist()])


def test_the_sidecar_has_the_known_rows_only() -> None:
    market, _ = planted(2)
    t_ns = np.arange(market.start_ns - S, market.end_ns, 100 * MS)
    labels = label_gems(t_ns, tape_books(market), DESK_RULE, fees=DESK.fees)
    frame = labels.frame()
    assert list(frame) == ["is_gem", "t0", "t1", "net_bps", "weight", "episode_id", "legs"]
    assert frame.index.name == "row" and np.array_equal(
        frame.index, np.flatnonzero(labels.is_known)
    )
    assert not labels.is_known[:10].any() and np.array_equal(frame["t0"], t_ns[frame.index])
    assert frame["net_bps"].notna().all() and frame["weight"].between(0, 1).all()
    assert (frame["t1"] >= frame["t0"]).all() and frame["t0"].dtype == np.int64
    gem_rows = frame[frame["is_gem"] == 1]
    assert gem_rows["episode_id"].nunique() == 8 == frame["episode_id"].max() + 1
    assert (gem_rows["net_bps"] >= DESK_RULE.min_net_bps).all()


def test_no_rows_give_no_labels() -> None:
    _, books = random_books(0)
    labels = labels_of(np.empty(0, np.int64), books, *random_rule(0))
    assert len(labels) == 0 == len(labels.frame()) == len(labels.episodes())
    assert len(label_onset(labels, 1)[0]) == 0


def test_wrong_input_is_refused_with_a_sentence() -> None:
    t_ns, books = random_books(1)
    rule, fees = random_rule(1)
    with pytest.raises(InputError, match="in the order of time"):
        labels_of(t_ns[::-1], books, rule, fees)
    with pytest.raises(InputError, match="nothing to trade between binance, tether"):
        labels_of(t_ns, {name: books[name] for name in ("binance", "tether")}, rule, fees)
    with pytest.raises(InputError, match="has the book binance"):
        labels_of(t_ns, {**books, "bybit": books["binance"]}, rule, fees)
    with pytest.raises(InputError, match="no entry for coinbase"):
        labels_of(t_ns, books, replace(rule, latency_ms={"binance": 1.0, "bybit": 1.0}), fees)
    with pytest.raises(InputError, match="latency and lot size"):
        labels_of(t_ns, books, replace(rule, latency_ms=-1.0), fees)


def test_a_pair_without_a_converting_book_is_left_out_and_says_so() -> None:
    _, why = legs_of({name: MARKETS[name] for name in ("binance", "coinbase", "bybit")})
    assert sum("no book turns" in one for one in why) == 2
    assert sum("bet on the peg" in one for one in why) == 2
    usdc: Instrument = replace(MARKETS["tether"], base="USDC", symbol="USDC/USD")
    assert not legs_of({"a": MARKETS["binance"], "b": MARKETS["coinbase"], "c": usdc})[0]


# --- paths


@st.composite
def paths(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    "Times with repeats, prices with holes, questions before, within and after, a horizon."
    rng, n = np.random.default_rng(draw(seeds)), draw(st.integers(1, 40))
    times = np.sort(rng.integers(0, 60, n))
    px = 100 * np.exp(np.cumsum(rng.normal(0, 5, n)) / BPS)
    px[rng.random(n) < draw(st.sampled_from([0, 0.2]))] = nan
    return times, px, rng.integers(-5, 70, 15), draw(st.integers(1, 40))


def naive_first(
    times: np.ndarray, value: np.ndarray, span: tuple[int, int], levels: tuple[float, float]
) -> tuple[float, int]:
    for t, v in zip(times.tolist(), value.tolist()):
        if span[0] < t <= span[1] and (v >= levels[1] or v <= levels[0]):
            return (1.0 if v >= levels[1] else -1.0), t
    return (0.0 if span[1] <= times[-1] else nan), span[1]


@given(paths(), st.floats(0.5, 20), st.floats(0.5, 20), st.sampled_from([-1, 1]))
@settings(max_examples=150, deadline=None)
def test_triple_barrier_against_walking_the_path(
    path: tuple, up_bps: float, down_bps: float, side: int
) -> None:
    times, px, asked, horizon = path
    found = triple_barrier(
        times, px, asked, up_bps=up_bps, down_bps=down_bps, horizon_ns=horizon, side=side
    )
    for i, t in enumerate(asked.tolist()):
        row = np.searchsorted(times, t, "right") - 1
        px0 = px[row] if row >= 0 else nan
        rise, fall = (up_bps, down_bps) if side > 0 else (down_bps, up_bps)
        levels = px0 * (1 - fall / BPS), px0 * (1 + rise / BPS)
        first, t1 = naive_first(times, px, (t, t + horizon), levels)
        first = nan if np.isnan(px0) else first * side
        assert np.array_equal([found.label[i]], [first], equal_nan=True)
        assert found.t1[i] == (t1 if np.isfinite(px0) else t + horizon)


@given(paths(), st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_path_labels_that_had_ended_do_not_change(path: tuple, cut: int) -> None:
    times, px, asked, horizon = path
    kept = times <= cut
    if not kept.any():
        return
    asked = asked[asked <= times[kept][-1]]
    gap = (px - 100) * 10
    for face in (
        lambda t, v: triple_barrier(t, v, asked, up_bps=5, down_bps=4, horizon_ns=horizon),
        lambda t, v: convergence(t, (v - 100) * 10, asked, horizon_ns=horizon),
    ):
        whole, part = face(times, px), face(times[kept], px[kept])
        ended = whole.t1 <= times[kept][-1]
        assert np.array_equal(whole.label[ended], part.label[ended], equal_nan=True)
        same = ended | part.is_known
        for name in ("label", "change", "t1"):
            one, other = getattr(whole, name)[same], getattr(part, name)[same]
            assert np.array_equal(one, other, equal_nan=name != "t1")
    assert gap.shape == px.shape


@given(paths(), st.floats(0.1, 0.9), st.floats(0.1, 3))
@settings(max_examples=100, deadline=None)
def test_a_gap_converges_alike_from_both_sides(path: tuple, closed: float, widened: float) -> None:
    times, px, asked, horizon = path
    gap, shares = px - 100, {"closed": closed, "widened": widened}
    one = convergence(times, gap, asked, horizon_ns=horizon, **shares)
    other = convergence(times, -gap, asked, horizon_ns=horizon, **shares)
    assert np.array_equal(one.label, other.label, equal_nan=True)
    assert np.array_equal(one.t1, other.t1)
    known = one.is_known
    assert (one.change[known & (one.label == 1)] < 0).all()
    assert (one.change[known & (one.label == -1)] > 0).all()


@given(paths(), st.floats(0.01, 0.2))
@settings(max_examples=100, deadline=None)
def test_cusum_never_looks_ahead_and_agrees_with_its_definition(
    path: tuple, threshold: float
) -> None:
    px = path[1]
    rows = cusum_rows(px, threshold).tolist()
    up = down = 0.0
    last, expected = nan, []
    for i, value in enumerate(px.tolist()):
        if value == value:
            step = value - last if last == last else 0.0
            up, down, last = max(0.0, up + step), min(0.0, down + step), value
            if up > threshold or down < -threshold:
                expected.append(i)
                up = down = 0.0
    assert rows == expected
    half = len(px) // 2
    assert cusum_rows(px[:half], threshold).tolist() == [i for i in rows if i < half]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 15)), min_size=1, max_size=30), seeds)
@settings(max_examples=150, deadline=None)
def test_average_uniqueness_against_counting(labels: list[tuple[int, int]], seed: int) -> None:
    t0, length = np.array(labels).T
    t1 = t0 + length
    grids = np.unique(t0), np.unique(np.random.default_rng(seed).integers(0, 50, 20))
    for grid, given_grid in zip(grids, (None, grids[1])):
        at_work = ((t0[:, None] <= grid) & (grid <= t1[:, None])).sum(axis=0)
        found = average_uniqueness(t0, t1, given_grid)
        for i in range(len(t0)):
            own = (t0[i] <= grid) & (grid <= t1[i])
            expected = np.mean(1 / at_work[own]) if own.any() else nan
            assert np.isclose(found[i], expected, rtol=1e-12, equal_nan=True)


@pytest.mark.parametrize("wrong", [{"up_bps": -1}, {"side": 0.5}, {"horizon_ns": 0}, {"px": [1.0]}])
def test_wrong_paths_are_refused(wrong: dict) -> None:
    asked = {"px": [1.0, 2.0], "up_bps": 1, "down_bps": 1, "horizon_ns": 1, "side": 1, **wrong}
    with pytest.raises(InputError):
        triple_barrier([1, 2], asked.pop("px"), [1], **asked)


def test_no_questions_give_no_answers() -> None:
    first, t1, end_value = first_touch(
        np.array([1, 2]), np.ones(2), np.empty((0, 2), np.int64), np.empty((0, 2))
    )
    assert len(first) == len(t1) == len(end_value) == 0
