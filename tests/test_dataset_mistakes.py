"""Mistakes with `features`, `label` and `import`: one sentence, status 2, nothing written."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from gem_detector.cli import main
from gem_detector.core import NS_PER_MS, OrderBookSnapshot, StreamState
from gem_detector.recorder import EventWriter

START_NS = 1_772_000_000 * 10**9
TRADES = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n"


def trade(k: int, px: str = "100.5") -> str:
    us = START_NS // 1_000 + k
    return f"binance,BTCUSDT,{us},{us},{k},buy,{px},0.25\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Good and bad recordings, rows and files."
    home = tmp_path_factory.mktemp("mistakes")
    for folder, symbol in (("good", "BTC/USDT"), ("cash", "USDT/USD")):
        with EventWriter(home / folder, 5) as writer:
            for i in range(40):
                for venue, px in (("binance", 100.0), ("okx", 100.1)):
                    ts_ns = START_NS + i * 100 * NS_PER_MS
                    sides = np.array([[px, 1.0]]), np.array([[px + 0.1, 1.0]])
                    book = OrderBookSnapshot(
                        venue, symbol, ts_ns, ts_ns, *sides, i, StreamState.SYNCED
                    )
                    writer.write(book)
    assert main(["features", str(home / "good"), "--out", str(home / "rows")]) == 0
    (home / "void").mkdir()
    (home / "file").write_text("no folder")
    for name, change in (("garbage", b"no table"), ("backwards", None)):
        shutil.copytree(home / "good", home / name)
        path = next((home / name / "books").rglob("*.parquet"))
        if change is None:  # the day's two files under each other's names
            late = path.with_name("1.parquet")
            shutil.copy(path, late)
        else:
            path.write_bytes(change)
    files = {
        "early.csv": TRADES + trade(0) + trade(1),
        "late.csv": TRADES + trade(7),
        "words.csv": TRADES + trade(0, "dear"),
        "other.csv": "a,b\n1,2\n",
        "nothing.csv": TRADES,
        "empty": "",
    }
    for name, text in files.items():
        (home / name).write_text(text)
    return home


IMPORT = ["import", "tardis_trades"]
BTC = ["--venue", "binance", "--symbol", "BTC/USDT"]
MISTAKES: dict[str, tuple[list[str], str]] = {
    "features: no folder": (["features", "@missing"], "missing: no such folder"),
    "features: a file": (["features", "@file"], "file: no such folder"),
    "features: nothing in it": (["features", "@void"], "no tables of books"),
    "features: only cash": (["features", "@cash"], "no coin to trade"),
    "features: no Parquet": (["features", "@garbage"], "not a Parquet file"),
    "features: backwards": (["features", "@backwards"], "in the order of their receipt"),
    "features: venue without fees": (["features", "@good", "--tier", "mtgox=vip"], "mtgox"),
    "features: unknown tier": (["features", "@good", "--tier", "okx=gold"], "'gold'"),
    "features: offset": (["features", "@good", "--offset", "okx=soon"], "number of ms"),
    "features: set": (["features", "@good", "--set", "some"], "'some'"),
    "features: sampler": (["features", "@good", "--sampler", "hourly"], "'hourly'"),
    "features: step": (["features", "@good", "--step-ms", "nan"], "'nan'"),
    "features: notional": (["features", "@good", "--notional", "-5"], "-5"),
    "features: warm-up": (["features", "@good", "--warmup", "90000"], "between 0 and a day"),
    "label: no recording": (["label", "@missing", "@rows"], "missing: no such folder"),
    "label: no rows": (["label", "@good", "@void"], "no rows of BTC"),
    "label: rows are a file": (["label", "@good", "@file"], "file"),
    "label: latency": (["label", "@good", "@rows", "--latency", "okx=inf"], "finite"),
    "label: gain": (["label", "@good", "@rows", "--min-net-bps", "much"], "'much'"),
    "import: layout": (["import", "mine", "@early.csv", *BTC], "unknown layout 'mine'"),
    "import: candles": (["import", "candles", "@early.csv", *BTC], "no events can be made"),
    "import: no file": ([*IMPORT, "@missing.csv", *BTC], "missing.csv: no such file"),
    "import: a folder": ([*IMPORT, "@void", *BTC], "void: it is a folder"),
    "import: empty": ([*IMPORT, "@empty", *BTC], "empty"),
    "import: another layout": ([*IMPORT, "@other.csv", *BTC], "not of this layout"),
    "import: words": ([*IMPORT, "@words.csv", *BTC], "'dear'"),
    "import: only a head": ([*IMPORT, "@nothing.csv", *BTC], "no event of binance BTC/USDT"),
    "import: order": ([*IMPORT, "@late.csv", "@early.csv", *BTC], "in the order of time"),
    "import: symbol": ([*IMPORT, "@early.csv", *BTC[:3], "BTCUSDT"], "BTCUSDT"),
    "import: venue": ([*IMPORT, "@early.csv", "--venue", "../x", *BTC[2:]], "'../x'"),
    "import: depth": ([*IMPORT, "@early.csv", *BTC, "--depth", "0"], "depth=0"),
    "import: no venue": ([*IMPORT, "@early.csv", *BTC[2:]], "--venue"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence_and_status_2(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: str
) -> None:
    given, named = MISTAKES[mistake]
    arguments = [str(home / one[1:]) if one.startswith("@") else one for one in given]
    try:
        status = main([*arguments, "--out", str(tmp_path / "out")])
    except SystemExit as end:
        status = int(str(end.code))
    said = capsys.readouterr().err.strip()
    assert status == 2 and named in said and "\n" not in said and "Traceback" not in said
    assert said.startswith("gem-detector")
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in made if not path.name.startswith(".")], made


@pytest.mark.parametrize("out", ["@file", "/proc/nowhere", "@file/below"])
@pytest.mark.parametrize("command", ["features", "label", "import"])
def test_a_place_that_cannot_be_written(
    home: Path, capsys: pytest.CaptureFixture[str], command: str, out: str
) -> None:
    where = str(home / out[1:]) if out.startswith("@") else out
    given = {
        "features": ["features", str(home / "good")],
        "label": ["label", str(home / "good"), str(home / "rows")],
        "import": [*IMPORT, str(home / "early.csv"), *BTC],
    }[command]
    assert main([*given, "--out", where]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and said.startswith("gem-detector")
    assert (home / "file").read_text() == "no folder" and not Path("/proc/nowhere").exists()
