"""How much sooner is the compiled book than the plain one? Ratios; outputs asserted equal first.

    python benchmarks/bench_book.py     simulated books, and the recording where GEM_DATA is set

"messages" applies one update at a time, as arrays, and asks for the touch after each; "columns"
hands over all updates at once and gets the same touches. Best of five runs each, in one process.
"""

import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gem_detector.book import OrderBook
from gem_detector.compiled_book import CompiledBook

Tape = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # starts, side, price, quantity


def simulated(n: int, rows_a_side: int, changes: int) -> Tape:
    "A full ladder around a middle that walks by single ticks, and quantities that change on it."
    rng = np.random.default_rng(7)
    step = rng.choice([-1, 0, 1], n)
    middle = 600_000 + np.cumsum(step)
    ladder = np.arange(1, rows_a_side + 1)
    first = [(side, 600_000 - side * row) for side in (1, -1) for row in ladder]
    sides, ticks = [np.array(first)[:, 0]], [np.array(first)[:, 1]]
    gone = [np.zeros(len(first), bool)]
    for i in range(n):
        side, depth = rng.choice([-1, 1], changes), rng.geometric(0.05, changes) % rows_a_side + 1
        tick = middle[i] - side * depth
        # the side that the middle leaves gains a best row and loses its last; the other the reverse
        s = step[i] * np.array([1, 1, -1, -1])[: 4 * abs(step[i])]
        moved = middle[i] - s * np.array([1, 1 + rows_a_side, 0, rows_a_side])[: len(s)]
        sides.append(np.concatenate([s, side]))
        ticks.append(np.concatenate([moved, tick]))
        deleted = np.array([False, True, True, False])[: len(s)]
        gone.append(np.concatenate([deleted, np.zeros(changes, bool)]))
    quantity = np.round(rng.lognormal(0, 1, sum(map(len, sides))), 3) + 0.001
    starts = np.concatenate([[0], np.cumsum([len(part) for part in sides])])
    quantity[np.concatenate(gone)] = 0.0
    return starts, np.concatenate(sides), np.concatenate(ticks) / 10, quantity


def recorded() -> Tape:
    "Every depth update of the Binance USD-M recording."
    path = Path(os.environ["GEM_DATA"]) / "binance-2024-08-08/usdm_btcusdt.gz"
    rows, starts = [], [0]
    with gzip.open(path) as lines:
        for line in lines:
            if b'"depthUpdate"' in line:
                data = json.loads(line.split(b" ", 1)[1])["data"]
                rows += [(1, *row) for row in data["b"]] + [(-1, *row) for row in data["a"]]
                starts.append(len(rows))
    return np.array(starts), *np.array(rows, float).T


def messages(tape: Tape) -> list[tuple[np.ndarray, np.ndarray]]:
    "A tape cut into updates: bids and asks of each."
    starts, side, price, quantity = tape
    levels = np.column_stack([price, quantity])
    parts = [slice(a, b) for a, b in zip(starts[:-1].tolist(), starts[1:].tolist())]
    return [(levels[part][side[part] > 0], levels[part][side[part] < 0]) for part in parts]


def by_message(book: OrderBook, updates: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    "Apply one update at a time and note the touch after each."
    touch = np.empty((len(updates), 4))
    for i, (bids, asks) in enumerate(updates):
        book.apply(bids, asks)
        touch[i] = book.best()
    return touch


def seconds(run: Callable[[], object]) -> float:
    "Processor time of one run."
    start = time.process_time()
    run()
    return time.process_time() - start


def compare(name: str, tape: Tape) -> None:
    "Assert that the books agree, then print the ratios."
    updates = messages(tape)
    plain, compiled = OrderBook(), CompiledBook()
    expected = by_message(plain, updates)
    found = compiled.touch_after(*tape)
    assert np.array_equal(found, expected, equal_nan=True)
    assert all(np.array_equal(a, b) for a, b in zip(compiled.ladder(), plain.ladder()))
    assert (expected[:, 0] < expected[:, 2]).all()  # never crossed
    assert len(np.unique(expected[:, 0])) > 50  # and the market moved
    by_message(CompiledBook(), updates)  # compiled before it is timed
    runs = {
        "plain": lambda: by_message(OrderBook(), updates),
        "messages": lambda: by_message(CompiledBook(), updates),
        "columns": lambda: CompiledBook().touch_after(*tape),
    }
    best = dict.fromkeys(runs, np.inf)
    for _ in range(5):
        for key, run in runs.items():
            best[key] = min(best[key], seconds(run))
    rows, n = len(tape[1]), len(updates)
    ratios = "  ".join(f"{k} {best['plain'] / best[k]:5.1f}x" for k in ("messages", "columns"))
    print(f"{name:10} {n:6} updates of {rows / n:5.1f} levels, {plain.n_bids:5} bids  {ratios}")


if __name__ == "__main__":
    compare("25 rows", simulated(20_000, 25, 4))
    compare("1,000 rows", simulated(4_000, 1_000, 60))
    if "GEM_DATA" in os.environ:
        compare("recorded", recorded())
