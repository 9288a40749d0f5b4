"""How things show themselves in a notebook: complete, short, and safe with any text."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage

from gem_detector.aggregator import MultiExchangeAggregator
from gem_detector.core import OrderBookSnapshot, StreamState
from gem_detector.demo import DemoResult
from gem_detector.gem_models import load_gem_models
from gem_detector.hpo import HyperparameterOptimizer, MultiObjectiveOptimizer
from gem_detector.intervals import Rows
from gem_detector.lgbm import LightGBMPipeline
from gem_detector.markets import instrument
from gem_detector.meta_labeling import MetaLabeler
from gem_detector.stream_face import stream_card
from gem_detector.streams import BybitOrderBookStream, make_stream
from gem_detector.tables import card_html, shown, table_html
from gem_detector.walk_forward import WalkForwardOptimizer

HOSTILE = '<script>alert("&1")</script><img src=x onerror=alert(1)>'
OURS = {"div", "span", "style", "table", "thead", "tbody", "tr", "th", "td"}


class Tags(HTMLParser):
    "The tags, attributes and text of a page."

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        "Note a tag."
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        "Note a text."
        self.words.append(data)


def check_safe(html: str) -> Tags:
    "Only our own tags, with no attribute but `class`."
    seen = Tags(html)
    assert seen.tags <= OURS and seen.attributes <= {"class"}, seen.tags - OURS
    return seen


texts = st.text(alphabet=st.sampled_from("<>&\"'/=` ab\x00\nü"), max_size=12)


@given(st.dictionaries(texts, texts | st.floats() | st.none(), max_size=4), texts)
def test_any_text_is_escaped(row: dict[str, object], title: str) -> None:
    check_safe(card_html(title, row, [row, {title: title}]))
    check_safe(table_html([row]))


def test_a_hostile_symbol_stays_text() -> None:
    levels = np.array([[100.0, 1.0]])
    book = OrderBookSnapshot(HOSTILE, HOSTILE, 1, 1, levels, levels + 1, 1, StreamState.SYNCED)
    seen = check_safe(stream_card(f"{HOSTILE} {HOSTILE}", {"state": HOSTILE}, book))
    assert HOSTILE in "".join(seen.words)
    board = MultiExchangeAggregator(
        {HOSTILE: instrument("binance", "BTC/USDT"), "<b>": instrument("bybit", "BTC/USDT")}
    )
    assert HOSTILE in "".join(check_safe(board._repr_html_()).words)


@pytest.mark.parametrize("venue", ["binance", "bybit", "okx", "htx"])
def test_a_stream_shows_its_state_and_no_key(venue: str) -> None:
    stream = make_stream(venue, "BTC/USDT", api_key="k3y-that", api_secret="nobody-sees")
    words = "".join(check_safe(stream._repr_html_()).words)
    assert "CONNECTING" in words and "BTC/USDT" in words
    for text in (repr(stream), stream._repr_html_()):
        assert "k3y-that" not in text and "nobody-sees" not in text


def test_an_aggregator_says_what_does_not_count() -> None:
    board = MultiExchangeAggregator({"bybit": BybitOrderBookStream("BTC/USDT:USDT")})
    assert repr(board).startswith("MultiExchangeAggregator(bybit: ")
    words = check_safe(board._repr_html_()).words
    assert "bybit" in words and "does not count because" in words


def test_models_show_their_scores_trained_or_not(planted_demo: DemoResult, tmp_path: Path) -> None:
    models = load_gem_models(planted_demo.folder / "models")
    for thing in (models, models.primary, models.meta):
        words = check_safe(thing._repr_html_()).words
        assert {"roc_auc", "precision"} & set(" ".join(words).split())
        assert len(repr(thing)) < 400 and str(planted_demo.folder) not in repr(thing)
    blank = LightGBMPipeline(tmp_path / HOSTILE.replace("/", "_"))
    assert "not trained" in check_safe(blank._repr_html_()).words[1]
    assert "not trained" in repr(MetaLabeler(blank, tmp_path / "meta"))
    check_safe(MetaLabeler(blank, tmp_path / "meta")._repr_html_())


def rows(n: int = 600) -> pd.DataFrame:
    "A planted signal in two features, one of which has a hostile name."
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(n, 2)), columns=["a", "<i>b"])
    stamps = 1_782_864_000 + 60 * np.arange(n)
    return X.assign(timestamp=stamps, is_gem=(X.a + rng.normal(size=n) > 1).astype(int))


def test_a_study_shows_its_best_trials(tmp_path: Path) -> None:
    frame = rows()
    study = HyperparameterOptimizer(HOSTILE, tmp_path, n_trials=3, storage=InMemoryStorage())
    assert "trials 0" in " ".join(check_safe(study._repr_html_()).words)
    assert not list(tmp_path.iterdir()), "to be shown it opens nothing"
    study.optimize_lightgbm(
        frame[["a"]], frame.is_gem, metric="roc_auc", horizon=Rows(1), n_splits=2, num_boost_round=5
    )
    words = check_safe(study._repr_html_()).words
    values = study.get_study_summary()["roc_auc"].dropna()
    at = {value: words.index(shown(float(value))) for value in values}
    assert min(at, key=at.__getitem__) == study.best_score and len(at) >= 1
    two = MultiObjectiveOptimizer("two", tmp_path, n_trials=2, storage=InMemoryStorage())
    assert "n_trials=2" in repr(two) and check_safe(two._repr_html_())


def test_a_walk_forward_shows_its_windows(tmp_path: Path) -> None:
    walk = WalkForwardOptimizer(
        Rows(300), Rows(100), Rows(100), results_dir=tmp_path, min_train_size=100
    )
    assert "not run" in repr(walk) and check_safe(walk._repr_html_())
    walk.run_optimization(rows(), ["a"], num_boost_round=5, horizon=Rows(1))
    seen = check_safe(walk._repr_html_())
    assert {"window", "roc_auc", "scored"} <= set(seen.words) and "3 windows" in repr(walk)
    assert json.loads((tmp_path / "aggregate_metrics.json").read_text())["n_windows"] == 3
