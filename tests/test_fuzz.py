"""Whatever bytes come, a parser gives messages or a reason: no crash, hang or endless memory."""

import os
import subprocess
import sys
import time
import tracemalloc
from functools import cache
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_faults import PROTOCOLS, market_of, new_feed

from gem_detector.core import MalformedMessage
from gem_detector.emulator import VENUES
from gem_detector.frames import Arrival
from gem_detector.gateway import Line, gateways_of
from gem_detector.venues.htx import unzipped
from gem_detector.wire_faults import text_of

CI_S = 2.0  # seconds a venue here; in all twenty
LONG_S = 600.0  # under -m verify
SLOW_S = 1.0  # no frame of these sizes may take longer
MOST_BYTES = 64 * 2**20  # that a parser may hold at its peak


@cache
def corpus(name: str) -> tuple[bytes, ...]:
    "What a venue sends and answers, one of each kind and a few more, as text."
    protocol, _ = PROTOCOLS[name]
    market = market_of(1)
    gateways = gateways_of(protocol.exchange, market)
    venue, found = VENUES[protocol.exchange](gateways, market.start_ns), []
    symbol = market.tapes[name].instrument.venue_symbol
    for socket in protocol.sockets([symbol], 10):
        line = Line(socket.path)
        venue.opened(line, market.start_ns)
        for frame in (*socket.subscribe, *protocol.resubscribe(symbol, 10), b"{}"):
            venue.received(line, frame, market.start_ns)
        found += [text_of(f) for _, f in line.due(market.start_ns + 10**10) if isinstance(f, bytes)]
    calls = [protocol.snapshot_call(symbol, 10), protocol.trades_call(symbol), protocol.time_call()]
    found += [venue.rest(call.path, market.start_ns + 10**10)[1] for call in calls if call]
    by_kind = {(frame[:24], len(frame) // 64): frame for frame in found}
    return tuple(by_kind.values())[:60]


def try_out(name: str, payload: bytes) -> None:
    "Every way in which bytes reach a parser; anything but a reason is a failure."
    protocol, _ = PROTOCOLS[name]
    symbol = market_of(1).tapes[name].instrument.venue_symbol
    for parse in (
        protocol.parse,
        lambda body: protocol.parse_snapshot(body, symbol),
        lambda body: protocol.parse_trades(body, symbol),
        protocol.parse_time,
        unzipped,
    ):
        try:
            parse(payload)
        except MalformedMessage as error:
            assert str(error)


WORDS = (
    b"0",
    b"-1",
    b"1e400",
    b"9" * 5000,
    b"null",
    b"true",
    b'"x"',
    b"[" * 3000,
    b"{}",
    b"\xff",
    b"",
)


def mutated(frames: tuple[bytes, ...], rng: Random) -> bytes:
    "One to four changes: bits, cuts, words in place of values, pieces of other frames, repeats."
    frame = bytearray(rng.choice(frames))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(frame) + 1)
        end = min(len(frame), at + rng.randint(1, 24))
        way = rng.randrange(5)
        if way == 0 and at < len(frame):
            frame[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            del frame[at:end]
        elif way == 2:
            frame[at:end] = rng.choice(WORDS)
        elif way == 3:
            other = rng.choice(frames)
            start = rng.randrange(len(other))
            frame[at:at] = other[start : start + rng.randint(1, 200)]
        else:
            frame[at:at] = frame[at:end] * rng.randint(1, 50)
    return bytes(frame)


def hammer(name: str, seconds: float, seed: int) -> tuple[int, int, int]:
    "Mutated frames for so long, through a parser and a feed: frames, rejections and peak bytes."
    rng, frames, feed = Random(seed), corpus(name), new_feed(name)
    feed.handle(Arrival(1, "open", b"", ""))
    n, until = 0, time.monotonic() + seconds
    tracemalloc.start()
    try:
        while time.monotonic() < until:
            payload, n = mutated(frames, rng), n + 1
            began = time.monotonic()
            try_out(name, payload)
            feed.handle(Arrival(10**18 + n * 10**6, "frame", payload, ""))
            for kind in ("snapshot", "trades"):
                symbol = next(iter(feed.syncs.values())).instrument.venue_symbol
                feed.handle(Arrival(10**18 + n * 10**6 + 1, "rest", payload, f"{kind}:{symbol}"))
            feed.actions.clear()
            took = time.monotonic() - began
            assert took < SLOW_S, (took, payload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(feed.rejected.values()) == feed.rejected.total() > 0 and all(feed.rejected)
    assert len(feed.rejected) <= 101 and peak < MOST_BYTES
    return n, feed.rejected.total(), peak


@pytest.mark.parametrize("name", PROTOCOLS)
def test_mutated_frames(name: str, record_property) -> None:
    n, rejected, peak = hammer(name, CI_S, 7)
    record_property("frames, rejections, peak bytes", (n, rejected, peak))
    assert n > 100


@pytest.mark.verify
@pytest.mark.parametrize("name", PROTOCOLS)
def test_mutated_frames_for_ten_minutes(name: str, record_property) -> None:
    n, rejected, peak = hammer(name, LONG_S, time.time_ns())
    record_property("frames, rejections, peak bytes", (n, rejected, peak))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_values_of_any_kind_in_the_place_of_any_value(name: str, data: st.DataObject) -> None:
    "The shape of a real frame with one value exchanged for any JSON there is."
    import json

    frame = json.loads(data.draw(st.sampled_from([f for f in corpus(name) if f[:1] in b"{["])))
    at, parent, key = frame, None, None
    while isinstance(at, dict | list) and at:
        keys = sorted(at) if isinstance(at, dict) else list(range(len(at)))
        parent, key = at, data.draw(st.sampled_from(keys))
        if data.draw(st.booleans()) and not isinstance(at[key], dict | list):
            break
        at = at[key]
    if parent is not None:
        parent[key] = data.draw(JSON)
    try_out(name, json.dumps(frame).encode())


GUIDED = """
import sys
import atheris
with atheris.instrument_imports(include=["gem_detector"]):
    from gem_detector.venues import binance, bybit, coinbase, htx, kraken, okx
sys.path.insert(0, {tests!r})
from test_fuzz import try_out
atheris.Setup(sys.argv, lambda payload: try_out({name!r}, payload))
atheris.Fuzz()
"""


def guided(name: str, seconds: float, folder: Path) -> str:
    "The report of a coverage-guided run, which fails on a crash, a slow or a greedy input."
    pytest.importorskip("atheris", reason="no wheel of atheris for this Python")
    seeds = folder / "corpus"
    seeds.mkdir()
    for i, frame in enumerate(corpus(name)):
        (seeds / str(i)).write_bytes(frame)
    code = GUIDED.format(tests=str(Path(__file__).parent), name=name)
    limits = [
        "-timeout=2",
        "-rss_limit_mb=2048",
        f"-max_total_time={int(seconds)}",
        "-max_len=20000",
    ]
    command = [sys.executable, "-c", code, *limits, f"-artifact_prefix={folder}/", str(seeds)]
    root = str(Path(__file__).parent.parent)
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds + 120,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return next(line for line in reversed(ran.stderr.splitlines()) if line.startswith("Done"))


@pytest.mark.verify
@pytest.mark.parametrize("name", PROTOCOLS)
def test_guided_by_coverage_for_ten_minutes(name: str, tmp_path: Path, record_property) -> None:
    record_property("libFuzzer", guided(name, LONG_S, tmp_path))


def test_guided_by_coverage(tmp_path: Path) -> None:
    "A few seconds on one venue, so that the long run is known to start."
    assert "Done" in guided("htx spot", 3, tmp_path)
