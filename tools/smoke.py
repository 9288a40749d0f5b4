"""Import, replay and train with an installed package: what has to work on every system.

python tools/smoke.py     (any system, no network, no make)
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

FRAME = (
    '{{"topic":"orderbook.50.BTCUSDT","type":"{kind}","ts":{ms},"cts":{ms},"data":{{"s":"BTCUSDT",'
    '"b":[["{bid}.00","1.000"]],"a":[["{ask}.00","2.000"]],"u":{n},"seq":{n}}}}}'
)
RUN = "import sys; from gem_detector.cli import main; sys.exit(main())"


def capture(path: Path) -> None:
    "A few seconds of a Bybit book: a snapshot, then the same touch again and again."
    start_ns = 1_750_000_000_000_000_000
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for n in range(1, 101):
            ns, kind = start_ns + n * 20_000_000, "snapshot" if n == 1 else "delta"
            frame = FRAME.format(kind=kind, ms=ns // 10**6, bid=60_000, ask=60_001, n=n)
            file.write(f"{ns} {frame}\n")


def rows(path: Path) -> None:
    "A table in which one number tells the answer."
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2_000, 3))
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    frame["is_gem"] = (x[:, 0] + 0.5 * rng.normal(size=len(x)) > 1).astype(int)
    frame.insert(0, "timestamp", 1.75e9 + np.arange(len(x)))
    frame.to_csv(path, index=False)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        capture(folder / "capture.frames")
        rows(folder / "rows.csv")
        for words in (
            "replay capture.frames --venue bybit --symbol BTC/USDT:USDT --json",
            "train rows.csv --out models --trees 50 --json",
        ):
            subprocess.run([sys.executable, "-c", RUN, *words.split()], check=True, cwd=folder)
        written = {path.name for path in (folder / "models").rglob("*") if path.is_file()}
        assert "model.txt" in written, written
    print("import, replay and train work")
    return 0


if __name__ == "__main__":
    sys.exit(main())
