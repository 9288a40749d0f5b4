"""Every venue protocol through one battery: what comes out is usable, what is wrong says so."""

import gzip
import json
import math
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gem_detector.book import OrderBook
from gem_detector.core import InputError, MalformedMessage
from gem_detector.encoders import number_texts
from gem_detector.encoders_kraken import text_checksum
from gem_detector.markets import instrument
from gem_detector.venues.binance import BinanceProtocol
from gem_detector.venues.bybit import BybitProtocol
from gem_detector.venues.coinbase import CoinbaseProtocol, answered_as, time_ns
from gem_detector.venues.htx import HTXProtocol, unzipped
from gem_detector.venues.kraken import KrakenProtocol, book_checksum
from gem_detector.venues.okx import OKXProtocol
from gem_detector.wire import (
    DELTA,
    IMAGE,
    SNAPSHOT,
    BookMessage,
    FrameNumber,
    Message,
    Notice,
    RestCall,
    TradeMessage,
    VenueProtocol,
)

INT64 = 2**63
PROTOCOLS: dict[str, VenueProtocol] = {
    "binance-spot": BinanceProtocol("spot"),
    "binance-linear": BinanceProtocol("linear"),
    "binance-linear-aggTrade": BinanceProtocol("linear", "aggTrade"),
    "bybit-spot": BybitProtocol("spot"),
    "bybit-linear": BybitProtocol("linear"),
    "coinbase-advanced": CoinbaseProtocol(),
    "coinbase-exchange": CoinbaseProtocol(feed="exchange"),
    "kraken-spot": KrakenProtocol(),
    "okx-spot": OKXProtocol("spot"),
    "okx-linear": OKXProtocol("linear"),
    "htx-spot": HTXProtocol("spot"),
    "htx-linear": HTXProtocol("linear"),
}
protocols = pytest.mark.parametrize("name", PROTOCOLS)

# One frame of every kind that the venues send, in their formats, the values our own.
SPOT_DELTA = (
    '{"e":"depthUpdate","E":1767225600100,"s":"BTCUSDT","U":1008,"u":1011,'
    '"b":[["90000.10000000","0.50000000"],["89999.00000000","0.00000000"]],"a":[["90000.2","1"]]}'
)
LINEAR_DELTA = (
    '{"e":"depthUpdate","E":1767225600105,"T":1767225600101,"s":"BTCUSDT","U":2100,"u":2140,'
    '"pu":2081,"b":[["90000.10","0.500"]],"a":[],"st":1,"ps":"BTCUSDT"}'
)
TRADE = (
    '{"e":"trade","E":1767225600343,"T":1767225600342,"s":"BTCUSDT","t":77001,'
    '"p":"90000.10","q":"0.020","X":"MARKET","m":true}'
)
AGG_TRADE = (
    '{"e":"aggTrade","E":1767225600343,"s":"BTCUSDT","a":501,"p":"90000.1","q":"0.02",'
    '"f":77001,"l":77003,"T":1767225600342,"m":false,"M":true}'
)
REST_BOOK = (
    '{"lastUpdateId":1009,"bids":[["90000.0","1.5"],["89999.9","2"]],"asks":[["90000.2","1"]]}'
)
TICKER = '{"u":400,"s":"BTCUSDT","b":"90000.1","B":"0.5","a":"90000.2","A":"0.1"}'


def wrapped(stream: str, data: str) -> str:
    "A frame of a combined Binance stream."
    return f'{{"stream":"{stream}","data":{data}}}'


BINANCE = [
    SPOT_DELTA,
    LINEAR_DELTA,
    wrapped("btcusdt@depth@100ms", SPOT_DELTA),
    wrapped("btcusdt@depth@100ms", LINEAR_DELTA),
    wrapped("btcusdt@depth20@100ms", REST_BOOK),
    wrapped("btcusdt@depth20", LINEAR_DELTA),
    wrapped("btcusdt@trade", TRADE),
    wrapped("btcusdt@aggTrade", AGG_TRADE),
    wrapped("btcusdt@bookTicker", TICKER),
    wrapped("!serverShutdown", '{"e":"serverShutdown","E":1767225600000}'),
    TRADE,
    AGG_TRADE,
    REST_BOOK,
    TICKER,
    '{"result":null,"id":1}',
    '{"error":{"code":2,"msg":"Invalid request"},"id":1}',
    '{"code":-1121,"msg":"Invalid symbol."}',
    '[{"e":"24hrMiniTicker"}]',
]
BYBIT = [
    '{"topic":"orderbook.50.BTCUSDT","ts":1767225600103,"type":"snapshot","data":{"s":"BTCUSDT",'
    '"b":[["90000.1","0.5"]],"a":[["90000.2","0.7"]],"u":4001,"seq":99001},"cts":1767225600100}',
    '{"topic":"orderbook.200.BTCUSDT","type":"delta","ts":1767225600124,"data":{"s":"BTCUSDT",'
    '"b":[["90000.1","0"]],"a":[],"u":4002,"seq":99017},"cts":1767225600120}',
    '{"topic":"orderbook.rpi.BTCUSDT","type":"delta","ts":1,"data":{"s":"BTCUSDT",'
    '"b":[["90000.1","0","1"]],"a":[],"u":4002,"seq":9},"cts":1}',
    '{"topic":"orderbook.full.BTCUSDT","type":"delta","ts":1,"data":{"s":"BTCUSDT",'
    '"b":[["90000.1","0"]],"a":[],"u":4002,"seq":9},"cts":1}',
    '{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1767225600130,"data":['
    '{"T":1767225600128,"s":"BTCUSDT","S":"Sell","v":"0.004","p":"90000.1","L":"MinusTick",'
    '"i":"a-1","BT":false,"RPI":false,"seq":99020},{"T":1767225600128,"s":"BTCUSDT","S":"Buy",'
    '"v":"25","p":"90010","L":"PlusTick","i":"a-2","BT":true,"RPI":false,"seq":99021}]}',
    '{"topic":"tickers.BTCUSDT","type":"delta","data":{"symbol":"BTCUSDT"},"cs":1,"ts":2}',
    '{"topic":"kline.1.BTCUSDT","data":[{"start":1}],"ts":1,"type":"snapshot"}',
    '{"success":true,"ret_msg":"","conn_id":"c","req_id":"","op":"subscribe"}',
    '{"success":false,"ret_msg":"error:handler not found","conn_id":"c","op":"subscribe"}',
    '{"success":true,"ret_msg":"pong","conn_id":"c","req_id":"","op":"ping"}',
    '{"req_id":"","op":"pong","args":["1767225600000"],"conn_id":"c"}',
]
ADVANCED = [
    '{"channel":"l2_data","timestamp":"2026-01-01T00:00:00.143228166Z","sequence_num":7,"events":['
    '{"type":"update","product_id":"BTC-USD","updates":[{"side":"bid","event_time":'
    '"2026-01-01T00:00:00.11Z","price_level":"90000.1","new_quantity":"0"},{"side":"offer",'
    '"event_time":"2026-01-01T00:00:00.1Z","price_level":"90000.2","new_quantity":"0.5"}]},'
    '{"type":"snapshot","product_id":"ETH-USD","updates":[]}]}',
    '{"channel":"market_trades","timestamp":"2026-01-01T00:00:00.25Z","sequence_num":8,"events":['
    '{"type":"snapshot","trades":[{"product_id":"BTC-USD","trade_id":"1001","price":"90000.2",'
    '"size":"0.1","time":"2026-01-01T00:00:00.168Z","side":"SELL"},{"product_id":"BTC-USD",'
    '"trade_id":"999","price":"90000.1","size":"0.2","time":"2026-01-01T00:00:00.168Z",'
    '"side":"BUY"}]}]}',
    '{"channel":"heartbeats","timestamp":"2026-01-01T00:00:00Z","sequence_num":9,"events":['
    '{"current_time":"2026-01-01 00:00:00 +0000 UTC m=+1.2","heartbeat_counter":41}]}',
    '{"channel":"subscriptions","timestamp":"2026-01-01T00:00:00Z","sequence_num":0,"events":['
    '{"subscriptions":{"level2":["BTC-USD"]}}]}',
    '{"channel":"ticker","timestamp":"2026-01-01T00:00:00Z","sequence_num":3,"events":[]}',
    '{"type":"error","message":"authentication failure"}',
]
EXCHANGE = [
    '{"type":"snapshot","product_id":"BTC-USD","bids":[["90000.1","0.5"]],"asks":[["90000.2","1"]]}',
    '{"type":"l2update","product_id":"BTC-USD","time":"2026-01-01T00:00:00.15Z",'
    '"changes":[["buy","90000.1","0.00000000"],["sell","90000.2","0.5"]]}',
    '{"type":"match","trade_id":1002,"sequence":50,"maker_order_id":"m","taker_order_id":"t",'
    '"time":"2026-01-01T00:00:00.16Z","product_id":"BTC-USD","size":"0.3","price":"90000.2",'
    '"side":"sell"}',
    '{"type":"last_match","trade_id":1001,"sequence":49,"time":"2026-01-01T00:00:00Z",'
    '"product_id":"BTC-USD","size":"0.3","price":"90000.2","side":"buy"}',
    '{"type":"heartbeat","sequence":90,"last_trade_id":1002,"product_id":"BTC-USD",'
    '"time":"2026-01-01T00:00:01Z"}',
    '{"type":"subscriptions","channels":[{"name":"level2_batch","product_ids":["BTC-USD"]}]}',
    '{"type":"error","message":"Failed to subscribe","reason":"level2 requires authentication"}',
    '{"type":"ticker","product_id":"BTC-USD"}',
]
KRAKEN = [
    '{"channel":"book","type":"snapshot","data":[{"symbol":"BTC/USD","bids":[{"price":90000.1,'
    '"qty":0.50000000},{"price":90000.0,"qty":1.25000000}],"asks":[{"price":90000.2,'
    '"qty":0.70000000}],"checksum":952209445,"timestamp":"2026-01-01T00:00:00.100200Z"}]}',
    '{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[{"price":90000.1,'
    '"qty":0.00000000}],"asks":[],"checksum":4274784198,'
    '"timestamp":"2026-01-01T00:00:00.124500Z"}]}',
    '{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"sell",'
    '"price":90000.1,"qty":0.00400000,"ord_type":"market","trade_id":77001,'
    '"timestamp":"2026-01-01T00:00:00.128000Z"},{"symbol":"BTC/USD","side":"buy",'
    '"price":90000.2,"qty":0.1,"ord_type":"limit","trade_id":77000,'
    '"timestamp":"2026-01-01T00:00:00.127000Z"}]}',
    '{"channel":"heartbeat"}',
    '{"channel":"status","type":"update","data":[{"version":"2.0.10","system":"online",'
    '"api_version":"v2","connection_id":806193442143087786}]}',
    '{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":90000.1}]}',
    '{"method":"subscribe","result":{"channel":"book","depth":25,"snapshot":true,'
    '"symbol":"BTC/USD"},"success":true,"time_in":"2026-01-01T00:00:00.000001Z"}',
    '{"error":"Currency pair not supported NO/PE","method":"subscribe","success":false}',
    '{"method":"pong","req_id":7,"time_in":"2026-01-01T00:00:00.000001Z"}',
    '{"error":[],"result":{"unixtime":1767225600,"rfc1123":"Thu, 01 Jan 26"}}',
]
OKX = [
    '{"arg":{"channel":"books","instId":"BTC-USDT"},"action":"snapshot","data":[{"asks":['
    '["90000.2","0.7","0","3"]],"bids":[["90000.1","0.5","0","1"],["90000","1.25","0","4"]],'
    '"ts":"1767225600100","checksum":0,"seqId":4001,"prevSeqId":-1}]}',
    '{"arg":{"channel":"books","instId":"BTC-USDT"},"action":"update","data":[{"asks":[],'
    '"bids":[["90000.1","0","0","0"]],"ts":"1767225600200","checksum":0,"seqId":4077,'
    '"prevSeqId":4001}]}',
    '{"arg":{"channel":"books5","instId":"BTC-USDT"},"data":[{"asks":[["90000.2","0.7","0","3"]],'
    '"bids":[["90000.1","0.5","0","1"]],"instId":"BTC-USDT","ts":"1767225600100","seqId":4001}]}',
    '{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT",'
    '"tradeId":"77001","px":"90000.1","sz":"0.004","side":"sell","ts":"1767225600128",'
    '"count":"2","source":"0","seqId":4070}]}',
    '{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT"}]}',
    '{"event":"subscribe","arg":{"channel":"books","instId":"BTC-USDT"},"connId":"32f4414f"}',
    '{"event":"error","code":"60018","msg":"Wrong URL or channel","connId":"32f4414f"}',
    '{"event":"notice","code":"64008","msg":"The connection will soon be closed"}',
    '{"event":"channel-conn-count","channel":"orders","connCount":"2","connId":"a4d3ae55"}',
    '{"code":"0","data":[{"ts":"1767225600123"}],"msg":""}',
]
HTX = [
    '{"ch":"market.btcusdt.mbp.150","ts":1767225600200,"tick":{"seqNum":4077,"prevSeqNum":4001,'
    '"bids":[[90000.1,0.0],[89999.5,3.6E-4]],"asks":[]}}',
    '{"id":"1","status":"ok","ts":1767225600150,"rep":"market.btcusdt.mbp.150","data":{'
    '"seqNum":4001,"bids":[[90000.1,0.5],[90000.0,1.25]],"asks":[[90000.2,0.7]]}}',
    '{"ch":"market.BTC-USDT.depth.size_20.high_freq","tick":{"asks":[[90000.2,7]],"bids":[],'
    '"ch":"market.BTC-USDT.depth.size_20.high_freq","event":"update","id":9100,"mrid":9100,'
    '"ts":1767225600120,"version":501},"ts":1767225600124}',
    '{"ch":"market.BTC-USDT.depth.size_20.high_freq","tick":{"asks":[[90000.2,7]],"bids":[],'
    '"ch":"market.BTC-USDT.depth.size_20.high_freq","event":"snapshot","id":9099,"mrid":9099,'
    '"ts":1767225600110,"version":500},"ts":1767225600114}',
    '{"ch":"market.btcusdt.depth.step0","ts":1767225600200,"tick":{"bids":[[90000.1,0.5]],'
    '"asks":[],"version":4001,"ts":1767225600190}}',
    '{"ch":"market.btcusdt.trade.detail","ts":1767225600130,"tick":{"id":123140716701,'
    '"ts":1767225600128,"data":[{"id":123140716701236887569077664,"ts":1767225600128,'
    '"tradeId":102357140867,"amount":1.98E-4,"price":90000.1,"direction":"sell"}]}}',
    '{"ch":"market.BTC-USDT.trade.detail","ts":1767225600130,"tick":{"id":22419995164,'
    '"ts":1767225600128,"data":[{"amount":40,"quantity":0.04,"trade_turnover":3600.004,'
    '"ts":1767225600128,"id":224199951640000,"price":90000.1,"direction":"buy"}]}}',
    '{"ch":"market.btcusdt.bbo","ts":1767225600130,"tick":{"seqId":1,"bid":90000.1}}',
    '{"ping":1767225600123}',
    '{"pong":1767225600123}',
    '{"id":"1","status":"ok","subbed":"market.btcusdt.trade.detail","ts":1767225600150}',
    '{"id":"1","status":"error","err-code":"bad-request","err-msg":"invalid symbol x","ts":1}',
    '{"status":"ok","data":1767225600123}',
]
SAMPLES = BINANCE + BYBIT + ADVANCED + EXCHANGE + KRAKEN + OKX + HTX


def only(messages: list[Message]) -> Any:
    "The one message there must be."
    (message,) = messages
    return message


def said(call: Callable[[], object]) -> str:
    "The words of the MalformedMessage that a call must raise."
    with pytest.raises(MalformedMessage) as caught:
        call()
    return str(caught.value)


# --- the battery: any bytes


def check_book(message: BookMessage) -> None:
    "Whatever was parsed can be put into a book and into int64 columns."
    assert message.kind in (DELTA, SNAPSHOT, IMAGE)
    for price, quantity in (*message.bids, *message.asks):
        assert type(price) is float and 0 < price < math.inf
        assert type(quantity) is float and 0 <= quantity < math.inf
    ids = (message.first_id, message.last_id, message.prev_id)
    assert all(type(i) is int and -1 <= i < INT64 for i in ids)
    assert -1 <= message.checksum < 2**32 and 0 <= message.rows <= 1000
    for stamp in (message.ts_engine_ns, message.ts_send_ns, message.ts_event_ns):
        assert type(stamp) is int and 0 <= stamp < INT64
    assert type(message.venue_symbol) is str and type(message.channel) is str


def check(message: Message) -> None:
    "What `wire` promises about a message."
    if isinstance(message, BookMessage):
        check_book(message)
    elif isinstance(message, TradeMessage):
        assert 0 < message.price < math.inf and 0 <= message.size < math.inf
        assert message.side in ("buy", "sell") and type(message.trade_id) is str
        assert 0 <= message.ts_event_ns < INT64 and type(message.is_history) is bool
    elif isinstance(message, FrameNumber):
        assert 0 <= message.number < INT64
    else:
        assert isinstance(message, Notice)
        kinds = ("ack", "error", "heartbeat", "ping", "pong", "shutdown", "other")
        assert message.kind in kinds and bool(message.answer) == (message.kind == "ping")
        assert message.text or message.kind != "error"


def survives(protocol: VenueProtocol, payload: bytes) -> None:
    "Every face that takes bytes gives checked words or MalformedMessage, and nothing else."
    faces: list[Callable[[bytes], list[Message]]] = [
        protocol.parse,
        lambda reply: [protocol.parse_snapshot(reply, "BTCUSDT")],
        lambda reply: [FrameNumber(protocol.parse_time(reply))],
    ]
    for face in faces:
        try:
            messages = face(payload)
        except MalformedMessage:
            continue
        for message in messages:
            check(message)


fuzz = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
hostile = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([10**13, 10**14, 2**63 - 1, 2**63, -1, 0, 1]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "nan", "inf", "-0", "1e999", "1e-999", "NaT", "0x1", "٣", "\ud800", "0"]),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    "Every place in a JSON value."
    yield path
    if isinstance(value, dict | list):
        children = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in children:
            yield from places(child, (*path, key))


def replaced(value: Any, path: tuple, by: Any) -> Any:
    "A JSON value with another one in one place."
    if not path:
        return by
    changed = value.copy()
    changed[path[0]] = replaced(value[path[0]], path[1:], by)
    return changed


ODD = [None, True, -1, 0, 2**63 - 1, 2**63, 2**70, 1.5, 1e300, "", "nan", "inf", "-0", "1e999"]
ODD += [2**63 // 10**e + d for e in (3, 6) for d in (0, 1)]  # where stamps leave 64 bits
ODD += ["1e-999", "0x1", "٣", "\ud800", "0", "x", [], {}, [[]], [["1", "2", "3"]], {"a": 1}]
ODD += ["2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "9999-01-01T00:00:00Z", "orderbook.50.X"]
ODD += ["publicTrade.X", "l2_data", "market_trades", "x@depth", "x@trade", "depthUpdate", "error"]


@protocols
def test_every_odd_value_in_every_place(name: str) -> None:
    for sample in SAMPLES:
        frame = json.loads(sample)
        for path in places(frame):
            for odd in ODD:
                survives(PROTOCOLS[name], json.dumps(replaced(frame, path, odd)).encode())


@protocols
@fuzz
@given(payload=st.binary(max_size=60))
def test_random_bytes(name: str, payload: bytes) -> None:
    survives(PROTOCOLS[name], payload)


@protocols
@fuzz
@given(data=st.data())
def test_wrong_values_in_right_frames(name: str, data: st.DataObject) -> None:
    frame = json.loads(data.draw(st.sampled_from(SAMPLES)))
    path = data.draw(st.sampled_from(list(places(frame))))
    survives(PROTOCOLS[name], json.dumps(replaced(frame, path, data.draw(hostile))).encode())


@protocols
@fuzz
@given(data=st.data())
def test_damaged_bytes_of_right_frames(name: str, data: st.DataObject) -> None:
    payload = bytearray(data.draw(st.sampled_from(SAMPLES)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=3))
        if not payload:
            break
    survives(PROTOCOLS[name], bytes(payload))


@protocols
def test_every_truncation_is_malformed(name: str) -> None:
    for sample in SAMPLES:
        for end in range(len(sample.encode())):
            said(lambda: PROTOCOLS[name].parse(sample.encode()[:end]))  # noqa: B023


@protocols
def test_deep_nesting_and_odd_wholes_are_malformed(name: str) -> None:
    protocol = PROTOCOLS[name]
    for payload in (
        b"",
        b"null",
        b"7",
        b'"x"',
        b"{}",
        b'{"a":' * 5000,
        b"[" * 5000,
        b"\xff",
        b"{}{}",
    ):
        said(lambda: protocol.parse(payload))  # noqa: B023
    for key in (
        "orderbook.",
        "l2_data",
        "depthUpdate",
        "book",
        "bids",
        "tick",
    ):  # the words the first look goes by
        nested = f'{{"{key}":' + "[" * 5000 + "]" * 5000 + "}"
        said(lambda: protocol.parse(nested.encode()))  # noqa: B023


@protocols
@fuzz
@given(data=st.data())
def test_the_order_of_keys_does_not_matter(name: str, data: st.DataObject) -> None:
    sample = json.loads(data.draw(st.sampled_from(SAMPLES)))
    rng = random.Random(data.draw(st.integers(0, 10**6)))

    def shuffled(value: Any) -> Any:
        if isinstance(value, list):
            return [shuffled(v) for v in value]
        if not isinstance(value, dict):
            return value
        keys = rng.sample(list(value), len(value))
        return {key: shuffled(value[key]) for key in keys} | {"later": {"key": [1]}}

    def outcome(frame: Any) -> Any:
        try:
            return PROTOCOLS[name].parse(json.dumps(frame).encode())
        except MalformedMessage:
            return "malformed"

    assert outcome(shuffled(sample)) == outcome(sample)


@protocols
def test_numbers_may_come_plain(name: str) -> None:
    "Prices and ids are read whether they are quoted or not."

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            names = ("trade_id", "i", "tradeId")
            return {k: v if k in names else plain(v) for k, v in value.items()}
        if isinstance(value, list):
            return [plain(v) for v in value]
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            return value

    ours = {"binance": BINANCE[:14], "bybit": BYBIT[:2], "coinbase": ADVANCED[:2] + EXCHANGE[:2]}
    ours |= {"kraken": KRAKEN[:3], "okx": OKX[:4], "htx": HTX[:7]}
    protocol = PROTOCOLS[name]
    for sample in ours[protocol.exchange]:
        try:
            expected = protocol.parse(sample.encode())
        except MalformedMessage:
            continue  # a frame of the venue's other market
        assert protocol.parse(json.dumps(plain(json.loads(sample))).encode()) == expected


@protocols
def test_faces(name: str) -> None:
    "What the rest of the package asks of every protocol."
    protocol = PROTOCOLS[name]
    assert protocol.url.startswith("wss://") and protocol.rest_url.startswith("https://")
    assert not protocol.url.endswith("/") and not protocol.rest_url.endswith("/")
    assert protocol.continuity.rule in ("range", "chain", "connection", "checksum", "none")
    many = [f"COIN{i}USDT" for i in range(1200)]
    for symbols in (["BTCUSDT"], many):
        sockets = protocol.sockets(symbols, 20)
        assert len({socket.name for socket in sockets}) == len(sockets)
        text = " ".join(s.path + b" ".join(s.subscribe).decode() for s in sockets).upper()
        ends = (".",) if protocol.exchange == "htx" else ("@", '"')  # of a name in a topic
        assert all(f"{symbol}{end}" in text for symbol in symbols for end in ends if end in text)
        assert protocol.sockets(symbols * 2, 20) == sockets  # asked twice, subscribed once
        for socket in sockets:
            assert socket.path.startswith("/") or not socket.path
            assert all(json.loads(frame) for frame in socket.subscribe)
            assert bool(socket.ping) == (socket.ping_every_s > 0)
    with pytest.raises(InputError, match="no symbol"):
        protocol.sockets([], 20)
    call = protocol.snapshot_call("BTCUSDT", 20)
    assert (call is not None) == (protocol.continuity.snapshot == "rest")
    assert protocol.time_call().kind == "time"
    frames = [json.loads(frame) for frame in protocol.resubscribe("BTCUSDT", 20)]
    ops = [f.get("op") or f.get("type") or f.get("method") or next(iter(f)) for f in frames]
    leave_and_enter = ["unsub", "sub"] if name == "htx-linear" else ["unsubscribe", "subscribe"]
    asked = {"rest": [], "asked": ["req"], "in_band": leave_and_enter}
    assert ops == asked[protocol.continuity.snapshot]


# --- Binance

spot, linear = PROTOCOLS["binance-spot"], PROTOCOLS["binance-linear"]
levels = st.lists(
    st.tuples(st.integers(1, 10**12), st.integers(0, 10**12)).map(
        lambda pair: [f"{pair[0] / 1e4:.4f}", f"{pair[1] / 1e4:.8f}"]
    ),
    max_size=6,
)


@fuzz
@given(
    levels,
    levels,
    st.integers(1, 2**62),
    st.integers(0, 2**20),
    st.integers(0, 2**40),
    st.booleans(),
)
def test_binance_depth_equals_plain_reading(
    bids: list, asks: list, first: int, more: int, at_ms: int, is_bare: bool
) -> None:
    body = {
        "e": "depthUpdate",
        "E": at_ms,
        "T": at_ms,
        "s": "BTCUSDT",
        "U": first,
        "u": first + more,
    }
    body |= {"pu": first - 1, "b": bids, "a": asks}
    frame = body if is_bare else {"stream": "btcusdt@depth@100ms", "data": body}
    for protocol in (spot, linear):
        message = only(protocol.parse(json.dumps(frame).encode()))
        assert message.bids == [(float(p), float(q)) for p, q in bids]
        assert message.asks == [(float(p), float(q)) for p, q in asks]
        assert (message.first_id, message.last_id, message.prev_id) == (
            first,
            first + more,
            first - 1,
        )
        assert message.ts_send_ns == at_ms * 10**6
        assert message.ts_engine_ns == (at_ms * 10**6 if protocol is linear else 0)
        assert message.channel == ("depth" if is_bare else "depth@100ms")


def test_binance_streams_by_name() -> None:
    delta, rest = SPOT_DELTA, REST_BOOK
    image = only(spot.parse(wrapped("btcusdt@depth20@100ms", rest).encode()))
    assert (image.kind, image.venue_symbol, image.channel) == (IMAGE, "BTCUSDT", "depth20@100ms")
    image = only(linear.parse(wrapped("btcusdt@depth5", LINEAR_DELTA).encode()))
    assert (image.kind, image.last_id) == (IMAGE, 2140)
    bare = only(spot.parse(rest.encode()))
    assert (bare.kind, bare.venue_symbol, bare.last_id) == (SNAPSHOT, "", 1009)
    for channel in ("depth", "depth@100ms", "depth@500ms", "depth@0ms", "depth@1000ms"):
        message = only(spot.parse(wrapped(f"btcusdt@{channel}", delta).encode()))
        assert (message.kind, message.channel) == (DELTA, channel)
    for channel in ("rpiDepth@500ms", "depths", "bookTicker", "markPrice@1s"):
        notice = only(linear.parse(wrapped(f"btcusdt@{channel}", LINEAR_DELTA).encode()))
        assert notice == Notice("other", channel, "BTCUSDT")
    said(lambda: spot.parse(wrapped("btcusdt@depth@100ms", TRADE).encode()))


def test_binance_rest_snapshot_of_futures_has_both_times() -> None:
    reply = REST_BOOK[:-1] + ',"E":1767225600105,"T":1767225600101}'
    for message in (only(linear.parse(reply.encode())), linear.parse_snapshot(reply.encode(), "X")):
        assert message.ts_engine_ns == 1767225600101 * 10**6
        assert message.ts_send_ns == 1767225600105 * 10**6


def test_binance_engine_time_and_joining_on_futures() -> None:
    delta = only(linear.parse(LINEAR_DELTA.encode()))
    assert (delta.ts_engine_ns, delta.ts_send_ns) == (1767225600101 * 10**6, 1767225600105 * 10**6)
    joins = [i for i in range(2070, 2150) if linear.continuity.goes_on(i, delta, joining=True)]
    assert joins == [2081, *range(2100, 2141)]  # pointed to, or straddled
    assert [i for i in range(2070, 2150) if linear.continuity.goes_on(i, delta)] == [2081]
    delta = only(spot.parse(SPOT_DELTA.encode()))
    assert [i for i in range(1000, 1020) if spot.continuity.goes_on(i, delta, joining=True)] == [
        *range(1007, 1011)
    ]


def test_binance_microseconds() -> None:
    micro = SPOT_DELTA.replace("1767225600100", "1767225600100123")
    assert only(spot.parse(micro.encode())).ts_send_ns == 1767225600100123000
    micro = TRADE.replace("1767225600342", "1767225600342456")
    assert only(spot.parse(micro.encode())).ts_event_ns == 1767225600342456000


@pytest.mark.parametrize("reason", ["INSURANCE_FUND", "ADL", "NA"])
def test_binance_drops_what_never_met_the_book(reason: str) -> None:
    off_book = TRADE.replace("MARKET", reason)
    for text in (off_book, off_book.replace("90000.10", "0")):  # its id counts, nothing else
        trade = only(linear.parse(text.encode()))
        assert trade.is_off_book and trade.trade_id == "77001"
    assert "price 0" in said(lambda: linear.parse(TRADE.replace("90000.10", "0").encode()))


def test_binance_counts_a_trade_once() -> None:
    aggregate = PROTOCOLS["binance-linear-aggTrade"]
    for text in (TRADE, wrapped("btcusdt@trade", TRADE)):
        trade = only(linear.parse(text.encode()))
        assert (trade.side, trade.trade_id, trade.price) == ("sell", "77001", 90000.1)
        assert only(aggregate.parse(text.encode())) == Notice("other", "trade", "BTCUSDT")
    for text in (AGG_TRADE, wrapped("btcusdt@aggTrade", AGG_TRADE)):
        trade = only(aggregate.parse(text.encode()))
        assert (trade.side, trade.trade_id, trade.size) == ("buy", "501", 0.02)
        assert only(linear.parse(text.encode())) == Notice("other", "aggTrade", "BTCUSDT")


def test_binance_notices() -> None:
    kinds = [only(spot.parse(text.encode())).kind for text in BINANCE[-4:]]
    assert kinds == ["ack", "error", "error", "other"]
    assert only(spot.parse(BINANCE[9].encode())).kind == "shutdown"
    assert only(spot.parse(b'{"e":"serverShutdown","E":1}')).kind == "shutdown"
    assert only(spot.parse(BINANCE[-3].encode())).text == "2: Invalid request"
    assert "Invalid symbol" in said(lambda: spot.parse_snapshot(BINANCE[-2].encode(), "X"))


def test_binance_sockets_and_calls() -> None:
    symbols = [f"S{i}USDT" for i in range(1100)]
    streams = [
        socket.path.count("@trade") + socket.path.count("@depth")
        for socket in spot.sockets(symbols, 20)
    ]
    assert max(streams) <= 1024 and sum(streams) == 2200
    assert only(linear.sockets(["BTCUSDT"], 20)).path == (
        "/public/stream?streams=btcusdt@depth@100ms/btcusdt@trade"
    )
    assert only(spot.sockets(["BTCUSDT"], 20)).path == (
        "/stream?streams=btcusdt@depth@100ms/btcusdt@trade"
    )
    assert spot.snapshot_call("BTCUSDT", 20) == RestCall(
        "snapshot", "/api/v3/depth?symbol=BTCUSDT&limit=5000", "BTCUSDT", 250, per_minute=3000
    )
    assert linear.snapshot_call("BTCUSDT", 20) == RestCall(
        "snapshot", "/fapi/v1/depth?symbol=BTCUSDT&limit=1000", "BTCUSDT", 20, per_minute=1200
    )
    assert BinanceProtocol("linear", snapshot_rows=80).snapshot_call("X", 90).weight == 5
    for wrong in (lambda: linear.snapshot_call("X", 1001), lambda: linear.sockets(["X"], 1001)):
        with pytest.raises(InputError, match="1000 rows"):
            wrong()


# --- Bybit

bybit = PROTOCOLS["bybit-linear"]


def test_bybit_books() -> None:
    first, second = (only(bybit.parse(text.encode())) for text in BYBIT[:2])
    assert (first.kind, first.last_id, first.channel) == (SNAPSHOT, 4001, "orderbook.50")
    assert (second.kind, second.prev_id, second.channel) == (DELTA, 4001, "orderbook.200")
    assert second.ts_engine_ns == 1767225600120 * 10**6
    assert second.ts_send_ns == 1767225600124 * 10**6
    restart = BYBIT[1].replace('"u":4002', '"u":1')
    assert only(bybit.parse(restart.encode())).kind == SNAPSHOT
    image = BYBIT[0].replace("orderbook.50", "orderbook.1")
    assert only(bybit.parse(image.encode())).kind == IMAGE
    old = BYBIT[1].replace(',"cts":1767225600120', "")
    assert only(bybit.parse(old.encode())).ts_event_ns == 1767225600124 * 10**6
    for text, channel in ((BYBIT[2], "orderbook.rpi"), (BYBIT[3], "orderbook.full")):
        assert only(bybit.parse(text.encode())) == Notice("other", channel, "BTCUSDT")
    said(lambda: bybit.parse(BYBIT[1].replace('"u":4002', '"u":0').encode()))


def test_bybit_trades_without_blocks() -> None:
    trade = only(bybit.parse(BYBIT[4].encode()))
    assert (trade.side, trade.size, trade.trade_id) == ("sell", 0.004, "a-1")
    both = bybit.parse(BYBIT[4].replace('"BT":true', '"BT":false').encode())
    assert [t.side for t in both] == ["sell", "buy"]


def test_bybit_notices() -> None:
    notices = [only(bybit.parse(text.encode())) for text in BYBIT[5:]]
    assert [n.kind for n in notices] == ["other", "other", "ack", "error", "pong", "pong"]
    assert notices[3].text == "error:handler not found"
    assert (notices[1].channel, notices[1].venue_symbol) == ("kline.1", "BTCUSDT")


def test_bybit_limits() -> None:
    symbols = [f"COIN{i:04}USDT" for i in range(1000)]
    for protocol, at_most in ((PROTOCOLS["bybit-spot"], 10), (bybit, 10**6)):
        sockets = protocol.sockets(symbols, 60)
        for socket in sockets:
            requests = [json.loads(frame)["args"] for frame in socket.subscribe]
            assert all(0 < len(args) <= at_most for args in requests)
            assert sum(
                len(json.dumps(args, separators=(",", ":"))) for args in requests
            ) <= 21_000 + 2 * len(requests)
            assert (socket.ping, socket.ping_every_s) == (b'{"op":"ping"}', 20.0)
        topics = [t for s in sockets for frame in s.subscribe for t in json.loads(frame)["args"]]
        assert Counter(topics) == Counter(
            f"{channel}.{symbol}"
            for symbol in symbols
            for channel in ("orderbook.200", "publicTrade")
        )
        assert {socket.path for socket in sockets} == {f"/v5/public/{protocol.market_type}"}
    with pytest.raises(InputError, match="1000 rows"):
        bybit.sockets(["BTCUSDT"], 1001)


def test_bybit_rest() -> None:
    book = '{"s":"BTCUSDT","b":[["1.5","2"]],"a":[],"ts":3,"u":18,"seq":7,"cts":2}'
    reply = f'{{"retCode":0,"retMsg":"OK","result":{book},"time":4}}'
    message = bybit.parse_snapshot(reply.encode(), "BTCUSDT")
    assert (message.kind, message.last_id, message.channel) == (SNAPSHOT, 18, "orderbook.1000")
    assert (message.ts_engine_ns, message.ts_send_ns) == (2 * 10**6, 3 * 10**6)
    refused = b'{"retCode":10001,"retMsg":"params error","result":{}}'
    assert "10001: params error" in said(lambda: bybit.parse_snapshot(refused, "X"))
    assert "10001: params error" in said(lambda: bybit.parse_time(refused))


# --- Coinbase

coinbase, exchange = PROTOCOLS["coinbase-advanced"], PROTOCOLS["coinbase-exchange"]


def test_coinbase_frames_are_numbered_first() -> None:
    for text in ADVANCED[:-1]:
        number = coinbase.parse(text.encode())[0]
        assert number == FrameNumber(json.loads(text)["sequence_num"])
        unnumbered = {k: v for k, v in json.loads(text).items() if k != "sequence_num"}
        said(lambda: coinbase.parse(json.dumps(unnumbered).encode()))  # noqa: B023
    error = only(coinbase.parse(ADVANCED[-1].encode()))
    assert (error.kind, error.text) == ("error", "authentication failure")


def test_coinbase_levels_go_to_their_sides_and_products() -> None:
    _, bitcoin, ether = coinbase.parse(ADVANCED[0].encode())
    assert (bitcoin.venue_symbol, bitcoin.kind) == ("BTC-USD", DELTA)
    assert (bitcoin.bids, bitcoin.asks) == ([(90000.1, 0.0)], [(90000.2, 0.5)])
    assert bitcoin.ts_engine_ns == time_ns("2026-01-01T00:00:00.11Z")  # the latest, not the last
    assert bitcoin.ts_send_ns == time_ns("2026-01-01T00:00:00.143228166Z")
    assert (ether.venue_symbol, ether.kind, ether.bids, ether.ts_engine_ns) == (
        "ETH-USD",
        SNAPSHOT,
        [],
        0,
    )
    assert bitcoin.last_id == ether.last_id == 7
    unset = ADVANCED[0].replace("2026-01-01T00:00:00.1Z", "1970-01-01T00:00:00Z")
    assert coinbase.parse(unset.encode())[1].ts_engine_ns == bitcoin.ts_engine_ns
    unset = unset.replace("2026-01-01T00:00:00.11Z", "1970-01-01T00:00:00Z")
    assert coinbase.parse(unset.encode())[1].ts_engine_ns == 0


def test_coinbase_trades_are_turned_and_ordered() -> None:
    _, older, newer = coinbase.parse(ADVANCED[1].encode())
    assert (older.trade_id, newer.trade_id) == ("999", "1001")  # as numbers, not as text
    assert (older.side, newer.side) == ("sell", "buy")  # the maker's were BUY and SELL
    assert older.is_history and newer.is_history
    frame = json.loads(ADVANCED[1])
    frame["events"][0]["trades"].reverse()
    assert coinbase.parse(json.dumps(frame).encode())[1:] == [older, newer]
    live = coinbase.parse(ADVANCED[1].replace('"snapshot"', '"update"').encode())[1:]
    assert [t.is_history for t in live] == [False, False]


def test_coinbase_usdc_is_answered_as_usd() -> None:
    assert [answered_as(p) for p in ("BTC-USDC", "BTC-USD", "EURC-USDC")] == [
        "BTC-USD",
        "BTC-USD",
        "EURC-USDC",
    ]
    for text in ADVANCED[:2]:
        assert coinbase.parse(text.replace("BTC-USD", "BTC-USDC").encode()) == coinbase.parse(
            text.encode()
        )


def test_coinbase_times_equal_another_reader() -> None:
    rng = random.Random(7)
    for _ in range(500):
        seconds, nanos = rng.randrange(86_400, 4 * 10**9), rng.randrange(10**9)
        digits = rng.randrange(1, 10)
        decimals = f"{nanos:09}"[:digits]
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{decimals}Z"
        assert time_ns(text) == seconds * 10**9 + int(decimals.ljust(9, "0"))
    good = "2026-01-01T00:00:00"
    for wrong in ("", "Z", good, f"{good}.1", f"{good}.1_2Z", f"{good}.0123456789Z", f"{good}.-1Z"):
        said(lambda: time_ns(wrong))  # noqa: B023
    for wrong in ("now", "2026-13-01T00:00:00", "2026-01-01 00:00:00", "2026-01-01T24:00:00"):
        said(lambda: time_ns(f"{wrong}Z"))  # noqa: B023


def test_coinbase_exchange_feed() -> None:
    snapshot, update, match, last = (only(exchange.parse(text.encode())) for text in EXCHANGE[:4])
    assert (snapshot.kind, snapshot.bids, snapshot.asks) == (
        SNAPSHOT,
        [(90000.1, 0.5)],
        [(90000.2, 1.0)],
    )
    assert (update.kind, update.bids, update.asks) == (DELTA, [(90000.1, 0.0)], [(90000.2, 0.5)])
    assert update.last_id == update.prev_id == -1
    assert exchange.continuity.rule == "none" and exchange.continuity.goes_on(-1, update)
    assert (match.side, match.trade_id, match.is_history) == ("buy", "1002", False)
    assert (last.side, last.is_history) == ("sell", True)
    notices = [only(exchange.parse(text.encode())) for text in EXCHANGE[4:]]
    assert [n.kind for n in notices] == ["heartbeat", "ack", "error", "other"]
    assert notices[2].text == "Failed to subscribe: level2 requires authentication"


def test_coinbase_subscribes_one_channel_a_message() -> None:
    sockets = coinbase.sockets(["BTC-USD", "ETH-USD"], 20)
    frames = [json.loads(frame) for frame in only(sockets).subscribe]
    assert [frame["channel"] for frame in frames] == ["level2", "market_trades", "heartbeats"]
    assert frames[0]["product_ids"] == ["BTC-USD", "ETH-USD"]
    (frame,) = map(json.loads, only(exchange.sockets(["BTC-USD"], 20)).subscribe)
    assert frame["channels"] == ["level2_batch", "matches", "heartbeat"]
    assert [json.loads(f) for f in coinbase.resubscribe("BTC-USD", 20)] == [
        {"type": op, "product_ids": ["BTC-USD"], "channel": "level2"}
        for op in ("unsubscribe", "subscribe")
    ]
    for wrong in ({"market_type": "linear"}, {"feed": "level3"}):
        with pytest.raises(InputError):
            CoinbaseProtocol(**wrong)


# --- Kraken

kraken = PROTOCOLS["kraken-spot"]


def test_kraken_books_carry_their_checksum_and_depth() -> None:
    first, second = (only(kraken.parse(text.encode())) for text in KRAKEN[:2])
    assert (first.kind, first.rows, first.checksum) == (SNAPSHOT, 10, 952209445)
    assert (second.kind, second.bids, second.checksum) == (DELTA, [(90000.1, 0.0)], 4274784198)
    assert second.ts_send_ns == time_ns("2026-01-01T00:00:00.1245Z")
    assert first.first_id == first.last_id == first.prev_id == -1
    undated = KRAKEN[0].replace(',"timestamp":"2026-01-01T00:00:00.100200Z"', "")
    assert only(kraken.parse(undated.encode())).ts_event_ns == 0  # as v2 began
    said(lambda: kraken.parse(KRAKEN[1].replace(',"checksum":4274784198', "").encode()))
    row = '{"price":90000.1,"qty":1.0}'
    for n, rows in ((11, 25), (26, 100), (1000, 1000), (1001, 1000)):
        long = KRAKEN[0].replace('"asks":[', '"asks":[' + f"{row}," * (n - 1))
        assert only(kraken.parse(long.encode())).rows == rows


def test_kraken_trades_are_in_order_and_the_takers() -> None:
    older, newer = kraken.parse(KRAKEN[2].encode())
    assert [(t.trade_id, t.side, t.is_history) for t in (older, newer)] == [
        ("77000", "buy", False),
        ("77001", "sell", False),
    ]
    past = kraken.parse(KRAKEN[2].replace('"update"', '"snapshot"').encode())
    assert all(trade.is_history for trade in past)


def test_kraken_notices() -> None:
    notices = [only(kraken.parse(text.encode())) for text in KRAKEN[3:9]]
    kinds = ["heartbeat", "other", "other", "ack", "error", "pong"]
    assert [n.kind for n in notices] == kinds
    assert (notices[3].venue_symbol, notices[3].rows) == ("BTC/USD", 25)
    assert notices[4].text == "Currency pair not supported NO/PE"


BOOKS = st.lists(
    st.tuples(st.integers(1, 10**7), st.integers(1, 2**26 * 10**8 - 1)),
    max_size=10,
    unique_by=lambda level: level[0],
)


@fuzz
@given(bids=BOOKS, asks=BOOKS)
def test_kraken_checksums_of_floats_are_those_of_the_texts(bids: list, asks: list) -> None:
    "Digit for digit, up to the largest quantity for which it is promised."
    btc = instrument("kraken", "BTC/USD")
    texts = price, quantity = number_texts(btc)
    both = [[(float(price[t]), float(quantity[n])) for t, n in side] for side in (bids, asks)]
    assert book_checksum(btc, *both) == text_checksum(texts, bids, asks)


def test_kraken_sockets_and_clock() -> None:
    (socket,) = kraken.sockets(["BTC/USD", "ETH/USD"], 11)
    book, trade = (json.loads(frame)["params"] for frame in socket.subscribe)
    assert (socket.path, book["depth"], book["symbol"]) == ("/v2", 25, ["BTC/USD", "ETH/USD"])
    assert (trade["channel"], trade["snapshot"]) == ("trade", False)
    assert kraken.time_call().step_ns == 10**9
    assert kraken.parse_time(KRAKEN[9].encode()) == 1767225600 * 10**9
    refused = b'{"error":["EGeneral:Too many requests"]}'
    assert "Too many requests" in said(lambda: kraken.parse_time(refused))
    for wrong in (lambda: kraken.sockets(["BTC/USD"], 1001), lambda: KrakenProtocol("linear")):
        with pytest.raises(InputError):
            wrong()


# --- OKX

okx = PROTOCOLS["okx-spot"]


def test_okx_books() -> None:
    first, second, image = (only(okx.parse(text.encode())) for text in OKX[:3])
    assert (first.kind, first.last_id, first.prev_id) == (SNAPSHOT, 4001, -1)
    assert (second.kind, second.last_id, second.prev_id) == (DELTA, 4077, 4001)
    assert (image.kind, image.channel) == (IMAGE, "books5")
    assert second.ts_send_ns == 1767225600200 * 10**6 and second.checksum == -1
    for old in ("-1023440116", "830931827"):  # the dead checksum of old captures is not looked at
        again = only(okx.parse(OKX[1].replace('"checksum":0', f'"checksum":{old}').encode()))
        assert again == second
    for cut in ('"action":"update",', '"seqId":4077,'):
        said(lambda: okx.parse(OKX[1].replace(cut, "").encode()))  # noqa: B023


@pytest.mark.parametrize(
    ("book_id", "ids", "verdict"),
    [
        (4001, (4077, 4001), "goes on"),
        (4001, (4001, 4001), "goes on"),  # a quiet minute
        (4001, (12, 4001), "goes on"),  # maintenance: it counts anew
        (4001, (4090, 4077), "gap"),
        (4001, (4077, 4077), "gap"),  # even a quiet minute tells that something is missing
        (4077, (4077, 4001), "old"),
    ],
)
def test_okx_chain(book_id: int, ids: tuple[int, int], verdict: str) -> None:
    frame = OKX[1].replace("4077", "X").replace("4001", str(ids[1])).replace("X", str(ids[0]))
    message, rule = only(okx.parse(frame.encode())), okx.continuity
    assert rule.goes_on(book_id, message) == (verdict == "goes on")
    assert verdict != "old" or rule.is_old(book_id, message)


def test_okx_trades_and_notices() -> None:
    trade = only(okx.parse(OKX[3].encode()))
    assert (trade.side, trade.size, trade.trade_id) == ("sell", 0.004, "77001")
    kinds = [only(okx.parse(text.encode())).kind for text in OKX[4:9]]
    assert kinds == ["other", "ack", "error", "shutdown", "other"]
    assert only(okx.parse(b"pong")) == Notice("pong")
    said(lambda: okx.parse(b"ping"))


def test_okx_sockets_and_clock() -> None:
    names = [f"COIN{i:04}-USDT-SWAP" for i in range(1500)]
    (socket,) = okx.sockets(names, 400)
    args = [arg for frame in socket.subscribe for arg in json.loads(frame)["args"]]
    assert max(map(len, socket.subscribe)) <= 64_000 and len(socket.subscribe) > 1
    assert Counter((arg["channel"], arg["instId"]) for arg in args) == Counter(
        (channel, name) for name in names for channel in ("books", "trades")
    )
    assert (socket.ping, socket.ping_every_s < 30) == (b"ping", True)
    assert okx.parse_time(OKX[9].encode()) == 1767225600123 * 10**6
    assert "50011" in said(lambda: okx.parse_time(b'{"code":"50011","msg":"x","data":[]}'))
    with pytest.raises(InputError, match="400 rows"):
        okx.sockets(["BTC-USDT"], 401)


# --- HTX

htx, htx_linear = PROTOCOLS["htx-spot"], PROTOCOLS["htx-linear"]


def test_htx_books_of_both_markets() -> None:
    delta, snapshot = (only(htx.parse(text.encode())) for text in HTX[:2])
    assert (delta.kind, delta.last_id, delta.prev_id, delta.rows) == (DELTA, 4077, 4001, 150)
    assert (snapshot.kind, snapshot.last_id, snapshot.channel) == (SNAPSHOT, 4001, delta.channel)
    swap, first = (only(htx_linear.parse(text.encode())) for text in HTX[2:4])
    assert (swap.kind, swap.last_id, swap.prev_id, swap.rows) == (DELTA, 501, 500, 20)
    assert (first.kind, first.last_id) == (SNAPSHOT, 500)
    assert htx_linear.continuity.goes_on(first.last_id, swap)
    assert swap.ts_send_ns - swap.ts_engine_ns == 4 * 10**6
    assert only(htx.parse(HTX[4].encode())).kind == IMAGE
    for protocol, foreign in ((htx, HTX[2]), (htx_linear, HTX[0]), (htx_linear, HTX[1])):
        assert only(protocol.parse(foreign.encode())).kind in ("ack", "other")
    one_sided = HTX[0].replace(',"asks":[]', "")
    assert only(htx.parse(one_sided.encode())) == delta


def test_htx_trades_are_named_by_the_shorter_id() -> None:
    trade = only(htx.parse(HTX[5].encode()))
    assert (trade.trade_id, trade.size, trade.side) == ("102357140867", 1.98e-4, "sell")
    long = only(htx.parse(HTX[5].replace('"tradeId":102357140867,', "").encode()))
    assert long.trade_id == "123140716701236887569077664"
    swap = only(htx_linear.parse(HTX[6].encode()))
    assert (swap.trade_id, swap.size, swap.side) == ("224199951640000", 40.0, "buy")


def test_htx_notices_and_answers() -> None:
    notices = [only(htx.parse(text.encode())) for text in HTX[7:12]]
    assert [n.kind for n in notices] == ["other", "ping", "pong", "ack", "error"]
    assert notices[1].answer == b'{"pong":1767225600123}' and notices[3].repeats
    assert notices[4].text == "bad-request: invalid symbol x"
    other = only(htx.parse(HTX[10].replace("trade.detail", "mbp.150").encode()))
    assert not other.repeats and other.channel == "mbp.150"


def test_htx_sockets() -> None:
    books, trades = htx.sockets(["btcusdt"], 151)
    assert [(s.name, s.path, s.is_gzip) for s in (books, trades)] == [
        ("public", "/feed", True),
        ("trades", "/ws", True),
    ]
    assert b"mbp.400" in only(books.subscribe) and b"trade.detail" in only(trades.subscribe)
    (both,) = htx_linear.sockets(["BTC-USDT"], 21)
    assert json.loads(both.subscribe[0]) == {
        "sub": "market.BTC-USDT.depth.size_150.high_freq",
        "data_type": "incremental",
        "id": "market.BTC-USDT.depth.size_150.high_freq",
    }
    assert htx.url != htx_linear.url and htx.time_call() != htx_linear.time_call()
    with pytest.raises(InputError, match="400 rows"):
        htx.sockets(["btcusdt"], 401)


@fuzz
@given(text=st.binary(max_size=200), cut=st.integers(1, 20), junk=st.binary(min_size=1))
def test_packed_frames_come_out_whole_or_not_at_all(text: bytes, cut: int, junk: bytes) -> None:
    whole = gzip.compress(text)
    assert unzipped(whole, 201) == text
    for damaged in (whole[:-cut], whole + junk, junk + whole, text):
        said(lambda: unzipped(damaged))  # noqa: B023
    if text:
        said(lambda: unzipped(whole, len(text) - 1 or 1) if len(text) > 1 else unzipped(b""))


def test_a_small_frame_that_unpacks_to_much_is_refused_unread() -> None:
    bomb = gzip.compress(b"0" * 2**26)
    assert len(bomb) < 2**17 and "more than" in said(lambda: unzipped(bomb))


# --- real recordings, counted a second time with the json module


def frames_of(path: Path) -> list[bytes]:
    "The payloads of a recording, stamps taken off."
    content = path.read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()
    return [line if line.startswith(b"{") else line.partition(b" ")[2] for line in lines]


def label(message: Message) -> str:
    "What to count a message as."
    return getattr(message, "kind", "") or type(message).__name__


def binance_counts(frames: list[bytes]) -> Counter:
    "What Binance frames hold, by their keys and stream names."
    counts: Counter = Counter()
    for payload in frames:
        frame = json.loads(payload)
        stream = frame.get("stream", "@" + frame.get("e", ""))
        if "lastUpdateId" in frame:
            counts[SNAPSHOT] += 1
        elif "@depth" in stream:
            counts[DELTA] += 1
        elif stream.endswith("@trade"):
            counts["TradeMessage"] += frame["data"].get("X", "MARKET") == "MARKET"
        else:
            counts["other"] += 1
    return counts


def bybit_counts(frames: list[bytes]) -> Counter:
    "What Bybit frames hold."
    counts: Counter = Counter()
    for frame in map(json.loads, frames):
        topic = frame.get("topic", "")
        if topic.startswith("orderbook"):
            counts[frame["type"]] += 1
        elif topic.startswith("publicTrade"):
            counts["TradeMessage"] += sum(not trade["BT"] for trade in frame["data"])
        else:
            counts["other" if topic else "ack"] += 1
    return counts


def coinbase_counts(frames: list[bytes]) -> Counter:
    "What Coinbase frames hold."
    notices = {"subscriptions": "ack", "heartbeats": "heartbeat"}
    counts: Counter = Counter(FrameNumber=len(frames))
    for frame in map(json.loads, frames):
        if frame["channel"] == "l2_data":
            counts.update(DELTA if e["type"] == "update" else SNAPSHOT for e in frame["events"])
        elif frame["channel"] == "market_trades":
            counts["TradeMessage"] += sum(len(e["trades"]) for e in frame["events"])
        else:
            counts[notices.get(frame["channel"], "other")] += 1
    return counts


def kraken_counts(frames: list[bytes]) -> Counter:
    "What Kraken frames hold."
    counts: Counter = Counter()
    for frame in map(json.loads, frames):
        if frame.get("channel") == "book":
            counts[DELTA if frame["type"] == "update" else SNAPSHOT] += len(frame["data"])
        else:
            channel = frame.get("channel", "ack")
            counts["other" if channel == "status" else channel] += 1
    return counts


def okx_counts(frames: list[bytes]) -> Counter:
    "What OKX frames hold."
    kinds = {"update": DELTA, "snapshot": SNAPSHOT}
    return Counter(kinds.get(json.loads(frame).get("action"), "ack") for frame in frames)


CAPTURES = {
    "binance-2024-08-08/spot_btcusdt.gz": ("binance-spot", binance_counts),
    "binance-2024-08-08/usdm_btcusdt.gz": ("binance-linear", binance_counts),
    "wire-2026-08/binance_us_depth.jsonl": ("binance-spot", binance_counts),
    "wire-2026-08/binance_us_snapshot.json": ("binance-spot", binance_counts),
    "wire-2026-08/bybit_orderbook.jsonl": ("bybit-spot", bybit_counts),
    "wire-2026-08/coinbase_l2.jsonl": ("coinbase-advanced", coinbase_counts),
    "wire-2026-08-frames/bybit_linear.gz": ("bybit-linear", bybit_counts),
    "wire-2026-08-frames/coinbase_advanced_btcusd_ethusd.gz": (
        "coinbase-advanced",
        coinbase_counts,
    ),
    "wire-2026-08/kraken_book.jsonl": ("kraken-spot", kraken_counts),
    "wire-2026-08/okx_books.jsonl": ("okx-spot", okx_counts),
}


@pytest.fixture(scope="module")
def recorded(gem_data: Path) -> Callable[[str], tuple[list[bytes], list[Message]]]:
    "Frames and messages of a recording, read once."
    cache: dict[str, tuple[list[bytes], list[Message]]] = {}

    def read(name: str) -> tuple[list[bytes], list[Message]]:
        if name not in cache:
            frames = frames_of(gem_data / name)
            protocol = PROTOCOLS[CAPTURES[name][0]]
            cache[name] = frames, [m for payload in frames for m in protocol.parse(payload)]
        return cache[name]

    return read


@pytest.mark.parametrize("name", CAPTURES)
def test_every_recorded_frame_is_read(name: str, recorded: Callable) -> None:
    frames, messages = recorded(name)
    assert Counter(map(label, messages)) == CAPTURES[name][1](frames)
    for message in messages:
        check(message)


def books_of(messages: list[Message], kind: str) -> list[BookMessage]:
    "The book messages of a kind."
    return [m for m in messages if isinstance(m, BookMessage) and m.kind == kind]


@pytest.mark.parametrize("name", [n for n in CAPTURES if "2024-08-08" in n])
def test_recorded_binance_is_contiguous_and_joins(name: str, recorded: Callable) -> None:
    frames, messages = recorded(name)
    rule = PROTOCOLS[CAPTURES[name][0]].continuity
    deltas, snapshot = books_of(messages, DELTA), only(books_of(messages, SNAPSHOT))
    assert all(rule.goes_on(a.last_id, b) for a, b in pairwise(deltas))
    kept = [d for d in deltas if not rule.is_old(snapshot.last_id, d, joining=True)]
    assert rule.goes_on(snapshot.last_id, kept[0], joining=True)
    raw = [f["data"] for f in map(json.loads, frames) if "@depth" in f.get("stream", "")]
    for message, body in zip(deltas, raw, strict=True):
        assert message.bids == [(float(p), float(q)) for p, q in body["b"]]
        assert message.asks == [(float(p), float(q)) for p, q in body["a"]]
        assert (message.first_id, message.last_id) == (body["U"], body["u"])
        assert message.prev_id == body.get("pu", body["U"] - 1)
        assert message.ts_event_ns == body.get("T", body["E"]) * 10**6
    trades = [m for m in messages if isinstance(m, TradeMessage)]
    raw = [f["data"] for f in map(json.loads, frames) if f.get("stream", "").endswith("@trade")]
    assert [(t.price, t.size, t.side, t.trade_id) for t in trades] == [
        (float(d["p"]), float(d["q"]), "sell" if d["m"] else "buy", str(d["t"])) for d in raw
    ]


def test_recorded_binance_us_joins_its_rest_snapshot(gem_data: Path, recorded: Callable) -> None:
    rule = spot.continuity
    deltas = books_of(recorded("wire-2026-08/binance_us_depth.jsonl")[1], DELTA)
    reply = (gem_data / "wire-2026-08" / "binance_us_snapshot.json").read_bytes()
    snapshot = spot.parse_snapshot(reply, "BTCUSDT")
    kept = [d for d in deltas if not rule.is_old(snapshot.last_id, d, joining=True)]
    assert 0 < len(kept) < len(deltas) and rule.goes_on(snapshot.last_id, kept[0], joining=True)
    assert all(rule.goes_on(a.last_id, b) for a, b in pairwise(deltas))


@pytest.mark.parametrize("name", [n for n in CAPTURES if "bybit" in n])
def test_recorded_bybit_has_no_gap_and_one_lost_delta_shows(name: str, recorded: Callable) -> None:
    frames, messages = recorded(name)
    books: dict[str, list[BookMessage]] = {}
    for message in messages:
        if isinstance(message, BookMessage):
            books.setdefault(f"{message.channel}.{message.venue_symbol}", []).append(message)
    raw = [f for f in map(json.loads, frames) if f.get("topic", "").startswith("orderbook")]
    assert set(books) == {f["topic"] for f in raw}
    for topic, book in books.items():
        assert book[0].kind == SNAPSHOT and {m.kind for m in book[1:]} == {DELTA}
        goes_on = bybit.continuity.goes_on
        assert all(goes_on(a.last_id, b) for a, b in pairwise(book))
        assert not any(goes_on(a.last_id, b) for a, b in zip(book, book[2:], strict=False))
        ours = [(m.bids, m.asks, m.ts_engine_ns, m.ts_send_ns) for m in book]
        for (bids, asks, engine, sent), frame in zip(
            ours, (f for f in raw if f["topic"] == topic), strict=True
        ):
            assert bids == [(float(p), float(q)) for p, q in frame["data"]["b"]]
            assert asks == [(float(p), float(q)) for p, q in frame["data"]["a"]]
            assert (engine, sent) == (frame["cts"] * 10**6, frame["ts"] * 10**6)
    trades = [m for m in messages if isinstance(m, TradeMessage)]
    raw_trades = [
        t for f in map(json.loads, frames) if "publicTrade" in f.get("topic", "") for t in f["data"]
    ]
    assert [(t.trade_id, t.side) for t in trades] == [(t["i"], t["S"].lower()) for t in raw_trades]


@pytest.mark.parametrize("name", [n for n in CAPTURES if "coinbase" in n])
def test_recorded_coinbase_numbers_and_levels(name: str, recorded: Callable) -> None:
    frames, messages = recorded(name)
    numbers = [m.number for m in messages if isinstance(m, FrameNumber)]
    assert numbers == list(range(numbers[0], numbers[0] + len(frames)))
    raw = [f for f in map(json.loads, frames) if f["channel"] == "l2_data"]
    events = [(f, e) for f in raw for e in f["events"]]
    ours = [m for m in messages if isinstance(m, BookMessage)]
    for message, (frame, event) in zip(ours, events, strict=True):
        for side, levels_ in (("bid", message.bids), ("offer", message.asks)):
            expected = [u for u in event["updates"] if u["side"] == side]
            assert levels_ == [
                (float(u["price_level"]), float(u["new_quantity"])) for u in expected
            ]
        times = [time_ns(u["event_time"]) for u in event["updates"]]
        assert message.ts_engine_ns == max(times, default=0)
        assert message.ts_send_ns == time_ns(frame["timestamp"])
        assert (message.venue_symbol, message.last_id) == (
            event["product_id"],
            frame["sequence_num"],
        )


def test_recorded_coinbase_trades_are_oldest_first_and_turned(recorded: Callable) -> None:
    frames, messages = recorded("wire-2026-08-frames/coinbase_advanced_btcusd_ethusd.gz")
    raw = {
        (t["product_id"], t["trade_id"]): (t, e["type"])
        for f in map(json.loads, frames)
        if f["channel"] == "market_trades"
        for e in f["events"]
        for t in e["trades"]
    }
    trades = [m for m in messages if isinstance(m, TradeMessage)]
    assert len(trades) == len(raw)
    for product in ("BTC-USD", "ETH-USD"):
        ids = [int(t.trade_id) for t in trades if t.venue_symbol == product]
        assert ids == sorted(ids) and len(ids) > 3
    for trade in trades:
        body, kind = raw[trade.venue_symbol, trade.trade_id]
        assert trade.side == {"BUY": "sell", "SELL": "buy"}[body["side"]]
        assert trade.is_history == (kind == "snapshot")


def kraken_frames(data: Path) -> list[bytes]:
    "The frames of the longer recording, which lies there as one JSON text."
    recorded = json.loads((data / "kraken-v2-book" / "orderbook-v2.json").read_bytes())
    return [json.dumps(frame).encode() for frame in (recorded["init"], *recorded["updates"])]


def test_recorded_kraken_checksums_agree_with_a_book_of_texts(
    gem_data: Path, recorded: Callable
) -> None:
    "All 509 + 4; the oracle keeps decimal texts in a dictionary and never sees a float."
    btc = instrument("kraken", "BTC/USD")
    for frames in (kraken_frames(gem_data), recorded("wire-2026-08/kraken_book.jsonl")[0]):
        sides: dict[str, dict[str, str]] = {"bids": {}, "asks": {}}
        book, n = OrderBook(), 0
        for frame in frames:
            body = json.loads(frame, parse_float=str)
            for data in body["data"] if body.get("channel") == "book" else ():
                (message,) = kraken.parse(frame)
                if body["type"] == "snapshot":
                    sides = {"bids": {}, "asks": {}}
                    book.load(message.bids, message.asks)
                else:
                    book.apply(message.bids, message.asks)
                book.truncate(10)
                for side, levels_ in sides.items():
                    for level in data[side]:
                        levels_[level["price"]] = level["qty"]
                    sign = -1 if side == "bids" else 1
                    there = [p for p, q in levels_.items() if float(q)]
                    kept = sorted(there, key=lambda p: sign * float(p))[:10]
                    sides[side] = {p: levels_[p] for p in kept}
                text = "".join(
                    f"{float(p):.1f}".replace(".", "").lstrip("0")
                    + f"{float(q):.8f}".replace(".", "").lstrip("0")
                    for side in ("asks", "bids")
                    for p, q in sides[side].items()
                )
                bids, asks = (rows.tolist() for rows in book.ladder())
                ours = book_checksum(btc, bids, asks)
                assert ours == zlib.crc32(text.encode()) == message.checksum == data["checksum"]
                n += 1
        assert n in (510, 4)


def test_recorded_okx_chain_is_unbroken(recorded: Callable) -> None:
    frames, messages = recorded("wire-2026-08/okx_books.jsonl")
    books, goes_on = [m for m in messages if isinstance(m, BookMessage)], okx.continuity.goes_on
    assert len(books) == 7 and all(goes_on(a.last_id, b) for a, b in pairwise(books))
    assert not any(goes_on(a.last_id, b) for a, b in zip(books, books[2:], strict=False))
    for message, frame in zip(books, map(json.loads, frames[1:]), strict=True):
        (body,) = frame["data"]
        assert body["checksum"] == 0
        assert message.bids == [(float(p), float(q)) for p, q, _, _ in body["bids"]]
        assert message.asks == [(float(p), float(q)) for p, q, _, _ in body["asks"]]
        assert message.ts_event_ns == int(body["ts"]) * 10**6
