"""What is recorded reads back exactly, and nothing half written is left."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector.arrivals import VirtualArrivals
from gem_detector.core import NS_PER_S, Gap, InputError, OrderBookSnapshot, StreamState, Trade
from gem_detector.emulator import VenueServer, play
from gem_detector.frames import read_frames
from gem_detector.recorder import EventWriter, matrix, read_events, read_table, record, recordings
from gem_detector.simulator import DEFAULT_VENUES, simulate_market
from gem_detector.streams import make_stream

DAY_NS = 86_400 * NS_PER_S
NAMES = st.sampled_from([("binance", "BTC/USDT"), ("bybit", "BTC/USDT:USDT")])
STAMPS = st.integers(0, 3 * DAY_NS).map(lambda ns: 1_786_233_600 * NS_PER_S + ns)
NUMBERS = st.floats(1e-8, 1e12, allow_nan=False)
SIDES = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5).map(
    lambda rows: np.array(rows, float).reshape(-1, 2)
)
BOOKS = st.builds(
    lambda names, ts, bids, asks, ids: OrderBookSnapshot(
        *names, ts - 9, ts, bids, asks, ids, StreamState.SYNCED, ts - 9, ts - 5, min(len(bids), 3)
    ),
    NAMES,
    STAMPS,
    SIDES,
    SIDES,
    st.integers(-1, 2**62),
)
TRADES = st.builds(
    lambda names, ts, price, size, side, text: Trade(*names, ts - 3, ts, price, size, side, text),
    NAMES,
    STAMPS,
    NUMBERS,
    NUMBERS,
    st.sampled_from(["buy", "sell"]),
    st.text(max_size=8),
)
GAPS = st.builds(
    lambda names, ts, reason, n: Gap(*names, ts, reason, n, n + 2),
    NAMES,
    STAMPS,
    st.text(max_size=8),
    st.integers(-1, 2**62),
)


def same(a: object, b: object) -> bool:
    return a.same_as(b) if isinstance(a, OrderBookSnapshot) else a == b


@settings(max_examples=40, deadline=None)
@given(st.lists(BOOKS | TRADES | GAPS, min_size=1, max_size=30))
def test_events_read_back_in_their_order(tmp_path_factory, events: list) -> None:
    folder = tmp_path_factory.mktemp("events")
    with EventWriter(folder, depth=5) as writer:
        for event in sorted(events, key=lambda event: event.ts_recv_ns):
            writer.write(event)
    back = read_events(folder)
    wanted = sorted(events, key=lambda event: event.ts_recv_ns)
    assert len(back) == len(wanted) and all(same(a, b) for a, b in zip(back, wanted))
    assert not list(folder.rglob("*.part"))


def test_events_of_several_writers_read_back_in_the_order_of_receipt(tmp_path: Path) -> None:
    "As of two streams, or of two sessions: each writer counts for itself."
    stamps = [1_786_233_600 * NS_PER_S + i for i in (1, 3, 5, 2, 4, 100)]
    for name, part in (("a", stamps[:3]), ("b", stamps[3:])):
        with EventWriter(tmp_path, depth=5) as writer:
            for ts in part:
                writer.write(Trade("binance", "BTC/USDT", ts, ts, 1.0, 1.0, "buy", f"{name}{ts}"))
    assert [event.ts_recv_ns for event in read_events(tmp_path)] == sorted(stamps)


def test_tables_are_partitioned_by_venue_symbol_and_day(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as writer:
        for day in range(3):
            writer.write(Gap("bybit", "BTC/USDT:USDT", day * DAY_NS + 5, "sequence"))
    days = sorted(path.parent for path in tmp_path.rglob("*.parquet"))
    assert [str(day.relative_to(tmp_path)) for day in days] == [
        f"gaps/exchange=bybit/symbol=BTC%2FUSDT%3AUSDT/date=1970-01-0{n}" for n in (1, 2, 3)
    ]


def test_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no books of binance"):
        read_table(tmp_path, "books", exchange="binance")
    with pytest.raises(InputError, match="unknown kind of table 'quotes'"):
        read_table(tmp_path, "quotes")
    with pytest.raises(InputError, match="no recording"):
        recordings(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    with EventWriter(tmp_path) as writer:
        writer.write(Gap("bybit", "BTC/USDT:USDT", 5, "sequence"))
    (path,) = tmp_path.rglob("*.parquet")
    table = pq.read_table(path, partitioning=None)
    stamp = table.schema.metadata[b"gem"].replace(b'"version": 1', b'"version": 99')
    pq.write_table(table.replace_schema_metadata({b"gem": stamp}), path)
    with pytest.raises(InputError, match="99"):
        read_table(tmp_path, "gaps")


def test_a_recorded_session_replays_to_the_events_it_saw(tmp_path: Path) -> None:
    "Rotated every two seconds, so that the replay has to put several files together."
    market = simulate_market(seed=11, duration_s=8.0, venues=DEFAULT_VENUES[1:2])
    seen: list = []

    async def run() -> None:
        arrivals = VirtualArrivals(market.start_ns)
        async with VenueServer("bybit", market, arrivals=arrivals) as server:
            urls = {"url": server.url, "rest_url": server.rest_url}
            stream = make_stream("bybit", "BTC/USDT", arrivals=arrivals, **urls)
            stream.register_book_callback(seen.append)
            stream.register_trade_callback(seen.append)
            with record([stream], tmp_path, rotate_s=2.0):
                starting = asyncio.create_task(stream.start())
                await asyncio.sleep(0)
                await play([server], arrivals)
                await starting
                await stream.stop()

    asyncio.run(run())
    files = recordings(tmp_path)
    assert len(files) >= 4
    again = list(make_stream("bybit", "BTC/USDT").replay(files))
    assert len(again) == len(seen) > 100 and all(same(a, b) for a, b in zip(seen, again))
    stored = read_events(tmp_path)
    assert len(stored) == len(seen) and all(same(a, b) for a, b in zip(seen, stored))
    assert matrix(read_table(tmp_path, "books"), "bid_px").shape[1] == 20
    stamps = [arrival.ts_recv_ns for path in files for arrival in read_frames(path)]
    assert np.all(np.diff(stamps) > 0)


WRITER = """
import sys, time
from gem_detector.frames import Arrival
from gem_detector.recorder import RawWriter
from gem_detector.streams import make_stream
from pathlib import Path
raw = RawWriter(make_stream("bybit", "BTC/USDT"), Path(sys.argv[1]), 3600.0, 2**30)
for i in range(1, 10**9):
    raw.write(Arrival(i, "frame", b'{"n":%d}' % i))
    if i % 100 == 0:
        raw.write(Arrival(i, "timer", b""))
        print(i, flush=True)
        time.sleep(0.01)
"""


def test_kill_9_loses_nothing_that_was_told_to_be_safe(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            safe = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
    (part,) = tmp_path.rglob("*.part")
    numbers = [a.ts_recv_ns for a in read_frames(part, tolerant=True) if a.kind == "frame"]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= safe
    assert not list(tmp_path.rglob("*.zst"))
