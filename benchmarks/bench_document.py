"""The document's table of computational performance, measured: CPU time of each step, one thread.

    python benchmarks/bench_document.py

Simulated prices; three venues; histories of 1,000 points; models of a few hundred trees, trained on
planted noise, since only their size counts here. Each step is called as the document calls it; the
steps that live detection takes instead stand below. What is printed is the median of many calls
with the middle nine tenths. The peak memory is of this process, models and histories included.
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # LightGBM reads it when it is loaded

import numpy as np
import pandas as pd

from gem_detector.aggregator import MultiExchangeAggregator
from gem_detector.core import OrderBookSnapshot
from gem_detector.features import CrossExchangeFeatureExtractor
from gem_detector.forest import CompiledForest
from gem_detector.lgbm import LightGBMPipeline
from gem_detector.meta_labeling import MetaLabeler
from gem_detector.planting import planted_market, tape_events
from gem_detector.spectral_residual import BurstConfirmationFilter, SpectralResidualDetector

CLAIMS = {  # ms, as the document has them
    "Feature extraction": 2.0,
    "LightGBM inference": 0.5,
    "Meta-labeling": 1.0,
    "Spectral residual": 5.0,
    "Total pipeline": 10.0,
}


def cpu_ms(step: Callable[[], object], n: int) -> np.ndarray:
    "CPU time of each of n calls after some to warm up, ms."
    for _ in range(max(n // 10, 3)):
        step()
    found = np.empty(n)
    for i in range(n):
        begun = time.process_time_ns()
        step()
        found[i] = (time.process_time_ns() - begun) / 1e6
    return found


def fed() -> tuple[MultiExchangeAggregator, CrossExchangeFeatureExtractor]:
    "Three venues now, and an extractor whose histories are full."
    market, _ = planted_market(seed=0, minutes=4, gems=(1, 1), decoys=0)
    names = {(t.instrument.exchange, t.instrument.symbol): n for n, t in market.tapes.items()}
    aggregator = MultiExchangeAggregator({n: t.instrument for n, t in market.tapes.items()})
    extractor = CrossExchangeFeatureExtractor()
    for event in tape_events(market):
        if isinstance(event, OrderBookSnapshot):
            name = names[event.exchange, event.symbol]
            aggregator.on_book(name, event)
            volume = event.bid_size + event.ask_size
            extractor.update(name, event.mid, volume, event.local_timestamp)
    return aggregator, extractor


def models(columns: list[str], folder: str) -> tuple[LightGBMPipeline, MetaLabeler]:
    "A primary and a meta model over these columns, of the usual size."
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(6_000, len(columns))), columns=columns)
    score = X.iloc[:, 0] + X.iloc[:, 1] * X.iloc[:, 2] + rng.normal(size=len(X))
    y = (score > 1.5).to_numpy().astype(int)
    primary = LightGBMPipeline(Path(folder) / "primary", {"learning_rate": 0.01})
    primary.train(X, y, num_boost_round=500, early_stopping_rounds=0, horizon=0)
    meta = MetaLabeler(primary, Path(folder) / "meta")
    meta.train_meta_model(X, y, horizon=0)
    return primary, meta


def main() -> int:
    "Measure, print, compare."
    aggregator, extractor = fed()
    burst, spectral = BurstConfirmationFilter(), SpectralResidualDetector()
    rng = np.random.default_rng(1)
    series = rng.normal(size=200)
    for x in series:
        burst.update(60_000 + x, abs(x), 0.0)
        spectral.update(x)

    def row() -> dict[str, float]:
        books = aggregator.get_best_bid_ask()
        found = extractor.extract_features(books, aggregator.get_arbitrage_opportunities())
        assert found is not None
        return extractor.to_dict(found)

    with tempfile.TemporaryDirectory() as folder:
        columns = list(row())
        primary, meta = models(columns, folder)
        forest = CompiledForest.from_file(primary.model_dir / "model.txt")
        X = pd.DataFrame([row()])
        x = X.to_numpy(np.float64)[0]
        booster = primary.model.booster if primary.model is not None else None
        if booster is not None:  # what is timed below says the same
            assert np.isclose(forest.predict_row(x), booster.predict(X.to_numpy())[0], atol=1e-12)

        def pipeline() -> None:
            books = pd.DataFrame([row()])
            meta.predict_with_meta(books)
            burst.update(60_000.0, 1.0, 0.0)
            burst.confirm_burst()

        steps: dict[str, tuple[Callable[[], object], int]] = {
            "Feature extraction": (row, 300),
            "LightGBM inference": (lambda: primary.predict(X), 300),
            "Meta-labeling": (lambda: meta.predict_with_meta(X), 200),
            "Spectral residual": (lambda: spectral.detect(series), 100),
            "Total pipeline": (pipeline, 150),
            "compiled forest, one row": (lambda: forest.predict_row(x), 2_000),
            "spectral residual, one point": (lambda: spectral.update(0.3), 2_000),
        }
        found = {name: cpu_ms(step, n) for name, (step, n) in steps.items()}
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024 if sys.platform != "darwin" else 2**20
    )
    for name, ms in found.items():
        low, mid, high = np.percentile(ms, [5, 50, 95])
        claim = f"{CLAIMS[name]:g} ms" if name in CLAIMS else "–"
        print(f"| {name} | {claim} | {mid:.3f} ms [{low:.3f}, {high:.3f}] | {len(ms):,} |")
    print(f"peak memory {peak_mb:,.0f} MB (claimed: about 2,000 MB)")
    print(json.dumps({name: float(np.median(ms)) for name, ms in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
