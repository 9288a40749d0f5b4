"""The document's loop: dictionaries in, models of the command line out of which decisions come."""

import json
from collections.abc import Iterator
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gem_detector.aggregator import MultiExchangeAggregator
from gem_detector.cli import main
from gem_detector.core import NS_PER_S, InputError, OrderBookSnapshot
from gem_detector.datasets import read_dataset
from gem_detector.feature_kernels import FEATURES_DOCUMENT
from gem_detector.features import CrossExchangeFeatureExtractor
from gem_detector.gem_models import lacking, load_gem_models, train_gem_models
from gem_detector.lgbm import LightGBMPipeline
from gem_detector.market_watch import WatchSettings
from gem_detector.meta_labeling import MetaLabeler
from gem_detector.planting import Desk, planted_market, tape_events
from gem_detector.recorder import EventWriter

DESK = Desk()
BOOK = {"best_bid": 100.0, "best_ask": 100.2, "bid_size": 2.0, "ask_size": 1.0, "timestamp": 1.7e9}


def test_five_keys_of_a_book_and_one_of_an_opportunity_are_enough() -> None:
    "`get_best_bid_ask` and `get_arbitrage_opportunities` say more, and it is not needed."
    extractor = CrossExchangeFeatureExtractor(lookback_window=100, price_history_size=1000)
    rng = np.random.default_rng(0)
    for i in range(600):
        for k, name in enumerate(("binance", "bybit")):
            mid = 100.1 + 0.01 * rng.normal() + 0.01 * k
            extractor.update(name, mid, 3.0, 1.7e9 + i / 10)
    books = {"binance": BOOK, "bybit": BOOK | {"best_bid": 100.3, "best_ask": 100.5}}
    features = extractor.extract_features(
        current_books=books, arb_opportunities=[{"profit_bps": 7.5}, {"profit_bps": 5.5}]
    )
    assert features is not None
    row = extractor.to_dict(features)
    assert tuple(row) == FEATURES_DOCUMENT and len(pd.DataFrame([row]).columns) == 15
    assert (row["best_arb_opportunity_bps"], row["arb_opportunity_count"]) == (7.5, 2.0)
    assert row["avg_arb_profit_bps"] == 6.5 and row["consolidated_spread_bps"] < 0
    assert not any(isnan(value) for value in row.values())
    assert extractor.extract_features({"binance": BOOK}, []) is None
    for key in BOOK.keys() - {"timestamp"}:
        short = {name: value for name, value in BOOK.items() if name != key}
        with pytest.raises(InputError, match=f"no '{key}'"):
            extractor.extract_features({"binance": BOOK, "bybit": short}, [])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A recording through features --set document, label and train: a folder with models/."
    home = tmp_path_factory.mktemp("document")
    market, _ = planted_market(seed=3, minutes=12, gems=32, decoys=4, desk=DESK)
    with EventWriter(home / "recording", 10) as writer:
        for event in tape_events(market):
            writer.write(event)
    tiers = [f"--tier={venue}={tier}" for venue, tier in DESK.fees.tiers.items()]
    latency = [f"--latency={venue}={ms}" for venue, ms in DESK.latency_ms.items()]
    recording, rows, data = (str(home / name) for name in ("recording", "rows", "data"))
    size = ["--notional", str(DESK.notional)]
    wanted = ["--set", "document", "--step-ms", "250"]
    assert main(["features", recording, "--out", rows, *wanted, *size, *tiers]) == 0
    held = ["--hold-s", str(DESK.hold_s), *latency]
    assert main(["label", recording, rows, "--out", data, *held]) == 0
    assert main(["train", data, "--out", str(home / "models"), "--trees", "60", "--json"]) == 0
    return home


def polled(seed: int, seconds: int) -> Iterator[tuple[int, dict[str, float]]]:
    "The loop of the document on a market that nobody trained on: receive time and feature_dict."
    market, _ = planted_market(seed, minutes=seconds / 60, gems=8, decoys=0, desk=DESK)
    instruments = {name: tape.instrument for name, tape in market.tapes.items()}
    names = {(one.exchange, one.symbol): name for name, one in instruments.items()}
    now_ns = market.start_ns
    aggregator = MultiExchangeAggregator(instruments, fees=DESK.fees, now_ns=lambda: now_ns)
    extractor = CrossExchangeFeatureExtractor()
    due_ns = now_ns + NS_PER_S
    for event in tape_events(market):
        while event.ts_recv_ns > due_ns:  # the document's asyncio.sleep(1), four times as often
            now_ns = due_ns
            books = aggregator.get_best_bid_ask()
            features = extractor.extract_features(books, aggregator.get_arbitrage_opportunities())
            if features:
                yield now_ns, extractor.to_dict(features)
            due_ns += NS_PER_S // 4
        name = names[event.exchange, event.symbol]
        aggregator.on_event(name, event)
        if isinstance(event, OrderBookSnapshot) and event.symbol != "USDT/USD":
            extractor.update(name, event.mid, event.bid_size + event.ask_size, event.timestamp)


def test_models_of_the_command_line_decide_in_the_documents_loop(trained: Path) -> None:
    primary_model = LightGBMPipeline(trained / "models" / "primary")
    primary_model.load_model()
    meta_labeler = MetaLabeler(primary_model, trained / "models" / "meta")
    meta_labeler.load_meta_model()
    assert set(primary_model.get_feature_importance()) == set(FEATURES_DOCUMENT)
    found: list[dict[str, Any]] = []
    for _, feature_dict in polled(seed=12, seconds=240):
        X = pd.DataFrame([feature_dict])
        p, p_meta, final_pred = meta_labeler.predict_with_meta(X)
        assert 0 <= p[0] <= 1 and final_pred[0] in (0, 1)
        assert final_pred[0] == 0 or p_meta[0] >= 0.5
        seen = feature_dict["best_arb_opportunity_bps"] > 0
        found.append({"p": p[0], "final": final_pred[0], "seen": seen})
    polls = pd.DataFrame(found)
    assert len(polls) > 800 and polls["seen"].sum() > 10
    assert polls["final"].sum() > 5, "no gem in a market with eight"
    assert polls.loc[polls["final"] == 1, "seen"].all()  # it accepts only what promises a gain
    assert polls.loc[polls["seen"], "p"].median() > 10 * polls.loc[~polls["seen"], "p"].median()


def test_what_a_detector_needs_beyond_the_document_is_named(trained: Path, capsys: Any) -> None:
    "Models of the documented set are for the document's loop; a detector asks rows for more."
    data = read_dataset(trained / "data")
    assert lacking(data)[0] == "best_net_edge_at_size_bps"
    with pytest.raises(InputError, match="needs best_net_edge_at_size_bps"):
        train_gem_models(data, WatchSettings.from_dict(data.made or {}), trained / "other")
    with pytest.raises(InputError, match=r"detector\.json"):
        load_gem_models(trained / "models")
    assert json.loads((trained / "models" / "primary" / "features.json").read_text())
    capsys.readouterr()
