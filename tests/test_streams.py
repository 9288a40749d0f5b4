"""Streams on real recordings: the venue's own quotes and independent ladders are the oracle."""

import gzip
import json
import random
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gem_detector.core import Event, Gap, InputError, OrderBookSnapshot, StreamState, Trade
from gem_detector.frames import Arrival, read_frames
from gem_detector.streams import make_stream

BINANCE = {
    "spot": ("binance-2024-08-08/spot_btcusdt.gz", "BTC/USDT", 3449),
    "linear": ("binance-2024-08-08/usdm_btcusdt.gz", "BTC/USDT:USDT", 6547),
}
BYBIT = "wire-2026-08-frames/bybit_linear.gz"
COINBASE = "wire-2026-08-frames/coinbase_advanced_btcusd_ethusd.gz"


def books_of(events: list[Event]) -> list[OrderBookSnapshot]:
    return [event for event in events if isinstance(event, OrderBookSnapshot)]


def quotes_of(path: Path) -> tuple[list[int], list[tuple[float, ...]]]:
    "Every bookTicker of a capture: ids, and bid, bid quantity, ask, ask quantity."
    ids, touches = [], []
    with gzip.open(path) as lines:
        for line in lines:
            frame = json.loads(line.partition(b" ")[2])
            if frame.get("stream", "").endswith("@bookTicker"):
                quote = frame["data"]
                ids.append(quote["u"])
                touches.append(tuple(float(quote[name]) for name in "bBaA"))
    return ids, touches


@pytest.mark.parametrize("market", BINANCE)
def test_every_book_agrees_with_the_venues_best_quote(gem_data: Path, market: str) -> None:
    name, symbol, n_books = BINANCE[market]
    stream = make_stream("binance", symbol)
    books = books_of(list(stream.replay(gem_data / name)))
    ids, touches = quotes_of(gem_data / name)
    n_equal = 0
    for book in books:
        touch = (book.best_bid, book.bid_size, book.best_ask, book.ask_size)
        n_equal += touch == touches[bisect_right(ids, book.sequence) - 1]
    assert (n_equal, len(books), stream.gap_count) == (n_books, n_books, 0)
    assert all(book.state is StreamState.SYNCED for book in books)
    assert books[0].trusted_depth == 20 and all(book.trusted_depth <= 20 for book in books)


@pytest.mark.parametrize("market", BINANCE)
def test_best_quotes_in_the_capture_change_nothing(gem_data: Path, market: str) -> None:
    name, symbol, _ = BINANCE[market]
    everything = list(read_frames(gem_data / name))
    depth_only = [a for a in everything if b"@bookTicker" not in a.payload[:60]]
    assert len(depth_only) < len(everything)
    one = list(make_stream("binance", symbol).replay(everything))
    other = list(make_stream("binance", symbol).replay(depth_only))
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert a.same_as(b) if isinstance(a, OrderBookSnapshot) else a == b


def test_snapshots_that_are_kept_do_not_change(gem_data: Path) -> None:
    name, symbol, _ = BINANCE["spot"]
    kept: list[tuple[OrderBookSnapshot, bytes]] = []
    for event in make_stream("binance", symbol).replay(gem_data / name):
        if isinstance(event, OrderBookSnapshot):
            kept.append((event, event.bids.tobytes() + event.asks.tobytes()))
    assert all(book.bids.tobytes() + book.asks.tobytes() == then for book, then in kept)
    assert not any(book.bids.flags.writeable or book.asks.flags.writeable for book, _ in kept)


@pytest.mark.parametrize("market", BINANCE)
def test_no_snapshot_no_book(gem_data: Path, market: str) -> None:
    name, symbol, _ = BINANCE[market]
    arrivals = (
        a for a in read_frames(gem_data / name) if not a.payload.startswith(b'{"lastUpdateId"')
    )
    stream = make_stream("binance", symbol)
    assert {type(event) for event in stream.replay(arrivals)} == {Trade}
    assert stream.book is None and stream.state is StreamState.SYNCING


def bybit_oracle(path: Path, symbol: str) -> Iterator[tuple[int, dict, dict]]:
    "Id and whole ladder after each book message, by dictionaries of decimal texts."
    bids: dict[str, str] = {}
    asks: dict[str, str] = {}
    for arrival in read_frames(path):
        frame = json.loads(arrival.payload)
        if not frame.get("topic", "").startswith("orderbook") or frame["data"]["s"] != symbol:
            continue
        if frame["type"] == "snapshot":
            bids, asks = {}, {}
        for side, changes in ((bids, frame["data"]["b"]), (asks, frame["data"]["a"])):
            for price, size in changes:
                if size == "0":
                    side.pop(price, None)
                else:
                    side[price] = size
        yield frame["data"]["u"], bids, asks


def coinbase_oracle(path: Path, symbol: str) -> Iterator[tuple[int, dict, dict]]:
    sides: dict[str, dict[str, str]] = {"bid": {}, "offer": {}}
    for arrival in read_frames(path):
        frame = json.loads(arrival.payload)
        for event in frame["events"] if frame["channel"] == "l2_data" else ():
            if event["product_id"] != symbol:
                continue
            if event["type"] == "snapshot":
                sides = {"bid": {}, "offer": {}}
            for change in event["updates"]:
                side = sides[change["side"]]
                if float(change["new_quantity"]) == 0:
                    side.pop(change["price_level"], None)
                else:
                    side[change["price_level"]] = change["new_quantity"]
            yield frame["sequence_num"], sides["bid"], sides["offer"]


def ladder(side: dict[str, str], sign: int, depth: int) -> np.ndarray:
    rows = sorted(((float(p), float(q)) for p, q in side.items()), key=lambda r: sign * r[0])
    return np.array(rows[:depth], float).reshape(-1, 2)


@pytest.mark.parametrize(
    "venue, name, symbol, wire_symbol, oracle",
    [
        ("bybit", BYBIT, f"{base}/USDT:USDT", f"{base}USDT", bybit_oracle)
        for base in ("BTC", "ETH", "SOL", "DOGE")
    ]
    + [
        ("coinbase", COINBASE, f"{base}/USD", f"{base}-USD", coinbase_oracle)
        for base in ("BTC", "ETH")
    ],
)
def test_captures_replay_without_a_gap(gem_data, venue, name, symbol, wire_symbol, oracle) -> None:
    stream = make_stream(venue, symbol, depth=50)
    books = books_of(list(stream.replay(gem_data / name)))
    assert stream.gap_count == 0 and stream.state is StreamState.SYNCED and len(books) > 50
    n = 0
    for book, (sequence, bids, asks) in zip(books, oracle(gem_data / name, wire_symbol)):
        n += 1
        assert book.sequence == sequence
        assert np.array_equal(book.bids, ladder(bids, -1, 50))
        assert np.array_equal(book.asks, ladder(asks, 1, 50))
    assert n == len(books)


@pytest.mark.parametrize(
    "venue, symbol, market_type, name, n_books",
    [
        ("bybit", "BTC/USDT", "spot", "wire-2026-08/bybit_orderbook.jsonl", 9),
        ("coinbase", "BTC/USD", None, "wire-2026-08/coinbase_l2.jsonl", 11),
        ("kraken", "BTC/USD", None, "wire-2026-08/kraken_book.jsonl", 4),
        ("okx", "BTC/USDT", None, "wire-2026-08/okx_books.jsonl", 7),
    ],
)
def test_captures_without_stamps(gem_data, venue, symbol, market_type, name, n_books) -> None:
    stream = make_stream(venue, symbol, market_type=market_type)
    books = books_of(list(stream.replay(gem_data / name)))
    assert len(books) == n_books and stream.gap_count == 0
    assert stream.get_stats()["latency"]["wire"]["kind"] == "unknown"
    assert np.isnan(stream.median_latency_ms)


def test_binance_us_joins_its_rest_snapshot(gem_data: Path) -> None:
    "The snapshot was fetched while the deltas came: its id lies inside their range."
    folder = gem_data / "wire-2026-08"
    deltas = (folder / "binance_us_depth.jsonl").read_bytes().splitlines()
    snapshot = (folder / "binance_us_snapshot.json").read_bytes().replace(b"\n", b" ")
    last_id = json.loads(snapshot)["lastUpdateId"]
    source = [*enumerate(deltas, start=1), (len(deltas) + 1, snapshot)]
    books = books_of(list(make_stream("binance", "BTC/USDT").replay(source)))
    new = [d for d in map(json.loads, deltas) if d["u"] > last_id]
    assert [book.sequence for book in books] == [delta["u"] for delta in new]


def kraken_source(data: Path) -> list[tuple[int, bytes]]:
    "The longer recording as a source: a snapshot and 509 updates, without an acknowledgement."
    recorded = json.loads((data / "kraken-v2-book" / "orderbook-v2.json").read_bytes())
    frames = [recorded["init"], *recorded["updates"]]
    return [(i, json.dumps(frame).encode()) for i, frame in enumerate(frames, start=1)]


@pytest.mark.parametrize("depth", [5, 10, 20, 500])
def test_all_checksums_of_kraken_agree_at_any_depth_that_is_asked_for(gem_data, depth) -> None:
    "The recording was made at depth 10, whatever the stream would subscribe to."
    stream = make_stream("kraken", "BTC/USD", depth=depth)
    books = books_of(list(stream.replay(kraken_source(gem_data))))
    assert len(books) == 510 and stream.gap_count == 0
    assert {len(book.bids) for book in books} == {min(depth, 10)}
    assert {book.trusted_depth for book in books} == {min(depth, 10)}
    assert all(book.sequence == -1 and book.state is StreamState.SYNCED for book in books)


def test_every_lost_delta_of_kraken_is_noticed_or_was_undone_by_the_next(gem_data: Path) -> None:
    source = kraken_source(gem_data)
    truth = books_of(list(make_stream("kraken", "BTC/USD").replay(source)))
    noticed = 0
    for lost in random.Random(7).sample(range(1, 509), 40):
        stream = make_stream("kraken", "BTC/USD")
        events = list(stream.replay(source[:lost] + source[lost + 1 :]))
        gaps = [event for event in events if isinstance(event, Gap)]
        if gaps:
            assert (
                len(gaps) == 1 and gaps[0].ts_recv_ns == lost + 2 and gaps[0].reason == "checksum"
            )
            assert events[-1] is gaps[0] and stream.book is None
        noticed += len(gaps)
        kept = books_of(events)
        after = truth[:lost] + truth[lost + 1 :][: len(kept) - lost]
        assert len(kept) == len(after) and all(a.same_as(b) for a, b in zip(kept, after))
    assert noticed > 25


def test_every_lost_delta_of_okx_is_noticed(gem_data: Path) -> None:
    frames = (gem_data / "wire-2026-08" / "okx_books.jsonl").read_bytes().splitlines()
    source = list(enumerate(frames, start=1))
    for lost in range(2, 7):
        stream = make_stream("okx", "BTC/USDT")
        events = list(stream.replay(source[:lost] + source[lost + 1 :]))
        (gap,) = (event for event in events if isinstance(event, Gap))
        assert gap.ts_recv_ns == lost + 2 and events[-1] is gap and stream.book is None
    assert not list(make_stream("okx", "BTC/USDT").replay(source[2:]))  # begins in the middle
    assert not list(make_stream("kraken", "BTC/USD").replay(kraken_source(gem_data)[1:]))


def test_every_lost_delta_of_bybit_is_noticed(gem_data: Path) -> None:
    arrivals = list(read_frames(gem_data / BYBIT))
    deltas = [
        i
        for i, a in enumerate(arrivals)
        if b'"orderbook.200.BTCUSDT"' in a.payload and b'"type":"delta"' in a.payload
    ]
    n_noticed = 0
    for lost in random.Random(7).sample(deltas[:-1], 40):
        stream = make_stream("bybit", "BTC/USDT:USDT")
        events = list(stream.replay(arrivals[:lost] + arrivals[lost + 1 :]))
        (gap,) = (event for event in events if isinstance(event, Gap))
        after = events[events.index(gap) + 1 :] if gap in events else []
        n_noticed += gap.received == gap.expected + 1 and not books_of(after)
        assert stream.book is None
    assert n_noticed == 40


def test_every_lost_frame_of_coinbase_is_noticed(gem_data: Path) -> None:
    "Frames are numbered over all channels: a lost ticker is a gap too, since nobody knows."
    arrivals = list(read_frames(gem_data / COINBASE))
    for lost in range(30, len(arrivals) - 1, 9):
        stream = make_stream("coinbase", "BTC/USD")
        events = list(stream.replay(arrivals[:lost] + arrivals[lost + 1 :]))
        assert stream.gap_count == 1 and stream.book is None
        assert sum(isinstance(event, Gap) for event in events) == 1


def test_a_file_that_starts_in_the_middle_invents_no_book(gem_data: Path) -> None:
    for venue, name, symbol in (
        ("bybit", BYBIT, "SOL/USDT:USDT"),
        ("coinbase", COINBASE, "BTC/USD"),
    ):
        arrivals = list(read_frames(gem_data / name))
        stream = make_stream(venue, symbol)
        assert not books_of(list(stream.replay(arrivals[len(arrivals) // 2 :])))
        assert stream.state is StreamState.SYNCING


def test_replay_calls_nobody_and_starts_from_nothing(gem_data: Path) -> None:
    stream = make_stream("coinbase", "BTC/USD")
    for register in (stream.register_book_callback, stream.register_trade_callback):
        register(lambda event: pytest.fail("a replay called back"))
    first = list(stream.replay(gem_data / COINBASE))
    second = list(stream.replay(gem_data / COINBASE))
    assert len(first) == len(second) and books_of(first)[-1].same_as(books_of(second)[-1])
    assert not stream.trades


def test_coinbase_trades_carry_the_takers_side(gem_data: Path) -> None:
    trades = [
        event
        for event in make_stream("coinbase", "BTC/USD").replay(gem_data / COINBASE)
        if isinstance(event, Trade)
    ]
    makers: dict[str, str] = {}
    for arrival in read_frames(gem_data / COINBASE):
        frame = json.loads(arrival.payload)
        for event in frame["events"] if frame["channel"] == "market_trades" else ():
            makers |= {trade["trade_id"]: trade["side"] for trade in event["trades"]}
    assert len(trades) == 15
    assert all(
        trade.side == {"BUY": "sell", "SELL": "buy"}[makers[trade.trade_id]] for trade in trades
    )


def test_garbage_in_a_capture_names_file_and_line(tmp_path: Path) -> None:
    good = b'{"topic":"tickers.BTCUSDT","type":"delta","data":{},"ts":1}'
    path = tmp_path / "capture.frames"
    path.write_bytes(b"1 " + good + b"\n2 " + good + b'\n3 {"topic": oops}\n4 ' + good + b"\n")
    with pytest.raises(InputError, match=r"capture\.frames: line 3: not JSON"):
        list(make_stream("bybit", "BTC/USDT").replay(path))


def test_two_depth_channels_of_one_symbol_do_not_mix() -> None:
    def frame(depth: int, kind: str, u: int, bid: str) -> bytes:
        data = {"s": "BTCUSDT", "b": [[bid, "1"]], "a": [["200", "1"]], "u": u, "seq": u}
        topic = f"orderbook.{depth}.BTCUSDT"
        return json.dumps({"topic": topic, "type": kind, "ts": u, "data": data, "cts": u}).encode()

    source = [
        (1, frame(50, "snapshot", 5, "100")),
        (2, frame(200, "snapshot", 900, "99")),
        (3, frame(50, "delta", 6, "101")),
        (4, frame(200, "delta", 901, "98")),
    ]
    stream = make_stream("bybit", "BTC/USDT")
    books = books_of(list(stream.replay(source)))
    assert [book.best_bid for book in books] == [100.0, 101.0]
    assert stream.get_stats()["counts"]["other_channel"] == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "bitbay", "symbol": "BTC/USDT"}, "bitbay"),
        ({"name": "bybit", "symbol": "BTCUSDT"}, "not a symbol"),
        ({"name": "bybit", "symbol": "BTC/USDT", "market_type": "cash"}, "cash"),
        ({"name": "coinbase", "symbol": "BTC/USD", "market_type": "linear"}, "linear"),
        ({"name": "binance", "symbol": "BTC/USDT", "depth": 0}, "depth"),
    ],
)
def test_wrong_arguments_are_one_sentence(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_stream(**options)


def test_arrivals_may_be_given_as_they_are() -> None:
    data = {"s": "BTCUSDT", "b": [["100", "1"]], "a": [["101", "1"]], "u": 3, "seq": 3}
    frame = {"topic": "orderbook.50.BTCUSDT", "type": "snapshot", "ts": 1, "data": data, "cts": 1}
    arrival = Arrival(10**18, "frame", json.dumps(frame).encode())
    (book,) = make_stream("bybit", "BTC/USDT").replay([arrival])
    assert book.mid == 100.5
