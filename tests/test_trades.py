"""No trade is lost in silence: each once, in order, those that were missed fetched and marked."""

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest
from test_faults import DEPTH, PROTOCOLS, new_feed, spec_of

from gem_detector.core import Trade
from gem_detector.frames import read_frames
from gem_detector.markets import instrument
from gem_detector.memory_link import MemoryLink
from gem_detector.simulator import Market, simulate_market
from gem_detector.sync import Feed
from gem_detector.venues.binance import BinanceProtocol
from gem_detector.venues.coinbase import CoinbaseProtocol
from gem_detector.wire_faults import Fault

BAD_DAYS = {
    "clean": [],
    "lost": [Fault("drop", at_s=2.0, n=3, chance=0.3, stream="trade")],
    "storm": [Fault("disconnect_storm", at_s=3.0, n=3, for_s=0.5)],
    "half open": [Fault("half_open", at_s=3.0, stream="any")],
    "refused once": [
        Fault("disconnect_storm", at_s=3.0, n=1, for_s=0.5),
        Fault("http_429", at_s=3.0, n=1),
    ],
}


@lru_cache(maxsize=4)
def market_of(seed: int) -> Market:
    specs = [replace(spec_of(name), trade_rate_hz=3.0) for name in PROTOCOLS]
    return simulate_market(seed, 28.0, specs)


def run(name: str, kind: str, seed: int) -> tuple[list[Trade], list[str], Feed, list]:
    "The trades that a feed gave, the ids of all trades of the venue, the feed and its arrivals."
    market, feed = market_of(seed), new_feed(name)
    only = replace(market, tapes={name: market.tapes[name]})
    link = MemoryLink(feed, only, BAD_DAYS[kind], seed, DEPTH)
    trades, arrivals = [], []
    for arrival, _, events in link.run():
        arrivals.append(arrival)
        trades += [event for event in events if isinstance(event, Trade)]
    (topics,) = link.venue.books.values()
    rows = topics.trades if name.startswith("binance") else topics.executions
    return trades, [row.trade_id for row in rows], feed, arrivals


@pytest.mark.parametrize("kind", BAD_DAYS)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_trade_once_in_order_and_marked(name: str, kind: str) -> None:
    for seed in (1, 2):
        trades, ids, feed, _ = run(name, kind, seed)
        told = [trade.trade_id for trade in trades]
        first, last = ids.index(told[0]), ids.index(told[-1])
        (counts,) = (one.counts for one in feed.trade_syncs.values())
        if name in ("bybit spot", "bybit linear", "htx linear", "htx spot") and kind == "lost":
            assert len(told) >= last - first + 1 - 3  # names: nothing shows a trade lost in between
            continue
        if name == "bybit spot" and counts["uncovered"]:  # sixty trades are all that REST gives
            assert len(set(told)) == len(told)
            continue
        assert told == ids[first : last + 1]
        assert counts["missing"] == 0 and counts["backfilled"] == sum(t.is_backfill for t in trades)
        assert all(a.ts_recv_ns <= b.ts_recv_ns for a, b in pairwise(trades))
        if (name, kind) != ("htx spot", "half open"):  # trades alone may be silent for a minute
            assert last >= len(ids) - 12 and first < 12
        if kind == "clean":
            assert not counts["backfilled"] and not counts["holes"]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_recorded_reconnect_replays_to_the_same_trades(name: str) -> None:
    trades, _, _, arrivals = run(name, "storm", 3)
    assert any(trade.is_backfill for trade in trades)
    again = new_feed(name)
    replayed = [e for one in arrivals for e in again.handle(one) if isinstance(e, Trade)]
    assert replayed == trades


def test_where_rest_refuses_for_good_what_is_missing_stays_counted() -> None:
    market, feed = market_of(1), new_feed("okx spot")
    only = replace(market, tapes={"okx spot": market.tapes["okx spot"]})
    faults = [*BAD_DAYS["lost"], Fault("http_5xx", at_s=0.0, n=1000)]
    link = MemoryLink(feed, only, faults, 1, DEPTH)
    trades = [e for _, _, events in link.run() for e in events if isinstance(e, Trade)]
    (counts,) = (one.counts for one in feed.trade_syncs.values())
    numbers = [int(trade.trade_id) for trade in trades]
    assert counts["missing"] == numbers[-1] - numbers[0] + 1 - len(numbers) == 3
    assert not any(trade.is_backfill for trade in trades)


@pytest.mark.parametrize(
    ("file", "market_type", "symbol"),
    [("spot_btcusdt.gz", "spot", "BTC/USDT"), ("usdm_btcusdt.gz", "linear", "BTC/USDT:USDT")],
)
def test_real_binance_trades_count_up_by_one(
    gem_data: Path, file: str, market_type: str, symbol: str
) -> None:
    feed = Feed(BinanceProtocol(market_type), [instrument("binance", symbol)], 20)
    n = 0
    for arrival in read_frames(gem_data / "binance-2024-08-08" / file):
        n += sum(isinstance(event, Trade) for event in feed.handle(arrival))
        feed.actions.clear()
    (counts,) = (one.counts for one in feed.trade_syncs.values())
    assert n > 1000 and counts["missing"] == counts["repeated"] == 0


def test_real_coinbase_trades_count_up_by_one(gem_data: Path) -> None:
    made = [instrument("coinbase", "BTC/USD"), instrument("coinbase", "ETH/USD")]
    feed, n = Feed(CoinbaseProtocol(), made, 20), 0
    path = gem_data / "wire-2026-08-frames" / "coinbase_advanced_btcusd_ethusd.gz"
    for arrival in read_frames(path):
        n += sum(isinstance(event, Trade) for event in feed.handle(arrival))
    assert n and all(one.counts["missing"] == 0 for one in feed.trade_syncs.values())
