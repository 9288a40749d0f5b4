"""The command line as a user meets it: results, mistakes, interrupts, and what is left on disk."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from gem_detector.cli import feeds_of, main, parser, plain
from gem_detector.core import InputError
from gem_detector.recorder import read_events

if TYPE_CHECKING:
    from gem_detector.demo import DemoResult

NOW_NS = 1_786_310_819_020_000_000


def bybit(kind: str, u: int, bid: str = "100") -> bytes:
    data = {"s": "BTCUSDT", "b": [[bid, "1.5"]], "a": [["101.5", "2"]], "u": u, "seq": u}
    head = {"topic": "orderbook.50.BTCUSDT", "type": kind, "ts": NOW_NS // 10**6, "cts": 5}
    return json.dumps({**head, "data": data}).encode()


def lines(*frames: bytes) -> bytes:
    return b"".join(b"%d %s\n" % (NOW_NS + i, frame) for i, frame in enumerate(frames))


GOOD = lines(bybit("snapshot", 7), bybit("delta", 8, "100.5"), bybit("delta", 9, "101"))
BYBIT = ("--venue", "bybit", "--symbol", "BTC/USDT:USDT")


def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    "The command in a process of its own."
    command = [sys.executable, "-m", "gem_detector.cli", *map(str, arguments)]
    code = "import sys; from gem_detector.cli import main; sys.exit(main())"
    command[1:3] = ["-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def test_replay_tells_what_a_capture_holds(tmp_path: Path, capsys) -> None:
    path = tmp_path / "capture.frames"
    path.write_bytes(GOOD + lines(bybit("delta", 12)))
    assert main(["replay", str(path), *BYBIT, "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    facts = json.loads(out[-1])
    assert (facts["books"], facts["gaps"], facts["state"]) == (3, 1, "SUSPECT")
    assert facts["gaps_by_reason"] == {"sequence": 1}
    assert [change["state"] for change in facts["states"]] == ["SYNCING", "SYNCED", "SUSPECT"]
    assert any("3 books, 0 trades, 1 gaps" in line for line in out)


@pytest.mark.parametrize("pack", ["plain", "gzip", "zstd"])
def test_replay_writes_parquet_that_reads_back(tmp_path: Path, pack: str) -> None:
    import zstandard

    path = tmp_path / "capture"
    packers = {"plain": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}
    path.write_bytes(packers[pack](GOOD))
    assert main(["replay", str(path), *BYBIT, "--out", str(tmp_path / "out")]) == 0
    assert [book.best_bid for book in read_events(tmp_path / "out")] == [100.0, 100.5, 101.0]


def wrong_files(folder: Path) -> dict[str, tuple[list[str], str]]:
    "Arguments and what the sentence has to name, by kind of mistake."
    files = {
        "text.txt": b"once upon a time\n",
        "empty": b"",
        "cut.gz": gzip.compress(GOOD * 50)[:-40],
        "garbage": GOOD + b"%d {oops\n" % (NOW_NS + 9) + GOOD,
        "middle": GOOD + b"no frame at all\n" + GOOD,
        "good": GOOD,
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    place = {name: str(folder / name) for name in files}
    return {
        "missing file": ([str(folder / "nothing.gz"), *BYBIT], "nothing.gz"),
        "empty folder": ([str(folder / "void"), *BYBIT], "void"),
        "not frames": ([place["text.txt"], *BYBIT], "text.txt: line 1"),
        "empty file": ([place["empty"], *BYBIT], "empty"),
        "truncated gzip": ([place["cut.gz"], *BYBIT], "cut.gz: line"),
        "not JSON in the middle": ([place["garbage"], *BYBIT], "garbage: line 4"),
        "no frame in the middle": ([place["middle"], *BYBIT], "middle: line 4"),
        "unknown venue": ([place["good"], "--venue", "bitbay", "--symbol", "BTC/USDT"], "bitbay"),
        "unknown symbol": ([place["good"], "--venue", "bybit", "--symbol", "NOPE/USDT"], "NOPE"),
        "no symbol": ([place["good"], "--venue", "bybit", "--symbol", "BTCUSDT"], "BTCUSDT"),
        "market type": ([place["good"], *BYBIT, "--market-type", "cash"], "cash"),
        "depth": ([place["good"], *BYBIT, "--depth", "0"], "0"),
        "out is a file": ([place["good"], *BYBIT, "--out", place["good"] + "/x"], "good"),
        "out is taken": ([place["good"], *BYBIT, "--out", str(folder)], str(folder)),
        "another venue": ([place["good"], "--venue", "coinbase", "--symbol", "BTC/USD"], "good"),
        "another symbol": ([place["good"], "--venue", "bybit", "--symbol", "ETH/USDT"], "good"),
        "no name": ([place["good"], *BYBIT, "--out", ""], "''"),
        "too deep": ([place["good"], *BYBIT, "--depth", "1000000"], "1000000"),
        "missing option": ([place["good"], "--venue", "bybit"], "--symbol"),
    }


MISTAKES = [
    "missing file",
    "empty folder",
    "not frames",
    "empty file",
    "truncated gzip",
    "not JSON in the middle",
    "no frame in the middle",
    "unknown venue",
    "unknown symbol",
    "no symbol",
    "market type",
    "depth",
    "out is a file",
    "out is taken",
    "another venue",
    "another symbol",
    "no name",
    "too deep",
    "missing option",
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence_and_status_2(tmp_path: Path, capsys, mistake: str) -> None:
    (tmp_path / "void").mkdir()
    cases = wrong_files(tmp_path)
    assert list(cases) == MISTAKES
    arguments, named = cases[mistake]
    before = sorted(tmp_path.rglob("*"))
    try:
        status = main(["replay", *arguments])
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr().err.strip()
    assert status == 2 and named in said and "\n" not in said and "Traceback" not in said
    assert said.startswith("gem-detector")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_mistake_in_the_middle_leaves_no_output(tmp_path: Path, capsys) -> None:
    cases = wrong_files(tmp_path)
    for mistake in ("truncated gzip", "not JSON in the middle", "no frame in the middle"):
        out = tmp_path / "out"
        assert main(["replay", *cases[mistake][0], "--out", str(out)]) == 2
        assert not out.exists() and not list(tmp_path.glob("*.part*"))
    capsys.readouterr()


def test_the_market_type_holds_for_every_feed_whose_symbol_does_not_say(tmp_path: Path) -> None:
    path = str(tmp_path / "capture.frames")
    Path(path).write_bytes(GOOD)
    words = ["replay", path, "--venue", "okx", "--symbol", "BTC/USDT", "--market-type", "spot"]
    also = ["--also", "bybit", "BTC/USDT", path, "--also", "htx", "BTC/USDT:USDT", path]
    feeds = feeds_of(parser().parse_args([*words, *also]))
    assert [feed.stream.market_type for feed in feeds] == ["spot", "spot", "linear"]


def test_rows_and_events_appear_together_or_not_at_all(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise InputError("the disk is full")

    path, rows, out = (tmp_path / name for name in ("capture.frames", "rows.csv", "events"))
    path.write_bytes(GOOD)
    words = ["replay", str(path), *BYBIT, "--features", str(rows), "--out", str(out)]
    monkeypatch.setattr("gem_detector.cli.Scorer.table", lambda self: pd.DataFrame({"a": [1.0]}))
    with monkeypatch.context() as broken:
        broken.setattr("gem_detector.store._put_in_place", fails)
        assert main(words) == 2 and "disk is full" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["capture.frames"]
    assert main(words) == 0 and rows.read_text() == "a\n1.0\n" and (out / "books").is_dir()


def test_no_permission_to_write(tmp_path: Path, capsys) -> None:
    (tmp_path / "good").write_bytes(GOOD)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.getuid() == 0:  # root may write there: take a place where not even root can
        closed = Path("/proc")
    arguments = ["replay", str(tmp_path / "good"), *BYBIT, "--out", str(closed / "out")]
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert str(closed) in said and "\n" not in said


@pytest.mark.parametrize("out", ["good/x/y", "/proc/x/y", ""])
def test_a_demo_that_cannot_be_written(tmp_path: Path, capsys, monkeypatch, out: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good").write_bytes(GOOD)
    try:
        status = main(["demo", "--minutes", "12", "--out", out])
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr().err.strip()
    assert status == 2 and "\n" not in said and said.startswith("gem-detector")


def test_two_runs_of_a_seed_say_the_same(tmp_path: Path, planted_demo: "DemoResult") -> None:
    "But for the time they took and the folder they wrote to."
    done = run("demo", "--seed", "1", "--out", "demo", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts, again = json.loads(done.stdout.splitlines()[-1]), plain(planted_demo.summary())
    assert facts["replay_identical"] is True and facts["gaps"] == 0
    assert not list(tmp_path.rglob("*.part*")) and (tmp_path / "demo" / "report.html").exists()
    for varies in ("seconds", "report", "recording", "models"):
        assert facts.pop(varies) != again.pop(varies)
    assert facts == again


@contextmanager
def demo_at_work(cwd: Path) -> Iterator[subprocess.Popen[str]]:
    "A long demo in a process of its own, once its hidden folder is there; it ends with the test."
    code = "import sys; from gem_detector.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "demo", "--minutes", "30", "--out", "demo"]
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True) as demo:
        try:
            end_s = time.monotonic() + 60
            while not list(cwd.iterdir()) and time.monotonic() < end_s:
                time.sleep(0.05)
            assert [path.name[0] for path in cwd.iterdir()] == ["."]  # under way, and hidden
            yield demo
        finally:
            demo.kill()  # nothing to a process that has ended


@pytest.mark.parametrize("after_s", [0.0, 0.1, 2.0])
def test_ctrl_c_ends_soon_and_leaves_nothing_half_done(tmp_path: Path, after_s: float) -> None:
    with demo_at_work(tmp_path) as demo:
        time.sleep(after_s)
        demo.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, said = demo.communicate(timeout=20)
    assert time.monotonic() - began < 2.0
    assert list(tmp_path.iterdir()) == []
    assert demo.returncode == 130
    assert "interrupted" in said and "Traceback" not in said


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM is POSIX")
def test_sigterm_leaves_nothing_half_done(tmp_path: Path) -> None:
    with demo_at_work(tmp_path) as demo:
        time.sleep(1.0)
        demo.send_signal(signal.SIGTERM)
        _, said = demo.communicate(timeout=60)
    assert demo.returncode == 128 + signal.SIGTERM and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
