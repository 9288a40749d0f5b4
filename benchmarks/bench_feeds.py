"""How many messages a CPU-second, against ccxt.pro's own handler? Ratios; whole ladders first.

    GEM_DATA=... python benchmarks/bench_feeds.py [--check]     --check: exit 1 below the claims

The depth updates of three real recordings go through ccxt.pro's client and message handler (which
parse the text and keep a book; nobody waits for it), through `replay(depth=20)` with a snapshot
event for every message, and through decoding, continuity and book alone. All in one process, in
turns, by processor time from the moment the book stands, the garbage collector off. Ladders are
compared after every hundredth message and at the end, row for row.
"""

import argparse
import asyncio
import gc
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ccxt.pro
import numpy as np

from gem_detector.compiled_feed import APPLIED, CompiledFeed, warm
from gem_detector.core import OrderBookSnapshot
from gem_detector.frames import Arrival, read_frames
from gem_detector.streams import OrderBookStream, make_stream
from gem_detector.sync import Feed

ROUNDS = 9
CLAIMS = {"replay plain": 2.5, "replay compiled": 10.0, "alone plain": 4.0, "alone compiled": 15.0}
CAPTURES = {
    "usdm": ("binance-2024-08-08/usdm_btcusdt.gz", "binance", "BTC/USDT:USDT"),
    "spot": ("binance-2024-08-08/spot_btcusdt.gz", "binance", "BTC/USDT"),
    "bybit": ("wire-2026-08-frames/bybit_linear.gz", "bybit", "BTC/USDT:USDT"),
}
URLS = {
    "usdm": "wss://fstream.binance.com/public/ws",
    "spot": "wss://stream.binance.com:9443/stream",
    "bybit": "wss://stream.bybit.com/v5/public/linear",
}
OPENINGS = b'{"stream":"btcusdt@depth', b'{"lastUpdateId"', b'{"topic":"orderbook.200.BTCUSDT"'


def depth_frames(name: str) -> list[Arrival]:
    "Depth updates and snapshots of BTC in a recording."
    path = Path(os.environ["GEM_DATA"]) / CAPTURES[name][0]
    return [one for one in read_frames(path) if one.payload.startswith(OPENINGS)]


class Peer:
    "ccxt.pro with one market and no network."

    def __init__(self, name: str) -> None:
        _, venue, self.symbol = CAPTURES[name]
        is_spot = ":" not in self.symbol
        kind = "binanceusdm" if name == "usdm" else venue
        self.exchange: Any = getattr(ccxt.pro, kind)()
        self.exchange.set_markets([self.market(is_spot)])
        self.client = self.exchange.client(URLS[name])
        self.handle = self.client.handle_text_or_binary_message
        self.is_spot = is_spot
        if venue == "binance":
            self.exchange.orderbooks[self.symbol] = self.exchange.order_book({}, None)

    def market(self, is_spot: bool) -> dict[str, Any]:
        "BTC/USDT as ccxt describes it."
        names = {"id": "BTCUSDT", "symbol": self.symbol, "base": "BTC", "quote": "USDT"}
        kind = {"type": "spot" if is_spot else "swap", "spot": is_spot, "swap": not is_spot}
        contract = {"contract": not is_spot, "settle": None if is_spot else "USDT"}
        side = {"linear": None if is_spot else True, "inverse": None if is_spot else False}
        rest = {"future": False, "option": False, "margin": False, "active": True}
        return {**names, **kind, **contract, **side, **rest, "precision": {}, "limits": {}}

    def take(self, text: str) -> None:
        "One frame; a REST snapshot goes through ccxt's own method that joins it."
        if not text.startswith('{"lastUpdateId"'):
            self.handle(text)
            return
        body = json.loads(text)

        async def reply(*_: Any) -> dict[str, Any]:
            book = self.exchange.parse_order_book(body, self.symbol)
            return {**book, "nonce": body["lastUpdateId"]}

        self.exchange.fetch_rest_order_book_safe = reply
        kind = {"symbol": self.symbol, "type": "spot" if self.is_spot else "linear"}
        try:
            self.exchange.fetch_order_book_snapshot(self.client, None, kind).send(None)
        except StopIteration:
            return

    def ladder(self) -> list[list[list[float]]]:
        "All bids and all asks."
        book = self.exchange.orderbooks[self.symbol]
        return [[list(row) for row in book[side]] for side in ("bids", "asks")]


def stream_of(name: str, book: str) -> OrderBookStream:
    _, venue, symbol = CAPTURES[name]
    return make_stream(venue, symbol, depth=20, book=book)


def feed_of(name: str, kind: type[Feed]) -> Feed:
    "A feed that builds no snapshots."
    stream = stream_of(name, "plain")
    feed = kind(stream._protocol(), [stream.instrument], 20)
    for sync in feed.syncs.values():
        sync.wants_books = False
    return feed


def assert_same_ladders(name: str, arrivals: list[Arrival]) -> None:
    "Both our feeds against ccxt, whole ladders, along the way and at the end."
    peer, feeds = Peer(name), [feed_of(name, kind) for kind in (Feed, CompiledFeed)]
    syncs = [next(iter(feed.syncs.values())) for feed in feeds]
    n_compared, states = 0, set()
    for number, arrival in enumerate(arrivals):
        peer.take(arrival.payload.decode())
        for feed in feeds:
            feed.handle(arrival)
        if (number % 100 == 0 or number == len(arrivals) - 1) and syncs[0].book_id >= 0:
            expected = peer.ladder()
            for sync in syncs:
                assert [side.tolist() for side in sync.book.ladder()] == expected, (name, number)
            assert expected[0][0][0] < expected[1][0][0], "crossed"
            n_compared, states = n_compared + 1, states | {str(expected)}
    assert n_compared == len(states) > 3, "nothing was compared, or the market stood still"
    snapshots = [
        [one for one in stream_of(name, book).replay(arrivals) if type(one) is OrderBookSnapshot]
        for book in ("plain", "compiled")
    ]
    assert len(snapshots[0]) == len(snapshots[1])
    assert all(one.same_as(other) for one, other in zip(*snapshots, strict=True))


# --- what is timed


def first_update(name: str, arrivals: list[Arrival]) -> int:
    "The number of the first message after the one with which the book stands."
    feed = feed_of(name, CompiledFeed)
    for number, arrival in enumerate(arrivals, start=1):
        feed.handle(arrival)
        if feed._followers:
            return number
    raise AssertionError(f"{name}: no book ever stood")


def run_peer(name: str, texts: list[str], first: int) -> float:
    "Seconds of ccxt.pro."
    peer = Peer(name)
    for text in texts[:first]:
        peer.take(text)
    start = time.process_time()
    for text in texts[first:]:
        peer.take(text)
    return time.process_time() - start


def run_replay(name: str, arrivals: list[Arrival], first: int, book: str) -> float:
    "Seconds of a replay with a snapshot event for every message."
    stream, started = stream_of(name, book), 0.0

    def source() -> Iterator[Arrival]:
        nonlocal started
        yield from arrivals[:first]
        started = time.process_time()
        yield from arrivals[first:]

    for _ in stream.replay(source()):
        pass
    return time.process_time() - started


def run_plain(name: str, arrivals: list[Arrival], first: int) -> float:
    "Seconds of parser, continuity and plain book alone."
    feed = feed_of(name, Feed)
    (sync,), parse = feed.syncs.values(), feed.protocol.parse
    for arrival in arrivals[:first]:
        feed.handle(arrival)
    start = time.process_time()
    for arrival in arrivals[first:]:
        for message in parse(arrival.payload):
            sync.take(message, arrival.ts_recv_ns)
    return time.process_time() - start


def run_compiled(name: str, arrivals: list[Arrival], first: int) -> float:
    "Seconds of the kernel alone."
    feed, rows = feed_of(name, CompiledFeed), np.empty((2, 0, 2))
    for arrival in arrivals[:first]:
        feed.handle(arrival)
    (one,) = feed._followers.values()
    start = time.process_time()
    for arrival in arrivals[first:]:
        found = one.take(arrival.payload, rows)
        assert found[0] == APPLIED
        one.sync.book_id = found[4]
    return time.process_time() - start


def tails(take: Callable[[Any], object], items: list[Any]) -> np.ndarray:
    "p50 and p99 of one message, µs of processor time."
    spent = np.empty(len(items))
    for i, item in enumerate(items):
        start = time.thread_time_ns()
        take(item)
        spent[i] = time.thread_time_ns() - start
    return np.percentile(spent, [50, 99]) / 1e3


def measure(name: str) -> dict[str, float]:
    "Median ratios of one recording."
    arrivals = depth_frames(name)
    texts, first = [one.payload.decode() for one in arrivals], first_update(name, arrivals)
    assert_same_ladders(name, arrivals)
    runs: dict[str, Callable[[], float]] = {
        "ccxt": partial(run_peer, name, texts, first),
        "replay plain": partial(run_replay, name, arrivals, first, "plain"),
        "replay compiled": partial(run_replay, name, arrivals, first, "compiled"),
        "alone plain": partial(run_plain, name, arrivals, first),
        "alone compiled": partial(run_compiled, name, arrivals, first),
    }
    spent: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(ROUNDS):
        for key, run in runs.items():
            gc.collect()
            spent[key].append(run())
    peer = np.array(spent.pop("ccxt"))
    ratios = {key: float(np.median(peer / np.array(own))) for key, own in spent.items()}
    stream = stream_of(name, "compiled")
    feed = CompiledFeed(stream._protocol(), [stream.instrument], 20)
    own_tails, peer_tails = tails(feed.handle, arrivals), tails(Peer(name).take, texts)
    ratios["p99 compiled"] = float(peer_tails[1] / own_tails[1])
    speed = (len(arrivals) - first) / np.median(peer)
    print(f"{name:6} {len(arrivals):5} messages, ccxt.pro {speed:8,.0f} a CPU-second", end="  ")
    print("  ".join(f"{key} {ratio:.1f}x" for key, ratio in ratios.items()), flush=True)
    return ratios


async def main() -> int:
    "Measure all recordings; ccxt wants a running loop."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 below the claims")
    is_checked = parser.parse_args().check
    warm()
    gc.disable()
    found = [measure(name) for name in CAPTURES]
    middle = {key: float(np.median([one[key] for one in found])) for key in found[0]}
    print("median of the recordings", "  ".join(f"{k} {ratio:.1f}x" for k, ratio in middle.items()))
    short = {
        key: limit
        for key, limit in (CLAIMS | {"p99 compiled": 10.0}).items()
        if middle[key] < limit
    }
    print("below the claims:", short or "none")
    return int(is_checked and bool(short))


if __name__ == "__main__":
    warnings.simplefilter("ignore", ResourceWarning)
    raise SystemExit(asyncio.run(main()))
