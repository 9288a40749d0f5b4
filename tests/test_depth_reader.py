"""The compiled way from bytes to books against the plain way, on anything that may arrive."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import fuzz_depth_reader as fuzz
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from notebooks import PACKAGE, ROOT

from gem_detector.compiled_feed import CompiledFeed
from gem_detector.core import Event, InputError, OrderBookSnapshot
from gem_detector.frames import Arrival, read_frames
from gem_detector.markets import instrument
from gem_detector.streams import make_stream
from gem_detector.sync import Feed
from gem_detector.venues.binance import BinanceProtocol
from gem_detector.venues.bybit import BybitProtocol
from gem_detector.wire import VenueProtocol

START_NS = 1_723_161_255_000_000_000
SYMBOLS = {"spot": "BTC/USDT", "linear": "BTC/USDT:USDT"}
CAPTURES = {
    "spot": ("binance-2024-08-08/spot_btcusdt.gz", BinanceProtocol("spot"), ["BTC/USDT"]),
    "usdm": ("binance-2024-08-08/usdm_btcusdt.gz", BinanceProtocol("linear"), ["BTC/USDT:USDT"]),
    "bybit": (
        "wire-2026-08-frames/bybit_linear.gz",
        BybitProtocol("linear"),
        [f"{base}/USDT:USDT" for base in ("BTC", "ETH", "SOL", "DOGE")],
    ),
}


def is_same(one: Event | None, other: Event | None) -> bool:
    "Whether two events are equal bit for bit."
    if isinstance(one, OrderBookSnapshot) and isinstance(other, OrderBookSnapshot):
        return one.same_as(other)
    return one == other


def facts(feed: Feed) -> str:
    "Everything that a feed counts and knows."
    syncs = [
        (sync.state, sync.book_id, sync.channel, sorted(sync.counts.items()), list(sync.states))
        for sync in feed.syncs.values()
    ]
    clock = feed.clock.bound_ms, feed.clock.conflict_count
    books = [sync.book.orphan_deletes for sync in feed.syncs.values()]
    counts = sorted(feed.counts.items()), sorted(feed.rejected.items())
    return repr((counts, syncs, books, feed.latency.summary(), clock))


def assert_same_feeds(
    protocol: VenueProtocol, symbols: list[str], arrivals: list[Arrival], depth: int = 20
) -> tuple[int, int]:
    "Run both feeds side by side; how many updates there were, and how many took the short cut."
    markets = [instrument(protocol.exchange, symbol) for symbol in symbols]
    quick, plain = CompiledFeed(protocol, markets, depth), Feed(protocol, markets, depth)
    n_plain, parse = [0], quick.protocol.parse

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(protocol, name)

        def parse(self, payload: bytes) -> list[Any]:
            n_plain[0] += 1
            return parse(payload)

    quick.protocol = Counting()
    n_frames = 0
    for number, arrival in enumerate(arrivals):
        found, expected = quick.handle(arrival), plain.handle(arrival)
        assert len(found) == len(expected), (number, arrival.payload[:200])
        assert all(map(is_same, found, expected)), (number, arrival.payload[:200])
        assert quick.actions == plain.actions
        n_frames += arrival.kind == "frame"
    assert facts(quick) == facts(plain)
    for one, other in zip_longest(quick.syncs.values(), plain.syncs.values()):
        assert all(map(np.array_equal, one.book.ladder(), other.book.ladder()))
    return n_frames, n_frames - n_plain[0]


# --- markets made up by hypothesis

prices = st.sampled_from([f"{99 + tick / 100:.2f}" for tick in range(0, 200, 10)])
sizes = st.sampled_from(["0", "0.00000000", "1", "2.50000000", "0.001"])
levels = st.lists(st.tuples(prices, sizes), max_size=4)
steps = st.lists(
    st.tuples(
        st.sampled_from(
            "delta delta delta delta delta delta lost again snapshot odd spaced other broken "
            "close timer crossed full".split()
        ),
        levels,
        levels,
        st.integers(0, 10**6),
    ),
    min_size=1,
    max_size=40,
)


def text_of(levels: list[tuple[str, str]]) -> str:
    return json.dumps([list(level) for level in levels], separators=(",", ":"))


class Venue:
    "Frames of one market, with running ids."

    def __init__(self, exchange: str, market: str) -> None:
        self.exchange, self.market, self.id, self.ms = exchange, market, 100, START_NS // 1_000_000

    def snapshot(self, bids: list, asks: list) -> Arrival | bytes:
        "A full book as of now."
        b, a = (text_of(rows) for rows in (bids, asks))
        if self.exchange == "binance":
            return f'{{"lastUpdateId":{self.id},"bids":{b},"asks":{a}}}'.encode()
        return self.delta(bids, asks, step=0).replace(b'"delta"', b'"snapshot"')

    def delta(self, bids: list, asks: list, step: int = 1) -> bytes:
        "An update; `step` ids on."
        before, self.id, self.ms = self.id, self.id + step, self.ms + 100
        form = next(f for f, p in zip(fuzz.FORMS, fuzz.PROTOCOLS, strict=True) if self.is_of(p))
        numbers = {1: before + 1, 2: self.id, 3: before, 4: self.ms - 1, 5: self.ms, 6: 5}
        for code, number in numbers.items():
            form = form.replace(bytes([code]), b"%d" % number)
        b, a = (text_of(rows).encode() for rows in (bids, asks))
        return form.replace(b"\x07", b).replace(b"\x08", a)

    def is_of(self, protocol: VenueProtocol) -> bool:
        return (protocol.exchange, protocol.market_type) == (self.exchange, self.market)


def arrivals_of(venue: Venue, script: list[tuple]) -> list[Arrival]:
    "What a script makes a venue send."
    found: list[Arrival] = [Arrival(START_NS, "open", b"", "public")]
    rest = ("rest", "snapshot:BTCUSDT") if venue.exchange == "binance" else ("frame", "public")
    low = [(f"{98 - i / 100:.2f}", "1") for i in range(3)]
    high = [(f"{102 + i / 100:.2f}", "1") for i in range(3)]

    def add(payload: bytes, kind: str = "frame", socket: str = "public") -> None:
        found.append(Arrival(found[-1].ts_recv_ns + 70_000_000, kind, payload, socket))

    add(venue.snapshot(low, high), *rest)
    last = venue.delta([], [])
    add(last)
    for what, bids, asks, number in script:
        if what == "again":
            add(last)
            continue
        if what == "lost":
            venue.id += 3
        if what in ("close", "timer"):
            add(b"", what)
            if what == "close":
                add(b"", "open")
            continue
        if what == "snapshot":
            add(venue.snapshot(low + bids, high + asks), *rest)
            continue
        if what == "full":  # hundreds of rows, so that tables grow
            bids = [(f"{1 + (number + i * 7) % 9_000 / 100:.2f}", "1") for i in range(600)]
        if what == "crossed":
            bids = [*bids, ("500.00", "1")]
        kept = [level for level in bids if float(level[0]) < 100 or what == "crossed"]
        last = venue.delta(kept, [level for level in asks if float(level[0]) >= 100])
        if what == "odd":
            last = last.replace(b'"b":', b'"st":1,"b":')
        elif what == "spaced":
            last = last.replace(b",", b", ")
        elif what == "other":
            last = last.replace(b"BTCUSDT", b"ETHUSDT")
        elif what == "broken":
            last = fuzz.changed(random.Random(number), last)
        add(last)
    return found


@pytest.mark.parametrize(
    ("exchange", "market"), [(p.exchange, p.market_type) for p in fuzz.PROTOCOLS]
)
@settings(max_examples=40, deadline=None)
@given(script=steps)
def test_both_feeds_agree_whatever_comes(exchange: str, market: str, script: list[tuple]) -> None:
    protocol = {"binance": BinanceProtocol, "bybit": BybitProtocol}[exchange](market)
    assert_same_feeds(protocol, [SYMBOLS[market]], arrivals_of(Venue(exchange, market), script))


@pytest.mark.parametrize("depth", [1, 127, 128, 129, 300])
def test_any_depth(depth: int) -> None:
    "Beyond what a filled window holds, the book is asked for its rows."
    venue = Venue("binance", "spot")
    script = [("full", [], [("101.00", "1")], 13 * i) for i in range(6)]
    script += [("delta", [("99.10", size)], [], 0) for size in ("1", "0", "2")]
    n_frames, n_quick = assert_same_feeds(
        BinanceProtocol("spot"), ["BTC/USDT"], arrivals_of(venue, script), depth
    )
    assert n_quick == n_frames - 1  # all but the first: with it the book stands


# --- recordings


def arrivals_in(path: Path, n: int | None = None) -> list[Arrival]:
    return list(read_frames(path))[:n]


@pytest.mark.parametrize("name", CAPTURES)
def test_both_feeds_agree_on_recordings(gem_data: Path, name: str) -> None:
    path, protocol, symbols = CAPTURES[name]
    arrivals = arrivals_in(gem_data / path)
    n_updates = sum(
        b'"depthUpdate"' in one.payload or b'"orderbook.' in one.payload[:30] for one in arrivals
    )
    _, n_quick = assert_same_feeds(protocol, symbols, arrivals)
    assert n_quick > 0.99 * n_updates


def spoiled(arrivals: list[Arrival], rng: random.Random) -> list[Arrival]:
    "Frames lost, repeated, swapped, cut and changed, one in sixty."
    found: list[Arrival] = []
    for one in arrivals:
        kind = rng.randrange(360)
        payload = fuzz.changed(rng, one.payload) if kind == 0 else one.payload
        payload = payload[: rng.randrange(len(payload))] if kind == 1 else payload
        if kind != 2:
            found.append(Arrival(one.ts_recv_ns, one.kind, payload, one.socket))
        if kind == 3:
            found.append(found[-1])
        if kind == 4 and len(found) > 1:
            found[-1].payload, found[-2].payload = found[-2].payload, found[-1].payload
        if kind == 5:
            found.append(Arrival(one.ts_recv_ns, "close", b"", one.socket))
            found.append(Arrival(one.ts_recv_ns, "open", b"", one.socket))
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CAPTURES)
def test_both_feeds_agree_on_spoiled_recordings(gem_data: Path, name: str, seed: int) -> None:
    path, protocol, symbols = CAPTURES[name]
    arrivals = arrivals_in(gem_data / path)
    snapshots = [one for one in arrivals if b'"lastUpdateId"' in one.payload[:20]]
    depth = [one for one in arrivals if b"epth" in one.payload[:40] or b"book." in one.payload[:20]]
    part = snapshots + [one for one in depth if one not in snapshots][:2_500]
    part.sort(key=lambda one: one.ts_recv_ns)
    again = [Arrival(part[-1].ts_recv_ns, "frame", one.payload, one.socket) for one in snapshots]
    assert_same_feeds(protocol, symbols, spoiled(part, random.Random(seed)) + again)


@pytest.mark.parametrize("name", ["spot", "usdm"])
def test_streams_of_both_kinds_replay_alike(gem_data: Path, name: str) -> None:
    path, _, symbols = CAPTURES[name]
    streams = [make_stream("binance", symbols[0], book=book) for book in ("compiled", "plain")]
    assert [stream.is_compiled for stream in streams] == [True, False]
    arrivals = arrivals_in(gem_data / path, 20_000)
    events = [list(stream.replay(arrivals)) for stream in streams]
    assert len(events[0]) == len(events[1]) > 1_000 and all(map(is_same, *events))
    assert repr(streams[0].get_stats()) == repr(streams[1].get_stats())  # nan equals itself


def test_a_book_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="'compiled' or 'plain', got 'quick'"):
        make_stream("binance", "BTC/USDT", book="quick")


# --- any bytes


@settings(max_examples=300, deadline=None)
@given(which=st.integers(0, 3), seed=st.integers(0, 2**32 - 1), n=st.integers(0, 6))
def test_a_taken_frame_is_what_the_parser_reads(which: int, seed: int, n: int) -> None:
    rng = random.Random(seed)
    frame = fuzz.SEEDS[3 * which + seed % 3]
    for _ in range(n):
        frame = fuzz.changed(rng, frame)
    fuzz.check(which, frame)


@pytest.fixture
def fuzzer(tmp_path: Path) -> Callable[..., str]:
    "Run the fuzzer on a copy of the package: its kernels are compiled anew, as the settings ask."
    shutil.copytree(
        ROOT / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__")
    )
    corpus = tmp_path / "corpus"
    corpus.mkdir()

    def run(seconds: float, **settings: str) -> str:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
        clean |= {"PYTHONPATH": str(tmp_path), "FUZZ_CORPUS": str(corpus)}
        script = str(ROOT / "tests" / "fuzz_depth_reader.py")
        found = [str(path) for path in corpus.iterdir()]
        ran = subprocess.run(
            [sys.executable, script, str(seconds), *found],
            capture_output=True,
            text=True,
            check=False,
            env=clean | settings,
            cwd=tmp_path,
        )
        assert ran.returncode == 0, (ran.stdout + ran.stderr)[-4_000:]
        return ran.stdout + ran.stderr

    return run


def test_fuzzing_finds_nothing(fuzzer: Callable[..., str]) -> None:
    assert fuzzer(8, NUMBA_DISABLE_JIT="1")
    assert "frames tried" in fuzzer(12, NUMBA_BOUNDSCHECK="1")


@pytest.mark.verify
def test_fuzzing_for_ten_minutes_finds_nothing(fuzzer: Callable[..., str]) -> None:
    assert fuzzer(300, NUMBA_DISABLE_JIT="1")
    assert "frames tried" in fuzzer(600, NUMBA_BOUNDSCHECK="1")
