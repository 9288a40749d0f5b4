"""Find short-lived cross-exchange dislocations that can be executed with profit after fees."""

__version__ = "0.1.0"

import importlib

# Every public name and the module that holds it, loaded on first use: importing the package costs
# next to nothing. `python tools/public_names.py` rewrites the stub beside this file from here.
_NAMES = {
    "BasisRule": "pairs",
    "BinanceOrderBookStream": "streams",
    "BookColumns": "execution",
    "BurstConfirmationFilter": "spectral_residual",
    "BybitOrderBookStream": "streams",
    "CcxtOrderBookStream": "ccxt_feed",
    "ClockSync": "clock",
    "CoinbaseOrderBookStream": "streams",
    "CombinatorialPurgedCV": "splits",
    "CombinedDetector": "spectral_residual",
    "CompiledBook": "compiled_book",
    "CompiledForest": "forest",
    "CrossExchangeFeatureExtractor": "features",
    "CrossExchangeFeatures": "features",
    "Dashboard": "dashboard",
    "Decisions": "paper",
    "Desk": "planting",
    "DriftReport": "drift",
    "EventWriter": "recorder",
    "FEATURES": "feature_stream",
    "FEATURES_DOCUMENT": "feature_kernels",
    "Fault": "wire_faults",
    "FeatureSettings": "feature_stream",
    "FeatureStream": "feature_stream",
    "FeeTable": "costs",
    "FeedError": "core",
    "FrameWriter": "frames",
    "Gap": "core",
    "Gem": "core",
    "GemClassifier": "gem_classifier",
    "GemDetector": "detector",
    "GemRule": "decisions",
    "HTXOrderBookStream": "streams",
    "HyperparameterOptimizer": "hpo",
    "Imported": "importers",
    "InputError": "core",
    "Instrument": "core",
    "KrakenOrderBookStream": "streams",
    "LightGBMPipeline": "lgbm",
    "MalformedMessage": "core",
    "MarketWatch": "market_watch",
    "MetaLabeler": "meta_labeling",
    "MetaLabelingConfig": "meta_labeling",
    "ModelMetrics": "training",
    "MultiExchangeAggregator": "aggregator",
    "MultiObjectiveOptimizer": "hpo",
    "OKXOrderBookStream": "streams",
    "OnlineAcceptance": "acceptance",
    "OrderBook": "book",
    "OrderBookSnapshot": "core",
    "PaperRule": "paper",
    "PurgedKFold": "splits",
    "ResearchLedger": "ledger",
    "Sampler": "feature_stream",
    "SpectralAnomalyScore": "spectral_residual",
    "SpectralResidualDetector": "spectral_residual",
    "StreamState": "core",
    "Trade": "core",
    "VenueServer": "emulator",
    "WalkForwardOptimizer": "walk_forward",
    "WalkForwardSplit": "splits",
    "WatchSettings": "market_watch",
    "audit_leakage": "leakage",
    "average_uniqueness": "barriers",
    "convergence": "barriers",
    "cusum_events": "barriers",
    "deflated_sharpe_ratio": "overfitting",
    "detect": "detector",
    "drift_report": "drift",
    "feature_frame": "features",
    "fit_simple_rules": "simple_rules",
    "foresight": "paper",
    "instrument": "markets",
    "label_gems": "labels",
    "label_onset": "labels",
    "labelled": "datasets",
    "load_gem_models": "gem_models",
    "load_markets": "markets",
    "make_stream": "streams",
    "make_streams": "streams",
    "minimum_track_record_length": "overfitting",
    "overfitting_report": "track_record",
    "paper_summary": "paper_results",
    "paper_trade": "paper",
    "pbo_cscv": "overfitting",
    "planted_market": "planting",
    "probabilistic_sharpe_ratio": "overfitting",
    "purge": "splits",
    "read_dataset": "datasets",
    "read_events": "recorder",
    "read_frames": "frames",
    "read_table": "recorder",
    "record": "recorder",
    "run_demo": "demo",
    "simulate_market": "simulator",
    "start_metrics_server": "metrics",
    "track_prediction": "metrics",
    "train_gem_models": "gem_models",
    "triple_barrier": "barriers",
    "two_leg_fills": "execution",
    "write_report": "report",
}

__all__ = list(_NAMES)


def __getattr__(name: str) -> object:
    "A public name, taken from its module when it is first asked for."
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    "What the package offers."
    return sorted([*_NAMES, *globals()])
