"The panel: refreshed without a backlog, silent while nothing changes, safe with any text."

import asyncio

import pytest

from gem_detector.aggregator import MultiExchangeAggregator
from gem_detector.core import NS_PER_S, Gem, InputError, OrderBookSnapshot
from gem_detector.dashboard import Dashboard, feed_rows, gem_row, sparkline
from gem_detector.demo import DemoResult
from gem_detector.planting import planted_market, tape_events
from gem_detector.recorder import recordings
from gem_detector.streams import make_stream


@pytest.fixture(scope="module")
def fed() -> tuple[MultiExchangeAggregator, list]:
    market, _ = planted_market(seed=3, minutes=1, gems=0, decoys=0)
    names = {(t.instrument.exchange, t.instrument.symbol): n for n, t in market.tapes.items()}
    aggregator = MultiExchangeAggregator({n: t.instrument for n, t in market.tapes.items()})
    books = [e for e in tape_events(market) if isinstance(e, OrderBookSnapshot)]
    for book in books[:200]:
        aggregator.on_book(names[book.exchange, book.symbol], book)
    return aggregator, [(names[b.exchange, b.symbol], b) for b in books[200:400]]


def test_it_runs_in_the_loop_and_stops(fed: tuple[MultiExchangeAggregator, list]) -> None:
    aggregator, rest = fed
    panel = Dashboard(aggregator, updates_per_s=60)
    bundle = panel._repr_mimebundle_()
    assert all(name in bundle["text/html"] for name in ("binance", "bybit", "SYNCED"))

    async def watch() -> None:
        panel.start()
        with pytest.raises(InputError, match="running already"):
            panel.start()
        for name, book in rest:
            aggregator.on_book(name, book)
            await asyncio.sleep(0.002)
        panel.stop()
        await asyncio.sleep(0)

    asyncio.run(watch())
    assert panel.n_updates > 5 and 0 < panel.n_sent <= panel.n_updates
    assert panel._widget.value == panel._html


def test_what_has_not_changed_is_not_sent(fed: tuple[MultiExchangeAggregator, list]) -> None:
    panel = Dashboard(fed[0], updates_per_s=1, history_s=2)
    panel._repr_mimebundle_()
    for _ in range(3):
        panel.refresh()
    before = panel.n_sent
    assert not panel.refresh() and panel.n_sent == before


def test_gems_in_a_line_and_lines_with_holes() -> None:
    gem = Gem(NS_PER_S * 3_661, "arbitrage", "<i>", "b", 3.0, 0.9, 0.8, 4.0)
    assert gem_row(gem)["at (UTC)"] == "01:01:01.0"
    assert sparkline([]).count("<path") == 1 and "nan" not in sparkline([float("nan"), 1.0])
    with pytest.raises(InputError, match="low < high"):
        sparkline([1.0], low=1, high=1)


def test_feeds_say_how_late_they_are(planted_demo: DemoResult) -> None:
    raw = planted_demo.folder / "recording" / "raw"
    stream = make_stream("binance", "BTC/USDT")
    list(stream.replay(recordings(raw / "exchange=binance")))
    (row,) = feed_rows({"binance": stream})
    assert row["frames"] > 1_000 and row["gaps"] == 0
