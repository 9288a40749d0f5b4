"""The same bad days over real sockets: in virtual time, and by a clock that runs faster."""

import asyncio
import time
from functools import cache

import pytest
from test_faults import BAD_DAYS, DEPTH, PROTOCOLS, faults_of, is_provable, spec_of

from gem_detector.arrivals import Arrivals, VirtualArrivals, WallArrivals
from gem_detector.bad_days import Ladder, ladder_after, ladder_bytes
from gem_detector.core import OrderBookSnapshot
from gem_detector.emulator import VenueServer, play
from gem_detector.simulator import Market, simulate_market
from gem_detector.streams import make_stream

LOOPBACK_DAYS = [kind for kind in BAD_DAYS if kind != "our_clock_jumps"]


@cache
def market_of(name: str) -> Market:
    return simulate_market(3, 32.0, [spec_of(name)])


@cache
def truth_of(name: str) -> dict[Ladder, int]:
    "The last update after which the venue's whole book was this."
    tape = market_of(name).tapes[name]
    return {ladder_after(tape, i): i for i in range(len(tape))}


Books = list[OrderBookSnapshot]


async def over_loopback(name: str, kind: str, arrivals: Arrivals) -> list[int]:
    "Which update each book is, -1 = none of the venue's."
    protocol, symbol = PROTOCOLS[name]
    venue, truth, books = protocol.exchange, truth_of(name), Books()
    options = {"faults": faults_of(kind, 1), "fault_seed": 1}
    async with VenueServer(venue, market_of(name), arrivals=arrivals, **options) as server:
        where = {"url": server.url, "rest_url": server.rest_url, "arrivals": arrivals}
        kept = {"depth": DEPTH, "book": "plain", "market_type": protocol.market_type}
        waits = {"reconnect_delay": 0.5, "max_reconnect_delay": 1.0}  # the tape is short
        stream = make_stream(venue, symbol, **where, **kept, **waits)
        stream.register_book_callback(books.append)
        starting = asyncio.create_task(stream.start())
        try:
            await play([server], arrivals)
            await asyncio.sleep(0.05)
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await stream.stop()
    return [truth.get(ladder_bytes(book.bids, book.asks), -1) for book in books]


def check(name: str, kind: str) -> None:
    market, last = market_of(name), max(truth_of(name).values())
    seen = asyncio.run(over_loopback(name, kind, VirtualArrivals(market.start_ns)))
    if is_provable(name, kind, 1):
        assert -1 not in seen and seen[-1] == last, (len(seen), seen[-5:])
    else:
        assert seen


@pytest.mark.parametrize("kind", LOOPBACK_DAYS)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_bad_day_at_each_venue(name: str, kind: str) -> None:
    check(name, kind)


def test_by_a_clock_that_divides_delays_by_ten() -> None:
    "Nothing here waits for an announced time: the sockets' own order, and real waits."
    name, began_ns = "bybit linear", time.time_ns()
    start_ns = market_of(name).start_ns
    arrivals = WallArrivals(lambda: start_ns + (time.time_ns() - began_ns) * 10, speed=10)
    seen = asyncio.run(over_loopback(name, "drop", arrivals))
    assert -1 not in seen and seen
