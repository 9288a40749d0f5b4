"""Both order books against a naive third one, over random sequences of operations."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector.book import OrderBook
from gem_detector.compiled_book import CompiledBook

Rows = list[tuple[float, float]]

prices = st.integers(1, 60).map(lambda tick: 99_980.0 + tick / 10)
quantities = st.sampled_from([0.0, 0.0, 1.0, 2.5, 1e-8])
levels = st.lists(st.tuples(prices, quantities), max_size=12)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), levels, levels),
        st.tuples(st.just("load"), levels, levels),
        st.tuples(st.just("truncate"), st.integers(0, 12)),
        st.tuples(st.just("trusted_to"), prices, prices),
        st.tuples(st.just("clear")),
    ),
    max_size=30,
)


class NaiveBook:
    "What a book is by definition: two dicts, sorted whenever somebody looks."

    def __init__(self) -> None:
        self.orphan_deletes = 0
        self.clear()

    def clear(self) -> None:
        self.load([], [])

    def load(self, bids: Rows, asks: Rows) -> None:
        self.sides = [{p: q for p, q in rows if q} for rows in (bids, asks)]
        self.bounds = (-np.inf, np.inf)

    def apply(self, bids: Rows, asks: Rows) -> None:
        for side, rows in zip(self.sides, (bids, asks)):
            for price, quantity in rows:
                if not quantity and price not in side:
                    self.orphan_deletes += 1
                side[price] = quantity
                if not quantity:
                    del side[price]

    def truncate(self, depth: int) -> None:
        self.sides = [dict(rows[:depth]) for rows in self.ladder()]

    def trusted_to(self, bid_px: float, ask_px: float) -> None:
        self.bounds = (bid_px, ask_px)

    def ladder(self) -> tuple[Rows, Rows]:
        bids, asks = (sorted(side.items()) for side in self.sides)
        return bids[::-1], asks

    def trusted_rows(self, depth: int) -> int:
        bids, asks = self.ladder()
        within = (
            sum(price >= self.bounds[0] for price, _ in bids),
            sum(price <= self.bounds[1] for price, _ in asks),
        )
        return min(*within, depth)


def assert_same(book: OrderBook, naive: NaiveBook) -> None:
    bids, asks = naive.ladder()
    for found, rows in zip(book.ladder(), (bids, asks)):
        assert found.shape == (len(rows), 2)
        assert [tuple(row) for row in found.tolist()] == rows
    best = [*(bids[0] if bids else (np.nan,) * 2), *(asks[0] if asks else (np.nan,) * 2)]
    assert np.array_equal(book.best(), best, equal_nan=True)
    assert (book.n_bids, book.n_asks) == (len(bids), len(asks))
    assert book.orphan_deletes == naive.orphan_deletes
    assert book.is_crossed == bool(bids and asks and bids[0][0] >= asks[0][0])
    for depth in (0, 1, 3, 20):
        assert book.trusted_rows(depth) == naive.trusted_rows(depth)
        for found, rows in zip(book.top(depth), (bids, asks)):
            assert [tuple(row) for row in found.tolist()] == rows[:depth]


def run(book: OrderBook, operation: tuple, as_arrays: bool) -> None:
    name, *arguments = operation
    if as_arrays and name in ("apply", "load"):
        arguments = [np.array(rows, float).reshape(-1, 2) for rows in arguments]
    getattr(book, name)(*arguments)


@pytest.mark.parametrize("kind", [OrderBook, CompiledBook])
@pytest.mark.parametrize("as_arrays", [False, True])
@settings(max_examples=60, deadline=None)
@given(sequence=operations)
def test_equals_naive_book(kind: type[OrderBook], as_arrays: bool, sequence: list[tuple]) -> None:
    book, naive = kind(), NaiveBook()
    for operation in sequence:
        run(book, operation, as_arrays)
        run(naive, operation, as_arrays=False)
        assert_same(book, naive)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    tick=st.sampled_from([1e-8, 0.01, 0.1, 0.25, 1.0, 7.0]),
    base=st.sampled_from([0, 30, 600_000, 10**9]),
    spread=st.sampled_from([3, 400, 200_000]),
)
def test_large_books_whatever_the_prices(seed: int, tick: float, base: int, spread: int) -> None:
    "Growing tables, dead prices, refilled windows: on ticks that no scale was made for."
    rng = np.random.default_rng(seed)
    books, naive = (CompiledBook(), OrderBook()), NaiveBook()
    for _ in range(12):
        sides = []
        for _ in range(2):
            ticks = base + 1 + rng.geometric(1 / spread, rng.integers(0, 900))
            gone = rng.random(len(ticks)) < rng.choice([0.1, 0.6, 0.95])
            sides.append(np.column_stack([ticks * tick, np.where(gone, 0.0, 1.0 + ticks % 7)]))
        naive.apply(*(side.tolist() for side in sides))
        expected, depth = naive.ladder(), int(rng.integers(1, 700))
        for book in books:
            book.apply(*sides)
            for found, rows in zip(book.top(depth), expected):
                assert [tuple(row) for row in found.tolist()] == rows[:depth]
            assert (book.n_bids, book.n_asks) == tuple(map(len, expected))
        if rng.random() < 0.2:
            for book in (*books, naive):
                book.truncate(depth)
    assert all(map(np.array_equal, books[0].ladder(), books[1].ladder()))
    assert books[0].orphan_deletes == books[1].orphan_deletes == naive.orphan_deletes


@settings(max_examples=40, deadline=None)
@given(updates=st.lists(st.tuples(levels, levels), max_size=20))
def test_touch_after_is_best_after_each_update(updates: list[tuple[Rows, Rows]]) -> None:
    plain, expected, rows, starts = OrderBook(), [], [], [0]
    for bids, asks in updates:
        plain.apply(bids, asks)
        expected.append(plain.best())
        rows += [(1, *row) for row in bids] + [(-1, *row) for row in asks]
        starts.append(len(rows))
    side, price, quantity = np.array(rows, float).reshape(-1, 3).T
    book = CompiledBook()
    touch = book.touch_after(np.array(starts), side.astype(np.int8), price, quantity)
    assert np.array_equal(touch, np.array(expected).reshape(-1, 4), equal_nan=True)
    assert all(map(np.array_equal, book.ladder(), plain.ladder()))


@pytest.mark.parametrize("kind", [OrderBook, CompiledBook])
def test_rows_handed_out_are_owned(kind: type[OrderBook]) -> None:
    book = kind()
    given_bids = np.array([[100.0, 1.0], [99.0, 2.0]])
    book.load(given_bids, [(101.0, 1.0)])
    kept = [side.copy() for side in book.top(5)]
    bids, asks = book.top(5)
    given_bids[:] = 7.0  # the caller's array is not the book's
    book.apply([(100.0, 9.0), (99.0, 0.0)], [(101.0, 0.0), (102.0, 3.0)])
    assert np.array_equal(bids, kept[0]) and np.array_equal(asks, kept[1])
    assert bids.base is asks.base is not None
    for rows in (bids, asks, bids.base):
        assert not rows.flags.writeable
    assert bids.flags.c_contiguous and bids.dtype == np.float64


@pytest.mark.parametrize("kind", [OrderBook, CompiledBook])
def test_read_only_and_foreign_arrays_are_taken(kind: type[OrderBook]) -> None:
    rows = np.array([[100, 1], [99, 2]])
    rows.flags.writeable = False
    book = kind()
    book.load(rows, np.array([[101.0, 1.0], [102.0, 5.0]], np.float32)[::-1])
    book.apply(iter([(99.5, 1.0)]), np.empty((0, 2)))
    assert book.best() == (100.0, 1.0, 101.0, 1.0) and (book.n_bids, book.n_asks) == (3, 2)


@pytest.mark.data
@pytest.mark.parametrize("kind", [OrderBook, CompiledBook])
@pytest.mark.parametrize(("name", "deltas"), [("spot", 3_449), ("usdm", 6_547)])
def test_touch_equals_book_ticker(
    gem_data: Path, kind: type[OrderBook], name: str, deltas: int
) -> None:
    snapshot: dict = {}
    updates, touches = [], {}
    with gzip.open(gem_data / f"binance-2024-08-08/{name}_btcusdt.gz") as lines:
        for line in lines:
            message = json.loads(line.split(b" ", 1)[1])
            data = message.get("data", message)
            if "lastUpdateId" in data:
                snapshot = data
            elif data.get("e") == "depthUpdate":
                updates.append(data)
            elif "B" in data:
                touches[data["u"]] = tuple(float(data[key]) for key in "bBaA")
    last_id = snapshot["lastUpdateId"]
    updates = [data for data in updates if data["u"] >= last_id + (name == "spot")]
    ids = np.array(sorted(touches))
    book = kind()
    book.load(np.array(snapshot["bids"], float), np.array(snapshot["asks"], float))
    agree = 0
    for data in updates:
        book.apply(*(np.array(data[side], float).reshape(-1, 2) for side in "ba"))
        at = np.searchsorted(ids, data["u"], side="right") - 1
        agree += at >= 0 and book.best() == touches[int(ids[at])]
    assert agree == len(updates) == deltas
