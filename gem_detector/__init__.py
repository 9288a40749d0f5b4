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
    "ClockSync": "clock",
    "CoinbaseOrderBookStream": "streams",
    "CombinatorialPurgedCV": "splits",
    "CombinedDetector": "spectral_residual",
    "CompiledBook": "compiled_book",
    "EventWriter": "recorder",
    "FeeTable": "costs",
    "FeedError": "core",
    "FrameWriter": "frames",
    "Gap": "core",
    "GemClassifier": "gem_classifier",
    "InputError": "core",
    "Instrument": "core",
    "LightGBMPipeline": "lgbm",
    "MalformedMessage": "core",
    "MetaLabeler": "meta_labeling",
    "MetaLabelingConfig": "meta_labeling",
    "ModelMetrics": "training",
    "MultiExchangeAggregator": "aggregator",
    "OrderBook": "book",
    "OrderBookSnapshot": "core",
    "PurgedKFold": "splits",
    "SpectralAnomalyScore": "spectral_residual",
    "SpectralResidualDetector": "spectral_residual",
    "StreamState": "core",
    "Trade": "core",
    "VenueServer": "emulator",
    "WalkForwardSplit": "splits",
    "audit_leakage": "leakage",
    "instrument": "markets",
    "load_markets": "markets",
    "make_stream": "streams",
    "purge": "splits",
    "read_events": "recorder",
    "read_frames": "frames",
    "read_table": "recorder",
    "record": "recorder",
    "run_demo": "demo",
    "simulate_market": "simulator",
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
