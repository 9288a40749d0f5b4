"""Dashboard and alerts name what is exported and nothing else; promtool loads them, if there."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml

from gem_detector.arrivals import WallArrivals
from gem_detector.cli import main
from gem_detector.core import NS_PER_MS, StreamState
from gem_detector.demo import DemoResult
from gem_detector.emulator import VenueServer, play
from gem_detector.metrics import Metrics
from gem_detector.monitoring import ALERTS, FILES, PANELS, grafana_dashboard, write_monitoring
from gem_detector.planting import planted_market
from gem_detector.streams import BybitOrderBookStream

AT_MS = 1_782_864_000_000
WORDS = set(  # of PromQL: what may stand where a metric could
    "sum max min avg by on and or absent increase rate histogram_quantile up".split()
)


class Counts:
    "A source with the counts of a live run and of its shadow ledger."

    def get_stats(self) -> dict[str, object]:
        "As `LiveRun` and `ShadowLedger` give them."
        names = ("gems", "near_misses", "settled", "paid", "unknown", "open")
        return dict.fromkeys(names, 1) | {"failures": {"bybit": "refused"}}


@pytest.fixture(scope="module")
def exported() -> dict[str, dict[str, set[str]]]:
    "What a scrape reads: name → label → its values."
    frames = []
    for u in range(1, 21):
        data = {"s": "BTCUSDT", "b": [["100", str(u)]], "a": [["101", "1"]], "u": u, "seq": u}
        frame = {"topic": "orderbook.50.BTCUSDT", "ts": AT_MS + u, "cts": AT_MS + u, "data": data}
        frame["type"] = "delta" if u > 1 else "snapshot"
        frames.append(((AT_MS + u + 5) * NS_PER_MS, json.dumps(frame).encode()))
    stream, counts, metrics = BybitOrderBookStream("BTC/USDT:USDT"), Counts(), Metrics()
    assert len(list(stream.replay(frames))) == 20
    for name, source in (("bybit", stream), ("live", counts), ("shadow", counts)):
        metrics.collector.watch(name, source)
    metrics.track_prediction("primary", {"a": float("nan")}, 1, 0.9)
    found: dict[str, dict[str, set[str]]] = {"up": {"job": {"gem-detector"}}}
    for line in metrics.text().splitlines():
        if match := re.match(r"(\w+)\{(.*)\} ", line):
            for label, value in re.findall(r'(\w+)="([^"]*)"', match[2]):
                found.setdefault(match[1], {}).setdefault(label, set()).add(value)
    found["gem_stream_clock"]["fact"] |= set(stream.get_stats()["clock"])  # once they are known
    return found


EXPRESSIONS = [expr for panel in PANELS for expr, _ in panel.queries] + [a.expr for a in ALERTS]


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_every_expression_asks_for_what_is_exported(
    expr: str, exported: dict[str, dict[str, set[str]]]
) -> None:
    "Names, labels and the values of labels; also those that it groups by."
    plain = re.sub(r"'[^']*'", "''", expr)
    groups = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", plain)
    bare = re.sub(r"\b(?:by|on)\s*\([^)]*\)|\{[^}]*\}|\[\w+\]", " ", plain)
    names = set(re.findall(r"[a-z_]\w*", bare)) - WORDS | (
        {"up"} if expr.startswith("up") else set()
    )
    assert names and names <= set(exported), names - set(exported)
    for name, inner in re.findall(r"(\w+)\{([^}]*)\}", expr):
        for label, is_pattern, value in re.findall(r"(\w+)=(~?)'([^']*)'", inner):
            known = exported[name][label]
            told = value if is_pattern else re.escape(value)
            assert any(re.fullmatch(told, one) for one in known), (name, label, value, known)
    labels = {label for group in groups for label in re.findall(r"\w+", group)}
    assert labels <= set().union(*(exported[name] for name in names))
    assert plain.count("(") == plain.count(")")


def test_legends_and_sentences_name_labels_that_are_there(
    exported: dict[str, dict[str, set[str]]],
) -> None:
    known = {label for labels in exported.values() for label in labels}
    legends = [legend for panel in PANELS for _, legend in panel.queries]
    told = [text for alert in ALERTS for text in (alert.summary, alert.action)]
    named = set(re.findall(r"\{\{(\w+)\}\}", " ".join(legends)))
    assert named and named <= known
    assert set(re.findall(r"\$labels\.(\w+)", " ".join(told))) <= known
    states = re.findall(r"state=~?'([^']*)'", " ".join(EXPRESSIONS))
    assert {word for state in states for word in state.split("|")} <= {str(s) for s in StreamState}


def test_the_files_are_what_grafana_and_prometheus_read(tmp_path: Path) -> None:
    board, rules = write_monitoring(tmp_path / "new" / "folder")
    assert [board.name, rules.name] == list(FILES)
    assert json.loads(board.read_text()) == grafana_dashboard()
    (group,) = yaml.safe_load(rules.read_text())["groups"]
    assert [rule["alert"] for rule in group["rules"]] == [alert.name for alert in ALERTS]
    for rule, alert in zip(group["rules"], ALERTS):
        assert (rule["expr"], rule["for"]) == (alert.expr, alert.wait)
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket")
    promtool = shutil.which("promtool")
    if promtool is not None:  # Debian: apt-get install prometheus
        subprocess.run([promtool, "check", "rules", str(rules)], check=True, capture_output=True)


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "--out", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [Path(path).name for path in told["files"]] == list(FILES)
    (tmp_path / "file").touch()
    assert main(["metrics", "--out", str(tmp_path / "file")]) == 2


def test_a_live_run_is_scraped_while_it_runs(planted_demo: DemoResult, tmp_path: Path) -> None:
    "`live --metrics-port 0` serves this machine only, and what it counts grows."
    market, _ = planted_market(21, 3, (0, 2), decoys=0, desk=planted_demo.trial.desk)
    code = "import sys; from gem_detector.cli import main; sys.exit(main(sys.argv[1:]))"

    async def test() -> tuple[str, str]:
        began = time.monotonic_ns()
        arrivals = WallArrivals(lambda: market.start_ns + time.monotonic_ns() - began)
        async with (
            VenueServer("binance", market, arrivals=arrivals) as one,
            VenueServer("coinbase", market, arrivals=arrivals) as two,
        ):
            command = [sys.executable, "-c", code, "live", "--metrics-port", "0"]
            command += ["--models", str(planted_demo.folder / "models")]
            command += ["--out", str(tmp_path / "live"), "--duration", "60"]
            command += ["--feed", "binance", "BTC/USDT", "--feed", "coinbase", "BTC/USD"]
            for server in (one, two):
                command += ["--url", server.venue, server.url, server.rest_url]
            running = asyncio.create_task(play([one, two], arrivals))
            process = await asyncio.create_subprocess_exec(
                *command, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
            )
            try:
                assert process.stderr is not None
                while b"metrics at " not in (line := await process.stderr.readline()):
                    assert line, "it ended without serving"
                url = line.decode().split()[-1]
                for _ in range(200):
                    page = await asyncio.to_thread(lambda: urlopen(url, timeout=5).read())
                    text = page.decode()
                    if len(re.findall(r'gem_stream_state\{.*state="SYNCED".*\} 1.0', text)) == 2:
                        break
                    await asyncio.sleep(0.2)
            finally:
                process.terminate()
                await process.wait()
                running.cancel()
            return url, text

    url, text = asyncio.run(test())
    assert url.startswith("http://127.0.0.1:")
    assert len(re.findall(r'gem_stream_state\{.*state="SYNCED".*\} 1.0', text)) == 2
    assert 'gem_source_up{source="live"} 1.0' in text and 'gem_count{kind="gems"' in text
