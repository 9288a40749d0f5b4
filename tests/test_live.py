"""Streams against servers on this machine: starting, failing, coming back, and who is told."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from gem_detector.arrivals import VirtualArrivals
from gem_detector.core import FeedError, Gap, OrderBookSnapshot, StreamState, Trade
from gem_detector.emulator import VenueServer, play
from gem_detector.frames import Arrival, read_frames
from gem_detector.markets import instrument
from gem_detector.simulator import DEFAULT_VENUES, simulate_market
from gem_detector.streams import BybitOrderBookStream, make_stream

Handler = Callable[[ServerConnection], Awaitable[None]]
REFUSED = '{"success":false,"ret_msg":"no such topic","op":"subscribe"}'


def book(kind: str, u: int, bid: str = "100") -> str:
    data = {"s": "BTCUSDT", "b": [[bid, "1"]], "a": [["200", "1"]], "u": u, "seq": u}
    head = {"topic": "orderbook.50.BTCUSDT", "type": kind, "ts": u, "cts": u}
    return json.dumps({**head, "data": data})


def trade(price: str) -> str:
    row = {"T": 5, "s": "BTCUSDT", "S": "Buy", "v": "1", "p": price, "i": price, "BT": False}
    row |= {"seq": 1, "L": "PlusTick", "RPI": False}
    return json.dumps({"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": 5, "data": [row]})


@asynccontextmanager
async def bybit(handler: Handler) -> AsyncIterator[BybitOrderBookStream]:
    "A stream whose venue is a handler of ours; REST calls get 404."

    def plain(ws: ServerConnection, request: object) -> object:
        return ws.respond(404, "none") if "/market/" in request.path else None

    async def serve_one(ws: ServerConnection) -> None:
        try:
            await ws.recv()  # the subscription
            await handler(ws)
            await ws.wait_closed()
        except ConnectionClosed:
            return

    async with serve(serve_one, "127.0.0.1", 0, process_request=plain) as server:
        port = server.sockets[0].getsockname()[1]
        urls = {"url": f"ws://127.0.0.1:{port}", "rest_url": f"http://127.0.0.1:{port}"}
        stream = BybitOrderBookStream("BTC/USDT", reconnect_delay=0.01, **urls)
        try:
            yield stream
        finally:
            await stream.stop()


def sends(*frames: str) -> Handler:
    "A venue that sends these and then nothing."

    async def venue(ws: ServerConnection) -> None:
        for frame in frames:
            await ws.send(frame)

    return venue


async def until(is_true: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_true():  # noqa: ASYNC110 (a test may poll)
            await asyncio.sleep(0.005)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def test_start_returns_with_a_synced_book() -> None:
    async def test() -> None:
        async with bybit(sends(book("snapshot", 7))) as stream:
            assert stream.book is None and not stream.is_running
            await stream.start()
            assert stream.state is StreamState.SYNCED and stream.book.sequence == 7
            with pytest.raises(FeedError, match="running already"):
                await stream.start()
            with pytest.raises(FeedError, match="running"):
                stream.replay([])
            await stream.stop()
            assert stream.state is StreamState.CLOSED and stream.book is None
            await stream.stop()  # twice does no harm

    run(test)


def test_the_venues_refusal_is_told_in_its_own_words() -> None:
    async def test() -> None:
        async with bybit(sends(REFUSED)) as stream:
            with pytest.raises(FeedError, match="no such topic"):
                await stream.start(timeout=5)
            assert not stream.is_running

    run(test)


def test_no_book_in_time() -> None:
    async def test() -> None:
        async with bybit(sends('{"success":true,"ret_msg":"","op":"subscribe"}')) as stream:
            with pytest.raises(FeedError, match=r"bybit BTC/USDT:USDT: no book within 0\.2 s"):
                await stream.start(timeout=0.2)

    run(test)


def test_an_address_that_is_no_websocket_ends_the_stream() -> None:
    async def test() -> None:
        async with serve(lambda ws: None, "127.0.0.1", 0, process_request=not_found) as server:
            port = server.sockets[0].getsockname()[1]
            urls = {"url": f"ws://127.0.0.1:{port}", "rest_url": f"http://127.0.0.1:{port}"}
            with pytest.raises(FeedError, match="404"):
                await BybitOrderBookStream("BTC/USDT", **urls).start()

    def not_found(ws: ServerConnection, request: object) -> object:
        return ws.respond(404, "none")

    run(test)


def test_a_lost_delta_is_a_gap_and_a_resubscription() -> None:
    asked: list[str] = []

    async def venue(ws: ServerConnection) -> None:
        await sends(book("snapshot", 7), book("delta", 8), book("delta", 10, "150"))(ws)
        asked.extend([await ws.recv(), await ws.recv()])
        await ws.send(book("snapshot", 20, "120"))

    async def test() -> None:
        events: list = []
        async with bybit(venue) as stream:
            stream.register_book_callback(events.append)
            stream.register_gap_callback(events.append)
            await stream.start()
            await until(lambda: bool(events) and getattr(events[-1], "sequence", 0) == 20)
        kinds = [type(event).__name__ for event in events]
        assert kinds == ["OrderBookSnapshot", "OrderBookSnapshot", "Gap", "OrderBookSnapshot"]
        assert [e.best_bid for e in events if not isinstance(e, Gap)] == [100.0, 100.0, 120.0]

    run(test)
    assert [json.loads(frame)["op"] for frame in asked] == ["unsubscribe", "subscribe"]


def test_a_lost_connection_is_a_gap_and_comes_back() -> None:
    opened: list[int] = []

    async def venue(ws: ServerConnection) -> None:
        opened.append(1)
        await ws.send(book("snapshot", 7 * len(opened)))
        if len(opened) < 3:
            await ws.close()

    async def test() -> None:
        gaps: list[Gap] = []
        async with bybit(venue) as stream:
            stream.register_gap_callback(gaps.append)
            await stream.start()
            await until(lambda: stream.book is not None and stream.book.sequence == 21)
            assert stream.reconnect_count == 2
        assert [gap.reason for gap in gaps] == ["disconnected"] * 2

    run(test)


def test_a_callback_that_raises_is_counted_and_the_feed_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        seen: list[int] = []

        def bad(event: OrderBookSnapshot) -> None:
            raise RuntimeError("mine")

        async def slow(event: OrderBookSnapshot) -> None:
            await asyncio.sleep(0)
            seen.append(event.sequence)

        async with bybit(sends(*(book("snapshot", u) for u in range(7, 12)))) as stream:
            stream.register_book_callback(bad)
            stream.register_book_callback(slow)
            await stream.start()
            await until(lambda: len(seen) == 5)
            assert seen == [7, 8, 9, 10, 11]
            (count,) = stream.get_stats()["callback_errors"].values()
            assert count == 5

    with caplog.at_level(logging.ERROR):
        run(test)
    assert len([record for record in caplog.records if "raised" in record.message]) == 1


def test_events_come_in_order_and_can_be_broken_off() -> None:
    async def test() -> None:
        go = asyncio.Event()

        async def venue(ws: ServerConnection) -> None:
            await ws.send(book("snapshot", 7))
            await go.wait()
            await sends(trade("150"), book("delta", 8), trade("151"), book("delta", 9))(ws)

        async with bybit(venue) as stream:
            await stream.start()
            kinds: list[type] = []
            async with aclosing(stream.events()) as events:
                asyncio.get_running_loop().call_later(0.05, go.set)
                async for event in events:
                    kinds.append(type(event))
                    if len(kinds) == 4:
                        break
            assert kinds == [Trade, OrderBookSnapshot, Trade, OrderBookSnapshot]
            assert [one.price for one in stream.trades] == [150.0, 151.0]

    run(test)


def test_secrets_stay_out_of_every_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINBASE_API_PASSWORD", "s3cr3t-c")
    keys = {"api_key": "s3cr3t-a", "api_secret": "s3cr3t-b"}
    stream = make_stream("coinbase", "BTC/USD", record_to=tmp_path, **keys)
    assert "s3cr3t" not in repr(stream) + str(stream.get_stats())


BINANCE, BYBIT, COINBASE = DEFAULT_VENUES
VENUES = [
    *DEFAULT_VENUES,
    replace(COINBASE, instrument=instrument("kraken", "BTC/USD"), name="kraken"),
    replace(BINANCE, instrument=instrument("okx", "BTC/USDT"), name="okx"),
    replace(BYBIT, instrument=instrument("okx", "BTC/USDT:USDT"), name="okx_swap"),
    replace(BINANCE, instrument=instrument("htx", "BTC/USDT"), name="htx"),
    replace(BYBIT, instrument=instrument("htx", "BTC/USDT:USDT"), name="htx_swap"),
]


async def followed(venue: str, symbol: str, market, folder: Path | None = None) -> list:
    "Every event of a stream that follows an emulated venue from start to end."
    arrivals, seen = VirtualArrivals(market.start_ns), []
    async with VenueServer(venue, market, arrivals=arrivals) as server:
        urls = {"url": server.url, "rest_url": server.rest_url, "record_to": folder}
        stream = make_stream(venue, symbol, depth=10, arrivals=arrivals, **urls)
        stream.register_book_callback(seen.append)
        stream.register_trade_callback(seen.append)
        stream.register_gap_callback(seen.append)
        starting = asyncio.create_task(stream.start())
        await asyncio.sleep(0)
        await play([server], arrivals)
        await starting
        assert not stream.get_stats()["rejected"] and stream.reconnect_count == 0
        await stream.stop()
    return seen


def rows(side: np.ndarray) -> bytes:
    "The best ten rows in ticks and lots."
    return np.ascontiguousarray(side[:10], np.int64).tobytes()


def same(one: list, other: list) -> None:
    "Two lists of events are equal bit for bit."
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert a.same_as(b) if isinstance(a, OrderBookSnapshot) else a == b


@pytest.mark.parametrize("spec", VENUES, ids=lambda spec: spec.key)
def test_a_recording_of_an_emulated_venue_replays_bit_for_bit(spec, tmp_path: Path) -> None:
    "Emulator, stream, recording, replay: the same events, whatever the venue packs or asks."
    market = simulate_market(seed=8, duration_s=12.0, venues=[spec])
    names = spec.instrument.exchange, spec.instrument.symbol
    live = asyncio.run(followed(*names, market, tmp_path))
    (path,) = tmp_path.glob("*.frames.zst")
    replayed = list(make_stream(*names, depth=10).replay(path))
    same(live, replayed)
    kinds = {type(event) for event in live}
    assert kinds == {OrderBookSnapshot, Trade}
    payloads = [a.payload for a in read_frames(path) if a.kind == "frame"]
    assert payloads and all(p[:1] == b"{" or p in (b"ping", b"pong") for p in payloads)


@pytest.mark.parametrize("spec", VENUES, ids=lambda spec: spec.key)
def test_a_frame_lost_from_a_recording_is_never_a_wrong_book(spec, tmp_path: Path) -> None:
    "Every twentieth frame is left out once: what is handed out then was handed out live too."
    market = simulate_market(seed=9, duration_s=10.0, venues=[spec])
    names = spec.instrument.exchange, spec.instrument.symbol
    live = asyncio.run(followed(*names, market, tmp_path))
    books = {(e.ts_recv_ns, e.sequence): e for e in live if isinstance(e, OrderBookSnapshot)}
    (path,) = tmp_path.glob("*.frames.zst")
    arrivals = list(read_frames(path))
    frames = [i for i, a in enumerate(arrivals) if a.kind == "frame"]
    n_gaps = 0
    for lost in frames[5::20]:
        stream = make_stream(*names, depth=10)
        for event in stream.replay(arrivals[:lost] + arrivals[lost + 1 :]):
            n_gaps += isinstance(event, Gap)
            if isinstance(event, OrderBookSnapshot):
                assert event.same_as(books[event.ts_recv_ns, event.sequence])
    assert n_gaps > 3


@pytest.mark.parametrize("spec", VENUES, ids=lambda spec: spec.key)
def test_an_emulated_venues_ladder_is_followed_exactly(spec) -> None:
    "Every book that is handed out is one of the venue's own; two runs are the same."
    market = simulate_market(seed=5, duration_s=10.0, venues=[spec])
    (tape,) = market.tapes.values()
    names = tape.instrument.exchange, tape.instrument.symbol
    one, other = (asyncio.run(followed(*names, market)) for _ in range(2))
    books = [event for event in one if isinstance(event, OrderBookSnapshot)]
    assert len(books) > 30 and not any(isinstance(event, Gap) for event in one)
    truths = {tuple(map(rows, tape.ladder_at(i))) for i in range(len(tape))}
    for book in books:
        steps = np.array([tape.instrument.tick_size, tape.instrument.lot_size])
        assert tuple(rows(np.rint(side / steps)) for side in (book.bids, book.asks)) in truths
    same(one, other)


def test_a_socket_that_was_given_up_gives_no_book_any_more() -> None:
    "After a notice of shutdown the old socket goes on sending; none of it may stand as a book."
    source = []
    for u in range(7, 10):
        source.append(Arrival(10**18 + u, "frame", book("snapshot", u).encode(), "public"))
    stream = BybitOrderBookStream("BTC/USDT")
    arrivals = [
        Arrival(10**18, "open", b"", "public"),
        source[0],
        Arrival(10**18 + 8, "close", b'"given up"', "public"),
        *source[1:],
    ]
    kinds = [type(event).__name__ for event in stream.replay(arrivals)]
    assert kinds == ["OrderBookSnapshot", "Gap"] and stream.book is None


def test_events_of_a_stream_that_is_not_running() -> None:
    async def test() -> None:
        async with bybit(sends(book("snapshot", 7))) as stream:
            with pytest.raises(FeedError, match="not running"):
                await anext(stream.events())
            await stream.start()
            await stream.stop()
            with pytest.raises(FeedError, match="not running"):
                await anext(stream.events())

    run(test)


def test_coroutine_callbacks_may_come_late_and_may_stop_the_stream() -> None:
    async def test() -> None:
        stopped = asyncio.Event()
        go = asyncio.Event()

        async def venue(ws: ServerConnection) -> None:
            await ws.send(book("snapshot", 7))
            await go.wait()
            await ws.send(book("delta", 8))

        async with bybit(venue) as stream:
            await stream.start()

            async def stop(event: OrderBookSnapshot) -> None:
                await stream.stop()
                stopped.set()

            stream.register_book_callback(stop)
            await asyncio.sleep(0)
            go.set()
            await asyncio.wait_for(stopped.wait(), 5)
            assert not stream.is_running

    run(test)


def test_a_stream_that_records_can_be_started_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with bybit(sends(book("snapshot", 7))) as stream:
            stream._record_to = tmp_path
            for _ in range(3):
                await stream.start()
                await stream.stop()

    run(test)
    assert len(list(tmp_path.glob("*.frames.zst"))) == 3


def test_a_start_that_is_cancelled_leaves_nothing_running() -> None:
    async def test() -> None:
        async with bybit(sends()) as stream:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stream.start(), 0.1)
            assert not stream.is_running

    run(test)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "garbage", "ws://"])
def test_a_wrong_address_is_one_error(url: str) -> None:
    async def test() -> None:
        with pytest.raises(FeedError, match="cannot connect"):
            await BybitOrderBookStream("BTC/USDT", url=url, rest_url="http://127.0.0.1:9").start()

    run(test)
