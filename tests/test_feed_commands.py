"""`record` and `venues` against emulated venues on this machine, as processes and as functions."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gem_detector.cli import main
from gem_detector.core import NS_PER_S
from gem_detector.emulator import VenueServer, play
from gem_detector.feed_choice import warm_kernels
from gem_detector.gap_report import gap_report
from gem_detector.recorder import read_events, recordings
from gem_detector.simulator import DEFAULT_VENUES, simulate_market
from gem_detector.streams import make_stream
from gem_detector.wire_faults import UNPROVEN

MARKETS = ("bybit:BTC/USDT", "coinbase:BTC/USD")


class Venues(threading.Thread):
    "Bybit and Coinbase, served by the wall clock on a loop of their own."

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.urls: list[str] = []
        self.is_up, self._over = threading.Event(), threading.Event()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        market = simulate_market(4, 300.0, DEFAULT_VENUES[1:], start_ns=time.time_ns() + NS_PER_S)
        async with AsyncExitStack() as stack:
            servers = []
            for venue in ("bybit", "coinbase"):
                servers.append(await stack.enter_async_context(VenueServer(venue, market)))
                names = (("--url", servers[-1].url), ("--rest-url", servers[-1].rest_url))
                for option, url in names:
                    self.urls += [option, f"{venue}={url}"]
            playing = asyncio.create_task(play(servers, servers[0].arrivals))
            self.is_up.set()
            while not self._over.is_set():  # noqa: ASYNC110 (set by another thread)
                await asyncio.sleep(0.05)
            playing.cancel()

    def end(self) -> None:
        self._over.set()
        self.join(10)


@pytest.fixture(scope="module")
def venues() -> Iterator[Venues]:
    warm_kernels()
    thread = Venues()
    thread.start()
    assert thread.is_up.wait(20)
    yield thread
    thread.end()


def last_line(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_recording_is_complete_and_says_what_it_is_worth(
    venues: Venues, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "rec"
    line = ["record", *MARKETS, "--out", str(out), "--seconds", "3", "--json", *venues.urls]
    assert main(line) == 0
    facts = last_line(capsys)
    assert [one["gaps"] for one in facts["streams"]] == [0, 0] and not facts["failed"]
    assert all(one["own_drops"] == 0 and one["books"] > 0 for one in facts["streams"])
    assert not list(out.rglob("*.part")) and len(recordings(out)) == 2
    stored = [e for e in read_events(out) if e.exchange == "bybit"]
    files = [path for path in recordings(out) if "bybit" in str(path)]
    assert len(stored) == len(list(make_stream("bybit", "BTC/USDT").replay(files)))
    written = [json.loads(path.read_text()) for path in (out / "reports").rglob("*.json")]
    assert {one["exchange"] for one in written} == {"bybit", "coinbase"}
    again = {one["exchange"]: one for one in gap_report(out)}
    for one in written:
        assert one["verified_share"] == again[one["exchange"]]["verified_share"]
        assert one["books"] == again[one["exchange"]]["books"]


def test_latencies_of_a_recording_have_error_bars(venues: Venues, tmp_path: Path, capsys) -> None:
    out = tmp_path / "rec"
    assert main(["record", *MARKETS, "--out", str(out), "--seconds", "3", *venues.urls]) == 0
    assert main(["venues", "--latency", str(out), "--json"]) == 0
    rows = last_line(capsys)["latencies"]
    assert {row["venue"] for row in rows} == {"bybit", "coinbase"}
    for row in rows:
        for p in (50, 95, 99):
            assert row[f"p{p}_low_ms"] <= row[f"p{p}_ms"] <= row[f"p{p}_high_ms"]
        assert (row["clock_error_ms"] is not None) == (row["kind"] == "corrected")


def test_latencies_can_be_measured_now(venues: Venues, capsys) -> None:
    bybit = venues.urls[:4]
    line = ["venues", "--latency", "bybit:BTC/USDT", "--seconds", "1.5", "--json", *bybit]
    assert main(line) == 0
    (row,) = last_line(capsys)["latencies"]
    assert row["venue"] == "bybit" and row["count"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_recording_cleanly(venues: Venues, tmp_path: Path, number: int) -> None:
    code = "import sys; from gem_detector.cli import main; sys.exit(main())"
    out = tmp_path / "rec"
    line = ["record", "bybit:BTC/USDT", "--out", str(out), *venues.urls[:4]]
    with subprocess.Popen([sys.executable, "-c", code, *line], stdout=subprocess.PIPE) as running:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            parts = list(out.rglob("*.part")) if out.exists() else []
            if any(path.stat().st_size > 2000 for path in parts if "raw" in str(path)):
                break
            time.sleep(0.1)
        os.kill(running.pid, number)
        said, _ = running.communicate(timeout=30)
    assert running.returncode == 0 and b"verified" in said
    assert recordings(out) and not list(out.rglob("*.part"))
    assert len(list(make_stream("bybit", "BTC/USDT").replay(recordings(out)))) > 0


MISTAKES = {
    "no colon": (["record", "BTC/USDT", "--out", "x"], "VENUE:SYMBOL"),
    "unknown venue": (["record", "bitbay:BTC/USDT", "--out", "x"], "bitbay"),
    "unknown symbol": (["record", "bybit:NOPE/USDT", "--out", "x"], "NOPE"),
    "kraken perpetuals": (["record", "kraken:BTC/USD:USD", "--out", "x"], "krakenfutures"),
    "twice": (["record", "bybit:BTC/USDT", "bybit:BTC/USDT", "--out", "x"], "twice"),
    "address of another": (
        ["record", "bybit:BTC/USDT", "--out", "x", "--url", "okx=ws://127.0.0.1:9"],
        "okx",
    ),
    "no address": (["record", "bybit:BTC/USDT", "--out", "x", "--url", "bybit"], "VENUE=ADDRESS"),
    "no time": (["record", "bybit:BTC/USDT", "--out", "x", "--seconds", "nan"], "nan"),
    "no recording": (["venues", "--latency", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence(tmp_path: Path, capsys, monkeypatch, mistake: str) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, named = MISTAKES[mistake]
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr().err.strip()
    assert status == 2 and named in said and "\n" not in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_venue_that_is_not_there_is_a_failure(tmp_path: Path, capsys) -> None:
    urls = ["--url", "bybit=ws://127.0.0.1:9", "--rest-url", "bybit=http://127.0.0.1:9"]
    line = ["record", "bybit:BTC/USDT", "--out", str(tmp_path / "x"), "--timeout", "1", *urls]
    assert main(line) == 1
    assert "no book within 1 s" in capsys.readouterr().err


def test_venues_say_what_they_cannot_prove(capsys) -> None:
    assert main(["venues", "--json"]) == 0
    printed = capsys.readouterr().out
    rows = {(r["venue"], r["market"]): r for r in json.loads(printed.splitlines()[-1])["venues"]}
    assert len(rows) == 10 and rows["kraken", "spot"]["depth"] == "10"
    assert rows["htx", "spot"]["unseen"] == ["everything"]
    assert all(set(r["unproven"]) == set(UNPROVEN[r["venue"]]) for r in rows.values())
    captured = [r for r in rows.values() if r["unseen"] != ["everything"]]
    assert len(captured) == 7 and all("REST trades" in r["unseen"] for r in captured)
    assert "faults that no rule shows" in printed and "alter_digit" in printed
    assert "not verified on real bytes" in printed and "REST trades" in printed
    assert "krakenfutures" in printed and "not verified on real bytes" in printed
