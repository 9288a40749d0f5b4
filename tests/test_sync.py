"""No fault of a wire makes the state machine hand out a wrong book, whatever the venue's rule."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector.book_sync import Answer, FetchSnapshot, Reconnect, Resubscribe
from gem_detector.core import NS_PER_S, Gap, Instrument, OrderBookSnapshot, StreamState, utc_text
from gem_detector.frames import Arrival
from gem_detector.sync import Feed
from gem_detector.venues.binance import BinanceProtocol
from gem_detector.venues.bybit import BybitProtocol
from gem_detector.venues.coinbase import CoinbaseProtocol
from gem_detector.venues.htx import HTXProtocol
from gem_detector.venues.kraken import KrakenProtocol, book_checksum
from gem_detector.venues.okx import OKXProtocol

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


def okx_frame(i: int, change: Change, contracts: float = 1.0) -> bytes:
    "Ids jump by seven; only `prevSeqId` ties messages together. Quantities in contracts."
    sides = {
        name: [[p, f"{float(q) / contracts:.3f}", "0", "1"] for p, q in levels]
        for name, levels in zip(("bids", "asks"), changed(change).values())
    }
    return okx_body("update", i + 1, 7 * i + 7, 7 * i, sides)


def okx_body(kind: str, at: int, last: int, prev: int, sides: dict) -> bytes:
    data = [{**sides, "ts": str(at), "checksum": 0, "seqId": last, "prevSeqId": prev}]
    arg = {"channel": "books", "instId": "B-Q-SWAP"}
    return json.dumps({"arg": arg, "action": kind, "data": data}).encode()


def okx_snapshot(n: int, book: tuple[Ladder, Ladder], contracts: float = 1.0) -> bytes:
    sides = {
        name: [[f"{p:.2f}", f"{q / contracts:.3f}", "0", "1"] for p, q in side.items()]
        for name, side in zip(("bids", "asks"), book)
    }
    return okx_body("snapshot", n, 7 * n, -1, sides)


@settings(max_examples=150, deadline=None)
@given(CHANGES, FAULTS, st.integers(0, 39), st.sampled_from([1.0, 0.01, 1000.0]))
def test_okx(changes: list[Change], faults: list, second: int, contracts: float) -> None:
    "With a new snapshot in between and a quiet message behind every fifth; books in base units."
    books = ladders(changes)
    made = Instrument(
        "okx", "B/Q:Q", "B-Q-SWAP", "linear", "B", "Q", "Q", 0.01, 0.001, 0.0, 0.0, contracts
    )
    feed = Feed(OKXProtocol("linear"), [made])
    clean = [okx_snapshot(0, books[0], contracts)]
    for i, change in enumerate(changes):
        clean.append(okx_frame(i, change, contracts))
        if i % 5 == 0:
            clean.append(okx_body("update", i + 1, 7 * i + 7, 7 * i + 7, {"bids": [], "asks": []}))
        if i == second % len(changes):
            clean.append(okx_snapshot(i + 1, books[i + 1], contracts))
    events = [
        event
        for i, frame in enumerate(damaged(clean, faults))
        for event in feed.handle(Arrival((i + 1) * NS_PER_S, "frame", frame))
    ]
    check(events, lambda sequence: books[sequence // 7])
    assert all(isinstance(action, Resubscribe) for action in feed.actions)
    if not faults:
        assert not feed.actions and not any(isinstance(event, Gap) for event in events)


def test_okx_may_count_anew_after_maintenance() -> None:
    books = ladders([Change("b", 1.0, 1.0), Change("b", 2.0, 2.0), Change("b", 3.0, 3.0)])
    feed = Feed(OKXProtocol("linear"), [instrument("okx", "B/Q:Q", "B-Q-SWAP", "linear")])
    row = {"bids": [["92.00", "2.000", "0", "1"]], "asks": []}
    frames = [
        okx_snapshot(0, books[0]),
        okx_frame(0, Change("b", 1.0, 1.0)),
        okx_body("update", 2, 3, 7, row),  # an id below the last one, pointing to it
        okx_body("update", 3, 5, 3, {"bids": [["93.00", "3.000", "0", "1"]], "asks": []}),
    ]
    events = [e for i, f in enumerate(frames) for e in feed.handle(Arrival(i + 1, "frame", f))]
    assert [event.sequence for event in events] == [0, 7, 3, 5] and not feed.actions
    assert dict(events[-1].bids.tolist()) == books[3][0]
    late = okx_body("update", 4, 11, 9, row)  # the message from 5 to 9 is lost
    (gap,) = feed.handle(Arrival(9, "frame", late))
    assert isinstance(gap, Gap)


KRAKEN = instrument("kraken", "BTC/USD", "BTC/USD", "spot")


def kraken_frame(kind: str, i: int, sides: dict[str, list[list[str]]], book: tuple) -> bytes:
    "The time names the state; the checksum is of the book that the venue has then."
    best = [
        sorted(side.items(), key=lambda level: sign * level[0])[:10]
        for side, sign in zip(book, (-1, 1))
    ]
    body = {
        "symbol": "BTC/USD",
        "bids": [{"price": float(p), "qty": float(q)} for p, q in sides["b"]],
        "asks": [{"price": float(p), "qty": float(q)} for p, q in sides["a"]],
        "checksum": book_checksum(KRAKEN, *best),
        "timestamp": utc_text(10**18 + i),
    }
    return json.dumps({"channel": "book", "type": kind, "data": [body]}).encode()


@settings(max_examples=150, deadline=None)
@given(CHANGES, FAULTS, st.integers(0, 39))
def test_kraken(changes: list[Change], faults: list, second: int) -> None:
    "No numbers, only checksums: a loss that does not matter may pass, a wrong book never does."
    books = ladders(changes)
    feed = Feed(KrakenProtocol(), [KRAKEN])

    def snapshot(n: int) -> bytes:
        sides = {"b": levels(books[n][0]), "a": levels(books[n][1])}
        return kraken_frame("snapshot", n, sides, books[n])

    clean = [snapshot(0)]
    for i, change in enumerate(changes):
        clean.append(kraken_frame("update", i + 1, changed(change), books[i + 1]))
        if i == second % len(changes):
            clean.append(snapshot(i + 1))
    events = []
    for i, frame in enumerate(damaged(clean, faults)):
        for event in feed.handle(Arrival((i + 1) * NS_PER_S, "frame", frame)):
            events.append(event)
            if isinstance(event, OrderBookSnapshot):
                bids, asks = books[event.ts_event_ns - 10**18]
                assert dict(event.bids.tolist()) == bids and dict(event.asks.tolist()) == asks
    assert all(isinstance(action, Resubscribe) for action in feed.actions)
    if not faults:
        assert not feed.actions and not any(isinstance(event, Gap) for event in events)


def test_kraken_forgets_what_leaves_the_window_of_its_subscription() -> None:
    "Twelve bids at depth ten: no delete comes for the last two, and none of them comes back."
    bids = {90.0 - i: 1.0 for i in range(10)}
    asks = {100.0: 1.0}
    feed = Feed(KrakenProtocol(), [KRAKEN], depth=20)
    ack = b'{"method":"subscribe","result":{"channel":"book","depth":10,"symbol":"BTC/USD"}}'
    feed.handle(Arrival(1, "frame", ack))
    sides = {"b": levels(bids), "a": levels(asks)}
    feed.handle(Arrival(2, "frame", kraken_frame("snapshot", 0, sides, (bids, asks))))
    for i, price in enumerate((91.0, 92.0)):
        bids = {**bids, price: 1.0}
        sides = {"b": [[f"{price}", "1.0"]], "a": []}
        (book,) = feed.handle(
            Arrival(3 + i, "frame", kraken_frame("update", i, sides, (bids, asks)))
        )
    assert book.bids[:, 0].tolist() == [92.0 - i for i in range(10)]
    assert book.trusted_depth == 1 and feed.syncs["BTC/USD"].state is StreamState.SYNCED


def test_a_thin_kraken_book_keeps_the_rows_it_was_subscribed_to() -> None:
    "Three rows in the snapshot, 25 in the subscription: rows beyond ten must not be cut off."
    bids, asks = {90.0 - i: 1.0 for i in range(3)}, {100.0: 1.0}
    feed = Feed(KrakenProtocol(), [KRAKEN], depth=20)
    ack = b'{"method":"subscribe","result":{"channel":"book","depth":25,"symbol":"BTC/USD"}}'
    feed.handle(Arrival(1, "frame", ack))
    sides = {"b": levels(bids), "a": levels(asks)}
    feed.handle(Arrival(2, "frame", kraken_frame("snapshot", 0, sides, (bids, asks))))
    more = {80.0 - i: 1.0 for i in range(12)}
    sides = {"b": levels(more), "a": []}
    frame = kraken_frame("update", 1, sides, ({**bids, **more}, asks))
    (book,) = feed.handle(Arrival(3, "frame", frame))
    assert len(book.bids) == 15 and isinstance(book, OrderBookSnapshot)


def test_a_malformed_kraken_frame_is_a_gap_at_once() -> None:
    "No number will ever tell whether it was a delta below the rows that the checksum proves."
    feed = Feed(KrakenProtocol(), [KRAKEN])
    bids, asks = {90.0: 1.0}, {100.0: 1.0}
    sides = {"b": levels(bids), "a": levels(asks)}
    frame = kraken_frame("snapshot", 0, sides, (bids, asks))
    feed.handle(Arrival(1, "frame", frame))
    (gap,) = feed.handle(Arrival(2, "frame", frame[:60]))
    assert isinstance(gap, Gap) and gap.reason == "malformed"
    assert feed.actions == [Resubscribe("BTC/USD", 2)]


def htx_frame(i: int, change: Change) -> bytes:
    sides = {"bids": changed(change)["b"], "asks": changed(change)["a"]}
    tick = {"seqNum": 9 * i + 9, "prevSeqNum": 9 * i, **numbers(sides)}
    return json.dumps({"ch": "market.btcusdt.mbp.150", "ts": i + 1, "tick": tick}).encode()


def numbers(sides: dict) -> dict:
    return {name: [[float(p), float(q)] for p, q in levels] for name, levels in sides.items()}


@settings(max_examples=150, deadline=None)
@given(CHANGES, FAULTS, st.integers(0, 4), st.integers(0, 8), st.integers(0, 3))
def test_htx_spot(changes: list[Change], faults: list, lag: int, inside: int, age: int) -> None:
    "The snapshot comes on the socket, late and of an older state, its id anywhere in a message."
    books = ladders(changes)
    feed = Feed(HTXProtocol("spot"), [instrument("htx", "B/Q", "btcusdt", "spot")])
    frames = damaged([htx_frame(i, change) for i, change in enumerate(changes)], faults)
    events, due = [], []
    for i, frame in enumerate(frames):
        ts_ns = (i + 1) * 100 * NS_PER_S  # so far apart that no request has to wait
        events += feed.handle(Arrival(ts_ns, "frame", frame))
        for at in [at for at in due if i >= at]:
            due.remove(at)
            n = max(min(i + 1, len(changes)) - age, 0)
            sides = {"bids": levels(books[n][0]), "asks": levels(books[n][1])}
            seq = max(9 * n - inside, 0)  # the message up to 9n straddles it: nothing is missing
            body = {"status": "ok", "rep": "market.btcusdt.mbp.150", "ts": n}
            reply = json.dumps({**body, "data": {"seqNum": seq, **numbers(sides)}}).encode()
            events += feed.handle(Arrival(ts_ns + 1, "frame", reply))
        for action in feed.actions:
            assert isinstance(action, Resubscribe)
            due.append(i + lag)
        feed.actions.clear()
    n_books = check(events, lambda sequence: books[sequence // 9])
    assert n_books or faults or lag + age > 1


@settings(max_examples=150, deadline=None)
@given(CHANGES, FAULTS, st.integers(0, 39))
def test_htx_linear(changes: list[Change], faults: list, second: int) -> None:
    books = ladders(changes)
    made = Instrument("htx", "B/Q:Q", "B-Q", "linear", "B", "Q", "Q", 0.01, 0.001, 0.0, 0.0, 0.001)
    feed = Feed(HTXProtocol("linear"), [made])
    channel = "market.B-Q.depth.size_20.high_freq"

    def frame(kind: str, i: int, bids: list, asks: list) -> bytes:
        contracts = [[[float(p), 1000 * float(q)] for p, q in side] for side in (bids, asks)]
        tick = {"event": kind, "version": i, "bids": contracts[0], "asks": contracts[1], "ts": i}
        return json.dumps({"ch": channel, "tick": tick, "ts": i}).encode()

    clean = [frame("snapshot", 0, *map(levels, books[0]))]
    for i, change in enumerate(changes):
        clean.append(frame("update", i + 1, *changed(change).values()))
        if i == second % len(changes):
            clean.append(frame("snapshot", i + 1, *map(levels, books[i + 1])))
    events = [
        event
        for i, one in enumerate(damaged(clean, faults))
        for event in feed.handle(Arrival((i + 1) * NS_PER_S, "frame", one))
    ]
    check(events, lambda version: books[version])
    if not faults:
        assert not feed.actions and not any(isinstance(event, Gap) for event in events)


def test_htx_pings_are_answered_where_they_came_and_the_first_trade_is_an_old_one() -> None:
    feed = Feed(HTXProtocol("spot"), [instrument("htx", "B/Q", "btcusdt", "spot")])

    def hear(at: int, payload: str) -> list:
        return feed.handle(Arrival(at, "frame", payload.encode(), "trades"))

    feed.handle(Arrival(1, "open", b"", "trades"))
    hear(2, '{"ping":17}')
    assert feed.actions == [Answer("trades", b'{"pong":17}')]
    trade = (
        '{"ch":"market.btcusdt.trade.detail","ts":9,"tick":{"data":[{"id":1,"ts":9,"tradeId":1,'
        '"amount":0.5,"price":90.0,"direction":"sell"}]}}'
    )
    hear(3, '{"id":"1","status":"ok","subbed":"market.btcusdt.trade.detail","ts":8}')
    assert hear(4, trade) == [] and hear(5, trade) == []  # the same one again
    assert len(hear(6, trade.replace('"tradeId":1', '"tradeId":2'))) == 1
    assert feed.counts["old_trade"] == 2


def test_a_book_stands_when_another_socket_of_its_feed_falls() -> None:
    feed = Feed(HTXProtocol("spot"), [instrument("htx", "B/Q", "btcusdt", "spot")])
    books = ladders([Change("b", 1.0, 1.0), Change("b", 2.0, 1.0)])
    for name in ("public", "trades"):
        feed.handle(Arrival(1, "open", b"", name))
    feed.handle(Arrival(2, "frame", htx_frame(0, Change("b", 1.0, 1.0)), "public"))
    sides = {"bids": levels(books[0][0]), "asks": levels(books[0][1])}
    data = {"seqNum": 0, **numbers(sides)}
    reply = {"status": "ok", "rep": "market.btcusdt.mbp.150", "data": data}
    (book,) = feed.handle(Arrival(3, "frame", json.dumps(reply).encode(), "public"))
    assert book.sequence == 9
    for at, kind in ((4, "close"), (5, "open")):
        assert feed.handle(Arrival(at, kind, b"", "trades")) == []
    (book,) = feed.handle(Arrival(6, "frame", htx_frame(1, Change("b", 2.0, 1.0)), "public"))
    assert book.sequence == 18
    (gap,) = feed.handle(Arrival(7, "close", b"", "public"))
    assert gap.reason == "disconnected"


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
