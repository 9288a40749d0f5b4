"""One message from bytes to decision: how often as fast as two pipelines built on libraries?

    python benchmarks/bench_step.py [--check]     --check: exit 1 below the claims

Depth updates of three books (Binance spot and USD-M, Bybit spot; simulated) are decided about one
by one: read, book, 24 features, spectral residual over 128 moves, 500 + 300 trees. Mids move with
nearly every update, and one venue stands 60 bps above the others all the time, so that a residual
is due and both models are asked: the most work there can be. "straightforward": json, dicts, a
DataFrame a row, LGBMClassifier, numpy.fft. "strong": orjson, sorted lists, plain floats, NumPy
rings, LightGBM's C interface for single rows, rfft. Both renew correlations and leads only as often
as the kernel does, and are spared the ages and trailing bases that it keeps up beside.
Books, features, burst scores and probabilities are compared before anything is timed, and the
transforms of the peers are counted. Ratios of processor time.
"""

import argparse
import gc
import json
import math
import sys
import tempfile
import time
import warnings
from bisect import bisect_left, insort
from collections import deque
from dataclasses import replace
from typing import Any

import lightgbm as lgb
import numpy as np
import orjson
import pandas as pd
from bench_features import NumpyExtractor

from gem_detector.calibration import Uncalibrated
from gem_detector.core import BPS, Instrument, OrderBookSnapshot
from gem_detector.costs import FeeTable
from gem_detector.feature_kernels import FEATURES_DOCUMENT
from gem_detector.feature_stream import Sampler
from gem_detector.forest import SingleRow
from gem_detector.frame_step import FrameDetector, market_name
from gem_detector.frames import Arrival
from gem_detector.gem_models import GemModels, Limits
from gem_detector.lgbm import LightGBMPipeline
from gem_detector.market_watch import MarketWatch, WatchSettings, frame_of
from gem_detector.markets import instrument
from gem_detector.memory_link import MemoryLink
from gem_detector.meta_labeling import MetaLabeler, MetaLabelingConfig, MetaModel, meta_features
from gem_detector.model_inputs import FeatureColumns
from gem_detector.row_features import N_LEVELS
from gem_detector.simulator import Dislocation, VenueSpec, simulate_market
from gem_detector.sync import Feed
from gem_detector.training import TrainedModel
from gem_detector.venues.binance import BinanceProtocol
from gem_detector.venues.bybit import BybitProtocol
from gem_detector.wire import VenueProtocol

CLAIMS = {"straightforward": 100.0, "strong": 10.0}
MARKETS: list[tuple[VenueProtocol, Instrument]] = [
    (BinanceProtocol("spot"), instrument("binance", "BTC/USDT")),
    (BinanceProtocol("linear"), instrument("binance", "BTC/USDT:USDT")),
    (BybitProtocol("spot"), instrument("bybit", "BTC/USDT")),
]
NAMES = [market_name(one) for _, one in MARKETS]
SPOT = (0, 2)
FEE, NOTIONAL, THRESHOLD, LOOKBACK = 1e-4, 1_000.0, 5.0, 128
EDGES = [f"best_{kind}{what}" for kind in ("", "basis_") for what in (
    "gross_edge_bps", "net_edge_bps", "gross_edge_at_size_bps", "net_edge_at_size_bps",
)]  # fmt: skip
FEATURES = (*FEATURES_DOCUMENT, *EDGES, "net_edge_age_ms")
SETTINGS = WatchSettings(FEATURES, Sampler("book"), burst_lookback=LOOKBACK, burst_bar_ms=0.0)
OPTIONS: dict[str, Any] = {"fees": FeeTable.own({"binance": 1.0, "bybit": 1.0}), "depth": N_LEVELS}
TOP = FEATURES[:5]
START_NS, ROUNDS, N_UNTIMED = 10**18, 5, 50
SECONDS, WARM_S = 29.0, 14.0  # no basis is known before half a minute has been seen


# --- what arrives, and models


def recorded() -> list[tuple[int, Arrival]]:
    "Arrivals of all venues in the order of receipt, without trades."
    specs = [
        VenueSpec(one, name=name, change_rate_hz=300.0, batch_ms=10.0, stick_bps=0.0)
        for name, (_, one) in zip(NAMES, MARKETS)
    ]
    above = Dislocation(NAMES[2], START_NS + 10**9, 1_000 * (SECONDS - 1), 60.0, 2.0)
    market = simulate_market(3, SECONDS, specs, start_ns=START_NS, dislocations=[above])
    arrivals = []
    for v, (name, (protocol, one)) in enumerate(zip(NAMES, MARKETS)):
        part = replace(market, tapes={name: market.tapes[name]})
        for arrival, _, _ in MemoryLink(Feed(protocol, [one]), part).run():
            is_trade = b"@trade" in arrival.payload[:40] or b"publicTrade" in arrival.payload[:40]
            if not is_trade:
                arrivals.append((v, arrival))
    return sorted(arrivals, key=lambda pair: pair[1].ts_recv_ns)


def trained(frame: pd.DataFrame, folder: str) -> tuple[GemModels, list[lgb.LGBMClassifier]]:
    "500 and 300 trees of 31 leaves, on half a rule and half chance."
    rng, X = np.random.default_rng(0), frame[list(FEATURES)]
    signal = X["price_dispersion"].rank(pct=True) + X["depth_imbalance_ratio"].rank(pct=True)
    knobs: dict[str, Any] = {"num_leaves": 31, "verbosity": -1, "n_jobs": 1, "random_state": 0}
    y = rng.random(len(X)) < 0.1 + 0.4 * signal
    first = lgb.LGBMClassifier(n_estimators=500, **knobs).fit(X, y)
    p = np.asarray(first.booster_.predict(X, num_threads=1))
    side = frame[["burst_score"]]
    seen = meta_features(p, X, side, TOP)
    second = lgb.LGBMClassifier(n_estimators=300, **knobs).fit(seen, rng.random(len(X)) < p)
    no_metrics: Any = None
    card: Any = {"params": {"num_threads": 1}}
    parts = [
        TrainedModel(one.booster_, FeatureColumns.of(table), Uncalibrated(), 0.5, no_metrics, card)
        for one, table in ((first, X), (second, seen))
    ]
    primary = LightGBMPipeline(f"{folder}/primary")
    primary.model = parts[0]
    config = MetaLabelingConfig(0.0, 0.5, min_confidence_gap=0.0)
    meta = MetaLabeler(primary, f"{folder}/meta", config)
    meta.meta_model = MetaModel(
        parts[1], config, 0.0, FEATURES, TOP, ("burst_score",), "", len(X), 0.5
    )
    return GemModels(primary, meta, Limits(), SETTINGS, meta.meta_model_dir), [first, second]


# --- the strong pipeline


def tail_exponent(z: float) -> float:
    "−log10 of the chance to be above z."
    if z < 30:
        return -math.log10(0.5 * math.erfc(z / math.sqrt(2.0)))
    return (0.5 * z * z + math.log(z * math.sqrt(2 * math.pi))) / math.log(10.0)


class Burst:
    "Rarity of the newest move of one market."

    def __init__(self) -> None:
        self.moves, self.ys = np.zeros(LOOKBACK), np.zeros(LOOKBACK)
        self.has_move, self.n, self.n_moves = np.zeros(LOOKBACK), 0, 0
        self.last, self.score, self.seen_s, self.is_warm = math.nan, math.nan, math.nan, False
        self.recent: deque[tuple[int, float]] = deque()
        k = np.arange(LOOKBACK // 2)
        self.low, self.high = np.maximum(k - 7, 0), np.minimum(k + 8, len(k))
        self.width, self.sums = self.high - self.low, np.zeros(len(k) + 1)
        self.n_transforms = 0

    def saliency(self, values: np.ndarray) -> tuple[float, float]:
        "Of the newest value, and the usual."
        spectrum = np.fft.rfft(values - values[-1])
        spectrum[0] = 0.0
        part = spectrum[1:]
        power = part.real**2 + part.imag**2
        np.cumsum(np.log(np.maximum(power, 1e-10 * power.mean())), out=self.sums[1:])
        part *= np.exp(-0.5 * (self.sums[self.high] - self.sums[self.low]) / self.width)
        salient = np.fft.irfft(spectrum, LOOKBACK)
        return float(salient[-1]), math.sqrt(float(salient @ salient) / LOOKBACK)

    def update(self, price: float, ts_s: float) -> None:
        "Take one mid."
        move = math.log(price / self.last) if self.last == self.last else math.nan
        self.last, self.seen_s, at = price, ts_s, self.n % LOOKBACK
        self.n += 1
        self.has_move[at] = has_move = abs(move) > 0
        exponent = 0.0
        if has_move:
            known = min(self.n_moves, LOOKBACK)
            usual = self.moves[:known].mean() if known else abs(move)
            y, slot = math.asinh(move / usual), self.n_moves % LOOKBACK
            before = np.delete(self.ys, slot) if known == LOOKBACK else None
            self.moves[slot], self.ys[slot] = abs(move), y
            self.n_moves += 1
            if self.n_moves >= LOOKBACK:
                self.is_warm = True
                values = np.concatenate([self.ys[slot + 1 :], self.ys[: slot + 1]])
                salient, rms = self.saliency(values)
                self.n_transforms += 1
                last = values[:-1] if before is None else before
                z = (y - last.mean()) / last.std(ddof=1)
                if abs(move) / usual >= 1.5:
                    share = self.has_move.sum() / min(self.n, LOOKBACK)
                    rarest = min(abs(salient / rms), abs(z))
                    exponent = tail_exponent(rarest) - math.log10(2.0) - math.log10(share)
        self.score = max(exponent - math.log10(2.0), 0.0) if self.is_warm else math.nan

    def on_row(self, ts_ns: int) -> None:
        "Let the score of now join the recent ones."
        score, recent = self.score, self.recent
        if score == score:
            if ts_ns / 1e9 - self.seen_s > 1.0:
                score = 0.0
            while recent and recent[-1][1] <= score:
                recent.pop()
            recent.append((ts_ns, score))
        while recent and recent[0][0] < ts_ns - 10**9:
            recent.popleft()


class Strong:
    "orjson, sorted lists, floats, NumPy rings, the C interface, rfft."

    def __init__(self, models: list[lgb.LGBMClassifier]) -> None:
        self.first, self.second = (SingleRow(one.booster_) for one in models)
        self.history = NumpyExtractor(20_000, True, NAMES)
        self.bursts = [Burst() for _ in NAMES]
        self.touch: list[tuple[float, ...] | None] = [None] * len(NAMES)
        self.average = [(math.nan, math.nan)] * len(NAMES)
        self.since, self.meta_row = -1, np.zeros(7 + 2 * len(TOP))
        self.books: list[Any] = [None] * len(NAMES)
        self.ids = [0] * len(NAMES)

    def load(self, v: int, sides: tuple[np.ndarray, np.ndarray], last_id: int) -> None:
        "Take a whole book over."
        ladders = [dict(map(tuple, side.tolist())) for side in sides]
        self.books[v], self.ids[v] = (ladders, [sorted(side) for side in ladders]), last_id

    def parse(self, frame: bytes) -> dict[str, Any]:
        return orjson.loads(frame)["data"]

    def on_frame(self, v: int, frame: bytes, ts_ns: int) -> tuple[float, ...]:
        "From bytes to decision."
        body = self.parse(frame)
        expected = self.ids[v]
        before = body["pu"] if "pu" in body else body.get("U", body["u"]) - 1
        if before != expected:
            raise AssertionError(f"{NAMES[v]}: a frame is missing: {before} after {expected}")
        self.ids[v] = body["u"]
        ladders, prices = self.books[v]
        for side, rows in enumerate((body["b"], body["a"])):
            ladder, order = ladders[side], prices[side]
            for px_text, qty_text in rows:
                px, qty = float(px_text), float(qty_text)
                if qty:
                    if px not in ladder:
                        insort(order, px)
                    ladder[px] = qty
                elif px in ladder:
                    del ladder[px]
                    del order[bisect_left(order, px)]
        bids = [(px, ladders[0][px]) for px in prices[0][: -N_LEVELS - 1 : -1]]
        asks = [(px, ladders[1][px]) for px in prices[1][:N_LEVELS]]
        return self.take(v, ts_ns, bids, asks)

    def walked(self, rows: list[tuple[float, float]], wanted: float) -> float:
        "Average price of a quantity."
        left, spent = wanted, 0.0
        for px, qty in rows:
            part = min(qty, left)
            spent, left = spent + part * px, left - part
            if left <= 0.0:
                return spent / wanted
        return spent / wanted if left <= wanted * 1e-9 else math.nan

    def take(self, v: int, ts_ns: int, bids: Any, asks: Any) -> tuple[float, ...]:
        "Carry on by a book; p_primary, p_meta, burst score, and the features."
        (bid, bid_qty), (ask, ask_qty) = bids[0], asks[0]
        mid = (bid + ask) / 2
        wanted = NOTIONAL * 2 / (bid + ask)
        self.touch[v], self.average[v] = (
            (bid, bid_qty, ask, ask_qty),
            (self.walked(bids, wanted), self.walked(asks, wanted)),
        )
        self.history.update(NAMES[v], mid, bid_qty + ask_qty, ts_ns / 1e9)
        found: tuple[float, ...] = ()
        if all(self.touch[k] is not None for k in SPOT):
            self.best = self.edges()
            if self.best[1] < THRESHOLD:
                self.since = -1
            elif self.since < 0:
                self.since = ts_ns
        if None not in self.touch:
            row = np.array(self.features(ts_ns))
            for burst in self.bursts:
                burst.on_row(ts_ns)
            tops = [self.bursts[k].recent for k in self.legs]
            score = max((one[0][1] for one in tops if one), default=math.nan)
            found = (*self.judge(row, score), score, *row)
        self.bursts[v].update(mid, ts_ns / 1e9)
        return found

    def edges(self) -> list[float]:
        "Best edges of two spot books, before and after fees, at the touch and at size."
        a, b, best, edges = *SPOT, -math.inf, [-math.inf] * 4
        self.profits = []
        for buy, sell in ((a, b), (b, a)):
            px, size = (self.touch[buy][2], self.touch[sell][0]), (  # type: ignore[index]
                self.average[buy][1], self.average[sell][0],
            )  # fmt: skip
            gross, at_size = px[1] / px[0], size[1] / size[0]
            net = ((1 - FEE) * gross - 1 - FEE) * BPS
            net_at_size = ((1 - FEE) * at_size - 1 - FEE) * BPS
            values = (gross - 1) * BPS, net, (at_size - 1) * BPS, net_at_size
            edges = [max(old, new) for old, new in zip(edges, values)]
            if net > best:
                best, self.legs = net, (buy, sell)
            if net >= THRESHOLD:
                self.profits.append(net)
        return edges

    def features(self, ts_ns: int) -> list[float]:
        "The 24 features."
        touch: Any = self.touch
        mids = [(one[0] + one[2]) / 2 for one in touch]
        sizes = [one[1] + one[3] for one in touch]
        n, total, edges = len(mids), sum(sizes), self.best
        mean = sum(mids) / n
        away = [abs(mid - mean) for mid in mids]
        all_away = sum(away)
        shares = [one / all_away for one in away if one > 0.0]
        gaps = [abs(mids[i] - mids[j]) for i in range(n) for j in range(i)]
        weights = [size / total for size in sizes]
        centre = sum(w * mid for w, mid in zip(weights, mids))
        told = self.history.told()
        bid_qty, ask_qty = sum(one[1] for one in touch), sum(one[3] for one in touch)
        profits = self.profits
        return [
            math.sqrt(sum(one * one for one in away) / n) / mean * BPS,
            max(gaps) / mean * BPS,
            -sum(share * math.log(share) for share in shares),
            max(profits, default=0.0),
            float(len(profits)),
            sum(profits) / len(profits) if profits else 0.0,
            math.sqrt(sum(w * (mid - centre) ** 2 for w, mid in zip(weights, mids))) / centre * BPS,
            sum(w * w for w in weights),
            *told[:2],
            (bid_qty - ask_qty) / total,
            (min(one[2] for one in touch) - max(one[0] for one in touch)) / mean * BPS,
            *told[2:],
            min(gaps) / mean * BPS,
            *[edge if edge > -math.inf else math.nan for edge in edges],
            *[math.nan] * 4,
            (ts_ns - self.since) / 1e6 if self.since >= 0 else 0.0,
        ]

    def judge(self, row: np.ndarray, score: float) -> tuple[float, float]:
        "Both probabilities."
        p, out = self.first.predict_row(row), self.meta_row
        tamed = np.arcsinh(row[np.isfinite(row)])
        out[:3] = p, abs(2 * p - 1), math.log(p) - math.log1p(-p)
        out[3:6] = 1 - len(tamed) / len(row), tamed.mean(), tamed.std()
        out[6:-1:2] = row[: len(TOP)]
        out[7:-1:2] = row[: len(TOP)] * p
        out[-1] = score
        return p, self.second.predict_row(out)


# --- the straightforward pipeline


class Straightforward(Strong):
    "json, dicts, a DataFrame a row, LGBMClassifier, numpy.fft."

    def __init__(self, models: list[lgb.LGBMClassifier]) -> None:
        super().__init__(models)
        self.models = models
        for burst in self.bursts:
            burst.saliency = self.saliency  # type: ignore[method-assign]

    def parse(self, frame: bytes) -> dict[str, Any]:
        return json.loads(frame)["data"]

    def load(self, v: int, sides: tuple[np.ndarray, np.ndarray], last_id: int) -> None:
        self.books[v], self.ids[v] = [dict(map(tuple, side.tolist())) for side in sides], last_id

    def on_frame(self, v: int, frame: bytes, ts_ns: int) -> tuple[float, ...]:
        body = self.parse(frame)
        self.ids[v] = body["u"]
        for ladder, rows in zip(self.books[v], (body["b"], body["a"])):
            for px_text, qty_text in rows:
                px, qty = float(px_text), float(qty_text)
                if qty:
                    ladder[px] = qty
                else:
                    ladder.pop(px, None)
        bids = sorted(self.books[v][0].items(), reverse=True)[:N_LEVELS]
        asks = sorted(self.books[v][1].items())[:N_LEVELS]
        return self.take(v, ts_ns, bids, asks)

    def saliency(self, values: np.ndarray) -> tuple[float, float]:
        spectrum = np.fft.fft(values - values.mean())
        spectrum[0] = 0.0
        amplitude = np.abs(spectrum[1 : LOOKBACK // 2 + 1])
        logs = np.log(np.maximum(amplitude, 1e-5 * np.sqrt((amplitude**2).mean())))
        mean = [logs[max(k - 7, 0) : k + 8].mean() for k in range(len(logs))]
        factor = np.exp(-np.array(mean))
        spectrum[1:] *= np.concatenate([factor, factor[-2::-1]])
        salient = np.fft.ifft(spectrum).real
        return float(salient[-1]), float(np.sqrt(np.mean(salient**2)))

    def judge(self, row: np.ndarray, score: float) -> tuple[float, float]:
        frame = pd.DataFrame([dict(zip(FEATURES, row))])
        p = np.asarray(self.models[0].predict_proba(frame))[:, 1]
        seen = meta_features(p, frame, pd.DataFrame({"burst_score": [score]}), TOP)
        return float(p[0]), float(np.asarray(self.models[1].predict_proba(seen))[0, 1])


# --- the comparison


def split_at(arrivals: list[tuple[int, Arrival]]) -> int:
    "The first arrival after the warm time, by when every book stands."
    warm_ns = START_NS + round(WARM_S * 1e9)
    return next(i for i, (_, one) in enumerate(arrivals) if one.ts_recv_ns > warm_ns)


def warmed(peer: Strong, arrivals: list[tuple[int, Arrival]]) -> list[Feed]:
    "Hand a peer all books of the warm time, and the whole ladders at its end."
    feeds = [Feed(protocol, [one], N_LEVELS) for protocol, one in MARKETS]
    for v, arrival in arrivals:
        for event in feeds[v].handle(arrival):
            if isinstance(event, OrderBookSnapshot):
                rows = [list(map(tuple, side.tolist())) for side in (event.bids, event.asks)]
                peer.take(v, event.ts_recv_ns, *rows)
    for v, feed in enumerate(feeds):
        (sync,) = feed.syncs.values()
        peer.load(v, sync.book.ladder(), sync.book_id)
    return feeds


def detector(models: GemModels, arrivals: list[tuple[int, Arrival]], step: str) -> FrameDetector:
    "Ours, after the warm time."
    from_ns = arrivals[-1][1].ts_recv_ns  # before it nobody is asked
    found = FrameDetector(MARKETS, models, step=step, from_ns=from_ns, **OPTIONS)
    for v, arrival in arrivals:
        found.on_arrival(NAMES[v], arrival)
    return found


def assert_same(models: GemModels, peers: list[Strong], arrivals: list[tuple[int, Arrival]]) -> int:
    "Books, features, burst scores and probabilities of everybody, message by message."
    split = split_at(arrivals)
    fast, plain = (detector(models, arrivals[:split], step) for step in ("compiled", "plain"))
    for peer in peers:
        feeds = warmed(peer, arrivals[:split])
    n_before = [n_transforms(peer) for peer in peers]
    n_equal = n = 0
    for v, arrival in arrivals[split : split + 2_000]:
        feeds[v].handle(arrival)
        if not arrival.payload.startswith((b'{"stream"', b'{"topic"')):
            continue
        (mine,), (oracle,) = (one.on_arrival(NAMES[v], arrival) for one in (fast, plain))
        assert mine.same_as(oracle), "the compiled step differs from the plain one"
        row = mine.watched.row.values
        for peer in peers:
            p, p_meta, score, *theirs = peer.on_frame(v, arrival.payload, arrival.ts_recv_ns)
            assert np.allclose(theirs, row, rtol=1e-6, atol=1e-7, equal_nan=True), (theirs, row)
            known = score, mine.watched.burst_score
            assert np.isclose(*known, rtol=1e-6, atol=1e-7, equal_nan=True), known
            pairs = (p, mine.p_primary), (p_meta, mine.p_meta)
            n_equal += all(math.isclose(one, other, abs_tol=1e-9) for one, other in pairs)
            n += 1
    for v, feed in enumerate(feeds):
        (sync,) = feed.syncs.values()
        for peer in peers:
            book = peer.books[v] if isinstance(peer, Straightforward) else peer.books[v][0]
            assert [dict(map(tuple, side.tolist())) for side in sync.book.ladder()] == list(book)
    assert n_equal >= 0.999 * n, f"{n_equal} of {n} decisions agree"
    for peer, before in zip(peers, n_before):
        done = n_transforms(peer) - before
        assert done >= 0.95 * n / len(peers), f"{done} transforms for {n / len(peers):g} messages"
    return n


def n_transforms(peer: Strong) -> int:
    "How often a peer has taken a Fourier transform."
    return sum(burst.n_transforms for burst in peer.bursts)


def main() -> int:
    warnings.simplefilter("ignore", RuntimeWarning)  # of peers whose history is still empty
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 below the claims")
    is_checked, arrivals = parser.parse_args().check, recorded()
    split = split_at(arrivals)
    watch = MarketWatch(SETTINGS, fees=OPTIONS["fees"])
    only = FrameDetector(MARKETS, None, step="plain", watch=watch, depth=N_LEVELS)
    rows = [one.watched for v, arrival in arrivals for one in only.on_arrival(NAMES[v], arrival)]
    with tempfile.TemporaryDirectory() as folder:
        models, classifiers = trained(frame_of(rows, FEATURES), folder)
    peers = [Straightforward(classifiers), Strong(classifiers)]
    print(f"{assert_same(models, peers, arrivals):,} decisions of peers compared")
    messages = [
        (v, one) for v, one in arrivals[split:]
        if one.payload.startswith((b'{"stream"', b'{"topic"'))
    ]  # fmt: skip
    n = {"compiled": len(messages), "plain": 300, "straightforward": 300, "strong": len(messages)}
    spent: dict[str, list[float]] = {name: [] for name in n}
    gc.disable()
    for _ in range(ROUNDS):
        for name, count in n.items():
            untimed, part = messages[:N_UNTIMED], messages[N_UNTIMED:count]
            if name in ("compiled", "plain"):
                own = detector(models, arrivals[:split], name)
                for v, arrival in untimed:
                    own.verdicts(NAMES[v], arrival)
                start = time.process_time()
                for v, arrival in part:
                    own.verdicts(NAMES[v], arrival)
            else:
                peer = (Straightforward if name == "straightforward" else Strong)(classifiers)
                warmed(peer, arrivals[:split])
                for v, arrival in untimed:
                    peer.on_frame(v, arrival.payload, arrival.ts_recv_ns)
                start = time.process_time()
                for v, arrival in part:
                    peer.on_frame(v, arrival.payload, arrival.ts_recv_ns)
            spent[name].append((time.process_time() - start) / len(part) * 1e6)
            gc.collect()
    median = {name: float(np.median(times)) for name, times in spent.items()}
    for name, us in median.items():
        print(f"  {name:16} {us:8.1f} us of processor a message  {us / median['compiled']:7.1f}x")
    short = {k: v for k, v in CLAIMS.items() if median[k] / median["compiled"] < v}
    print("below the claims:", short or "none")
    return int(is_checked and bool(short))


if __name__ == "__main__":
    sys.exit(main())
