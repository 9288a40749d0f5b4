"""Connections that fail, lie, rotate and are shared: what listeners see of it, which is nothing."""

import asyncio
import json
import random
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from gem_detector import aggregator
from gem_detector.arrivals import VirtualArrivals, WallArrivals
from gem_detector.cli import recorded_feeds
from gem_detector.connection import Connection, HostAttempts, host_attempts
from gem_detector.core import NS_PER_S, FeedError, Gap, OrderBookSnapshot, StreamState, Trade
from gem_detector.emulator import VenueServer, play
from gem_detector.feed_commands import recorded_latencies
from gem_detector.frames import Arrival
from gem_detector.gap_report import gap_report
from gem_detector.gateway import Gateway
from gem_detector.live_session import SHUTDOWN, is_passing
from gem_detector.markets import instrument
from gem_detector.recorder import record, recordings
from gem_detector.rest import RestClient, host_budget
from gem_detector.simulator import DEFAULT_VENUES, VenueTape, simulate_market
from gem_detector.stream_face import Life, StreamFace
from gem_detector.streams import BybitOrderBookStream, OrderBookStream, make_stream, make_streams
from gem_detector.wire import RestCall, Socket

BINANCE, BYBIT, COINBASE = DEFAULT_VENUES
VENUES = [
    *DEFAULT_VENUES,
    replace(BYBIT, instrument=instrument("binance", "BTC/USDT:USDT"), name="binance_linear"),
    replace(COINBASE, instrument=instrument("kraken", "BTC/USD"), name="kraken"),
    replace(BINANCE, instrument=instrument("okx", "BTC/USDT"), name="okx"),
    replace(BINANCE, instrument=instrument("htx", "BTC/USDT"), name="htx"),
    replace(BYBIT, instrument=instrument("htx", "BTC/USDT:USDT"), name="htx_swap"),
]


def listen(stream: OrderBookStream) -> list:
    seen: list = []
    stream.register_book_callback(seen.append)
    stream.register_trade_callback(seen.append)
    stream.register_gap_callback(seen.append)
    return seen


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        a.same_as(b) if isinstance(a, OrderBookSnapshot) else a == b for a, b in zip(one, other)
    )


# --- make before break


async def followed(spec, market, folder: Path | None = None, **options: float) -> tuple[list, dict]:
    "A stream that follows an emulated venue; its connections live for some seconds."
    arrivals, names = VirtualArrivals(market.start_ns), spec.instrument
    async with VenueServer(names.exchange, market, arrivals=arrivals) as server:
        urls = {"url": server.url, "rest_url": server.rest_url, "record_to": folder}
        stream = make_stream(names.exchange, names.symbol, arrivals=arrivals, **urls, **options)
        seen = listen(stream)
        starting = asyncio.create_task(stream.start())
        await asyncio.sleep(0)
        await play([server], arrivals)
        await starting
        stats = stream.get_stats()
        await stream.stop()
    return seen, stats


@pytest.mark.parametrize("spec", VENUES, ids=lambda spec: spec.key)
def test_a_handover_shows_in_no_event(spec, tmp_path: Path) -> None:
    "Every trade once, every book but for its own numbering, no gap; the recording replays to it."
    market = simulate_market(seed=21, duration_s=20.0, venues=[spec])
    plain, _ = asyncio.run(followed(spec, market))
    rotated, stats = asyncio.run(followed(spec, market, tmp_path, rotate_after=6.0))
    assert stats["rotations"] >= 2 and stats["reconnects"] == 0 and stats["gaps"] == 0
    assert not any(isinstance(event, Gap) for event in rotated)
    trades = [[e.trade_id for e in events if isinstance(e, Trade)] for events in (plain, rotated)]
    assert trades[0] == trades[1] and len(trades[0]) == len(set(trades[0])) > 10
    books = [
        [(e.ts_event_ns, e.bids.tobytes(), e.asks.tobytes()) for e in events if hasattr(e, "bids")]
        for events in (plain, rotated)
    ]
    assert len(books[0]) == len(books[1]) > 50 and books[0] == books[1]
    (path,) = tmp_path.glob("*.frames.zst")
    again = list(make_stream(spec.instrument.exchange, spec.instrument.symbol).replay(path))
    assert same(again, rotated)
    (report,) = gap_report(path)
    assert report["gaps"] == 0 and report["reconnects"] == 0


def test_an_announced_shutdown_is_a_handover() -> None:
    "The venue says serverShutdown and closes two seconds later: too late to be noticed."

    async def test() -> None:
        market = simulate_market(seed=22, duration_s=12.0, venues=[BINANCE])
        arrivals = VirtualArrivals(market.start_ns)
        async with VenueServer("binance", market, arrivals=arrivals) as server:
            urls = {"url": server.url, "rest_url": server.rest_url}
            stream = make_stream("binance", "BTC/USDT", arrivals=arrivals, **urls)
            seen = listen(stream)
            starting = asyncio.create_task(stream.start())
            await asyncio.sleep(0)
            await play([server], arrivals, market.start_ns + 4 * NS_PER_S)
            notice = b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}'
            (old,) = server.sockets
            old.put(arrivals.now_ns(), notice)
            await old.flush()
            await play([server], arrivals, market.start_ns + 6 * NS_PER_S)
            assert len(server.sockets) == 1 and server.sockets[0] is not old
            await play([server], arrivals)
            await starting
            assert stream.get_stats()["rotations"] == 1 and stream.state is StreamState.SYNCED
            await stream.stop()
        assert not any(isinstance(event, Gap) for event in seen)

    asyncio.run(test())
    assert SHUTDOWN


def test_a_generation_that_cannot_connect_costs_nothing() -> None:
    "The venue takes one connection only: every rotation fails, and the old one goes on."
    opened: list[int] = []

    async def venue(ws: ServerConnection) -> None:
        opened.append(1)
        if len(opened) > 1:
            await ws.close(1008, "one is enough")
        for u in range(7, 1000):
            await ws.send(book("snapshot" if u == 7 else "delta", u))
            await asyncio.sleep(0.02)

    async def test() -> None:
        async with bybit(venue, rotate_after=1.2) as stream:
            seen = listen(stream)
            await stream.start()
            await until(lambda: len(opened) >= 3, 20)
            assert stream.state is StreamState.SYNCED
            assert not any(isinstance(event, Gap) for event in seen)
            assert stream.get_stats()["counts"]["failed_rotations"] >= 1

    run(test)


# --- hosts


def test_failures_of_one_host_slow_all_its_connections() -> None:
    one = host_attempts("ws://127.0.0.1:9/a", 0.5, 4.0)
    other = host_attempts("ws://127.0.0.1:9/b", 0.5, 4.0)
    assert one is other and host_attempts("ws://127.0.0.1:10/a", 0.5, 4.0) is not one
    first, second = one.delays(), other.delays()
    for ceiling in (0.5, 1.0, 2.0, 4.0, 4.0):
        assert 0 <= next(first) <= ceiling and 0 <= next(second) <= ceiling
        assert one.ceiling_s == ceiling
    one.lived()
    assert next(second) <= 0.5


def test_rest_refusals_pause_the_whole_host() -> None:
    asked: list[float] = []
    replies = [(429, "1"), (200, ""), (503, ""), (200, "")]

    def answer(ws: ServerConnection, request: object) -> object:
        asked.append(time.monotonic())
        status, wait = replies[len(asked) - 1]
        response = ws.respond(status, "{}")
        if wait:
            response.headers["Retry-After"] = wait
        return response

    async def test() -> None:
        async with serve(lambda ws: ws.wait_closed(), "127.0.0.1", 0, process_request=answer) as s:
            url = f"http://127.0.0.1:{s.sockets[0].getsockname()[1]}"
            clients = [RestClient(url, WallArrivals()) for _ in range(2)]
            bodies = []
            for i in range(4):
                future: asyncio.Future[bytes] = asyncio.Future()
                call = RestCall("snapshot", f"/depth?{i}")
                clients[i % 2].get(call, lambda ts, body, to=future: to.set_result(body))
                bodies.append(await future)
            assert bodies == [b"", b"{}", b"", b"{}"]
            counts = clients[0].counts + clients[1].counts
            assert counts["limited"] == 1 and counts["server_errors"] == 1 and counts["waited"] == 2
            for client in clients:
                await client.close()

    asyncio.run(asyncio.wait_for(test(), 30))
    assert asked[1] - asked[0] > 0.95 and asked[3] - asked[2] > 0.9


def test_the_budget_of_a_host_is_one() -> None:
    one, other = host_budget("https://x.test/a", 60.0), host_budget("https://x.test/b", 60.0)
    assert one is other
    waits = [one.wait_ns(10, 10**18) / NS_PER_S for _ in range(8)]
    assert waits == [0, 0, 0, 0, 0, 0, 10, 20]


@pytest.mark.parametrize(
    "words, is_so",
    [
        ("too-many-request: 429 too many request", True),
        ("-1003: Too many requests; current limit of IP is 2400", True),
        ("10006: Too many visits!", True),
        ("50011: Rate limit reached", True),
        ("60014: Requests too frequent", True),
        ("Exceeded msg rate", True),
        ("EService:Unavailable", True),
        ("bad-request: invalid topic market.btcusdt4290", False),
        ("error:handler not found", False),
        ("Currency pair not supported BTC/EUR", False),
        ("", False),
    ],
)
def test_not_now_is_no_refusal(words: str, is_so: bool) -> None:
    assert is_passing(words) is is_so


def test_a_subscription_that_came_too_early_is_made_again() -> None:
    "429 on the socket: start waits, reconnects with backoff, and has its book."
    tried: list[int] = []

    async def venue(ws: ServerConnection) -> None:
        tried.append(1)
        if len(tried) < 3:
            words = '{"success":false,"ret_msg":"Too many visits! 10006","op":"subscribe"}'
            await ws.send(words)
            return
        await ws.send(book("snapshot", 7))

    async def test() -> None:
        async with bybit(venue) as stream:
            await stream.start(timeout=10)
            assert stream.book.sequence == 7 and len(tried) == 3

    run(test)


# --- one socket


def book(kind: str, u: int, bid: str = "100", symbol: str = "BTCUSDT") -> str:
    data = {"s": symbol, "b": [[bid, "1"]], "a": [["200", "1"]], "u": u, "seq": u}
    head = {"topic": f"orderbook.50.{symbol}", "type": kind, "ts": u, "cts": u}
    return json.dumps({**head, "data": data})


@asynccontextmanager
async def bybit(
    handler: Callable[[ServerConnection], Awaitable[None]], **options: object
) -> AsyncIterator[BybitOrderBookStream]:
    "A stream whose venue is a handler of ours; REST calls get 404."

    def plain(ws: ServerConnection, request: object) -> object:
        return ws.respond(404, "none") if "/market/" in request.path else None

    async def serve_one(ws: ServerConnection) -> None:
        try:
            await ws.recv()
            await handler(ws)
            await ws.wait_closed()
        except ConnectionClosed:
            return

    async with serve(serve_one, "127.0.0.1", 0, process_request=plain) as server:
        port = server.sockets[0].getsockname()[1]
        urls = {"url": f"ws://127.0.0.1:{port}", "rest_url": f"http://127.0.0.1:{port}"}
        stream = BybitOrderBookStream("BTC/USDT", reconnect_delay=0.01, **urls, **options)
        try:
            yield stream
        finally:
            await stream.stop()


async def until(is_true: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_true():  # noqa: ASYNC110 (a test may poll)
            await asyncio.sleep(0.005)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def test_a_half_open_socket_is_noticed() -> None:
    "A wire that swallows everything after a while, without a word to either end."

    async def test() -> None:
        closed: list[str] = []
        swallows = asyncio.Event()

        async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(4096):
                if not swallows.is_set():
                    writer.write(data)

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            upstream = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pipe(reader, upstream[1]), pipe(upstream[0], writer))

        quick = {"close_timeout": 0.2}
        async with serve(lambda ws: ws.wait_closed(), "127.0.0.1", 0, **quick) as server:
            port = server.sockets[0].getsockname()[1]
            wire = await asyncio.start_server(handle, "127.0.0.1", 0)
            url = f"ws://127.0.0.1:{wire.sockets[0].getsockname()[1]}"

            def receive(arrival: Arrival) -> None:
                if arrival.kind == "open":
                    swallows.set()
                elif arrival.kind == "close":
                    closed.append(arrival.payload.decode())

            attempts = HostAttempts(30.0, 30.0)
            socket = Socket("public", "/")
            connection = Connection(socket, url, WallArrivals(), receive, attempts, alive_s=0.2)
            running = asyncio.create_task(connection.run())
            await until(lambda: bool(closed), 10)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            wire.close()
        assert "keepalive ping timeout" in closed[0]

    run(test)


def test_a_certificate_that_nobody_vouches_for_ends_the_stream(tmp_path: Path) -> None:
    key, crt = tmp_path / "key.pem", tmp_path / "crt.pem"
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-keyout", str(key), "-out", str(crt)),
        ],
        capture_output=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr

    async def test() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(crt, key)
        async with serve(lambda ws: ws.wait_closed(), "127.0.0.1", 0, ssl=context) as server:
            port = server.sockets[0].getsockname()[1]
            urls = {"url": f"wss://localhost:{port}", "rest_url": "http://127.0.0.1:9"}
            with pytest.raises(FeedError, match="CERTIFICATE_VERIFY_FAILED"):
                await BybitOrderBookStream("BTC/USDT", **urls).start(timeout=10)

    run(test)


def test_a_frame_that_is_too_large_is_a_gap_and_not_a_full_memory() -> None:
    opened: list[int] = []

    async def venue(ws: ServerConnection) -> None:
        opened.append(1)
        await ws.send(book("snapshot", len(opened)))
        if len(opened) == 1:
            await ws.send("x" * (17 * 2**20))

    async def test() -> None:
        async with bybit(venue) as stream:
            seen = listen(stream)
            await stream.start()
            await until(lambda: len(opened) == 2 and stream.book is not None, 20)
            assert [e.reason for e in seen if isinstance(e, Gap)] == ["disconnected"]
            (connection,) = stream.get_stats()["connections"]
            assert "1009" in connection["last_close"]

    run(test)


# --- listeners


def test_a_listener_that_lags_loses_the_oldest_and_is_told() -> None:
    async def test() -> None:
        go = asyncio.Event()

        async def venue(ws: ServerConnection) -> None:
            await ws.send(book("snapshot", 1))
            await go.wait()
            for u in range(2, 12_102):
                await ws.send(book("delta", u))

        async with bybit(venue, book="plain") as stream:
            await stream.start()
            events = stream.events()
            first = asyncio.create_task(anext(events))
            await asyncio.sleep(0)
            go.set()
            await first
            await until(lambda: stream.book.sequence == 12_101, 30)
            stats = stream.get_stats()
            assert stats["dropped_events"] > 2_000 and stats["queued_events"] == 10_000
            dropped = stats["dropped_events"]
            await events.aclose()
            assert stream.get_stats()["dropped_events"] == dropped  # also when it is gone

    run(test)


def test_callbacks_that_hold_the_loop_are_counted() -> None:
    def kernel(event: OrderBookSnapshot) -> None:
        time.sleep(0.05)

    async def model(event: OrderBookSnapshot) -> None:
        await asyncio.sleep(0.1)  # waiting is free
        time.sleep(0.05)  # noqa: ASYNC251 (this is not)

    async def test() -> None:
        async with bybit(lambda ws: ws.send(book("snapshot", 1))) as stream:
            stream.register_book_callback(kernel)
            stream.register_book_callback(model)
            await stream.start()
            await until(lambda: len(stream.get_stats()["slow_callbacks"]) == 2)
            for facts in stream.get_stats()["slow_callbacks"].values():
                assert facts["count"] == 1 and 50 <= facts["worst_ms"] < 95

    run(test)


# --- several symbols on one connection


def test_symbols_that_share_a_connection_have_books_of_their_own(tmp_path: Path) -> None:
    connections: list[str] = []
    go = asyncio.Event()

    async def venue(ws: ServerConnection) -> None:
        connections.append("open")
        for symbol in ("BTCUSDT", "ETHUSDT"):
            await ws.send(book("snapshot", 7, symbol=symbol))
        await go.wait()
        await ws.send(book("delta", 9, symbol="ETHUSDT"))  # 8 is lost
        await ws.send(book("delta", 8, symbol="BTCUSDT"))
        await asyncio.sleep(0.2)

    async def test() -> None:
        async with bybit(venue) as single:
            settings = single.live.settings
            urls = {"url": settings.url, "rest_url": settings.rest_url}
            streams = make_streams("bybit", ["BTC/USDT", "ETH/USDT"], **urls)
            seen = [listen(stream) for stream in streams]
            with record(streams, tmp_path):
                await asyncio.gather(*(stream.start() for stream in streams))
                go.set()
                await until(lambda: streams[1].gap_count == 1 and streams[0].book.sequence == 8)
                assert streams[0].gap_count == 0 and connections == ["open"]
                await streams[1].stop()
                assert streams[0].is_running and not streams[1].is_running
                await streams[0].stop()
        for stream, events in zip(streams, seen):
            assert {event.symbol for event in events} == {stream.symbol}

    run(test)
    (path,) = recordings(tmp_path)
    for symbol, n_gaps in (("BTC/USDT", 0), ("ETH/USDT", 1)):
        events = list(make_stream("bybit", symbol).replay(path))
        assert sum(isinstance(event, Gap) for event in events) == n_gaps
    reports = {one["symbol"]: one["gaps"] for one in gap_report(path)}
    assert reports == {"BTC/USDT:USDT": 0, "ETH/USDT:USDT": 1}
    symbols = {row["symbol"] for row in recorded_latencies(tmp_path)}
    assert symbols == set(reports)  # the commands find every symbol that shared the connection
    asked = SimpleNamespace(files=[tmp_path], tolerant=False, depth=20)
    assert {feed.stream.symbol for feed in recorded_feeds(asked)} == set(reports)


# --- clocks


@pytest.mark.parametrize(("venue", "offset_ms"), [("bybit", 2000.0), ("kraken", -2000.0)])
def test_the_true_offset_lies_within_the_error_bar(
    venue: str, offset_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    "Offset ± 2 s, drift 50 ppm, 5 to 15 ms each way, twenty minutes of an emulated venue."
    base = BYBIT if venue == "bybit" else COINBASE
    name = instrument(venue, "BTC/USDT:USDT" if venue == "bybit" else "BTC/USD")
    quiet = {"change_rate_hz": 1.0, "trade_rate_hz": 0.05, "batch_ms": 1000.0, "depth_levels": 12}
    is_rest = venue == "bybit"  # Kraken answers on the socket, at once
    wire_ms, inside_ms = (5.0, 2.4) if is_rest else (10.0, 4.9)
    way = {"wire_ms": wire_ms, "wire_jitter_ms": 1.0, "clock_offset_ms": offset_ms}
    spec = replace(base, instrument=name, name="", **quiet, **way)
    market = simulate_market(31, 1200.0, [spec])
    rng = random.Random(7)

    def drifting(tape: VenueTape, ts_ns: np.ndarray) -> np.ndarray:
        "50 ppm on top of the offset, in messages and answers."
        stamps = shown(tape, ts_ns)
        return stamps + np.rint(50e-6 * (np.asarray(ts_ns) - market.start_ns)).astype(np.int64)

    def inside(gateway: Gateway, ts_ns: int) -> int:
        "An answer is stamped before or after the middle of its trip: ways of 5 to 15 ms."
        return asked(gateway, ts_ns + round(rng.uniform(-inside_ms, inside_ms) * 1e6))

    shown, asked = VenueTape.stamp_ns, Gateway.clock_ns
    monkeypatch.setattr(VenueTape, "stamp_ns", drifting)
    monkeypatch.setattr(Gateway, "clock_ns", inside)

    async def test() -> None:
        arrivals = VirtualArrivals(market.start_ns)
        async with VenueServer(venue, market, arrivals=arrivals, rest_delay_ms=10.0) as server:
            urls = {"url": server.url, "rest_url": server.rest_url, "book": "plain"}
            stream = make_stream(venue, name.symbol, arrivals=arrivals, **urls)
            trips: list[int] = []
            probed: list[int] = []
            bars: list[tuple[float, ...]] = []  # at each arrival: since when, truth, offset, error
            at_probe: list[float] = []  # the error right after each probe

            def tap(arrival: Arrival) -> None:
                ts_ns, clock = arrival.ts_recv_ns, stream.clock_sync
                if clock.is_known:
                    truth = offset_ms * 1e6 + 50e-6 * (ts_ns - market.start_ns)
                    since_ns = ts_ns - market.start_ns
                    bars.append((since_ns, truth, *clock.offset_at(ts_ns), min(trips)))
                if len(at_probe) < len(trips):
                    at_probe.append(clock.offset_at(probed[-1])[1])
                if arrival.kind == "probe":
                    trips.append(ts_ns - json.loads(arrival.payload)["sent_ns"])
                    probed.append(ts_ns)

            stream.register_arrival_callback(tap)
            starting = asyncio.create_task(stream.start())
            await asyncio.sleep(0)
            await play([server], arrivals)
            await starting
            stats = stream.get_stats()
            await stream.stop()
        assert len(trips) >= 110 and stats["counts"].get("failed_probe", 0) <= 1
        since, truth, offset, error, smallest = np.array(bars).T
        assert np.all(np.abs(truth - offset) <= error + 512)  # half an ulp of such sums
        assert stats["clock"]["step_count"] == 0 and abs(stats["clock"]["drift_ppm"] - 50) < 25
        step_ns = 1_000 if venue == "kraken" else 1_000_000
        assert at_probe[0] <= 1.0001 * (trips[0] + step_ns) / 2 + 1  # one probe: no more is known
        half_ns = np.minimum.accumulate(trips)[: len(at_probe)] / 2
        assert np.all(at_probe[1:] <= half_ns[1:])
        assert np.all((error <= smallest / 2)[since > 60e9])  # between the probes, too
        assert stats["clock"]["error_ms"] < 0.93 * half_ns[-1] / 1e6

    asyncio.run(asyncio.wait_for(test(), 120))


# --- ends


def test_a_dead_server_does_not_hold_up_the_others() -> None:
    "One of two emulated venues is switched off half-way; simulated time goes on for the other."
    market = simulate_market(3, 20.0, [BYBIT, BINANCE])

    async def test() -> None:
        arrivals = VirtualArrivals(market.start_ns, patience_s=15.0)
        names = ("bybit", "binance")
        servers = [VenueServer(name, market, arrivals=arrivals) for name in names]
        streams = []
        for server in servers:
            await server.__aenter__()
            (spec,) = (one for one in (BYBIT, BINANCE) if one.instrument.exchange == server.venue)
            name = spec.instrument.symbol
            urls = {"url": server.url, "rest_url": server.rest_url}
            streams.append(make_stream(server.venue, name, arrivals=arrivals, **urls))
        starting = [asyncio.create_task(stream.start()) for stream in streams]
        await asyncio.sleep(0)
        await play(servers, arrivals, market.start_ns + 10 * NS_PER_S)
        await asyncio.gather(*starting)
        await servers[0].__aexit__(None, None, None)
        before = streams[1].message_count
        began = time.monotonic()
        await play(servers, arrivals)
        assert time.monotonic() - began < 15.0  # nobody's patience ran out
        dead, alive = streams
        assert dead.state is not StreamState.SYNCED and alive.state is StreamState.SYNCED
        assert alive.message_count > before + 50 and dead.is_running
        for stream in streams:
            await stream.stop()
        await servers[1].__aexit__(None, None, None)

    run(test)


class SlowToEnd(StreamFace):
    "A stream that takes its time to close, and that no venue answers."

    def __init__(self) -> None:
        super().__init__()
        self.exchange, self.symbol, self.closed = "bybit", "BTC/USDT", 0

    state = StreamState.CONNECTING

    def _begin(self) -> Life:
        life = Life()
        life.join(self)
        self._listeners.start()
        life.begin(self._run())
        return life

    def _why_not(self) -> str:
        return "nobody is there"

    async def _run(self) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            self.closed += 1


def test_stop_passes_on_the_cancellation_of_its_caller() -> None:
    async def test() -> None:
        stream = SlowToEnd()
        starting = asyncio.create_task(stream.start())
        await asyncio.sleep(0.01)
        stopping = asyncio.create_task(stream.stop())
        await asyncio.sleep(0.01)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        await until(lambda: stream.closed == 1)  # it ends all the same
        with pytest.raises(FeedError):
            await starting

    run(test)


def test_a_start_that_is_repeated_can_be_cancelled_while_it_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aggregator, "ATTEMPT_S", 0.01)

    async def test() -> None:
        stream, failures = SlowToEnd(), {}
        starting = asyncio.create_task(aggregator.keep_starting(stream, failures, "bybit"))
        await asyncio.sleep(0.03)  # its first attempt has failed and is being ended
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(starting, 2.0)
        await until(lambda: stream.closed == 1)
        assert not stream.is_running

    run(test)
