"""Millions of messages of six emulated venues at full speed: flat memory, nothing lost."""

import gc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from test_faults import new_feed, spec_of

from gem_detector.bad_days import ladder_after, ladder_bytes
from gem_detector.core import Gap, OrderBookSnapshot, Trade
from gem_detector.memory_link import MemoryLink
from gem_detector.simulator import VenueSpec, simulate_market

SIX = ("binance linear", "bybit linear", "coinbase spot", "kraken spot", "okx spot", "htx linear")
ROUND_S = 15.0
FLAT = 0.05


def busy(name: str) -> VenueSpec:
    return replace(spec_of(name), change_rate_hz=300.0, batch_ms=8.0, trade_rate_hz=20.0)


def resident_bytes() -> int:
    "What the process holds in memory, after a collection."
    gc.collect()
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096


def soak(n_messages: int) -> tuple[int, list[int]]:
    "Rounds of a market after another through feeds that live on: messages, and memory by round."
    feeds, memory = {name: new_feed(name) for name in SIX}, []
    n_done, start_ns, seed = 0, 10**18, 0
    while n_done < n_messages:
        seed += 1
        market = simulate_market(seed, ROUND_S, [busy(name) for name in SIX], start_ns=start_ns)
        for name, feed in feeds.items():
            tape, told = market.tapes[name], Counter()
            before = feed.counts["frames"]
            for _, _, events in MemoryLink(feed, replace(market, tapes={name: tape})).run():
                told.update(map(type, events))
            n_done += feed.counts["frames"] - before
            (sync,) = feed.syncs.values()
            assert sync.state is sync.standing
            assert ladder_bytes(*sync.book.ladder()) == ladder_after(tape, len(tape) - 1)
            assert told[Gap] == (seed > 1)  # each round begins with a new connection
            calm_ns = market.start_ns + 2 * 10**9  # by then every book stands
            assert told[OrderBookSnapshot] >= (tape.ts_recv_ns > calm_ns).sum()
            if feed.protocol.trade_ids != "unique" or seed == 1:  # names come again in each round
                at_ns, last_ns = tape.trade_ts_recv_ns, market.end_ns - 5 * 10**8  # a batch is late
                assert told[Trade] >= ((at_ns > calm_ns) & (at_ns < last_ns)).sum()
            assert (
                not feed.rejected and not feed.trade_syncs[next(iter(feed.syncs))].counts["missing"]
            )
        start_ns = market.end_ns + 300 * 10**9  # calm enough for the next snapshot to come at once
        memory.append(resident_bytes())
    return n_done, memory


def check(n_messages: int, n_warm: int, record_property) -> None:
    n_done, memory = soak(n_messages)
    warm = memory[n_warm:]
    middle = sum(warm) / len(warm)
    record_property("messages, rounds, MB", (n_done, len(memory), round(middle / 2**20)))
    assert n_done >= n_messages and len(warm) >= 2
    assert all(abs(one / middle - 1) < FLAT for one in warm), [one // 2**20 for one in memory]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_fifty_thousand_messages(record_property) -> None:
    check(50_000, 2, record_property)


@pytest.mark.verify
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_two_million_messages(record_property) -> None:
    check(2_000_000, 20, record_property)
