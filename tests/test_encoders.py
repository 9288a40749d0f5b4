"""Frames as venues write them: byte for byte against captures, and back through the parsers."""

import gzip
import inspect
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_detector.core import (
    NS_PER_MS,
    NS_PER_S,
    NS_PER_US,
    Instrument,
    MalformedMessage,
    rfc3339_ns,
)
from gem_detector.encoders import (
    UNVERIFIED_FRAMES,
    BinanceEncoder,
    BybitEncoder,
    CoinbaseEncoder,
    DecimalText,
    JavaText,
    TradeRow,
    go_time_text,
    tick_directions,
)
from gem_detector.encoders_htx import HTXEncoder, packed
from gem_detector.encoders_kraken import KrakenEncoder, micro_text
from gem_detector.encoders_okx import OKXEncoder
from gem_detector.markets import instrument
from gem_detector.venues.binance import BinanceProtocol
from gem_detector.venues.bybit import BybitProtocol
from gem_detector.venues.coinbase import CoinbaseProtocol
from gem_detector.venues.htx import HTXProtocol, unzipped
from gem_detector.venues.kraken import KrakenProtocol
from gem_detector.venues.okx import OKXProtocol
from gem_detector.wire import DELTA, SNAPSHOT, BookMessage, FrameNumber, Notice, TradeMessage

# Quantities far from the market still carry old, finer steps: the captures are read at 1e-8.
BINANCE_SPOT = Instrument(
    "binance", "BTC/USDT", "BTCUSDT", "spot", "BTC", "USDT", "", 0.01, 0.00000001
)
BINANCE_LINEAR = Instrument(
    "binance", "BTC/USDT:USDT", "BTCUSDT", "linear", "BTC", "USDT", "USDT", 0.1, 0.001
)
BYBIT_SPOT = Instrument("bybit", "BTC/USDT", "BTCUSDT", "spot", "BTC", "USDT", "", 0.1, 0.000001)
BYBIT_STEPS = {
    "BTCUSDT": (0.1, 0.001),
    "ETHUSDT": (0.01, 0.01),
    "SOLUSDT": (0.01, 0.1),
    "DOGEUSDT": (0.00001, 1.0),
}


def bybit_linear(symbol: str) -> Instrument:
    base, (tick, lot) = symbol.removesuffix("USDT"), BYBIT_STEPS[symbol]
    unified = f"{base}/USDT:USDT"
    return Instrument("bybit", unified, symbol, "linear", base, "USDT", "USDT", tick, lot)


def coinbase(product: str) -> Instrument:
    base, quote = product.split("-")
    return Instrument("coinbase", f"{base}/{quote}", product, "spot", base, quote, "", 0.01, 1e-8)


def steps(text: str, step: float) -> int:
    "A decimal as a whole number of steps, exactly."
    number = Decimal(text) / Decimal(str(step))
    assert number == int(number), (text, step)
    return int(number)


def rows(levels: list[list[str]], made: Instrument) -> list[tuple[int, int]]:
    return [(steps(p, made.tick_size), steps(q, made.lot_size)) for p, q in levels]


def captured(path: Path) -> Iterator[bytes]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for line in lines:
            yield line.split(b" ", 1)[1].rstrip() if path.suffix == ".gz" else line.rstrip()


ENCODERS = {
    "binance": BinanceEncoder,
    "bybit": BybitEncoder,
    "coinbase": CoinbaseEncoder,
    "kraken": KrakenEncoder,
    "okx": OKXEncoder,
    "htx": HTXEncoder,
}

# --- captured frames, taken apart and encoded again: not one byte differs


def binance_again(body: dict[str, Any], made: Instrument) -> tuple[str, bytes]:
    "The kind of a frame and what our encoder makes of its numbers."
    encoder, kind = BinanceEncoder(made), body.get("e", "")
    engine_ns, send_ns = body.get("T", 0) * NS_PER_MS, body.get("E", 0) * NS_PER_MS
    if kind == "depthUpdate":
        bids, asks = rows(body["b"], made), rows(body["a"], made)
        best_first = bids if made.market_type == "spot" else bids[::-1]
        ids = body["U"], body["u"], body.get("pu", -1)
        return "depth_update", encoder.depth_update(*ids, best_first, asks, engine_ns, send_ns)
    if kind == "trade":
        price, quantity = steps(body["p"], made.tick_size), steps(body["q"], made.lot_size)
        side = -1 if body["m"] else 1
        trade = TradeRow(str(body["t"]), price, quantity, side, engine_ns)
        return "trade", encoder.trade(trade, send_ns)
    if "lastUpdateId" in body:
        sides = rows(body["bids"], made), rows(body["asks"], made)
        return "depth_snapshot", encoder.depth_snapshot(
            body["lastUpdateId"], *sides, engine_ns, send_ns
        )
    (bid,), (ask,) = rows([[body["b"], body["B"]]], made), rows([[body["a"], body["A"]]], made)
    return "book_ticker", encoder.book_ticker(body["u"], bid, ask, engine_ns, send_ns)


def bybit_again(body: dict[str, Any], market_type: str) -> tuple[str, bytes] | None:
    "The kind of a frame and what our encoder makes of its numbers; None for foreign topics."
    if "op" in body:
        kind = "reply" if body["success"] else "refusal"
        return kind, BybitEncoder.reply(
            market_type, body["op"], body["conn_id"], body.get("req_id", "")
        )
    channel, _, symbol = body["topic"].rpartition(".")
    if channel.split(".")[0] not in ("orderbook", "publicTrade"):
        return None
    made = BYBIT_SPOT if market_type == "spot" else bybit_linear(symbol)
    encoder, data, send_ns = BybitEncoder(made), body["data"], body["ts"] * NS_PER_MS
    if channel == "publicTrade":
        trades = [
            TradeRow(
                trade["i"],
                steps(trade["p"], made.tick_size),
                steps(trade["v"], made.lot_size),
                1 if trade["S"] == "Buy" else -1,
                trade["T"] * NS_PER_MS,
                trade["L"],
                trade["seq"],
            )
            for trade in data
        ]
        return "trades", encoder.trades(trades, send_ns)
    depth, sides = int(channel.split(".")[1]), (rows(data["b"], made), rows(data["a"], made))
    times = body["cts"] * NS_PER_MS, send_ns
    return "book", encoder.book(body["type"], depth, data["u"], data["seq"], *sides, *times)


def coinbase_again(body: dict[str, Any]) -> tuple[str, bytes] | None:
    "The kind of a frame and what our encoder makes of its numbers; None for foreign channels."
    (event,), number = body["events"], body["sequence_num"]
    channel, send_ns = body["channel"], rfc3339_ns(body["timestamp"])
    if channel == "subscriptions":
        return channel, CoinbaseEncoder.subscriptions(number, event["subscriptions"], send_ns)
    if channel == "heartbeats":
        day, clock, _, _, uptime = event["current_time"].split(" ")
        made_ns = rfc3339_ns(f"{day}T{clock}Z")
        return channel, CoinbaseEncoder.heartbeats(
            number, made_ns, steps(uptime.removeprefix("m=+"), 1e-9), send_ns
        )
    if channel == "l2_data":
        made = coinbase(event["product_id"])
        sides: dict[str, list[list[str]]] = {"bid": [], "offer": []}
        for level in event["updates"]:
            sides[level["side"]].append([level["price_level"], level["new_quantity"]])
        at = rfc3339_ns(event["updates"][0]["event_time"]) if event["updates"] else 0
        both = rows(sides["bid"], made), rows(sides["offer"], made)
        return channel, CoinbaseEncoder(made).l2_data(event["type"], number, *both, at, send_ns)
    if channel == "market_trades":
        made = coinbase(event["trades"][0]["product_id"])
        trades = [
            TradeRow(
                trade["trade_id"],
                steps(trade["price"], made.tick_size),
                steps(trade["size"], made.lot_size),
                1 if trade["side"] == "SELL" else -1,
                rfc3339_ns(trade["time"]),
            )
            for trade in reversed(event["trades"])
        ]
        return channel, CoinbaseEncoder(made).market_trades(event["type"], number, trades, send_ns)
    return None


def kraken_again(frame: bytes) -> tuple[str, bytes]:
    "The kind of a frame and what our encoder makes of its numbers."
    body = json.loads(frame, parse_float=str)
    if "method" in body:
        times = rfc3339_ns(body["time_in"]), rfc3339_ns(body["time_out"])
        return "reply", KrakenEncoder.reply(body["method"], body["result"], *times)
    if body["channel"] == "status":
        return "status", KrakenEncoder.status(body["data"][0]["connection_id"])
    if body["channel"] == "heartbeat":
        return "heartbeat", KrakenEncoder.heartbeat()
    (data,) = body["data"]
    made = instrument("kraken", data["symbol"])
    sides = [rows([[x["price"], x["qty"]] for x in data[side]], made) for side in ("bids", "asks")]
    about = data["checksum"], rfc3339_ns(data["timestamp"])
    return "book", KrakenEncoder(made).book(body["type"], *sides, *about)


def okx_again(body: dict[str, Any]) -> tuple[str, bytes]:
    "The kind of a frame and what our encoder makes of its numbers."
    if "event" in body:
        about = body["arg"]["channel"], body["arg"]["instId"], body["connId"]
        return "reply", OKXEncoder.reply(body["event"], *about)
    (data,), made = body["data"], instrument("okx", "BTC/USDT")
    bids, asks = (
        [(*row, int(level[3])) for row, level in zip(rows([x[:2] for x in side], made), side)]
        for side in (data["bids"], data["asks"])
    )
    ids, sent_ns = (data["seqId"], data["prevSeqId"]), int(data["ts"]) * NS_PER_MS
    return "book", OKXEncoder(made).book(body["action"], *ids, bids, asks, sent_ns)


@cache
def compared(data: Path) -> Counter[str]:
    "Encode every captured frame again, assert that it is the same, count the kinds."
    seen: Counter[str] = Counter()
    for name, made in (("spot", BINANCE_SPOT), ("usdm", BINANCE_LINEAR)):
        for frame in captured(data / "binance-2024-08-08" / f"{name}_btcusdt.gz"):
            body = json.loads(frame)
            kind, again = binance_again(body.get("data", body), made)
            if "stream" in body:
                again = BinanceEncoder.combined(body["stream"], again)
                seen[f"binance {made.market_type}/combined"] += 1
            assert again == frame
            seen[f"binance {made.market_type}/{kind}"] += 1
    today = data / "wire-2026-08"
    for frame in captured(today / "binance_us_depth.jsonl"):
        assert binance_again(json.loads(frame), BINANCE_SPOT)[1] == frame
    snapshot = (today / "binance_us_snapshot.json").read_bytes().rstrip()
    assert binance_again(json.loads(snapshot), BINANCE_SPOT)[1] == snapshot
    for path, market_type in (
        (today / "bybit_orderbook.jsonl", "spot"),
        (data / "wire-2026-08-frames" / "bybit_linear.gz", "linear"),
    ):
        for frame in captured(path):
            if found := bybit_again(json.loads(frame), market_type):
                assert found[1] == frame
                seen[f"bybit {market_type}/{found[0]}"] += 1
    for path in (
        today / "coinbase_l2.jsonl",
        data / "wire-2026-08-frames" / "coinbase_advanced_btcusd_ethusd.gz",
    ):
        for frame in captured(path):
            if found := coinbase_again(json.loads(frame)):
                # Channels and products are listed in no fixed order by the venue.
                same = json.loads(found[1]) if found[0] == "subscriptions" else found[1]
                assert same == (json.loads(frame) if found[0] == "subscriptions" else frame)
                seen[f"coinbase spot/{found[0]}"] += 1
    for frame in captured(today / "kraken_book.jsonl"):
        kind, again = kraken_again(frame)
        assert again == frame
        seen[f"kraken spot/{kind}"] += 1
    for frame in captured(today / "okx_books.jsonl"):
        kind, again = okx_again(json.loads(frame))
        assert again == frame
        seen[f"okx spot/{kind}"] += 1
    return seen


@pytest.mark.data
def test_captured_frames_are_encoded_byte_for_byte(gem_data: Path) -> None:
    seen = compared(gem_data)
    assert seen["binance spot/depth_update"] == 3451
    assert seen["binance linear/depth_update"] == 6551
    assert seen["bybit linear/book"] == 1598 and seen["bybit linear/trades"] == 102
    assert seen["coinbase spot/l2_data"] == 231 and seen["coinbase spot/heartbeats"] == 7
    assert seen["kraken spot/book"] == 4 and seen["okx spot/book"] == 7


@pytest.mark.data
def test_what_was_not_compared_is_listed_as_unverified(gem_data: Path) -> None:
    "Every public method of an encoder is a kind of frame, compared or named in UNVERIFIED_FRAMES."
    seen = set(compared(gem_data))
    for venue, encoder in ENCODERS.items():
        kinds = {name for name, _ in inspect.getmembers(encoder, callable) if name[0] != "_"}
        kinds |= {"refusal"} if venue == "bybit" else set()  # a reply with a reason
        markets = ("spot",) if venue in ("coinbase", "kraken") else ("spot", "linear")
        every = {f"{market_type}/{kind}" for market_type in markets for kind in kinds}
        if venue == "htx":  # the only one whose markets write books differently
            every -= {"linear/mbp", "linear/mbp_snapshot", "spot/depth"}
        verified = {name.split()[1] for name in seen if name.startswith(venue)}
        assert verified.isdisjoint(UNVERIFIED_FRAMES[venue])
        assert every == verified | set(UNVERIFIED_FRAMES[venue])


# --- there and back: what is encoded is what the venue's parser reads

levels = st.dictionaries(st.integers(1, 10**7), st.integers(0, 10**8), max_size=12).map(
    lambda book: sorted(book.items())
)
times = st.integers(1_500_000_000 * NS_PER_S, 2_000_000_000 * NS_PER_S)
ids = st.integers(1, 2**52)
trade_rows = st.lists(
    st.builds(
        TradeRow,
        trade_id=ids.map(str),
        tick=st.integers(1, 10**7),
        lots=st.integers(1, 10**8),
        side=st.sampled_from([-1, 1]),
        ts_engine_ns=times,
        direction=st.just("PlusTick"),
    ),
    min_size=1,
    max_size=5,
)
SPOT = Instrument("binance", "BTC/USDT", "BTCUSDT", "spot", "BTC", "USDT", "", 0.01, 0.00001)


def floats(side: list[tuple[int, int]], made: Instrument) -> list[tuple[float, float]]:
    "The floats that exact decimals are nearest to."
    tick, lot = Decimal(str(made.tick_size)), Decimal(str(made.lot_size))
    return [(float(tick * t), float(lot * n)) for t, n in side]


def in_ms(ts_ns: int) -> int:
    return ts_ns // NS_PER_MS * NS_PER_MS


def same_trades(found: list[Any], sent: list[TradeRow], made: Instrument, step_ns: int) -> None:
    "Prices, sizes, taker sides, ids and times, whatever the order."
    assert Counter((t.price, t.size, t.side, t.trade_id, t.ts_event_ns) for t in found) == Counter(
        (
            *floats([(t.tick, t.lots)], made)[0],
            "buy" if t.side > 0 else "sell",
            t.trade_id,
            t.ts_engine_ns // step_ns * step_ns,
        )
        for t in sent
    )


@given(bids=levels, asks=levels, last=ids, width=st.integers(1, 50), engine=times, sent=times)
@pytest.mark.parametrize("made", [SPOT, BINANCE_LINEAR], ids=["spot", "linear"])
def test_binance_books_come_back(
    made: Instrument,
    bids: list[tuple[int, int]],
    asks: list[tuple[int, int]],
    last: int,
    width: int,
    engine: int,
    sent: int,
) -> None:
    protocol, encoder = BinanceProtocol(made.market_type), BinanceEncoder(made)
    first = max(1, last - width)
    is_spot = made.market_type == "spot"
    frame = encoder.depth_update(first, last, first - 1, bids[::-1], asks, engine, sent)
    for payload in (frame, encoder.combined("btcusdt@depth@100ms", frame)):
        (message,) = protocol.parse(payload)
        assert isinstance(message, BookMessage) and message.kind == DELTA
        assert sorted(message.bids) == floats(bids, made)
        assert message.asks == floats(asks, made)
        assert (message.first_id, message.last_id, message.prev_id) == (first, last, first - 1)
        assert message.ts_send_ns == in_ms(sent)
        assert message.ts_engine_ns == (0 if is_spot else in_ms(engine))
    reply = encoder.depth_snapshot(last, bids[::-1], asks, engine, sent)
    book = protocol.parse_snapshot(reply, made.venue_symbol)
    assert (book.kind, book.last_id) == (SNAPSHOT, last)
    assert (book.bids, book.asks) == (floats(bids[::-1], made), floats(asks, made))
    assert protocol.parse_time(encoder.server_time(sent)) == in_ms(sent)


@given(trades=trade_rows, sent=times)
@pytest.mark.parametrize("made", [SPOT, BINANCE_LINEAR], ids=["spot", "linear"])
def test_binance_trades_come_back(made: Instrument, trades: list[TradeRow], sent: int) -> None:
    protocol, encoder = BinanceProtocol(made.market_type), BinanceEncoder(made)
    found = [m for trade in trades for m in protocol.parse(encoder.trade(trade, sent))]
    same_trades(found, trades, made, NS_PER_MS)


@given(bids=levels, asks=levels, number=ids, engine=times, sent=times)
@pytest.mark.parametrize("made", [BYBIT_SPOT, bybit_linear("BTCUSDT")], ids=["spot", "linear"])
@pytest.mark.parametrize("kind", [SNAPSHOT, DELTA])
def test_bybit_books_come_back(
    made: Instrument,
    kind: str,
    bids: list[tuple[int, int]],
    asks: list[tuple[int, int]],
    number: int,
    engine: int,
    sent: int,
) -> None:
    protocol, encoder = BybitProtocol(made.market_type), BybitEncoder(made)
    frame = encoder.book(kind, 50, number + 1, 7, bids[::-1], asks, engine, sent)
    (message,) = protocol.parse(frame)
    assert isinstance(message, BookMessage) and message.kind == kind
    assert (message.bids, message.asks) == (floats(bids[::-1], made), floats(asks, made))
    assert (message.last_id, message.prev_id) == (number + 1, number)
    assert (message.ts_engine_ns, message.ts_send_ns) == (in_ms(engine), in_ms(sent))
    assert abs(protocol.parse_time(encoder.server_time(sent)) - sent) < NS_PER_MS


@given(trades=trade_rows, sent=times)
@pytest.mark.parametrize("made", [BYBIT_SPOT, bybit_linear("BTCUSDT")], ids=["spot", "linear"])
def test_bybit_trades_come_back(made: Instrument, trades: list[TradeRow], sent: int) -> None:
    found = BybitProtocol(made.market_type).parse(BybitEncoder(made).trades(trades, sent))
    same_trades(list(found), trades, made, NS_PER_MS)


@given(bids=levels, asks=levels, trades=trade_rows, number=ids, engine=times, sent=times)
def test_coinbase_frames_come_back(
    bids: list[tuple[int, int]],
    asks: list[tuple[int, int]],
    trades: list[TradeRow],
    number: int,
    engine: int,
    sent: int,
) -> None:
    made = coinbase("BTC-USD")
    protocol, encoder = CoinbaseProtocol(), CoinbaseEncoder(made)
    frame = encoder.l2_data("update", number, bids[::-1], asks, engine, sent)
    counted, message = protocol.parse(frame)
    assert counted == FrameNumber(number) and isinstance(message, BookMessage)
    assert (message.bids, message.asks) == (floats(bids[::-1], made), floats(asks, made))
    assert message.ts_send_ns == sent
    assert message.ts_engine_ns == (engine // NS_PER_US * NS_PER_US if bids or asks else 0)
    counted, *found = protocol.parse(encoder.market_trades("update", number, trades, sent))
    assert counted == FrameNumber(number)
    assert all(isinstance(trade, TradeMessage) and not trade.is_history for trade in found)
    same_trades(found, trades, made, NS_PER_US)
    counted, notice = protocol.parse(encoder.heartbeats(number, engine, sent, sent))
    assert counted == FrameNumber(number) and notice.kind == "heartbeat"
    assert protocol.parse_time(encoder.server_time(sent)) == in_ms(sent)


KRAKEN = instrument("kraken", "BTC/USD")
OKX = [instrument("okx", symbol) for symbol in ("BTC/USDT", "BTC/USDT:USDT")]
HTX = [instrument("htx", symbol) for symbol in ("BTC/USDT", "BTC/USDT:USDT")]


def in_venue_units(made: Instrument) -> Instrument:
    "The instrument as its wire counts: contracts instead of base units."
    lot = Decimal(str(made.lot_size)) / Decimal(str(made.contract_size))
    return replace(made, lot_size=float(lot), contract_size=1.0)


@given(bids=levels, asks=levels, trades=trade_rows, sent=times, crc=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("kind", [SNAPSHOT, DELTA])
def test_kraken_frames_come_back(
    kind: str,
    bids: list[tuple[int, int]],
    asks: list[tuple[int, int]],
    trades: list[TradeRow],
    sent: int,
    crc: int,
) -> None:
    protocol, encoder = KrakenProtocol(), KrakenEncoder(KRAKEN)
    name = "update" if kind == DELTA else "snapshot"
    (message,) = protocol.parse(encoder.book(name, bids[::-1], asks, crc, sent))
    assert isinstance(message, BookMessage) and message.kind == kind
    assert (message.bids, message.asks) == (floats(bids[::-1], KRAKEN), floats(asks, KRAKEN))
    assert (message.checksum, message.ts_send_ns) == (crc, sent // NS_PER_US * NS_PER_US)
    same_trades(protocol.parse(encoder.trades("update", trades)), trades, KRAKEN, NS_PER_US)
    assert all(trade.is_history for trade in protocol.parse(encoder.trades("snapshot", trades)))
    assert protocol.parse_time(encoder.server_time(sent)) == sent // NS_PER_S * NS_PER_S


@given(bids=levels, asks=levels, trades=trade_rows, number=ids, sent=times)
@pytest.mark.parametrize("made", OKX, ids=["spot", "linear"])
@pytest.mark.parametrize("kind", [SNAPSHOT, DELTA])
def test_okx_frames_come_back(
    kind: str,
    made: Instrument,
    bids: list[tuple[int, int]],
    asks: list[tuple[int, int]],
    trades: list[TradeRow],
    number: int,
    sent: int,
) -> None:
    protocol, encoder = OKXProtocol(made.market_type), OKXEncoder(made)
    name = "update" if kind == DELTA else "snapshot"
    both = [[(t, n, 1) for t, n in side] for side in (bids[::-1], asks)]
    (message,) = protocol.parse(encoder.book(name, number + 9, number, *both, sent))
    wire = in_venue_units(made)
    assert isinstance(message, BookMessage) and message.kind == kind
    assert (message.bids, message.asks) == (floats(bids[::-1], wire), floats(asks, wire))
    assert (message.last_id, message.prev_id) == (number + 9, number)
    assert message.ts_send_ns == in_ms(sent)
    same_trades(protocol.parse(encoder.trades(trades)), trades, wire, NS_PER_MS)
    assert protocol.parse_time(encoder.server_time(sent)) == in_ms(sent)


@given(bids=levels, asks=levels, trades=trade_rows, number=ids, engine=times, sent=times)
@pytest.mark.parametrize("made", HTX, ids=["spot", "linear"])
def test_htx_frames_come_back(
    made: Instrument,
    bids: list[tuple[int, int]],
    asks: list[tuple[int, int]],
    trades: list[TradeRow],
    number: int,
    engine: int,
    sent: int,
) -> None:
    protocol, encoder, wire = HTXProtocol(made.market_type), HTXEncoder(made), in_venue_units(made)
    sides = bids[::-1], asks
    if made.market_type == "spot":
        frame = encoder.mbp(150, number + 9, number, *sides, sent)
        snapshot = encoder.mbp_snapshot(150, "1", number + 9, *sides, sent)
        ids_ = number + 9, number
    else:
        frame = encoder.depth("update", 150, number + 1, *sides, engine, sent)
        snapshot = encoder.depth("snapshot", 150, number + 1, *sides, engine, sent)
        ids_ = number + 1, number
    (message,) = protocol.parse(unzipped(packed(frame)))
    (first,) = protocol.parse(unzipped(packed(snapshot)))
    for one, kind in ((message, DELTA), (first, SNAPSHOT)):
        assert isinstance(one, BookMessage) and (one.kind, one.rows) == (kind, 150)
        assert (one.bids, one.asks) == (floats(sides[0], wire), floats(asks, wire))
        assert one.ts_send_ns == in_ms(sent) and one.last_id == ids_[0]
    assert message.prev_id == ids_[1]
    same_trades(protocol.parse(encoder.trades(trades, sent)), trades, wire, NS_PER_MS)
    clock = encoder.server_time(made.market_type, sent)
    assert protocol.parse_time(clock) == in_ms(sent)


def test_answers_of_the_younger_venues_are_understood() -> None:
    about = {"channel": "book", "depth": 25, "snapshot": True, "symbol": "BTC/USD"}
    topic, at = "market.btcusdt.trade.detail", NS_PER_S
    for protocol, frame, kind in (
        (KrakenProtocol(), KrakenEncoder.reply("subscribe", about, at, at), "ack"),
        (
            KrakenProtocol(),
            KrakenEncoder.refusal("subscribe", "X", "no such pair", at, at),
            "error",
        ),
        (KrakenProtocol(), KrakenEncoder.pong(at, at), "pong"),
        (KrakenProtocol(), KrakenEncoder.status(7), "other"),
        (KrakenProtocol(), KrakenEncoder.heartbeat(), "heartbeat"),
        (OKXProtocol(), OKXEncoder.reply("subscribe", "books", "BTC-USDT", "c"), "ack"),
        (OKXProtocol(), OKXEncoder.refusal("60018", "no such channel", "c"), "error"),
        (OKXProtocol(), OKXEncoder.pong(), "pong"),
        (HTXProtocol(), HTXEncoder.reply("sub", topic, "1", at), "ack"),
        (HTXProtocol(), HTXEncoder.reply("unsub", topic, "1", at), "ack"),
        (HTXProtocol(), HTXEncoder.refusal("invalid symbol", "1", at), "error"),
        (HTXProtocol(), HTXEncoder.ping(17), "ping"),
        (HTXProtocol(), HTXEncoder.pong(17), "pong"),
    ):
        (notice,) = protocol.parse(frame)
        assert isinstance(notice, Notice) and notice.kind == kind
    for refuse, reply in (
        (KrakenProtocol().parse_time, KrakenEncoder.rest_error("EGeneral:Unknown method")),
        (OKXProtocol().parse_time, OKXEncoder.rest_error("404", "Not Found")),
        (HTXProtocol().parse_time, HTXEncoder.rest_error("no such path")),
    ):
        with pytest.raises(MalformedMessage, match="refuses"):
            refuse(reply)


@given(n=st.integers(0, 10**15), places=st.integers(0, 8))
def test_java_texts_are_exact_and_of_javas_form(n: int, places: int) -> None:
    text = JavaText(Decimal(1).scaleb(-places), None)[n]
    assert Decimal(text) == n * Decimal(1).scaleb(-places)
    whole, point, part = text.partition("E")[0].partition(".")
    assert point and whole and part and (part == "0" or part[-1] != "0")
    assert ("E" in text) == (n > 0 and not 1e-3 <= float(text) < 1e7)


@given(ts_ns=times)
def test_micro_texts_have_six_decimals(ts_ns: int) -> None:
    text = micro_text(ts_ns)
    assert rfc3339_ns(text) == ts_ns // NS_PER_US * NS_PER_US and len(text) == 27


def test_answers_are_understood() -> None:
    (notice,) = BinanceProtocol("spot").parse(BinanceEncoder.result(1))
    assert isinstance(notice, Notice) and notice.kind == "ack"
    (notice,) = BinanceProtocol("spot").parse(BinanceEncoder.refusal(3, "Invalid JSON"))
    assert isinstance(notice, Notice) and notice.kind == "error"
    for market_type in ("spot", "linear"):
        protocol = BybitProtocol(market_type)
        for frame, kind in (
            (BybitEncoder.reply(market_type, "subscribe", "c"), "ack"),
            (BybitEncoder.reply(market_type, "subscribe", "c", "r", "error:no topic"), "error"),
            (BybitEncoder.pong("c"), "pong"),
        ):
            (notice,) = protocol.parse(frame)
            assert isinstance(notice, Notice) and notice.kind == kind
    (notice,) = CoinbaseProtocol().parse(CoinbaseEncoder.error("no such product"))
    assert isinstance(notice, Notice) and notice.kind == "error"
    told = CoinbaseEncoder.subscriptions(4, {"level2": ["BTC-USD"]}, NS_PER_S)
    counted, notice = CoinbaseProtocol().parse(told)
    assert counted == FrameNumber(4) and isinstance(notice, Notice) and notice.kind == "ack"


@given(n=st.integers(0, 10**15), places=st.integers(0, 8), more=st.integers(0, 3))
def test_decimal_texts_are_exact(n: int, places: int, more: int) -> None:
    step = Decimal(1).scaleb(-places)
    fixed, stripped = DecimalText(step, places + more)[n], DecimalText(step, None)[n]
    assert Decimal(fixed) == Decimal(stripped) == n * step
    assert len(fixed.partition(".")[2]) == places + more
    assert "." not in stripped or stripped[-1] not in "0."


@given(ts_ns=times)
def test_times_come_back(ts_ns: int) -> None:
    assert rfc3339_ns(go_time_text(ts_ns)) == ts_ns
    assert go_time_text(ts_ns)[-2] != "0" or ts_ns % NS_PER_S == 0


@given(ticks=st.lists(st.integers(1, 4), min_size=1))
def test_tick_directions_against_the_definition(ticks: list[int]) -> None:
    for i, direction in enumerate(tick_directions(ticks)):
        earlier = [tick for tick in ticks[:i] if tick != ticks[i]]
        moved = i == 0 or ticks[i] != ticks[i - 1]
        last = next(
            (j for j in range(i, 0, -1) if ticks[j] != ticks[j - 1]), 0
        )  # where the price moved last
        up = not earlier or ticks[last] > ticks[last - 1] if last else True
        assert direction == ("" if moved else "Zero") + ("Plus" if up else "Minus") + "Tick"
