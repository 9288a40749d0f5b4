"""Metrics: what Prometheus reads, and what it must never see."""

import gc
import threading
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gem_detector.aggregator import MultiExchangeAggregator
from gem_detector.core import InputError, StreamState
from gem_detector.metrics import Metrics, StatsCollector, start_metrics_server
from gem_detector.streams import BybitOrderBookStream, CoinbaseOrderBookStream

SECRET = "sk-4e6f-do-not-tell"


class Counts:
    "A source that counts."

    def __init__(self, **stats: Any) -> None:
        self.stats = stats

    def get_stats(self) -> dict[str, Any]:
        "What it counts."
        return self.stats


class Restless(Counts):
    "A source that changes while it is asked."

    def __init__(self, times: int) -> None:
        super().__init__(rows=3)
        self.times = times

    def get_stats(self) -> dict[str, Any]:
        "What it counts, after a few attempts."
        self.times -= 1
        if self.times >= 0:
            raise RuntimeError("dictionary changed size during iteration")
        return self.stats


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    "What a scrape reads, parsed by Prometheus' own parser."
    families = text_string_to_metric_families(metrics.text())
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


def test_a_scrape_over_http_reads_it_all() -> None:
    metrics, stream = Metrics(), BybitOrderBookStream("BTC/USDT:USDT")
    metrics.collector.watch("bybit", stream)
    metrics.track_prediction("primary", {"a": 1.0}, 1, 0.9)
    with start_metrics_server(0, metrics=metrics) as server:
        page = urlopen(server.url, timeout=5).read().decode()
        assert server.url == f"http://127.0.0.1:{server.port}/metrics"
    found = {s.name for f in text_string_to_metric_families(page) for s in f.samples}
    assert {"gem_predictions_total", "gem_stream_state", "gem_stream_reconnects_total"} <= found
    with pytest.raises(OSError):
        urlopen(server.url, timeout=1)


def test_a_state_is_one_line_of_many() -> None:
    metrics, stream = Metrics(), BybitOrderBookStream("BTC/USDT:USDT")
    metrics.collector.watch("bybit", stream)
    states = {
        dict(k[1])["state"]: v for k, v in samples(metrics).items() if k[0] == "gem_stream_state"
    }
    assert set(states) == {str(state) for state in StreamState} and sum(states.values()) == 1


def test_no_secret_leaves() -> None:
    stream = CoinbaseOrderBookStream(
        "BTC/USD", api_key=SECRET, api_secret=SECRET, api_password=SECRET
    )
    other = Counts(
        state="SYNCED",
        exchange="x",
        symbol="y",
        market_type="spot",
        rejected={f"bad frame {SECRET}": 2},
        callback_errors={f"on_book {SECRET}": 1},
        failed_requests=[f"/time?key={SECRET}"],
        counts={f"odd {SECRET}": 1, "book": 4},
    )
    sick = Counts(failures={"bybit": f"refused {SECRET}"}, note=SECRET, n=1)
    metrics = Metrics()
    for name, source in (("coinbase", stream), ("other", other), ("sick", sick)):
        metrics.collector.watch(name, source)
    text = metrics.text()
    assert SECRET not in text and "sk-" not in text
    found = {
        name: value
        for (name, labels), value in samples(metrics).items()
        if ("source", "other") in labels
    }
    assert (
        found["gem_stream_rejected_total"] == 2 and found["gem_stream_callback_errors_total"] == 1
    )
    assert found["gem_stream_events_total"] == 4


def test_an_aggregator_tells_which_quotes_are_wrong() -> None:
    streams = {"a": BybitOrderBookStream("BTC/USDT:USDT"), "b": CoinbaseOrderBookStream("BTC/USD")}
    both, metrics = MultiExchangeAggregator(streams), Metrics()
    metrics.collector.watch("all", both)
    wrong = {dict(k[1])["name"]: v for k, v in samples(metrics).items() if k[0] == "gem_trouble"}
    assert set(wrong) >= {"a", "b"} and wrong["a"] == 1.0


def test_a_source_that_ended_is_forgotten() -> None:
    collector, source = StatsCollector(), Counts(rows=1)
    collector.watch("one", source)
    assert list(collector.collect())
    del source
    gc.collect()
    assert not list(collector.collect())
    again = Counts(rows=2)
    collector.watch("one", again)  # the name is free again
    assert list(collector.collect())


@pytest.mark.parametrize(("times", "up"), [(2, 1.0), (50, 0.0)])
def test_a_source_that_changes_is_asked_again(times: int, up: float) -> None:
    metrics, source = Metrics(), Restless(times)
    metrics.collector.watch("restless", source)
    source.times = times
    found = {name: value for (name, _), value in samples(metrics).items()}
    assert found["gem_source_up"] == up and ("gem_count" in found) == bool(up)


def test_an_error_of_ours_is_not_hidden() -> None:
    class Broken(Counts):
        def get_stats(self) -> dict[str, Any]:
            raise KeyError("a mistake")

    metrics, source = Metrics(), Broken()
    metrics.collector.watch("broken", source)
    with pytest.raises(KeyError):
        metrics.text()


def test_predictions_from_many_threads_are_all_counted() -> None:
    metrics = Metrics()

    def track() -> None:
        for i in range(500):
            metrics.track_prediction("primary", {"a": float("nan")}, i % 2, 0.5)

    threads = [threading.Thread(target=track) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = samples(metrics)
    counts = [v for (name, _), v in found.items() if name == "gem_predictions_total"]
    assert counts == [1_000.0, 1_000.0]
    assert found[("gem_missing_features_total", frozenset({("model", "primary")}))] == 2_000


def test_a_port_in_use_is_told() -> None:
    taken = start_metrics_server(0, metrics=Metrics())
    with taken, pytest.raises(InputError, match="cannot serve metrics"):
        start_metrics_server(taken.port, metrics=Metrics())
    with pytest.raises(InputError, match="cannot serve metrics"):
        start_metrics_server(70_000, metrics=Metrics())
