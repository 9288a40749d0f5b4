"""How much sooner are feature rows made than by pandas or NumPy? Outputs are compared first.

    python benchmarks/bench_features.py

Three simulated venues; a row for every update of a touch. "pandas" works the documented features
out anew at every update, from a frame of the updates that its windows need; "NumPy" does the same
from arrays, behind `update` and `extract_features` as the document calls them. Both count pairs of
returns by `searchsorted`, not by a matrix of overlaps; "lazy NumPy" renews what the history says
only as often as the kernel does. Medians of seven runs in one process, in processor time.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from gem_detector.compiled_book import CompiledBook
from gem_detector.core import BPS
from gem_detector.costs import FeeTable
from gem_detector.feature_kernels import FEATURES_DOCUMENT
from gem_detector.feature_stream import FEATURES, FeatureStream
from gem_detector.features import CrossExchangeFeatureExtractor
from gem_detector.markets import instrument
from gem_detector.price_history import LAGS_MS, MIN_RETURNS, N_BLOCKS
from gem_detector.row_features import N_LEVELS
from gem_detector.row_stream import BOOK, EventColumns, empty_columns
from gem_detector.simulator import VenueSpec, simulate_market

NAMES = ("binance", "htx", "okx")  # in the order of their names, as sums are taken
FEES = FeeTable.own(dict(zip(NAMES, (0.3, 0.5, 0.4))))
LOOKBACK, SIZE = 100, 1_000
SLOW = SIZE // LOOKBACK  # fast blocks in a slow one
MARGIN = 100  # updates before a window that may still pair with those in it
TOUCH = ["bid_px", "bid_qty", "ask_px", "ask_qty"]


# --- the market: updates that change a touch, and whole books for the full set


def books(duration_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    "Market, receive time and ten levels a side of every update that changed a touch."
    specs = [
        VenueSpec(instrument(n, "BTC/USDT"), batch_ms=50, lag_ms=40 * k, stick_bps=0.2, noise_bps=2)
        for k, n in enumerate(NAMES)
    ]
    market, times, levels = [], [], []
    for v, tape in enumerate(simulate_market(7, duration_s, specs).tapes.values()):
        book, before = CompiledBook(), None
        for i, ts_ns in enumerate(tape.ts_recv_ns.tolist()):
            side, tick, lots = tape.levels(i)
            rows = np.column_stack([tape.price(tick), tape.qty(lots)])
            book.apply(rows[side > 0], rows[side < 0])
            if book.best() != before:
                before = book.best()
                market.append(v)
                times.append(ts_ns // 1_000 * 1_000)  # whole microseconds, as a float of s holds
                levels.append(np.stack(book.top(N_LEVELS)))
    order = np.argsort(times, kind="stable")
    return np.array(market)[order], np.array(times)[order], np.array(levels)[order]


def columns(market: np.ndarray, ts_ns: np.ndarray, levels: np.ndarray) -> EventColumns:
    "Updates as the kernel takes them."
    room = empty_columns(len(market), levels.shape[2])
    room.kind[:], room.market[:], room.ts_ns[:] = BOOK, market, ts_ns
    room.stamp_us[:], room.levels[:] = ts_ns // 1_000, levels
    return room


def new_stream(features: Sequence[str]) -> FeatureStream:
    "A stream that knows the three venues and nothing else."
    stream = FeatureStream(features=features, sampler="bbo", fees=FEES)
    for name in NAMES:
        stream.markets.add(name, "BTC/USDT")
    return stream


def values_of(features: Sequence[str], events: EventColumns) -> np.ndarray:
    "All rows."
    return np.concatenate([values for _, values, _ in new_stream(features).on_columns(events)])


# --- what the history says, worked out anew


def covariance(t: np.ndarray, x: np.ndarray, u: np.ndarray, y: np.ndarray) -> float:
    "Hayashi-Yoshida covariance of all that is complete on both sides."
    if len(t) == 0 or len(u) == 0:
        return 0.0
    if t[-1] <= u[-1]:
        n = bisect_left(u, t[-1])
        u, y = u[:n], y[:n]
    else:
        n = int(np.searchsorted(t, u[-1], "right"))
        t, x = t[:n], x[:n]
    if len(t) < 2 or len(u) < 2:
        return 0.0
    first = np.maximum(np.searchsorted(u, t[:-1], "right") - 1, 0)
    last = np.minimum(np.searchsorted(u, t[1:], "left"), len(u) - 1)
    return float(np.diff(x) @ (y[np.maximum(last, first)] - y[first]))


Path = tuple[np.ndarray, np.ndarray, np.ndarray]  # number of the update, µs, log price


def added(a: Path, b: Path, lag_us: int, window: tuple[int, int]) -> float:
    "What the updates of a window added to a covariance."
    sums = []
    for end in window:
        (t, x), (u, y) = ((p[1][: (n := bisect_left(p[0], end + 1))], p[2][:n]) for p in (a, b))
        sums.append(covariance(t + lag_us, x, u, y))
    return sums[1] - sums[0]


def within(path: Path, window: tuple[int, int], lag_us: int = 0) -> Path:
    "The updates of a window, and those before it that may pair with them at such a lag."
    last = max(bisect_left(path[0], window[0] + 1) - 1, 0)
    start, end = bisect_left(path[0], window[0] - MARGIN), bisect_left(path[0], window[1] + 1)
    start = min(start, max(bisect_left(path[1], path[1][last] - lag_us) - 1, 0))
    return path[0][start:end], path[1][start:end], path[2][start:end]


def squares(path: Path, window: tuple[int, int]) -> tuple[int, float]:
    "Returns of a window, and the sum of their squares."
    start = max(bisect_left(path[0], window[0] + 1) - 1, 0)
    moves = np.diff(path[2][start : bisect_left(path[0], window[1] + 1)])
    return len(moves), float(moves @ moves)


def windows(ends: Sequence[int], i: int) -> tuple[tuple[int, int], tuple[int, int]]:
    "Last update before, and last update of, the fast and the slow window at an update."
    n = bisect_left(ends, i + 1)  # blocks that have ended
    n_slow = (N_BLOCKS - 1) * SLOW + (n - 1) % SLOW + 1
    return tuple((ends[n - k - 1] if n > k else -1, ends[n - 1]) for k in (N_BLOCKS, n_slow))  # type: ignore[return-value]


def unevenness(vol: np.ndarray) -> tuple[float, float]:
    "Ratio and dispersion of the volatilities that are known; none moved: they are alike."
    known = vol[~np.isnan(vol)]
    if len(known) < 2:
        return np.nan, np.nan
    if known.max() == 0.0:
        return 1.0, 0.0
    return known.min() / known.max(), known.std() / known.mean()


def history_figures(
    paths: Sequence[Path],
    volumes: Sequence[np.ndarray],  # the latest of each venue, up to the end of the last block
    start_us: int,  # when the fast window began
    ends: tuple[tuple[int, int], tuple[int, int]],
) -> tuple[float, float, float, float]:
    "Synchrony, lead-lag coefficient, ratio and dispersion of volatilities."
    fast, slow = ends
    leader = int(np.argmax([volume[-LOOKBACK:].mean() for volume in volumes]))
    end_us = max(
        int(path[1][bisect_left(path[0], fast[1])]) for path in paths if fast[1] in path[0]
    )
    counted = [squares(path, fast) for path in paths]
    vol = np.array(
        [
            np.sqrt(total / (end_us - start_us)) if n >= MIN_RETURNS else np.nan
            for n, total in counted
        ]
    )
    near = [within(path, fast) for path in paths]
    pairs = combinations(range(len(paths)), 2)
    scales = {(a, b): np.sqrt(counted[a][1] * counted[b][1]) for a, b in pairs}
    rho = [
        added(near[a], near[b], 0, fast) / scale if scale > 0 else np.nan
        for (a, b), scale in scales.items()
    ]
    reach_us = 2_000 * LAGS_MS[-1]  # the lag, and as long a silence before it
    far = [within(path, slow, reach_us) for path in paths]
    totals, most = [squares(path, slow)[1] for path in paths], np.nan
    for other in range(len(paths)):
        scale = np.sqrt(totals[leader] * totals[other])
        if other != leader and scale > 0:
            for lag_us in (1_000 * lag for lag in LAGS_MS):
                ahead = added(far[leader], far[other], lag_us, slow) / scale
                behind = added(far[other], far[leader], lag_us, slow) / scale
                lopsided = abs(min(abs(ahead), 1.0) - min(abs(behind), 1.0))
                most = lopsided if not most >= lopsided else most
    return float(np.nanmean(np.clip(rho, -1, 1))), most, *unevenness(vol)


# --- pandas


def by_pandas(frame: pd.DataFrame, ends: Sequence[int], i: int) -> list[float]:
    "The documented features after update i, from the updates that the windows need."
    fast, slow = windows(ends, i)
    seen = frame.loc[max(slow[0] - MARGIN, 0) : i]
    last = seen.groupby("name").last()
    mid, size = (last["bid_px"] + last["ask_px"]) / 2, last["bid_qty"] + last["ask_qty"]
    away = (mid - mid.mean()).abs()
    share = (away / away.sum())[away > 0]
    gaps = [abs(mid[a] - mid[b]) for a, b in combinations(mid.index, 2)]
    fees = pd.Series({name: FEES.taker_bps(name) / BPS for name in mid.index})
    edges = [
        ((1 - fees[b]) * last["bid_px"][b] / last["ask_px"][a] - 1 - fees[a]) * BPS
        for a in mid.index for b in mid.index if a != b
    ]  # fmt: skip
    profits = [edge for edge in edges if edge >= 5.0]
    weight = size / size.sum()
    centre = (weight * mid).sum()
    by_name = [
        (seen.index[rows].to_numpy(), part)
        for name, part in seen.groupby("name")
        for rows in [seen["name"] == name]
    ]
    paths = [
        (numbers, part["time_us"].to_numpy(), part["log_px"].to_numpy())
        for numbers, part in by_name
    ]
    volumes = [part.loc[: fast[1], "volume"].tail(LOOKBACK).to_numpy() for _, part in by_name]
    start_us = int(frame["time_us"].iat[max(fast[0], 0)])
    told = history_figures(paths, volumes, start_us, (fast, slow))
    bid, ask = last["bid_qty"].sum(), last["ask_qty"].sum()
    return [
        mid.std(ddof=0) / mid.mean() * BPS,
        (mid.max() - mid.min()) / mid.mean() * BPS,
        -(share * np.log(share)).sum(),
        max(profits, default=0.0),
        len(profits),
        float(np.mean(profits)) if profits else 0.0,
        np.sqrt((weight * (mid - centre) ** 2).sum()) / centre * BPS,
        (weight**2).sum(),
        *told[:2],
        (bid - ask) / (bid + ask),
        (last["ask_px"].min() - last["bid_px"].max()) / mid.mean() * BPS,
        *told[2:],
        min(gaps) / mid.mean() * BPS,
    ]


def frame_of(events: EventColumns) -> pd.DataFrame:
    "Updates as a frame."
    touch = events.levels[:, :, 0].reshape(-1, 4)
    frame = pd.DataFrame(touch, columns=TOUCH)
    frame["name"], frame["time_us"] = np.array(NAMES)[events.market], events.stamp_us
    frame["log_px"] = np.log((frame["bid_px"] + frame["ask_px"]) / 2)
    frame["volume"] = frame["bid_qty"] + frame["ask_qty"]
    return frame


def block_ends(market: np.ndarray) -> list[int]:
    "Updates that ended a block: a tenth of the window for the busiest venue."
    counts, ends = [0] * len(NAMES), []
    for i, v in enumerate(market.tolist()):
        counts[v] += 1
        if counts[v] >= LOOKBACK // N_BLOCKS:
            counts = [0] * len(NAMES)
            ends.append(i)
    return ends


# --- NumPy, behind the documented calls


class NumpyExtractor:
    "The documented features from arrays, worked out anew when they are asked for."

    def __init__(self, room: int, is_lazy: bool, names: Sequence[str] = NAMES) -> None:
        self.names = names
        self.data = {name: np.zeros((5, room)) for name in names}  # number, µs, log, volume, price
        self.used, self.n, self.ends = dict.fromkeys(names, 0), 0, list[int]()
        self.in_block, self.starts = dict.fromkeys(names, 0), [0]
        self.is_lazy, self.known = is_lazy, (-1, (np.nan,) * 4)

    def update(self, name: str, mid: float, volume: float, timestamp: float) -> None:
        "Take one price."
        time_us = round(timestamp * 1e6)
        self.data[name][:, self.used[name]] = self.n, time_us, np.log(mid), volume, mid
        self.used[name] += 1
        self.in_block[name] += 1
        if self.n == 0:
            self.starts = [time_us]
        if self.in_block[name] >= LOOKBACK // N_BLOCKS:
            self.in_block = dict.fromkeys(self.names, 0)
            self.ends.append(self.n)
            self.starts.append(time_us)
        self.n += 1

    def told(self) -> tuple[float, ...]:
        "What the history says."
        if not self.ends or (self.is_lazy and self.known[0] == len(self.ends)):
            return self.known[1]
        windows_now = windows(self.ends, self.n - 1)
        paths, volumes = [], []
        for name in self.names:
            number, time_us, log_px, volume, _ = self.data[name][:, : self.used[name]]
            paths.append((number, time_us, log_px))
            volumes.append(volume[: bisect_left(number, windows_now[0][1] + 1)])
        start_us = self.starts[max(len(self.ends) - N_BLOCKS, 0)]
        self.known = len(self.ends), history_figures(paths, volumes, start_us, windows_now)
        return self.known[1]

    def extract_features(self, books: dict[str, Any], opportunities: list[Any]) -> list[float]:
        "The documented features of these quotes."
        quotes = [books[name] for name in sorted(books)]
        bid, ask, bid_qty, ask_qty = (
            np.array([quote[key] for quote in quotes])
            for key in ("best_bid", "best_ask", "bid_size", "ask_size")
        )
        mid, size = (bid + ask) / 2, bid_qty + ask_qty
        mean, away = mid.mean(), np.abs(mid - mid.mean())
        share = away[away > 0] / away.sum()
        gaps = np.abs(mid[:, None] - mid)[np.triu_indices(len(mid), 1)]
        profits = np.array([one["profit_bps"] for one in opportunities])
        best = (profits.max(), len(profits), profits.mean()) if len(profits) else (0.0, 0.0, 0.0)
        centre, told = np.average(mid, weights=size), self.told()
        return [
            mid.std() / mean * BPS,
            np.ptp(mid) / mean * BPS,
            -(share * np.log(share)).sum(),
            *best,
            np.sqrt(np.average((mid - centre) ** 2, weights=size)) / centre * BPS,
            ((size / size.sum()) ** 2).sum(),
            *told[:2],
            (bid_qty.sum() - ask_qty.sum()) / size.sum(),
            (ask.min() - bid.max()) / mean * BPS,
            *told[2:],
            gaps.min() / mean * BPS,
        ]


Rounds = list[tuple[list[tuple[str, float, float, float]], dict[str, Any], list[Any]]]


def rounds_of(events: EventColumns) -> Rounds:
    "Three updates, quotes and opportunities of each turn of the documented loop."
    touch, rounds, books = events.levels[:, :, 0].reshape(-1, 4), Rounds(), dict[str, Any]()
    updates = []
    for v, time_us, (bid, bid_qty, ask, ask_qty) in zip(
        events.market.tolist(), events.stamp_us.tolist(), touch.tolist()
    ):
        name, seconds_utc = NAMES[v], time_us / 1e6
        books[name] = {"best_bid": bid, "best_ask": ask, "bid_size": bid_qty, "ask_size": ask_qty}
        books[name]["timestamp"] = seconds_utc
        updates.append((name, (bid + ask) / 2, bid_qty + ask_qty, seconds_utc))
        if len(updates) == 3:
            found = [{"profit_bps": 5.0 + len(rounds) % 3, "kind": "arbitrage"}] * (len(rounds) % 2)
            rounds.append((updates, dict(books), found))
            updates = []
    return rounds


def loop(extractor: Any, rounds: Rounds) -> list[Any]:
    "The documented loop."
    rows = []
    for updates, quotes, opportunities in rounds:
        for update in updates:
            extractor.update(*update)
        rows.append(extractor.extract_features(quotes, opportunities))
    return rows


# --- the comparison


def medians(
    runs: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]],  # make, then run it
) -> dict[str, float]:
    "Median processor time of seven runs of each, taking turns; what is made is not timed."
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(7):
        for name, (make, run) in runs.items():
            made = make()
            start = time.process_time()
            run(made)
            times[name].append(time.process_time() - start)
    return {name: float(np.median(found)) for name, found in times.items()}


def compare_batch(events: EventColumns, n_pandas: int) -> None:
    "Rows of the kernel against pandas, then rows a second."
    m, touches = len(events.kind), np.ascontiguousarray(events.levels[:, :, :1])
    frame, ends = frame_of(events), block_ends(events.market)
    columns_of: dict[str, tuple[Sequence[str], EventColumns]] = {
        "document": (FEATURES_DOCUMENT, events._replace(levels=touches)),
        "full": (FEATURES, events),
    }
    picked = np.linspace(m // 2, m - 1, n_pandas).astype(int).tolist()
    wanted = np.array([by_pandas(frame, ends, i) for i in picked])
    assert (wanted[:, 4] > 0).any() and len(np.unique(wanted[:, 0])) > n_pandas // 2
    for features, given in columns_of.values():
        values = values_of(features, given)
        missing = m - len(values)  # the first updates, of one venue only
        assert missing < 10
        found = values[[i - missing for i in picked], : len(FEATURES_DOCUMENT)]
        assert np.allclose(found, wanted, rtol=1e-6, atol=1e-9, equal_nan=True)
    runs: dict[str, Any] = {
        name: (lambda f=features: new_stream(f), lambda stream, c=given: stream.on_columns(c))
        for name, (features, given) in columns_of.items()
    }
    runs["pandas"] = (list, lambda rows: [by_pandas(frame, ends, i) for i in picked])
    took = medians(runs)
    each = took["pandas"] / n_pandas
    print(f"{m - missing:,} rows of three venues, one for every update of a touch")
    for name, (features, _) in columns_of.items():
        rate = (m - missing) / took[name]
        print(f"  {name:9} {len(features)} features {rate:12,.0f} rows/s {rate * each:10,.0f}x")
    print(f"  pandas    15 features {1 / each:12,.0f} rows/s          1x")


def compare_loop(events: EventColumns, n_timed: int) -> None:
    "The documented loop against NumPy."
    rounds = rounds_of(events)
    warm, timed = rounds[:-n_timed], rounds[-n_timed:]

    def warmed(extractor: Any) -> Any:
        for updates, _, _ in warm:
            for update in updates:
                extractor.update(*update)
        return extractor

    makers: dict[str, Callable[[], Any]] = {
        "kernel": lambda: CrossExchangeFeatureExtractor(LOOKBACK, SIZE),
        "NumPy": lambda: NumpyExtractor(len(events.kind), False),
        "lazy NumPy": lambda: NumpyExtractor(len(events.kind), True),
    }
    ours = warmed(makers["kernel"]())
    wanted = [list(ours.to_dict(row).values()) for row in loop(ours, timed)]
    for name in ("NumPy", "lazy NumPy"):
        found = loop(warmed(makers[name]()), timed)
        assert np.allclose(found, wanted, rtol=1e-6, atol=1e-9, equal_nan=True)
    took = medians(
        {
            name: (partial(lambda make: warmed(make()), make), partial(loop, rounds=timed))
            for name, make in makers.items()
        }
    )
    print("three times update, then extract_features")
    for name, total in took.items():
        print(f"  {name:10} {total / n_timed * 1e6:9.1f} us {total / took['kernel']:8.1f}x")


if __name__ == "__main__":
    events = columns(*books(600.0))
    compare_batch(events, n_pandas=40)
    compare_loop(events, n_timed=200)
