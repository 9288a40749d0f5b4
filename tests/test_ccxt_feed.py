"""Streams through ccxt against venues that never were: no network, every kind of trouble."""

import asyncio
import math
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import ccxt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector.ccxt_feed import CcxtOrderBookStream, ccxt_venues, side_of
from gem_detector.core import FeedError, Gap, InputError, OrderBookSnapshot, StreamState, Trade
from gem_detector.streams import make_stream

WAIT = object()  # in a script: nothing comes any more


class Venue:
    "A ccxt.pro exchange that plays a script; connections share it."

    def __init__(self, books: list[Any], trades: list[Any], config: dict[str, Any]) -> None:
        self.books, self.trades, self.config = books, trades, config
        self.has = {"watchOrderBook": True, "watchTrades": bool(trades)}
        self.is_sandbox = self.is_closed = False

    def set_sandbox_mode(self, is_on: bool) -> None:
        self.is_sandbox = is_on

    async def load_markets(self) -> None:
        if self.books and isinstance(self.books[0], ccxt.ExchangeNotAvailable):
            raise self.books.pop(0)

    def market(self, symbol: str) -> dict[str, Any]:
        if symbol.startswith("NOPE"):
            raise ccxt.BadSymbol(f"nowhere does not have market symbol {symbol}")
        return {"symbol": symbol, "contractSize": 0.01 if ":" in symbol else None}

    async def _next(self, script: list[Any]) -> Any:
        await asyncio.sleep(0)
        item = script.pop(0) if script else WAIT
        if item is WAIT:
            await asyncio.Event().wait()
        if isinstance(item, Exception):
            raise item
        return item

    async def watch_order_book(self, symbol: str) -> Any:
        return await self._next(self.books)

    async def watch_trades(self, symbol: str) -> Any:
        return await self._next(self.trades)

    async def close(self) -> None:
        self.is_closed = True


def book(bid: float = 100.0, ask: float = 101.0, stamp: int | None = 1) -> dict[str, Any]:
    return {"bids": [[bid, 1.0]], "asks": [[ask, 2.0]], "timestamp": stamp, "nonce": stamp}


def trade(number: str, side: str = "buy", price: float | None = 100.0) -> dict[str, Any]:
    return {"id": number, "price": price, "amount": 2.0, "side": side, "timestamp": 5}


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


def follow(
    books: list[Any], trades: list[Any] | None = None, symbol: str = "BTC/USDT", **options: Any
) -> tuple[CcxtOrderBookStream, list[Any], list[Venue]]:
    "A stream that plays a script, what it tells, and the connections it makes."
    made: list[Venue] = []
    name = options.pop("name", "nowhere")

    def make(config: dict[str, Any]) -> Venue:
        made.append(Venue(books, trades or [], config))
        return made[-1]

    stream = CcxtOrderBookStream(name, symbol, make=make, reconnect_delay=0.001, **options)
    seen: list[Any] = []
    for register in (
        stream.register_book_callback,
        stream.register_trade_callback,
        stream.register_gap_callback,
    ):
        register(seen.append)
    return stream, seen, made


async def until(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110 (a test may poll)
        await asyncio.sleep(0.002)


def test_a_book_is_unverifiable_at_best() -> None:
    async def test() -> None:
        stream, seen, made = follow([book(), book(100.5)], [[trade("1")]])
        assert stream.state is StreamState.CONNECTING and stream.book is None
        async with stream:
            await until(lambda: len(seen) == 3)
            assert stream.state is StreamState.UNVERIFIABLE and stream.is_running
            assert all(e.state is StreamState.UNVERIFIABLE for e in seen if hasattr(e, "bids"))
            assert stream.book.trusted_depth == 0 and stream.book.best_bid == 100.5
            assert stream.trades[0].side == "buy" and stream.message_count == 3
            with pytest.raises(FeedError, match="running already"):
                await stream.start()
        assert stream.state is StreamState.CLOSED and made[0].is_closed
        states = [state for _, state in stream.get_stats()["states"]]
        assert "SYNCED" not in states and states[-1] == "UNVERIFIABLE"

    run(test)


def test_a_lost_connection_is_a_gap_and_comes_back() -> None:
    async def test() -> None:
        lost = [
            ccxt.NetworkError("reset"),
            ccxt.RequestTimeout("slow"),
            ccxt.RateLimitExceeded("429"),
        ]
        script = [book(), lost[0], book(), lost[1], lost[2], book(99.0)]
        stream, seen, made = follow(script)
        async with stream:
            await until(lambda: not script and stream.book is not None)
            kinds = [e.reason if isinstance(e, Gap) else "book" for e in seen]
            assert kinds == ["book", "disconnected", "book", "disconnected", "book"]
            assert stream.reconnect_count == 3 and stream.gap_count == 2
        assert len(made) == 4 and all(venue.is_closed for venue in made)

    run(test)


def test_a_venue_that_is_down_at_first_is_tried_again() -> None:
    async def test() -> None:
        stream, _, made = follow([ccxt.ExchangeNotAvailable("maintenance"), book()])
        async with stream:
            assert len(made) == 2 and stream.book.best_bid == 100.0

    run(test)


def test_silence_is_a_lost_connection() -> None:
    async def test() -> None:
        script = [book(), WAIT, book(99.0)]
        stream, seen, made = follow(script, silence=0.1)
        async with stream:
            await until(lambda: len(made) == 2 and stream.book is not None)
            assert [e.reason for e in seen if isinstance(e, Gap)] == ["silence"]
            assert stream.get_stats()["counts"]["silence"] == 1

    run(test)


@pytest.mark.parametrize(
    "bad, reason",
    [
        (book(102.0), "crossed"),
        (book(101.0), "crossed"),
        (book(math.nan), "malformed"),
        (book(math.inf), "malformed"),
        (book(-1.0), "malformed"),
        ({"bids": [[1.0, 1.0], [2.0, 1.0]], "asks": []}, "malformed"),
        ({"bids": [["x", 1.0]], "asks": []}, "malformed"),
        ({"bids": [[None, 1.0]], "asks": []}, "malformed"),
        ({"bids": [[1.0]], "asks": []}, "malformed"),
        ({"asks": []}, "malformed"),
        (None, "malformed"),
    ],
)
def test_a_book_that_can_be_none_takes_the_last_one_back(bad: Any, reason: str) -> None:
    async def test() -> None:
        go: list[Any] = [book(), bad]
        stream, seen, _ = follow(go)
        async with stream:
            await until(lambda: len(seen) == 2)
            assert seen[1].reason == reason and stream.book is None
            assert stream.state is StreamState.SUSPECT
            assert sum(stream.get_stats()["rejected"].values()) == 1

    run(test)


def test_after_a_crossed_book_a_good_one_stands_again() -> None:
    async def test() -> None:
        stream, seen, _ = follow([book(), book(105.0), book(106.0), book(100.5)])
        async with stream:
            await until(lambda: len(seen) == 3)
            assert [type(e) for e in seen] == [OrderBookSnapshot, Gap, OrderBookSnapshot]
            assert stream.state is StreamState.UNVERIFIABLE

    run(test)


@pytest.mark.parametrize(
    "error",
    [
        ccxt.BadSymbol("no such market"),
        ccxt.AuthenticationError("needs a key"),
        ccxt.NotSupported("watchOrderBook"),
        KeyError("asks"),
    ],
)
def test_what_will_not_heal_ends_the_stream(error: Exception) -> None:
    async def test() -> None:
        stream, _, made = follow([error])
        with pytest.raises(FeedError, match="nowhere BTC/USDT"):
            await stream.start(timeout=5)
        assert not stream.is_running and made[0].is_closed

        late, _, _ = follow([book(), error])
        await late.start()
        with pytest.raises(FeedError):
            async for _ in late.events():
                pass
        with pytest.raises(FeedError):
            await late.stop()

    run(test)


def test_an_unknown_market_is_told() -> None:
    async def test() -> None:
        stream, _, _ = follow([book()], symbol="NOPE/USDT")
        with pytest.raises(FeedError, match="NOPE"):
            await stream.start(timeout=5)

    run(test)


def test_no_book_in_time() -> None:
    async def test() -> None:
        stream, _, made = follow([WAIT])
        with pytest.raises(FeedError, match=r"no book within 0\.1 s"):
            await stream.start(timeout=0.1)
        assert not stream.is_running and made[0].is_closed

    run(test)


def test_trades_come_once_in_base_units_with_the_takers_side() -> None:
    async def test() -> None:
        rows = [[trade("1"), trade("2")], [trade("2"), trade("3", "sell")]]
        stream, _, _ = follow([book()], [*rows], symbol="BTC/USDT:USDT")
        async with stream:
            await until(lambda: len(stream.trades) == 3)
            assert [(t.trade_id, t.side, t.size) for t in stream.trades] == [
                ("1", "buy", 0.02),
                ("2", "buy", 0.02),
                ("3", "sell", 0.02),
            ]
            assert stream.get_stats()["counts"]["repeated_trade"] == 1
            assert stream.book.bid_size == 0.01

        maker, _, _ = follow([book()], [[trade("1", "buy")]], name="coinbaseexchange")
        async with maker:
            await until(lambda: len(maker.trades) == 1)
            assert maker.trades[0].side == "sell"

    run(test)


@pytest.mark.parametrize(
    "bad",
    [trade("1", "up"), trade("1", "buy", math.nan), trade("1", "buy", None), {"id": "1"}],
)
def test_a_bad_trade_is_left_out_and_counted(bad: dict[str, Any]) -> None:
    async def test() -> None:
        stream, seen, _ = follow([book()], [[bad, trade("2")]])
        async with stream:
            await until(lambda: len(stream.trades) == 1)
            assert sum(stream.get_stats()["rejected"].values()) == 1
            assert [e.trade_id for e in seen if isinstance(e, Trade)] == ["2"]

    run(test)


def test_sandbox_and_keys_reach_ccxt_and_no_text() -> None:
    async def test() -> None:
        options = {"sandbox": True, "api_key": "s3cr3t", "config": {"options": {"x": 1}}}
        stream, _, made = follow([book()], **options)
        async with stream:
            assert made[0].is_sandbox and made[0].config["apiKey"] == "s3cr3t"
            assert made[0].config["options"] == {"x": 1}
            assert "s3cr3t" not in repr(stream) + str(stream.get_stats())

    run(test)


def test_make_stream_takes_other_names_to_ccxt() -> None:
    stream = make_stream("kucoin", "BTC/USDT", depth=5)
    assert isinstance(stream, CcxtOrderBookStream) and stream.exchange == "kucoin"
    assert isinstance(make_stream("krakenfutures", "BTC/USD:USD"), CcxtOrderBookStream)
    with pytest.raises(InputError, match=r"kucion.*kucoin"):
        make_stream("kucion", "BTC/USDT")
    with pytest.raises(InputError, match="no frames to replay"):
        stream.replay("x")
    for options in ({"depth": 0}, {"silence": 0.0}, {"trade_buffer_size": 0}):
        with pytest.raises(InputError):
            make_stream("kucoin", "BTC/USDT", **options)


def test_ccxt_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys; from gem_detector.streams import make_stream; "
        "make_stream('kucoin', 'BTC/USDT'); print('ccxt' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_name_is_an_exchange_of_ccxt_pro() -> None:
    import ccxt.pro

    assert set(ccxt_venues()) == set(ccxt.pro.exchanges)


ROWS = st.lists(st.tuples(st.floats(), st.floats()), max_size=6)


@settings(max_examples=300, deadline=None)
@given(ROWS, st.sampled_from([-1, 1]))
def test_a_side_is_ordered_and_finite_or_refused(rows: list, sign: int) -> None:
    try:
        side = side_of(rows, 4, 1.0, sign)
    except ValueError:
        return
    assert len(side) <= 4 and all(math.isfinite(x) and x > 0 for x in side.ravel())
    prices = side[:, 0].tolist()
    assert prices == sorted(set(prices), reverse=sign < 0)
