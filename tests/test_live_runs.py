"Live runs on emulated venues: what they find, what they survive, and what a kill leaves behind."

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from test_retrain import candidates

from gem_detector.arrivals import Arrivals, VirtualArrivals, WallArrivals
from gem_detector.core import NS_PER_S, FeedError, OrderBookSnapshot
from gem_detector.costs import FeeTable, fee_market
from gem_detector.demo import DemoResult
from gem_detector.emulator import VenueServer, play
from gem_detector.gem_lines import model_hash
from gem_detector.gem_models import GemModels, load_gem_models
from gem_detector.kept_feeds import FeedChoice
from gem_detector.line_files import read_lines
from gem_detector.live import LiveRun
from gem_detector.live_replay import heard_again, replayed_decisions, runs_in
from gem_detector.markets import instrument
from gem_detector.planting import planted_market
from gem_detector.shadow_ledger import ShadowLedger, shadow_dataset, shadow_report, shadow_rows
from gem_detector.shadow_watch import ShadowWatch, retrain_wanted, write_reference
from gem_detector.simulator import Market

Servers = dict[str, VenueServer]
COMMAND = """
import argparse, sys
from gem_detector.live_commands import add_parsers
top = argparse.ArgumentParser()
add_parsers(top.add_subparsers(required=True))
args = top.parse_args()
sys.exit(args.run(args))
"""


@pytest.fixture(scope="module")
def models(planted_demo: DemoResult) -> GemModels:
    return load_gem_models(planted_demo.folder / "models")


@pytest.fixture(scope="module")
def market(planted_demo: DemoResult) -> Market:
    desk = planted_demo.trial.desk
    return planted_market(21, 3, (0, 11), decoys=0, desk=desk)[0]


@asynccontextmanager
async def served(market: Market, arrivals: Arrivals) -> AsyncIterator[Servers]:
    "All venues of a market on loopback."
    servers = {}
    for tape in market.tapes.values():
        venue = tape.instrument.exchange
        if venue not in servers:
            servers[venue] = await VenueServer(venue, market, arrivals=arrivals).__aenter__()
    try:
        yield servers
    finally:
        for server in servers.values():
            await server.__aexit__(None, None, None)


def choices(market: Market, servers: Servers, **options: float) -> list[FeedChoice]:
    found = []
    for tape in market.tapes.values():
        venue, symbol = tape.instrument.exchange, tape.instrument.symbol
        urls = {"url": servers[venue].url, "rest_url": servers[venue].rest_url}
        found.append(FeedChoice(venue, symbol, urls | options))
    return found


async def until(is_true: Callable[[], bool], timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_true():  # noqa: ASYNC110 (a test may poll)
            await asyncio.sleep(0.02)


def sped_up(start_ns: int, speed: float) -> WallArrivals:
    "The wall clock, begun anew and running faster."
    began = time.monotonic_ns()
    return WallArrivals(lambda: start_ns + round(speed * (time.monotonic_ns() - began)))


def check_same(folder: Path, models: GemModels, decisions: str, run: int = -1) -> int:
    "What the replay decides is what live decided, and every gem has its line; how many."
    again, digest = replayed_decisions(folder, models, run)
    assert digest == decisions
    told = {gem["ts_recv_ns"]: gem["decision"] for gem in read_lines(folder / "gems.jsonl")}
    gems = [decision for decision in again if decision.gem is not None]
    assert [d.gem.ts_recv_ns for d in gems] == list(told)
    return len(gems)


def books_before(folder: Path, times: list[int]) -> dict[int, dict[str, OrderBookSnapshot]]:
    "The newest book of each market at some times, from the recording."
    found, now, left = {}, dict[str, OrderBookSnapshot](), sorted(times)
    for heard in heard_again(folder):
        while left and heard.event.ts_recv_ns > left[0]:
            found[left.pop(0)] = dict(now)
        if isinstance(heard.event, OrderBookSnapshot):
            now[heard.name] = heard.event
    return found


def check_lines(folder: Path, models: GemModels, market: Market) -> None:
    "Every number of every gem's line is what the recording, the replay and the market say."
    gems, fees = read_lines(folder / "gems.jsonl"), FeeTable(tiers=models.settings.fee_tiers)
    books = books_before(folder, [gem["ts_recv_ns"] for gem in gems])
    made = {d.watched.ts_recv_ns: d for d in replayed_decisions(folder, models)[0] if d.gem}
    wires = {tape.instrument.exchange: tape for tape in market.tapes.values()}
    for gem in gems:
        ts_ns, decision = gem["ts_recv_ns"], made[gem["ts_recv_ns"]]
        promised = decision.gem
        assert gem["trade"] == decision.watched.legs and gem["kind"] == promised.kind
        assert gem["net_bps"] == promised.profit_bps == decision.watched.best_edge_bps
        assert gem["net_at_size_bps"] == decision.watched.best_edge_at_size_bps
        assert (gem["p_primary"], gem["p_meta"]) == (promised.p_primary, promised.p_meta)
        assert gem["burst_score"] == decision.watched.burst_score
        assert gem["model"] == model_hash(models.folder) and gem["decision_ms"] >= 0
        assert gem["edge_age_ms"] == decision.watched.row.to_dict()["net_edge_age_ms"]
        for side in ("buy", "sell"):
            leg = gem["legs"][side]
            book = books[ts_ns][leg["market"]]
            touch = (
                (book.best_ask, book.ask_size) if side == "buy" else (book.best_bid, book.bid_size)
            )
            assert (leg["price"], leg["size"]) == touch and leg["sequence"] == book.sequence
            assert leg["age_ms"] == (ts_ns - book.ts_recv_ns) / 1e6 >= 0
            assert leg["fee_bps"] == fees.taker_bps(
                leg["exchange"], fee_market(instrument(leg["exchange"], leg["symbol"]))
            )
            tape = wires[leg["exchange"]]
            offset_ms, error_ms = tape.clock_offset_ns / 1e6, leg["clock_error_ms"]
            assert abs(leg["clock_offset_ms"] - offset_ms) <= error_ms
            fastest_ms = (tape.ts_recv_ns - tape.ts_send_ns).min() / 1e6
            assert leg["wire_ms"] >= fastest_ms - error_ms and leg["latency"]["wire"]["p99_ms"] > 0
            assert leg["silence_ms"] >= 0
        assert gem["clock_error_ms"] == max(
            gem["legs"][s]["clock_error_ms"] for s in ("buy", "sell")
        )
        price = gem["legs"]["buy"]["price"]
        assert 0 < gem["qty"] * price <= gem["notional"] * 1.001


def test_live_finds_every_gem_that_the_replay_finds(
    market: Market, models: GemModels, planted_demo: DemoResult, tmp_path: Path
) -> None:
    "And its ledger, its account and its look for drift know what became of them."
    chosen = load_gem_models(shutil.copytree(models.folder, tmp_path / "models"))
    write_reference(candidates(0, (0, 2), "ofi"), chosen.folder)  # rows of quite another market
    control = ShadowWatch(tmp_path, chosen, check_every_s=20.0)
    rule, told = planted_demo.trial.rule, {"on_settled": control.on_settled}
    ledger = ShadowLedger(tmp_path, models.settings, rule, **told)

    async def test() -> dict:
        arrivals = VirtualArrivals(market.start_ns)
        async with served(market, arrivals) as servers:
            feeds, heard = choices(market, servers), {"listeners": [ledger, control]}
            heard |= {"judge": control.judge, "arrivals": arrivals}
            run = LiveRun(feeds, chosen, tmp_path, **heard)
            running = asyncio.create_task(run.run())
            await run.connecting.wait()
            await play(list(servers.values()), arrivals)
            run.stop()
            return await running

    summary = asyncio.run(test())
    assert check_same(tmp_path, models, summary["decisions"]) == summary["gems"] >= 4
    gem = read_lines(tmp_path / "gems.jsonl")[0]
    wanted = "kind trade legs net_bps qty p_primary p_meta burst_score clock_error_ms model"
    assert set(wanted.split()) <= gem.keys()
    assert gem["legs"]["buy"]["latency"]["wire"]["p50_ms"] > 0 and gem["legs"]["buy"]["wire_ms"] > 0
    check_lines(tmp_path, models, market)
    assert gem["acceptance"] == {"is_accepted": None, "p_value": None, "level": None}
    rows = shadow_rows(tmp_path)
    settled = {
        r["id"] for r in rows if r["role"] == "gem" and r.get("net_bps_realised") is not None
    }
    assert control.account._known == settled and control.account.account is None  # few were false
    assert control.n_checks >= 1 and control.wanted.startswith("drift: adversarial AUC")
    assert retrain_wanted(tmp_path, model_hash(models.folder)) == control.wanted
    report = shadow_report(rows)
    assert report["gems"] == summary["gems"] and report["settled"] >= 0.7 * report["gems"]
    assert report["precision_low"] <= report["precision"] <= report["precision_high"]
    assert report["paid"] >= 0.5 * report["settled"] > 0
    first, last = report["by_latency"][0], report["by_latency"][-1]
    assert first["mean"] >= last["mean"]
    data = shadow_dataset(rows, models.settings)
    assert data.features == list(models.settings.features) and len(data) >= report["settled"]
    assert data.rows["is_gem"].sum() >= report["paid"]


def test_a_venue_dies_and_comes_back(market: Market, models: GemModels, tmp_path: Path) -> None:
    arrivals = sped_up(market.start_ns, 2.0)

    async def test() -> dict:
        async with served(market, arrivals) as servers:
            playing = asyncio.create_task(play(list(servers.values()), arrivals))
            feeds = choices(market, servers, max_reconnect_delay=0.5)
            run = LiveRun(feeds, models, tmp_path, arrivals=arrivals)
            running = asyncio.create_task(run.run())
            by_name = {feed.stream.exchange: feed for feed in run.feeds}
            await until(lambda: all(feed.is_ready for feed in run.feeds), 40)
            playing.cancel()
            await servers["bybit"].__aexit__(None, None, None)
            rest = [server for venue, server in servers.items() if venue != "bybit"]
            playing = asyncio.create_task(play(rest, arrivals))
            await until(lambda: not by_name["bybit"].is_ready, 10)
            before = run.clocked.detector.n_rows
            await until(lambda: run.clocked.detector.n_rows > before + 10, 10)
            playing.cancel()
            port = servers["bybit"].port
            again = VenueServer("bybit", market, arrivals=arrivals, port=port)
            servers["bybit"] = await again.__aenter__()
            playing = asyncio.create_task(play(list(servers.values()), arrivals))
            await until(lambda: by_name["bybit"].is_ready, 20)
            await asyncio.sleep(0.5)
            run.stop()
            summary = await running
            playing.cancel()
            return summary

    summary = asyncio.run(test())
    bybit = next(facts for name, facts in summary["feeds"].items() if name.startswith("bybit"))
    assert bybit["gaps"] >= 1 and bybit["reconnects"] >= 1
    check_same(tmp_path, models, summary["decisions"])


def test_fewer_than_two_books_is_said(models: GemModels, tmp_path: Path) -> None:
    dead = {"url": "ws://127.0.0.1:9", "rest_url": "http://127.0.0.1:9"}
    feeds = [FeedChoice(venue, "BTC/USDT", dead) for venue in ("binance", "okx")]
    run = LiveRun(feeds, models, tmp_path, attempt_s=0.5)
    with pytest.raises(FeedError, match=r"fewer than two books within 0\.5 s: binance"):
        asyncio.run(run.run())
    assert runs_in(tmp_path)[0]["end"]["gems"] == 0


def easy(models: GemModels, folder: Path) -> Path:
    "The same models with limits that a run of seconds can meet."
    shutil.copytree(models.folder, folder)
    card = json.loads((folder / "detector.json").read_text())
    card["limits"] = {"min_persistence_ms": 0.0, "min_burst_score": None, "min_p_primary": 0.0}
    (folder / "detector.json").write_text(json.dumps(card))
    return folder


def test_kill_9_in_the_middle_of_live(market: Market, models: GemModels, tmp_path: Path) -> None:
    "Nothing that was told is lost, the recording replays, and the restart goes on."
    chosen, out = easy(models, tmp_path / "models"), tmp_path / "live"
    arrivals = sped_up((market.start_ns + market.end_ns) // 2, 1.0)

    async def spawn(servers: Servers, *more: str) -> asyncio.subprocess.Process:
        words = ["live", "--models", str(chosen), "--out", str(out), "--json", *more]
        for feed in choices(market, servers):
            words += ["--feed", feed.venue, feed.symbol]
        for venue, server in servers.items():
            words += ["--url", venue, server.url, server.rest_url]
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", COMMAND, *words, stdout=pipe, stderr=pipe, env=dict(os.environ)
        )

    async def test() -> tuple[list[bytes], bytes]:
        async with served(market, arrivals) as servers:
            playing = asyncio.create_task(play(list(servers.values()), arrivals))
            first = await spawn(servers)
            told = [await asyncio.wait_for(first.stdout.readline(), 75)]
            await asyncio.sleep(1.5)
            first.send_signal(signal.SIGKILL)
            rest, _ = await first.communicate()
            told += rest.splitlines()
            with (out / "gems.jsonl").open("ab") as file:
                file.write(b'{"id": "torn')
            second = await spawn(servers)
            await until(lambda: len(runs_in(out)) == 2, 60)
            await asyncio.sleep(4)
            second.send_signal(signal.SIGTERM)
            said, wrong = await asyncio.wait_for(second.communicate(), 30)
            playing.cancel()
            assert second.returncode == 0, wrong.decode()
            return told, said

    told, said = asyncio.run(test())
    gems, runs = read_lines(out / "gems.jsonl"), runs_in(out)
    times = {gem["time"] for gem in gems}
    assert told and all(line.split()[0].decode() in times for line in told)
    assert runs[0]["end"] is None and runs[1]["end"] is not None
    loaded = load_gem_models(chosen)
    decisions, _ = replayed_decisions(out, loaded, 0)
    again = {d.gem.ts_recv_ns for d in decisions if d.gem is not None}
    kept_until = max(d.watched.ts_recv_ns for d in decisions)
    mine = {g["ts_recv_ns"] for g in gems if g["ts_recv_ns"] < runs[1]["run"]}
    assert again <= mine and {ts for ts in mine if ts <= kept_until - NS_PER_S} <= again
    summary = json.loads(said.splitlines()[-1])
    assert summary["decisions"] == replayed_decisions(out, loaded, 1)[1] and summary["rows"] > 0
    open_still = [r for r in shadow_rows(out) if r["ts_recv_ns"] < runs[1]["run"]]
    assert open_still and all("net_bps_realised" in row for row in open_still)
