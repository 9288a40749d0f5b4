"""Symbols, venue names and the built-in table; its steps against real recorded books."""

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_detector import markets
from gem_detector.core import InputError, Instrument
from gem_detector.frames import read_frames
from gem_detector.markets import (
    MARKET_TYPES,
    VENUES,
    built_in,
    instrument,
    load_markets,
    split_symbol,
    unified_symbol,
    venue_symbol,
)

currency = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=8)


# --- symbols


@given(base=currency, quote=currency)
def test_symbols_come_apart_and_together(base: str, quote: str) -> None:
    spot, linear = f"{base}/{quote}", f"{base}/{quote}:{quote}"
    assert split_symbol(spot) == (base, quote, "")
    assert split_symbol(linear.lower()) == (base, quote, quote)
    assert unified_symbol(spot) == unified_symbol(spot, "spot") == spot
    assert unified_symbol(spot, "linear") == unified_symbol(linear) == linear
    assert unified_symbol(linear, "linear") == linear
    with pytest.raises(InputError, match="is a perpetual, not spot"):
        unified_symbol(linear, "spot")


@given(text=st.text(max_size=20))
def test_any_text_is_a_symbol_or_refused(text: str) -> None:
    try:
        base, quote, settle = split_symbol(text)
    except InputError as error:
        assert repr(text) in str(error)
    else:
        assert f"{base}/{quote}" == unified_symbol(text).split(":")[0] and settle in ("", quote)


@pytest.mark.parametrize("venue", VENUES)
def test_names_of_a_venue_are_distinct(venue: str) -> None:
    "Within one market type; two types may share a name, which is why the socket tells them apart."
    for market_type in MARKET_TYPES[venue]:
        symbols = [
            unified_symbol(f"{base}/{quote}", market_type)
            for base in ("BTC", "ETH", "SOL")
            for quote in ("USD", "USDT", "USDC")
        ]
        assert len({venue_symbol(venue, symbol) for symbol in symbols}) == len(symbols)


# --- the table


def test_the_table_covers_every_market_type() -> None:
    covered = {(found.exchange, found.market_type) for found in built_in()}
    assert covered == {(venue, kind) for venue in VENUES for kind in MARKET_TYPES[venue]}


@pytest.mark.parametrize("found", built_in(), ids=lambda i: f"{i.exchange}-{i.symbol}")
def test_a_row_of_the_table_is_consistent(found: Instrument, tmp_path: Path) -> None:
    assert instrument(found.exchange, found.symbol, cache_dir=tmp_path) is found
    assert instrument(found.exchange, found.symbol, found.market_type, tmp_path) is found
    assert venue_symbol(found.exchange, found.symbol) == found.venue_symbol
    assert found.tick_size > 0 and found.lot_size > 0 and found.contract_size > 0
    lots = found.min_qty / found.lot_size
    assert lots >= 1 - 1e-9 and math.isclose(lots, round(lots), rel_tol=1e-9)
    assert math.isclose(math.log10(found.tick_size), round(math.log10(found.tick_size)))


def levels_of(message: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    "Venue's name of the pair, price and quantity of every level in a book message, as text."
    data = message.get("data", message)
    if message.get("channel") == "l2_data":
        for event in message["events"]:
            for row in event["updates"]:
                yield event["product_id"], row["price_level"], row["new_quantity"]
    elif message.get("channel") == "book":
        for one in data:
            for row in one.get("bids", []) + one.get("asks", []):
                yield one["symbol"], row["price"], row["qty"]
    elif "arg" in message and isinstance(data, list):
        for one in data:
            for row in one["bids"] + one["asks"]:
                yield message["arg"]["instId"], row[0], row[1]
    elif isinstance(data, dict) and isinstance(data.get("b"), list):
        for row in data["b"] + data["a"]:
            yield data["s"], row[0], row[1]


CAPTURES = {
    ("binance", "spot"): "binance-2024-08-08/spot_btcusdt.gz",
    ("binance", "linear"): "binance-2024-08-08/usdm_btcusdt.gz",
    ("bybit", "linear"): "wire-2026-08-frames/bybit_linear.gz",
    ("bybit", "spot"): "wire-2026-08/bybit_orderbook.jsonl",
    ("coinbase", "spot"): "wire-2026-08-frames/coinbase_advanced_btcusd_ethusd.gz",
    ("kraken", "spot"): "wire-2026-08/kraken_book.jsonl",
    ("okx", "spot"): "wire-2026-08/okx_books.jsonl",
}


@pytest.mark.parametrize("market", CAPTURES, ids="-".join)
def test_recorded_prices_are_whole_ticks(market: tuple[str, str], gem_data: Path) -> None:
    "Every price of the recorded books is a multiple of the tick, and no coarser tick would do."
    prices = defaultdict(set)
    for arrival in read_frames(gem_data / CAPTURES[market]):
        message = json.loads(arrival.payload, parse_float=str)
        for name, price, _ in levels_of(message):
            prices[name].add(float(price))
    assert prices
    for name, seen in prices.items():
        found = next(
            one
            for one in built_in(market[0])
            if one.venue_symbol == name and one.market_type == market[1]
        )
        ticks = [price / found.tick_size for price in seen]
        whole = [round(tick) for tick in ticks]
        assert max(abs(tick - n) for tick, n in zip(ticks, whole)) < 1e-6, name
        assert math.gcd(*whole) == 1, name


# --- lists from venues


class FakeVenue:
    "What the loader needs of a ccxt exchange."

    def __init__(self, rows: list[dict[str, Any]], error: Exception | None = None) -> None:
        self.precisionMode, self.rows, self.error, self.calls = 4, rows, error, 0

    def load_markets(self) -> dict[str, dict[str, Any]]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return {row["symbol"]: row for row in self.rows}


def row_of(symbol: str, **more: Any) -> dict[str, Any]:
    "An entry of ccxt's list."
    base, quote, settle = split_symbol(symbol)
    entry = {
        "id": symbol.replace("/", "-"),
        "symbol": symbol,
        "base": base,
        "quote": quote,
        "settle": settle or None,
        "spot": not settle,
        "swap": bool(settle),
        "linear": True if settle else None,
        "contractSize": 10 if settle else None,
        "precision": {"price": 0.01, "amount": 0.5},
        "limits": {"amount": {"min": 1.0}, "cost": {"min": None}},
    }
    return entry | more


@pytest.fixture
def venue(monkeypatch: pytest.MonkeyPatch) -> FakeVenue:
    "ccxt's Kraken with two pairs, an option and an inverse perpetual, and no network."
    ccxt = pytest.importorskip("ccxt")
    rows = [
        row_of("XRP/USD"),
        row_of("XRP/USD:USD"),
        row_of("ADA/USD") | {"spot": False, "option": True},
        row_of("ETH/USD:USD", linear=False),
        row_of("OLD/USD") | {"symbol": "BTC/USD:USD-261225"},
    ]
    fake = FakeVenue(rows)
    monkeypatch.setattr(ccxt, "kraken", lambda options: fake)
    return fake


def test_a_list_is_fetched_once_and_kept(venue: FakeVenue, tmp_path: Path) -> None:
    found = load_markets("kraken", tmp_path)
    assert list(found) == ["XRP/USD", "XRP/USD:USD"]
    assert found["XRP/USD:USD"].lot_size == 5.0 and found["XRP/USD:USD"].min_qty == 10.0
    assert found["XRP/USD"].venue_symbol == "XRP/USD"  # not ccxt's id, which v2 does not know
    assert load_markets("kraken", tmp_path) == found and venue.calls == 1
    assert load_markets("kraken", tmp_path, refresh=True) == found and venue.calls == 2
    assert load_markets("kraken", tmp_path, max_age_s=0.0) == found and venue.calls == 3
    assert instrument("kraken", "XRP/USD", cache_dir=tmp_path) == found["XRP/USD"]


def test_an_old_list_serves_while_there_is_no_network(venue: FakeVenue, tmp_path: Path) -> None:
    import ccxt

    found = load_markets("kraken", tmp_path)
    [path] = (tmp_path / "markets").iterdir()
    os.utime(path, (0, 0))
    venue.error = ccxt.NetworkError("unreachable")
    with pytest.warns(UserWarning, match=r"kraken gave no market list, using one \d+ h old"):
        assert load_markets("kraken", tmp_path) == found


def test_without_list_and_network_the_error_says_what_to_do(
    venue: FakeVenue, tmp_path: Path
) -> None:
    import ccxt

    venue.error = ccxt.NetworkError("unreachable")
    with pytest.raises(InputError, match=r"unreachable; run this once with a network, or copy .*"):
        load_markets("kraken", tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_a_venue_that_nobody_knows(tmp_path: Path) -> None:
    pytest.importorskip("ccxt")
    with pytest.raises(InputError, match=r"unknown venue 'binanse'.*near: binance"):
        load_markets("binanse", tmp_path)


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"symbol": "X"}]', "nonsense"])
def test_a_spoilt_list_names_its_file(content: str, tmp_path: Path) -> None:
    (tmp_path / "markets").mkdir()
    (tmp_path / "markets" / "gate.json").write_text(content)
    with pytest.raises(InputError, match=r"gate"):
        instrument("gate", "BTC/USDT", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (("binance", "BTC/USTD"), "near: BTC/USDT.*load_markets"),
        (("binanse", "BTC/USDT"), "near: binance; native venues are binance, bybit"),
        (("coinbase", "BTC/USD", "linear"), "coinbase has no linear markets here, only spot"),
        (("bybit", "BTC/USDT", "margin"), "unknown market type 'margin'"),
        (("bybit", "BTC/USDT:USDT", "spot"), "is a perpetual, not spot"),
        (("bybit", "BTCUSDT"), "not a symbol: 'BTCUSDT'"),
        (("bybit", "BTC/USD:BTC"), "only linear perpetuals"),
        (("okx", ""), "not a symbol: ''"),
    ],
)
def test_bad_input_is_one_clear_sentence(call: tuple[str, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        instrument(*call, cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_looking_up_needs_no_network_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(markets, "_fetch", lambda exchange: pytest.fail("asked the network"))
    instrument("bybit", "BTC/USDT:USDT", cache_dir=tmp_path)
    with pytest.raises(InputError):
        instrument("bybit", "NOT/THERE", cache_dir=tmp_path)
