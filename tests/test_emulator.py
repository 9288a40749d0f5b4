"""Emulated venues against a client by hand: every frame once, at its time, and the tape's book."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import wraps
from itertools import pairwise
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gem_detector.arrivals import Arrivals, VirtualArrivals, WallArrivals
from gem_detector.book import OrderBook
from gem_detector.book_sync import base_units, scaled
from gem_detector.core import NS_PER_MS, NS_PER_S, InputError, Instrument
from gem_detector.emulator import VenueServer, play
from gem_detector.gateway import Gateway, Line, Topic, gateways_of
from gem_detector.markets import instrument
from gem_detector.simulator import (
    DEFAULT_VENUES,
    USDT_USD,
    Dislocation,
    Market,
    VenueTape,
    simulate_market,
)
from gem_detector.venues.binance import BinanceProtocol
from gem_detector.venues.bybit import BybitProtocol
from gem_detector.venues.coinbase import CoinbaseProtocol
from gem_detector.venues.htx import HTXProtocol, unzipped
from gem_detector.venues.kraken import KrakenProtocol, book_checksum
from gem_detector.venues.okx import OKXProtocol
from gem_detector.wire import (
    SNAPSHOT,
    BookMessage,
    FrameNumber,
    Message,
    Notice,
    TradeMessage,
    VenueProtocol,
)

BINANCE, BYBIT, COINBASE = DEFAULT_VENUES
USDM = Instrument("binance", "BTC/USDT:USDT", "BTCUSDT", "linear", "BTC", "USDT", "USDT", 0.1, 1e-3)
BYBIT_SPOT = Instrument("bybit", "BTC/USDT", "BTCUSDT", "spot", "BTC", "USDT", "", 0.1, 1e-6)
VENUES = (
    *DEFAULT_VENUES,
    USDT_USD,
    replace(BINANCE, instrument=USDM, name="usdm", touch_qty=5.0),
    replace(BYBIT, instrument=BYBIT_SPOT, name="bybit_spot"),
    replace(COINBASE, instrument=instrument("kraken", "BTC/USD"), name="kraken"),
    replace(BINANCE, instrument=instrument("okx", "BTC/USDT"), name="okx"),
    replace(BYBIT, instrument=instrument("okx", "BTC/USDT:USDT"), name="okx_swap"),
    replace(BINANCE, instrument=instrument("htx", "BTC/USDT"), name="htx"),
    replace(BYBIT, instrument=instrument("htx", "BTC/USDT:USDT"), name="htx_swap"),
)
MARKETS: dict[str, tuple[str, VenueProtocol, str]] = {
    "binance": ("binance", BinanceProtocol("spot"), "BTCUSDT"),
    "usdm": ("binance", BinanceProtocol("linear"), "BTCUSDT"),
    "bybit": ("bybit", BybitProtocol("linear"), "BTCUSDT"),
    "bybit_spot": ("bybit", BybitProtocol("spot"), "BTCUSDT"),
    "coinbase": ("coinbase", CoinbaseProtocol(), "BTC-USD"),
    "kraken": ("kraken", KrakenProtocol(), "BTC/USD"),
    "okx": ("okx", OKXProtocol("spot"), "BTC-USDT"),
    "okx_swap": ("okx", OKXProtocol("linear"), "BTC-USDT-SWAP"),
    "htx": ("htx", HTXProtocol("spot"), "btcusdt"),
    "htx_swap": ("htx", HTXProtocol("linear"), "BTC-USDT"),
}
ROWS = 60  # asked for: more than the tapes have, so that every update is told
STEP_NS = {"coinbase": (1, 1_000), "kraken": (1_000, 1_000)}  # of stamps of books and trades


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    "Run a coroutine as a test."

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture(scope="module")
def market() -> Market:
    return simulate_market(seed=11, duration_s=8.0, venues=VENUES)


@dataclass
class Client:
    "The least that a client does: it names what it sends, and keeps what it gets with its stamp."

    server: VenueServer
    arrivals: Arrivals
    heard: list[tuple[int, bytes]] = field(default_factory=list)
    opened_ns: int = 0
    closed: tuple[int, int] = (0, 0)  # when and with which code
    replies: dict[str, tuple[int, int, bytes]] = field(default_factory=dict)  # stamp, status, body
    ws: ClientConnection | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def open(self, path: str, subscribe: tuple[bytes, ...] = ()) -> None:
        self.arrivals.outgoing(f"connect:{self.server.port}{path}")
        self.tasks.append(asyncio.create_task(self._read(path, subscribe)))

    async def _read(self, path: str, subscribe: tuple[bytes, ...]) -> None:
        async with connect(self.server.url + path, compression=None, max_size=None) as ws:
            self.ws, self.key = ws, f"ws:{ws.local_address[1]}"

            def opened(stamp_ns: int, payload: None) -> None:
                self.opened_ns = stamp_ns
                for message in subscribe:
                    self.say(message)

            self.arrivals.deliver(self.key, opened)
            with suppress(ConnectionClosed):
                while True:
                    self.arrivals.deliver(self.key, self._hear, await ws.recv(decode=False))
            self.arrivals.deliver(self.key, self._close, ws.close_code)

    def _hear(self, stamp_ns: int, frame: bytes) -> None:
        self.heard.append((stamp_ns, frame))

    def _close(self, stamp_ns: int, code: int) -> None:
        self.closed = stamp_ns, code

    def say(self, message: bytes) -> None:
        assert self.ws is not None
        self.arrivals.outgoing(self.key)
        self.tasks.append(asyncio.create_task(self.ws.send(message, text=True)))

    def get(self, path: str) -> None:
        self.arrivals.outgoing(f"rest:{path}")
        self.tasks.append(asyncio.create_task(self._get(path)))

    async def _get(self, path: str) -> None:
        def fetch() -> tuple[int, bytes]:
            try:
                with urllib.request.urlopen(self.server.rest_url + path, timeout=10) as reply:
                    return reply.status, reply.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        def keep(stamp_ns: int, answer: tuple[int, bytes]) -> None:
            self.replies[path] = (stamp_ns, *answer)

        self.arrivals.deliver(f"rest:{path}", keep, await asyncio.to_thread(fetch))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def messages(self, protocol: VenueProtocol) -> list[tuple[int, Message]]:
        texts = [(at, unzipped(f) if f[:2] == b"\x1f\x8b" else f) for at, f in self.heard]
        return [(at, m) for at, text in texts for m in protocol.parse(text)]


Script = Callable[[Client, VirtualArrivals], Awaitable[None] | None]


async def followed(
    market: Market, venue: str, script: Script, batch_ms: float = 250.0, until_ns: int | None = None
) -> Client:
    "Run a server and one client in virtual time; nothing may be left behind."
    before = asyncio.all_tasks()
    arrivals = VirtualArrivals(market.start_ns, patience_s=10.0)
    async with VenueServer(venue, market, arrivals=arrivals) as server:
        client = Client(server, arrivals)
        waiting = script(client, arrivals)
        if waiting is not None:
            await waiting
        await play([server], arrivals, until_ns, batch_ms)
        await client.stop()
    for _ in range(3):  # cancelled tasks of the transport need a turn
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before and not server.sockets
    return client


def subscribed(
    protocol: VenueProtocol, symbols: list[str], call_after_ms: float = 300, which: int = 0
) -> Script:
    "A client that follows books and trades and, where needed, asks for the snapshot."

    def script(client: Client, arrivals: VirtualArrivals) -> None:
        socket = protocol.sockets(symbols, ROWS)[which]
        client.open(socket.path, socket.subscribe)
        call = protocol.snapshot_call(symbols[0], ROWS)
        after_ns = int(call_after_ms * NS_PER_MS)
        if call is not None:
            arrivals.call_later(after_ns, lambda at, _: client.get(call.path))
        elif protocol.continuity.snapshot == "asked" and which == 0:
            (asking,) = protocol.resubscribe(symbols[0], ROWS)
            arrivals.call_later(after_ns, lambda at, _: client.say(asking))

    return script


def book_of(
    client: Client, protocol: VenueProtocol, symbol: str
) -> list[tuple[int, BookMessage, list[list[float]]]]:
    "The stamp, message and whole ladder of every applied book message, by the venue's own rules."
    book, book_id, joining, applied = OrderBook(), None, False, []
    messages = [(at, m) for at, m in client.messages(protocol) if isinstance(m, BookMessage)]
    for stamp_ns, _, body in client.replies.values():
        snapshot = protocol.parse_snapshot(body, symbol)
        messages = [(stamp_ns, snapshot), *messages]  # deltas from before it were buffered
    if protocol.continuity.snapshot == "asked":  # here too
        messages.sort(key=lambda row: row[1].kind != SNAPSHOT)
    (made,) = (
        spec.instrument
        for spec in VENUES
        if (spec.instrument.exchange, spec.instrument.venue_symbol, spec.instrument.market_type)
        == (protocol.exchange, symbol, protocol.market_type)
    )
    to_base = base_units(made)
    for at, message in messages:
        if message.venue_symbol != symbol:
            continue
        if to_base is not None:
            message.bids = scaled(message.bids, to_base)
            message.asks = scaled(message.asks, to_base)
        if message.kind == SNAPSHOT:
            book.load(message.bids, message.asks)
            joining = True
        elif book_id is None or protocol.continuity.is_old(book_id, message, joining):
            continue
        else:
            assert protocol.continuity.goes_on(book_id, message, joining)
            book.apply(message.bids, message.asks)
            joining = False
        book_id = message.last_id
        applied.append((at, message, [side.tolist() for side in book.ladder()]))
    return applied


def ladder(tape: VenueTape, i: int) -> list[list[list[float]]]:
    "The tape's truth as prices and quantities."
    return [
        [[float(tape.price(tick)), float(tape.qty(lots))] for tick, lots in side]
        for side in tape.ladder_at(i)
    ]


# --- every frame once, at its time, and the book that it makes


@pytest.mark.parametrize("name", MARKETS)
@in_loop
async def test_every_update_arrives_once_at_its_time_and_gives_the_tapes_book(
    market: Market, name: str
) -> None:
    venue, protocol, symbol = MARKETS[name]
    tape = market.tapes[name]
    client = await followed(market, venue, subscribed(protocol, [symbol]))
    applied = book_of(client, protocol, symbol)
    deltas = [(at, m) for at, m, _ in applied if m.kind != SNAPSHOT]
    first = len(tape) - len(deltas)
    assert len(deltas) > 50 and 0 < first < len(tape) // 2
    for i, (at, message, seen) in enumerate(applied[-len(deltas) :], start=first):
        assert seen == ladder(tape, i)
        assert 0 <= at - tape.ts_recv_ns[i] < 100  # two frames of one nanosecond count on
        sent_ns = int(tape.stamp_ns(tape.ts_send_ns[i]))
        coarse, _ = STEP_NS.get(venue, (NS_PER_MS, NS_PER_MS))
        assert message.ts_send_ns == sent_ns // coarse * coarse
    (snapshot,) = [seen for _, m, seen in applied if m.kind == SNAPSHOT]
    assert snapshot in (ladder(tape, first - 1), ladder(tape, first))
    assert not client.arrivals._delivered.get(client.key)  # nothing came that was not announced


@pytest.mark.parametrize("name", MARKETS)
@in_loop
async def test_every_trade_arrives_once_with_the_takers_side(market: Market, name: str) -> None:
    venue, protocol, symbol = MARKETS[name]
    tape = market.tapes[name]
    client = await followed(market, venue, subscribed(protocol, [symbol], which=-1))
    trades = [(at, m) for at, m in client.messages(protocol) if isinstance(m, TradeMessage)]
    live = [(at, m) for at, m in trades if not m.is_history]
    first = len(tape.trade_tick) - len(live)
    if venue == "htx" and live[0][0] - tape.trade_ts_recv_ns[first] > 100:
        live, first = live[1:], first + 1  # the last one from before the subscription, once more
    assert len(live) > 10 and len({m.trade_id for _, m in live}) == len(live)
    _, step = STEP_NS.get(venue, (NS_PER_MS, NS_PER_MS))
    to_base = base_units(tape.instrument) or float
    told = [(m.ts_event_ns, m.price, to_base(m.size), m.side) for _, m in live]
    truth = [
        (
            int(tape.stamp_ns(tape.trade_ts_engine_ns[i])) // step * step,
            float(tape.price(tape.trade_tick[i])),
            float(tape.qty(tape.trade_lots[i])),
            "buy" if tape.trade_side[i] > 0 else "sell",
        )
        for i in range(first, len(tape.trade_tick))
    ]
    assert told == truth
    for (at, _), recv_ns in zip(live, tape.trade_ts_recv_ns[first:].tolist()):
        batch_ns = 160 * NS_PER_MS if venue == "coinbase" else 100
        assert 0 <= at - recv_ns < batch_ns
    if venue == "coinbase":
        assert {m.trade_id for _, m in trades if m.is_history}.isdisjoint(
            m.trade_id for _, m in live
        )


@pytest.mark.parametrize("name", ["binance", "bybit", "coinbase", "kraken", "okx", "htx"])
@in_loop
async def test_two_runs_and_other_steps_give_the_same_bytes_and_stamps(
    market: Market, name: str
) -> None:
    venue, protocol, symbol = MARKETS[name]
    runs = [
        await followed(market, venue, subscribed(protocol, [symbol]), batch_ms)
        for batch_ms in (250.0, 250.0, 3.7)
    ]
    assert runs[0].heard and runs[0].heard == runs[1].heard == runs[2].heard
    assert runs[0].replies == runs[1].replies == runs[2].replies


@in_loop
async def test_three_venues_at_once_are_merged_in_order(market: Market) -> None:
    async def run() -> list[tuple[int, str, bytes]]:
        heard: list[tuple[int, str, bytes]] = []
        arrivals = VirtualArrivals(market.start_ns, patience_s=10.0)
        names = ["binance", "bybit", "coinbase"]
        servers = [VenueServer(name, market, arrivals=arrivals) for name in names]
        clients = []
        for server in servers:
            await server.__aenter__()
            client = Client(server, arrivals)
            (socket,) = MARKETS[server.venue][1].sockets([MARKETS[server.venue][2]], 20)

            def hear(at: int, frame: bytes, venue: str = server.venue) -> None:
                heard.append((at, venue, frame))

            client._hear = hear  # type: ignore[method-assign]
            client.open(socket.path, socket.subscribe)
            clients.append(client)
        await play(servers, arrivals)
        for client, server in zip(clients, servers):
            await client.stop()
            await server.__aexit__(None, None, None)
        return heard

    first, second = await run(), await run()
    assert first == second and {venue for _, venue, _ in first} == {"binance", "bybit", "coinbase"}
    stamps = [at for at, _, _ in first]
    assert all(a < b for a, b in pairwise(stamps))


# --- ways of each venue


def at_s(market: Market, arrivals: VirtualArrivals, when_s: float, act: Callable[[], None]) -> None:
    arrivals.call_later(int(when_s * NS_PER_S), lambda at, _: act())


@in_loop
async def test_binance_answers_requests_and_stays_silent_about_the_unknown(market: Market) -> None:
    def script(client: Client, arrivals: VirtualArrivals) -> None:
        client.open("/ws")
        ask = [
            b'{"method":"SUBSCRIBE","params":["btcusdt@depth@100ms","notusdt@trade"],"id":1}',
            b'{"method":"LIST_SUBSCRIPTIONS","id":2}',
            b'{"method":"UNSUBSCRIBE","params":["btcusdt@depth@100ms"],"id":"three"}',
            b"nonsense",
            b'{"method":"SING","id":4}',
        ]
        for second, message in enumerate(ask, start=1):
            at_s(market, arrivals, second, lambda message=message: client.say(message))

    client = await followed(market, "binance", script)
    bodies = [(at, json.loads(frame)) for at, frame in client.heard]
    answers = [(at, body) for at, body in bodies if "e" not in body]
    assert [body.get("id") for _, body in answers] == [1, 2, "three", None, 4]
    assert answers[1][1]["result"] == ["btcusdt@depth@100ms", "notusdt@trade"]
    assert [body["error"]["code"] for _, body in answers[3:]] == [3, 2]
    frames = [at for at, body in bodies if "e" in body]  # raw: no wrapper on /ws
    assert answers[0][0] < frames[0] and frames[-1] < answers[2][0]
    trip = 2 * client.server.one_way_ns
    for second, (at, _) in enumerate(answers, start=1):
        assert trip <= at - market.start_ns - second * NS_PER_S < trip + 60 * NS_PER_MS


@pytest.mark.parametrize(
    ("path", "n_kinds"),
    [
        ("/public/stream?streams=btcusdt@depth@100ms/btcusdt@trade/btcusdt@bookTicker", 3),
        ("/market/stream?streams=btcusdt@depth@100ms/btcusdt@trade", 0),
        ("/public/ws/btcusdt@trade", 1),
    ],
)
@in_loop
async def test_binance_futures_stand_under_public(market: Market, path: str, n_kinds: int) -> None:
    client = await followed(market, "binance", lambda client, arrivals: client.open(path))
    kinds = Counter(json.loads(f).get("data", json.loads(f)).get("e") for _, f in client.heard)
    assert len(kinds) == n_kinds
    tickers = [json.loads(f)["data"] for _, f in client.heard if b"bookTicker" in f[:40]]
    deltas = {json.loads(f)["data"]["u"] for _, f in client.heard if b"@depth" in f[:40]}
    assert all(ticker["u"] in deltas for ticker in tickers)


@in_loop
async def test_binance_rest(market: Market) -> None:
    paths = [
        "/api/v3/depth?symbol=BTCUSDT&limit=5",
        "/api/v3/depth?symbol=BTCUSDT",
        "/fapi/v1/depth?symbol=BTCUSDT&limit=1000",
        "/fapi/v1/depth?symbol=BTCUSDT&limit=7",
        "/api/v3/depth?symbol=NOTUSDT",
        "/api/v3/time",
        "/api/v3/nothing",
    ]

    def script(client: Client, arrivals: VirtualArrivals) -> None:
        for second, path in enumerate(paths, start=1):
            at_s(market, arrivals, second, lambda path=path: client.get(path))

    client = await followed(market, "binance", script)
    answers = [client.replies[path] for path in paths]
    assert [status for _, status, _ in answers] == [200, 200, 200, 400, 400, 200, 404]
    bodies = [json.loads(body) for _, _, body in answers]
    assert len(bodies[0]["bids"]) == len(bodies[0]["asks"]) == 5
    assert len(bodies[1]["bids"]) == 50 and list(bodies[2])[:3] == ["lastUpdateId", "E", "T"]
    assert bodies[4] == {"code": -1121, "msg": "Invalid symbol."}
    assert bodies[3]["code"] == -4021
    tape = market.tapes["binance"]
    for second, (stamp_ns, _, _) in enumerate(answers, start=1):
        trip_ms = (stamp_ns - market.start_ns - second * NS_PER_S) / NS_PER_MS
        assert 2 * client.server.one_way_ns / NS_PER_MS + 12 < trip_ms < 400
    trip_ns = answers[5][0] - market.start_ns - 6 * NS_PER_S
    middle_ns = market.start_ns + 6 * NS_PER_S + trip_ns / 2 + tape.clock_offset_ns
    assert abs(bodies[5]["serverTime"] - middle_ns / NS_PER_MS) <= 1.0
    asked_ns, sent = market.start_ns + NS_PER_S, (answers[0][0] + market.start_ns + NS_PER_S) / 2
    i = int((tape.ts_engine_ns <= sent).sum()) - 1
    assert tape.ts_engine_ns[i] > asked_ns - NS_PER_S
    assert [float(bodies[0]["bids"][0][0])] == [float(tape.price(tape.best_bid_tick[i]))]


@in_loop
async def test_bybit_refuses_pongs_and_sends_a_new_snapshot_after_a_new_subscription(
    market: Market,
) -> None:
    leave, enter = BybitProtocol("linear").resubscribe("BTCUSDT", 50)

    def script(client: Client, arrivals: VirtualArrivals) -> None:
        client.open("/v5/public/linear", (enter,))
        messages = [
            b'{"op":"ping","req_id":"p"}',
            b'{"op":"subscribe","args":["orderbook.50.BTCUSDT","orderbook.51.BTCUSDT"]}',
            b'{"op":"subscribe","args":["orderbook.50.NOTUSDT"]}',
            leave,
            enter,
            b"\xff",
        ]
        for second, message in enumerate(messages, start=1):
            at_s(market, arrivals, second, lambda message=message: client.say(message))

    client = await followed(market, "bybit", script)
    bodies = [json.loads(frame) for _, frame in client.heard]
    said = [(b["success"], b["ret_msg"], b["op"]) for b in bodies if "op" in b]
    assert said[1] == (True, "pong", "ping")
    assert said[2] == (False, "error:handler not found,topic:orderbook.51.BTCUSDT", "subscribe")
    assert said[3][0] is False and said[4:6] == [(True, "", "unsubscribe"), (True, "", "subscribe")]
    assert said[6][0] is False
    kinds = [body["type"] for body in bodies if "topic" in body]
    assert kinds.count("snapshot") == 2 and kinds[0] == "snapshot"
    second = next(i for i, kind in enumerate(kinds) if i and kind == "snapshot")
    ids = [body["data"]["u"] for body in bodies if "topic" in body]
    assert ids[second] > ids[second - 1] + 1  # a second passed in silence
    assert ids[second + 1] == ids[second] + 1
    applied = book_of(client, BybitProtocol("linear"), "BTCUSDT")
    assert applied[-1][2] == ladder(market.tapes["bybit"], len(market.tapes["bybit"]) - 1)


@in_loop
async def test_bybit_spot_takes_ten_arguments(market: Market) -> None:
    args = json.dumps({"op": "subscribe", "args": ["publicTrade.BTCUSDT"] * 11}).encode()
    client = await followed(
        market, "bybit", lambda client, arrivals: client.open("/v5/public/spot", (args,))
    )
    assert [json.loads(frame)["success"] for _, frame in client.heard] == [False]


@pytest.mark.parametrize("depth", [1, 50])
@in_loop
async def test_bybit_windows_of_a_deeper_book(depth: int) -> None:
    deep = simulate_market(3, 4.0, [replace(BYBIT, depth_levels=80)])
    tape, asked = deep.tapes["bybit"], f"orderbook.{depth}.BTCUSDT"
    said = json.dumps({"op": "subscribe", "args": [asked]}).encode()
    client = await followed(
        deep, "bybit", lambda client, arrivals: client.open("/v5/public/linear", (said,))
    )
    book, seen = OrderBook(), []
    for stamp_ns, frame in client.heard[1:]:
        body = json.loads(frame)
        sides = [[(float(p), float(q)) for p, q in body["data"][side]] for side in "ba"]
        if body["type"] == "snapshot":
            book.load(*sides)
        else:
            book.apply(*sides)
        seen.append((stamp_ns, body["data"]["u"], [side.tolist() for side in book.ladder()]))
    assert [u for _, u, _ in seen] == list(range(seen[0][1], seen[0][1] + len(seen)))
    truth = {int(at): i for i, at in enumerate(tape.ts_recv_ns)}
    for stamp_ns, _, sides in seen[1:]:
        i = next(truth[stamp_ns - late] for late in range(100) if stamp_ns - late in truth)
        assert sides == [side[:depth] for side in ladder(tape, i)]
    assert len(seen) > 50


@pytest.mark.parametrize("depth", [10, 25, 50])
@in_loop
async def test_kraken_windows_tell_what_moves_in_and_not_what_moves_out(depth: int) -> None:
    spec = next(spec for spec in VENUES if spec.name == "kraken")
    deep = simulate_market(3, 4.0, [replace(spec, depth_levels=80)])
    tape, protocol = deep.tapes["kraken"], MARKETS["kraken"][1]
    (socket,) = protocol.sockets(["BTC/USD"], depth)
    client = await followed(
        deep, "kraken", lambda client, arrivals: client.open(socket.path, socket.subscribe)
    )
    book, rows, n_gone = OrderBook(), 10 if depth == 10 else 25 if depth == 25 else 100, 0
    truth = {int(at): i for i, at in enumerate(tape.ts_recv_ns)}
    messages = [(at, m) for at, m in client.messages(protocol) if isinstance(m, BookMessage)]
    for at, message in messages:
        if message.kind == SNAPSHOT:
            book.load(message.bids, message.asks)
            continue
        book.apply(message.bids, message.asks)
        n_gone += book.n_bids > rows
        book.truncate(rows)
        sides = [side.tolist() for side in book.ladder()]
        i = next(truth[at - late] for late in range(100) if at - late in truth)
        assert sides == [side[:rows] for side in ladder(tape, i)]
        best = [side[:10] for side in sides]
        assert book_checksum(tape.instrument, *best) == message.checksum
    assert len(messages) > 30 and (n_gone > 0) == (rows < 80)


@in_loop
async def test_kraken_refuses_by_pair_and_begins_again_after_a_new_subscription(
    market: Market,
) -> None:
    leave, enter = KrakenProtocol().resubscribe("BTC/USD", 100)
    both = enter.replace(b'["BTC/USD"]', b'["NO/PE","BTC/USD"]')

    def script(client: Client, arrivals: VirtualArrivals) -> None:
        client.open("/v2", (both,))
        messages = [b'{"method":"ping","req_id":3}', leave, enter, b"nonsense"]
        messages += [both.replace(b"100", b"99"), enter.replace(b'"book"', b'"level3"')]
        for second, message in enumerate(messages, start=1):
            at_s(market, arrivals, second, lambda message=message: client.say(message))

    client = await followed(market, "kraken", script)
    bodies = [json.loads(frame) for _, frame in client.heard]
    told = [(b["method"], b.get("success"), b.get("error")) for b in bodies if "method" in b]
    assert told[:5] == [
        ("subscribe", False, "Currency pair not supported NO/PE"),
        ("subscribe", True, None),
        ("pong", None, None),
        ("unsubscribe", True, None),
        ("subscribe", True, None),
    ]
    assert [text for _, success, text in told[5:]] == [
        "Malformed request",
        "Subscription depth not supported",
        "Subscription depth not supported",
        "Subscription channel not supported",
    ]
    kinds = [b["type"] for b in bodies if b.get("channel") == "book"]
    assert kinds.count("snapshot") == 2 and kinds[0] == "snapshot"
    assert sum(b.get("channel") == "heartbeat" for b in bodies) >= 6
    assert bodies[0]["channel"] == "status"
    tape = market.tapes["kraken"]
    assert book_of(client, KrakenProtocol(), "BTC/USD")[-1][2] == ladder(tape, len(tape) - 1)


@in_loop
async def test_okx_answers_each_topic_by_itself_and_pings_with_a_word(market: Market) -> None:
    leave, enter = OKXProtocol().resubscribe("BTC-USDT", 100)

    def script(client: Client, arrivals: VirtualArrivals) -> None:
        client.open("/ws/v5/public", (enter,))
        messages = [b"ping", leave, enter, b"nonsense", enter.replace(b"BTC-USDT", b"NO-PE")]
        for second, message in enumerate(messages, start=1):
            at_s(market, arrivals, second, lambda message=message: client.say(message))

    client = await followed(market, "okx", script)
    assert [at for at, frame in client.heard if frame == b"pong"]
    bodies = [json.loads(frame) for _, frame in client.heard if frame != b"pong"]
    told = [(b["event"], b.get("code")) for b in bodies if "event" in b]
    assert told == [
        ("subscribe", None),
        ("unsubscribe", None),
        ("subscribe", None),
        ("error", "60012"),
        ("error", "60018"),
    ]
    books = [b["data"][0] for b in bodies if "action" in b]
    snapshots = [i for i, b in enumerate(books) if b["prevSeqId"] == -1]
    assert len(snapshots) == 2 and snapshots[0] == 0 and {b["checksum"] for b in books} == {0}
    steps = {b["seqId"] - b["prevSeqId"] for b in books if b["prevSeqId"] >= 0}
    assert len(steps) > 10 and min(steps) > 0
    tape = market.tapes["okx"]
    assert book_of(client, OKXProtocol(), "BTC-USDT")[-1][2] == ladder(tape, len(tape) - 1)


@in_loop
async def test_htx_packs_every_frame_and_refuses_in_words(market: Market) -> None:
    def script(client: Client, arrivals: VirtualArrivals) -> None:
        client.open("/feed", (b'{"sub":"market.btcusdt.mbp.150","id":"a"}',))
        messages = [
            b'{"sub":"market.nousdt.mbp.150","id":"b"}',
            b'{"sub":"market.btcusdt.trade.detail","id":"c"}',  # lives on the other path
            b'{"req":"market.btcusdt.mbp.150","id":"d"}',
            b'{"ping":7}',
            b"nonsense",
            b'{"unsub":"market.btcusdt.mbp.150","id":"e"}',
        ]
        for second, message in enumerate(messages, start=1):
            at_s(market, arrivals, second, lambda message=message: client.say(message))

    client = await followed(market, "htx", script)
    assert all(frame.startswith(b"\x1f\x8b") for _, frame in client.heard)
    bodies = [(at, json.loads(unzipped(frame))) for at, frame in client.heard]
    told = [(b.get("id"), b["status"], b.get("err-msg")) for _, b in bodies if "status" in b]
    assert told == [
        ("a", "ok", None),
        ("b", "error", "invalid symbol nousdt"),
        ("c", "error", "invalid topic market.btcusdt.trade.detail"),
        ("d", "ok", None),
        ("", "error", "invalid topic "),
        ("e", "ok", None),
    ]
    assert sum("pong" in b for _, b in bodies) == 1
    assert bodies[-1][1].get("unsubbed") or "ping" in bodies[-1][1]


@pytest.mark.parametrize("is_there", [True, False])
@in_loop
async def test_htx_hangs_up_on_who_does_not_answer_its_pings(is_there: bool) -> None:
    spec = next(spec for spec in VENUES if spec.name == "htx")
    long = simulate_market(4, 24.0, [spec])

    def script(client: Client, arrivals: VirtualArrivals) -> None:
        hear = client._hear

        def answer(at: int, frame: bytes) -> None:
            hear(at, frame)
            body = json.loads(unzipped(frame))
            if is_there and "ping" in body:
                client.say(b'{"pong":%d}' % body["ping"])

        client._hear = answer  # type: ignore[method-assign]
        client.open("/ws")

    client = await followed(long, "htx", script)
    n_pings = sum("ping" in json.loads(unzipped(frame)) for _, frame in client.heard)
    assert (n_pings, client.closed[1]) == ((4, 0) if is_there else (2, 1003))


@in_loop
async def test_htx_repeats_the_last_trade_to_whoever_subscribes_late(market: Market) -> None:
    (said,) = HTXProtocol().sockets(["btcusdt"], 20)[1].subscribe

    def script(client: Client, arrivals: VirtualArrivals) -> None:
        client.open("/ws")
        at_s(market, arrivals, 4, lambda: client.say(said))

    client = await followed(market, "htx", script)
    messages = [m for _, m in client.messages(HTXProtocol()) if not isinstance(m, Notice)]
    old, *live = messages
    tape = market.tapes["htx"]
    stamps = tape.stamp_ns(tape.trade_ts_engine_ns) // NS_PER_MS * NS_PER_MS
    assert old.ts_event_ns < market.start_ns + 4 * NS_PER_S and len(live) > 5
    assert [m.ts_event_ns for m in messages] == stamps[-len(messages) :].tolist()


@in_loop
async def test_coinbase_counts_frames_of_all_channels_and_products(market: Market) -> None:
    protocol = CoinbaseProtocol()
    client = await followed(market, "coinbase", subscribed(protocol, ["BTC-USD", "USDT-USD"]))
    messages = client.messages(protocol)
    numbers = [m.number for _, m in messages if isinstance(m, FrameNumber)]
    assert numbers == list(range(len(client.heard))) and len(numbers) > 100
    beats = [at for at, m in messages if isinstance(m, Notice) and m.kind == "heartbeat"]
    apart = [b - a for a, b in pairwise(beats)]
    assert len(beats) >= 6 and all(0.8 * NS_PER_S < gap < 1.2 * NS_PER_S for gap in apart)
    assert json.loads(client.heard[0][1])["events"][0]["type"] == "snapshot"
    for symbol, name in (("BTC-USD", "coinbase"), ("USDT-USD", "coinbase_usdt")):
        tape = market.tapes[name]
        assert book_of(client, protocol, symbol)[-1][2] == ladder(tape, len(tape) - 1)
    told = [
        json.loads(f)["events"][0]["subscriptions"]
        for _, f in client.heard
        if b'"subscriptions","t' in f
    ]
    assert told[-1] == {
        "heartbeats": ["heartbeats"],
        "level2": ["BTC-USD", "USDT-USD"],
        "market_trades": ["BTC-USD", "USDT-USD"],
    }


@in_loop
async def test_coinbase_closes_who_says_nothing_and_refuses_the_unknown(market: Market) -> None:
    client = await followed(market, "coinbase", lambda client, arrivals: client.open("/"))
    closed_ns, code = client.closed
    assert code == 1008 and 5.0 < (closed_ns - market.start_ns) / NS_PER_S < 5.2
    said = b'{"type":"subscribe","channel":"level2","product_ids":["NOT-USD"]}'
    client = await followed(market, "coinbase", lambda client, arrivals: client.open("", (said,)))
    assert json.loads(client.heard[0][1])["type"] == "error" and client.closed[1] == 1008


@in_loop
async def test_coinbase_answers_a_dollar_coin_with_the_dollar_product(market: Market) -> None:
    said = b'{"type":"subscribe","channel":"level2","product_ids":["BTC-USDC"]}'
    client = await followed(market, "coinbase", lambda client, arrivals: client.open("", (said,)))
    assert json.loads(client.heard[0][1])["events"][0]["product_id"] == "BTC-USD"


@pytest.mark.parametrize("name", MARKETS)
@in_loop
async def test_rest_clocks_run_with_the_venues_offset(market: Market, name: str) -> None:
    venue, protocol, _ = MARKETS[name]
    call = protocol.time_call()
    client = await followed(market, venue, lambda client, arrivals: client.get(call.path))
    stamp_ns, status, body = client.replies[call.path]
    middle_ns = (market.start_ns + stamp_ns) / 2
    tapes = [t for t in market.tapes.values() if t.instrument.exchange == venue]
    off_ns = protocol.parse_time(body) - middle_ns - tapes[0].clock_offset_ns
    assert status == 200 and -call.step_ns <= off_ns < NS_PER_MS


# --- what goes wrong


@in_loop
async def test_a_stalled_venue_holds_its_answers_too() -> None:
    "What was sent behind a message that is held up waits for it, as on one TCP connection."
    start = simulate_market(1, 0.1).start_ns
    held = Dislocation("bybit", start + 2 * NS_PER_S, 1_500.0, kind="stale")
    stalled = simulate_market(5, 6.0, [BYBIT], dislocations=[held])

    def script(client: Client, arrivals: VirtualArrivals) -> None:
        client.open("/v5/public/linear", (b'{"op":"subscribe","args":["orderbook.50.BTCUSDT"]}',))
        at_s(stalled, arrivals, 2.5, lambda: client.say(b'{"op":"ping"}'))

    client = await followed(stalled, "bybit", script)
    (pong_ns,) = [at for at, frame in client.heard if b"pong" in frame]
    assert held.end_ns <= pong_ns < held.end_ns + NS_PER_MS
    stamps = [at for at, _ in client.heard]
    assert stamps == sorted(stamps)
    applied = book_of(client, BybitProtocol("linear"), "BTCUSDT")
    assert applied[-1][2] == ladder(stalled.tapes["bybit"], len(stalled.tapes["bybit"]) - 1)


@in_loop
async def test_a_client_that_goes_away_is_forgotten(market: Market) -> None:
    protocol = BinanceProtocol("spot")

    def script(client: Client, arrivals: VirtualArrivals) -> None:
        subscribed(protocol, ["BTCUSDT"])(client, arrivals)

        def leave() -> None:
            arrivals.forget(client.key)
            client.tasks[0].cancel()

        at_s(market, arrivals, 2, leave)

    client = await followed(market, "binance", script)
    assert client.heard and client.heard[-1][0] <= market.start_ns + 2 * NS_PER_S


@in_loop
async def test_closing_all_sockets_is_an_arrival(market: Market) -> None:
    arrivals = VirtualArrivals(market.start_ns, patience_s=10.0)
    async with VenueServer("bybit", market, arrivals=arrivals) as server:
        client = Client(server, arrivals)
        client.open("/v5/public/linear", (b'{"op":"subscribe","args":["publicTrade.BTCUSDT"]}',))
        await play([server], arrivals, market.start_ns + 3 * NS_PER_S)
        await server.close_sockets(1012, "restart")
        heard = len(client.heard)
        await play([server], arrivals, market.start_ns + 4 * NS_PER_S)
        assert client.closed[1] == 1012 and len(client.heard) == heard
        assert market.start_ns + 3 * NS_PER_S <= client.closed[0]
        client.open("/v5/public/linear", (b'{"op":"subscribe","args":["publicTrade.BTCUSDT"]}',))
        await play([server], arrivals)
        assert len(client.heard) > heard
        await client.stop()


@in_loop
async def test_an_address_that_nobody_serves(market: Market) -> None:
    arrivals = VirtualArrivals(market.start_ns, patience_s=10.0)
    async with VenueServer("bybit", market, arrivals=arrivals) as server:
        arrivals.outgoing(f"connect:{server.port}/nowhere")
        with pytest.raises(InvalidStatus, match="404"):
            await connect(server.url + "/nowhere")
        await play([server], arrivals, market.start_ns + NS_PER_S)  # nothing is waited for


@in_loop
async def test_a_client_that_does_not_read_is_cut_off() -> None:
    big = simulate_market(2, 300.0, [replace(COINBASE, depth_levels=200)])
    arrivals = VirtualArrivals(big.start_ns, patience_s=5.0)
    async with VenueServer("coinbase", big, arrivals=arrivals, slow_client_s=0.2) as server:
        path = "/"
        arrivals.outgoing(f"connect:{server.port}{path}")
        ws = await connect(server.url + path, max_queue=1, compression=None)
        key = f"ws:{ws.local_address[1]}"
        arrivals.outgoing(key)
        await ws.send('{"type":"subscribe","channel":"level2","product_ids":["BTC-USD"]}')
        while arrivals._n_underway:  # noqa: ASYNC110 (a few turns of the loop)
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await server.feed(big.end_ns)
        assert time.monotonic() - began < 3.0
        assert server.sockets == [] or server.sockets[0].is_closed
        with suppress(ConnectionClosed):
            await ws.close()


@in_loop
async def test_wall_clock(market: Market) -> None:
    "The same code by the wall clock: a market that happens now."
    now = simulate_market(9, 1.2, [BYBIT], start_ns=time.time_ns() + 200 * NS_PER_MS)
    arrivals = WallArrivals()
    async with VenueServer("bybit", now) as server:
        client = Client(server, arrivals)
        (socket,) = BybitProtocol("linear").sockets(["BTCUSDT"], 20)
        client.open(socket.path, socket.subscribe)
        client.get("/v5/market/time")
        await play([server], server.arrivals)
        await asyncio.sleep(0.05)
        await client.stop()
    tape = now.tapes["bybit"]
    applied = book_of(replace(client, replies={}), BybitProtocol("linear"), "BTCUSDT")
    assert applied[-1][2] == ladder(tape, len(tape) - 1)
    assert [m.last_id for _, m, _ in applied[1:]] == [m.prev_id + 1 for _, m, _ in applied[1:]]
    late = [at - recv for (at, _, _), recv in zip(applied[1:], tape.ts_recv_ns[1 - len(applied) :])]
    assert min(late) >= 0  # never before its time; how much later is the machine's business
    assert client.replies["/v5/market/time"][1] == 200


def test_refusals(market: Market) -> None:
    for make in (
        lambda: VenueServer("mtgox", market),
        lambda: VenueServer("binance", market, rest_delay_ms=-1.0),
        lambda: VenueServer("binance", market, slow_client_s=0.0),
    ):
        with pytest.raises(InputError):
            make()
    with pytest.raises(InputError):
        asyncio.run(play([], VirtualArrivals(0)))


# --- the sans-I/O parts


@pytest.mark.parametrize("name", [spec.key for spec in VENUES])
def test_gateways_keep_the_order_of_one_wire(market: Market, name: str) -> None:
    tape = market.tapes[name]
    gateway = Gateway(tape)
    times = [*tape.ts_send_ns.tolist(), *tape.trade_ts_send_ns.tolist()]
    recv = [*tape.ts_recv_ns.tolist(), *tape.trade_ts_recv_ns.tolist()]
    for probe in range(market.start_ns, market.end_ns, 37 * NS_PER_MS):
        arrival = gateway.arrival_ns(probe)
        before = [r for s, r in zip(times, recv) if s <= probe]
        after = [r for s, r in zip(times, recv) if s > probe]
        assert arrival == max(before, default=0) or arrival == probe + gateway.one_way_ns
        assert arrival >= max(before, default=0) and arrival <= min(after, default=arrival)


def test_lines_do_not_depend_on_the_steps_in_which_they_are_asked(market: Market) -> None:
    gateway = gateways_of("bybit", market)["linear", "BTCUSDT"]
    tape = gateway.tape

    def line() -> Line:
        made = Line("/")
        for name in "ab":
            topic = Topic(tape.ts_send_ns, tape.ts_recv_ns, lambda row, take: b"%d" % take())
            made.follow(name, topic, market.start_ns + NS_PER_S)
        for second in range(1, 7):
            made.answer(gateway, market.start_ns + second * NS_PER_S, lambda take: b"x%d" % take())
        return made

    whole, parts = line(), line()
    stepped = [
        frame
        for until in range(market.start_ns, market.end_ns + NS_PER_S, 13 * NS_PER_MS)
        for frame in parts.due(until)
    ]
    assert stepped == whole.due(market.end_ns + NS_PER_S)
