"""No fault of a wire makes the state machine hand out a wrong book, whatever the venue's rule."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector.core import NS_PER_S, Gap, Instrument, OrderBookSnapshot, StreamState
from gem_detector.frames import Arrival
from gem_detector.sync import Feed, FetchSnapshot, Reconnect, Resubscribe
from gem_detector.venues.binance import BinanceProtocol
from gem_detector.venues.bybit import BybitProtocol
from gem_detector.venues.coinbase import CoinbaseProtocol

Ladder = dict[float, float]


@dataclass
class Change:
    "What the venue did: one level of one side."

    side: str
    price: float
    size: float


CHANGES = st.lists(
    st.builds(
        Change, st.sampled_from("ba"), st.integers(0, 5).map(float), st.integers(0, 3).map(float)
    ),
    min_size=8,
    max_size=40,
)


def ladders(changes: list[Change]) -> list[tuple[Ladder, Ladder]]:
    "The venue's book after each change; bids at 90 to 95, asks at 100 to 105, never crossed."
    bids, asks = {90.0: 1.0}, {105.0: 1.0}
    found = [(bids.copy(), asks.copy())]
    for change in changes:
        side, price = (
            (bids, 90 + change.price) if change.side == "b" else (asks, 100 + change.price)
        )
        side[price] = change.size
        if not change.size:
            side.pop(price)
        found.append((bids.copy(), asks.copy()))
    return found


def levels(side: Ladder) -> list[list[str]]:
    return [[f"{price:.2f}", f"{size:.3f}"] for price, size in side.items()]


def changed(change: Change) -> dict[str, list[list[str]]]:
    base = 90 if change.side == "b" else 100
    row = [[f"{base + change.price:.2f}", f"{change.size:.3f}"]]
    return {"b": row if change.side == "b" else [], "a": row if change.side == "a" else []}


def spot_frame(i: int, change: Change) -> bytes:
    "Change i takes two ids: 2i+1 and 2i+2."
    body = {"e": "depthUpdate", "E": i + 1, "s": "BTCUSDT", "U": 2 * i + 1, "u": 2 * i + 2}
    return json.dumps(
        {"stream": "btcusdt@depth@100ms", "data": {**body, **changed(change)}}
    ).encode()


def linear_frame(i: int, change: Change) -> bytes:
    "Ids are global: they jump by ten, and only `pu` ties messages together."
    ids = {"U": 10 * i + 3, "u": 10 * i + 10, "pu": 10 * i}
    body = {"e": "depthUpdate", "E": i + 1, "T": i + 1, "s": "BTCUSDT", **ids}
    return json.dumps(
        {"stream": "btcusdt@depth@100ms", "data": {**body, **changed(change)}}
    ).encode()


def bybit_frame(i: int, change: Change) -> bytes:
    data = {"s": "BTCUSDT", **changed(change), "u": i + 10, "seq": i}
    head = {"topic": "orderbook.50.BTCUSDT", "type": "delta", "ts": i + 1, "cts": i + 1}
    return json.dumps({**head, "data": data}).encode()


def bybit_snapshot(i: int, book: tuple[Ladder, Ladder]) -> bytes:
    data = {"s": "BTCUSDT", "b": levels(book[0]), "a": levels(book[1]), "u": i + 9, "seq": i}
    head = {"topic": "orderbook.50.BTCUSDT", "type": "snapshot", "ts": i, "cts": i}
    return json.dumps({**head, "data": data}).encode()


def coinbase_frame(number: int, kind: str, sides: dict[str, list[list[str]]]) -> bytes:
    stamp = f"2026-08-09T21:05:{number:02d}.000000Z"
    updates = [
        {"side": side, "event_time": stamp, "price_level": price, "new_quantity": size}
        for side, rows in (("bid", sides["b"]), ("offer", sides["a"]))
        for price, size in rows
    ]
    event = {"type": kind, "product_id": "BTC-USD", "updates": updates}
    frame = {"channel": "l2_data", "timestamp": stamp, "sequence_num": number, "events": [event]}
    return json.dumps(frame).encode()


def check(events: list, truth: Callable[[int], tuple[Ladder, Ladder]]) -> int:
    "Every book handed out is the venue's at its id; how many there were."
    n = 0
    for event in events:
        if isinstance(event, OrderBookSnapshot):
            bids, asks = truth(event.sequence)
            assert dict(event.bids.tolist()) == bids and dict(event.asks.tolist()) == asks
            assert np.all(np.diff(event.bids[:, 0]) < 0) and np.all(np.diff(event.asks[:, 0]) > 0)
            n += 1
    return n


FAULTS = st.lists(
    st.tuples(st.sampled_from(["drop", "repeat", "swap", "cut"]), st.integers(0, 39)), max_size=4
)


def damaged(frames: list[bytes], faults: list[tuple[str, int]]) -> list[bytes]:
    "Frames after some faults of the wire, in order of delivery."
    out = list(frames)
    for fault, place in faults:
        if not out:
            break
        i = place % len(out)
        if fault == "drop":
            del out[i]
        elif fault == "repeat":
            out.insert(i, out[i])
        elif fault == "swap" and i + 1 < len(out):
            out[i], out[i + 1] = out[i + 1], out[i]
        elif fault == "cut":
            out[i] = out[i][: len(out[i]) // 2]
    return out


def instrument(exchange: str, symbol: str, name: str, market_type: str) -> Instrument:
    return Instrument(exchange, symbol, name, market_type, "BTC", "USDT", "", 0.01, 0.001)


def with_snapshots(
    feed: Feed, frames: list[bytes], snapshot: Callable[[int], bytes], lag: int
) -> list:
    "Deliver frames, and answer every request for a snapshot `lag` frames later."
    events, due = [], []
    for i, frame in enumerate(frames):
        ts_ns = (i + 1) * 100 * NS_PER_S  # so far apart that no request has to wait
        events += feed.handle(Arrival(ts_ns, "frame", frame))
        for n, age in list(due):
            if i >= age:
                due.remove((n, age))
                events += feed.handle(Arrival(ts_ns + 1, "rest", snapshot(i), "snapshot:BTCUSDT"))
        for action in feed.actions:
            assert isinstance(action, FetchSnapshot)
            due.append((len(due), i + lag))
        feed.actions.clear()
    return events


@settings(max_examples=150, deadline=None)
@given(CHANGES, FAULTS, st.integers(0, 4))
def test_binance_spot(changes: list[Change], faults: list, lag: int) -> None:
    books = ladders(changes)
    feed = Feed(BinanceProtocol("spot"), [instrument("binance", "BTC/USDT", "BTCUSDT", "spot")])
    frames = damaged([spot_frame(i, change) for i, change in enumerate(changes)], faults)

    def snapshot(i: int) -> bytes:
        n = min(i + 1, len(changes))
        body = {"lastUpdateId": 2 * n, "bids": levels(books[n][0]), "asks": levels(books[n][1])}
        return json.dumps(body).encode()

    check(with_snapshots(feed, frames, snapshot, lag), lambda u: books[u // 2])


@settings(max_examples=150, deadline=None)
@given(CHANGES, FAULTS, st.integers(0, 4), st.booleans())
def test_binance_linear(changes: list[Change], faults: list, lag: int, inside: bool) -> None:
    "The snapshot's id may be a message's last one, or lie in the space between two messages."
    books = ladders(changes)
    feed = Feed(BinanceProtocol("linear"), [instrument("binance", "B/Q:Q", "BTCUSDT", "linear")])
    frames = damaged([linear_frame(i, change) for i, change in enumerate(changes)], faults)

    def snapshot(i: int) -> bytes:
        n = min(i + 1, len(changes))
        ids = {"lastUpdateId": 10 * n, "E": 1, "T": 1}
        return json.dumps(
            {**ids, "bids": levels(books[n][0]), "asks": levels(books[n][1])}
        ).encode()

    check(with_snapshots(feed, frames, snapshot, lag), lambda u: books[u // 10])


@settings(max_examples=150, deadline=None)
@given(CHANGES, FAULTS, st.integers(0, 39))
def test_bybit(changes: list[Change], faults: list, second: int) -> None:
    books = ladders(changes)
    feed = Feed(BybitProtocol("linear"), [instrument("bybit", "B/Q:Q", "BTCUSDT", "linear")])
    clean = [bybit_snapshot(0, books[0])]
    for i, change in enumerate(changes):
        clean.append(bybit_frame(i, change))
        if i == second % len(changes):
            clean.append(bybit_snapshot(i + 1, books[i + 1]))  # after a resubscription
    events = [
        event
        for i, frame in enumerate(damaged(clean, faults))
        for event in feed.handle(Arrival((i + 1) * NS_PER_S, "frame", frame))
    ]
    check(events, lambda u: books[u - 9])
    assert all(isinstance(action, Resubscribe) for action in feed.actions)
    if not faults:
        assert not feed.actions and not any(isinstance(event, Gap) for event in events)


@settings(max_examples=150, deadline=None)
@given(CHANGES, FAULTS)
def test_coinbase(changes: list[Change], faults: list) -> None:
    books = ladders(changes)
    feed = Feed(CoinbaseProtocol("spot"), [instrument("coinbase", "BTC/USD", "BTC-USD", "spot")])
    first = {"b": levels(books[0][0]), "a": levels(books[0][1])}
    clean = [coinbase_frame(0, "snapshot", first)]
    clean += [coinbase_frame(i + 1, "update", changed(c)) for i, c in enumerate(changes)]
    events = [
        event
        for i, frame in enumerate(damaged(clean, faults))
        for event in feed.handle(Arrival((i + 1) * NS_PER_S, "frame", frame))
    ]
    check(events, lambda number: books[number])
    assert all(isinstance(action, Reconnect) for action in feed.actions)


def test_a_storm_of_gaps_is_no_storm_of_requests() -> None:
    "Every second delta is lost for ten minutes: the requests come further and further apart."
    feed = Feed(BybitProtocol("linear"), [instrument("bybit", "B/Q:Q", "BTCUSDT", "linear")])
    books = ladders([Change("b", 1.0, 1.0)] * 3000)
    asked = []
    for i in range(0, 3000, 2):
        now_ns = 10**18 + i * NS_PER_S // 5
        feed.handle(Arrival(now_ns, "frame", bybit_snapshot(i, books[i])))
        feed.handle(Arrival(now_ns + 1, "frame", bybit_frame(i + 1, Change("b", 1.0, 1.0))))
        asked += [action.not_before_ns for action in feed.actions]
        feed.actions.clear()
    waits = np.diff(asked) / NS_PER_S
    assert feed.syncs["BTCUSDT"].state is StreamState.SUSPECT
    assert len(asked) > 100 and np.max(asked) - 10**18 > 600 * NS_PER_S and waits.min() >= 0


def test_a_book_that_crosses_itself_is_not_handed_out() -> None:
    feed = Feed(BybitProtocol("linear"), [instrument("bybit", "B/Q:Q", "BTCUSDT", "linear")])
    feed.handle(Arrival(1, "frame", bybit_snapshot(0, ({99.0: 1.0}, {100.0: 1.0}))))
    crossing = bybit_frame(0, Change("b", 15.0, 1.0))  # a bid at 105
    (gap,) = feed.handle(Arrival(2, "frame", crossing))
    assert isinstance(gap, Gap) and gap.reason == "crossed"
    assert feed.syncs["BTCUSDT"].snapshot() is None


def test_a_feed_whose_losses_cannot_be_seen_never_claims_to_be_synced() -> None:
    protocol = CoinbaseProtocol("spot", feed="exchange")
    feed = Feed(protocol, [instrument("coinbase", "BTC/USD", "BTC-USD", "spot")])
    snapshot = {"type": "snapshot", "product_id": "BTC-USD", "bids": [["99", "1"]]}
    frame = json.dumps({**snapshot, "asks": [["101", "1"]]}).encode()
    (book,) = feed.handle(Arrival(10**18, "frame", frame))
    assert isinstance(book, OrderBookSnapshot) and book.state is StreamState.UNVERIFIABLE
    assert feed.syncs["BTC-USD"].state is StreamState.UNVERIFIABLE


def test_a_snapshot_that_no_delta_joins_is_asked_for_again() -> None:
    "A reply with an id far ahead would make every delta old for ever."
    feed = Feed(BinanceProtocol("spot"), [instrument("binance", "BTC/USDT", "BTCUSDT", "spot")])
    change = Change("b", 1.0, 1.0)
    far = json.dumps({"lastUpdateId": 10**12, "bids": [["90", "1"]], "asks": [["105", "1"]]})
    asked = 0
    for i in range(60):
        now_ns = 10**18 + i * NS_PER_S
        feed.handle(Arrival(now_ns, "frame", spot_frame(i, change)))
        asked += len(feed.actions)
        feed.actions.clear()
        if i == 2:
            feed.handle(Arrival(now_ns + 1, "rest", far.encode(), "snapshot:BTCUSDT"))
    assert asked >= 3 and feed.syncs["BTCUSDT"].snapshot() is None
