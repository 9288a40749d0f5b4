"""Frames as venues write them: byte for byte against captures, and back through the parsers."""

import gzip
import inspect
import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_detector.core import NS_PER_MS, NS_PER_S, NS_PER_US, Instrument, rfc3339_ns
from gem_detector.encoders import (
    UNVERIFIED_FRAMES,
    BinanceEncoder,
    BybitEncoder,
    CoinbaseEncoder,
    DecimalText,
    TradeRow,
    go_time_text,
    tick_directions,
)
from gem_detector.venues.binance import BinanceProtocol
from gem_detector.venues.bybit import BybitProtocol
from gem_detector.venues.coinbase import CoinbaseProtocol
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
    return seen


@pytest.mark.data
def test_captured_frames_are_encoded_byte_for_byte(gem_data: Path) -> None:
    seen = compared(gem_data)
    assert seen["binance spot/depth_update"] == 3451
    assert seen["binance linear/depth_update"] == 6551
    assert seen["bybit linear/book"] == 1598 and seen["bybit linear/trades"] == 102
    assert seen["coinbase spot/l2_data"] == 231 and seen["coinbase spot/heartbeats"] == 7


@pytest.mark.data
def test_what_was_not_compared_is_listed_as_unverified(gem_data: Path) -> None:
    "Every public method of an encoder is a kind of frame, compared or named in UNVERIFIED_FRAMES."
    seen = set(compared(gem_data))
    encoders = {"binance": BinanceEncoder, "bybit": BybitEncoder, "coinbase": CoinbaseEncoder}
    for venue, encoder in encoders.items():
        kinds = {name for name, _ in inspect.getmembers(encoder, callable) if name[0] != "_"}
        kinds |= {"refusal"} if venue == "bybit" else set()  # a reply with a reason
        markets = ("spot",) if venue == "coinbase" else ("spot", "linear")
        every = {f"{market_type}/{kind}" for market_type in markets for kind in kinds}
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
