"""A live run over six emulated venues at 2,000 messages a second: it keeps up, its memory stays
flat, and the replay of what it recorded finds the same gems."""

import asyncio
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_live_runs import check_same, choices, served
from test_retrain import candidates
from test_soak import resident_bytes

from gem_detector.arrivals import VirtualArrivals
from gem_detector.core import NS_PER_S
from gem_detector.decisions import BasisRule, GemRule
from gem_detector.detector import Decision
from gem_detector.emulator import play
from gem_detector.gem_models import GemModels, load_gem_models
from gem_detector.kept_feeds import Heard
from gem_detector.live import LiveRun
from gem_detector.markets import instrument
from gem_detector.model_versions import model_folder
from gem_detector.retrain import retrain
from gem_detector.shadow_ledger import ShadowLedger, shadow_rows
from gem_detector.simulator import DEFAULT_VENUES, START_NS, Dislocation, Market, simulate_market

SIX = {
    "binance": "BTC/USDT",
    "bybit": "BTC/USDT:USDT",
    "okx": "BTC/USDT",
    "htx": "BTC/USDT",
    "kraken": "BTC/USD",
    "coinbase": "BTC/USD",
}
TRADES_HZ = 390.0  # books come at most as often as a venue sends them; the rest are trades
RATE_HZ = 2_000
FLAT = 0.05  # share by which memory may vary after the warm-up
SLOWER = 1.5  # times the cost of the first third that the last may have


def busy_market(seed: int, seconds: float) -> Market:
    "Six venues of one coin; every 12 seconds one of them stands off for a while."
    specs = [
        replace(
            DEFAULT_VENUES[0],
            instrument=instrument(venue, symbol),
            name=venue,
            change_rate_hz=300.0,
            batch_ms=10.0,
            trade_rate_hz=TRADES_HZ,
        )
        for venue, symbol in SIX.items()
    ]
    rng, standing_off = np.random.default_rng(seed), []
    for start_s in np.arange(8.0, seconds - 3.0, 12.0):
        at_ns = START_NS + round((start_s + rng.uniform(0, 5)) * NS_PER_S)
        bps, name = float(rng.choice((-1, 1)) * rng.uniform(45, 60)), str(rng.choice(list(SIX)[:4]))
        standing_off.append(Dislocation(name, at_ns, rng.uniform(800, 1500), bps, 2.0))
    return simulate_market(seed, seconds, specs, dislocations=standing_off)


@dataclass
class Gauge:
    "Once a second of market time: what the run has used so far, and what it still has to do."

    ledger: ShadowLedger
    cpu_s: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)  # bytes, every ten seconds
    n_open: list[int] = field(default_factory=list)  # decisions that wait for their verdict
    n_tasks: list[int] = field(default_factory=list)

    def warm(self) -> None:
        "Nothing to compile."

    def on_event(self, heard: Heard) -> None:
        "Events are counted by their feeds."

    def on_asked(self, line: dict[str, Any], decision: Decision) -> None:
        "The ledger has it."

    def on_end(self) -> None:
        "Nothing to close."

    def on_tick(self, now_ns: int) -> None:
        "Read everything."
        self.cpu_s.append(time.process_time())
        self.n_open.append(self.ledger.get_stats()["open"])
        self.n_tasks.append(len(asyncio.all_tasks()))
        if len(self.cpu_s) % 10 == 0:
            self.memory.append(resident_bytes())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> GemModels:
    "Models that have learned that a large edge pays, with limits that every trade above 0 meets."
    folder, rows = tmp_path_factory.mktemp("models"), candidates(0, (0, 2), "ofi", share=0.3)
    edge = np.where(rows.rows["is_gem"] == 1, 20.0, 1.0)
    rows.rows["best_net_edge_at_size_bps"] = edge + np.random.default_rng(0).normal(size=len(edge))
    retrain(rows, folder, n_trees=50)
    card = model_folder(folder) / "detector.json"
    told = json.loads(card.read_text())
    told["limits"] = {"min_persistence_ms": 0.0, "min_burst_score": None, "min_p_primary": 0.0}
    card.write_text(json.dumps(told))
    return load_gem_models(card.parent)


async def followed(
    market: Market, models: GemModels, folder: Path
) -> tuple[dict[str, Any], Gauge, int]:
    "Live on all venues from start to end: the summary, the gauge and the number of messages."
    arrivals = VirtualArrivals(market.start_ns)
    rule = GemRule(models.settings.feature.notional, basis=BasisRule(hold_s=5.0))
    ledger = ShadowLedger(folder, models.settings, rule)
    gauge = Gauge(ledger)
    async with served(market, arrivals) as servers:
        run = LiveRun(
            choices(market, servers), models, folder, arrivals=arrivals, listeners=[ledger, gauge]
        )
        running = asyncio.create_task(run.run())
        await run.connecting.wait()
        await play(list(servers.values()), arrivals)
        n_messages = sum(f.stream.get_stats()["counts"]["frames"] for f in run.feeds)
        run.stop()
        return await running, gauge, n_messages


def soak(minutes: float, models: GemModels, folder: Path, record_property: Any) -> None:
    market = busy_market(3, 60 * minutes)
    summary, gauge, n_messages = asyncio.run(followed(market, models, folder))
    rate_hz = n_messages / (60 * minutes)
    cost = np.diff(gauge.cpu_s)  # CPU seconds of emulator, live run and ledger for a market second
    memory = gauge.memory[3:]  # after the warm-up of half a minute
    facts = {
        "messages": n_messages,
        "gems": summary["gems"],
        "CPU s for a market s, 5 % and median": np.percentile(cost, [5, 50]).round(2).tolist(),
        "MB": (min(memory) // 2**20, max(memory) // 2**20),
    }
    record_property("live soak", facts)
    assert rate_hz >= RATE_HZ and all(feed["gaps"] == 0 for feed in summary["feeds"].values())
    assert check_same(folder, models, summary["decisions"]) == summary["gems"]
    assert summary["gems"] >= 0.5 * len(market.dislocations)
    assert max(memory) < (1 + FLAT) * min(memory), [one // 2**20 for one in gauge.memory]
    third = len(cost) // 3
    # others on this machine make a second dearer, never cheaper: the least is its cost
    assert np.percentile(cost, 5) < 1.0, "a market second takes longer than a second"
    assert np.median(cost[-third:]) < SLOWER * np.median(cost[:third]), "it becomes slower"
    assert max(gauge.n_tasks) <= gauge.n_tasks[0] + 2 and max(gauge.n_open) < 200
    rows = shadow_rows(folder)
    assert len(rows) == summary["asked"]
    settled = [row for row in rows if "net_bps_realised" in row]
    assert len(settled) >= len(rows) - gauge.n_open[-1]


HAS_PROC = Path("/proc/self/statm").exists()


@pytest.mark.verify
@pytest.mark.skipif(not HAS_PROC, reason="needs Linux's /proc")
def test_two_minutes(models: GemModels, tmp_path: Path, record_property: Any) -> None:
    soak(2.0, models, tmp_path, record_property)


@pytest.mark.verify
@pytest.mark.skipif(not HAS_PROC, reason="needs Linux's /proc")
def test_an_hour(models: GemModels, tmp_path: Path, record_property: Any) -> None:
    soak(60.0, models, tmp_path, record_property)
