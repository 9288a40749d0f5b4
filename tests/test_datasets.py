"""Datasets over many days: by partition as in one go, out of core, after a kill, on a cluster."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector.barriers import average_uniqueness
from gem_detector.core import NS_PER_S, Event, Gap, InputError
from gem_detector.costs import FeeTable
from gem_detector.dataset_commands import add_parsers
from gem_detector.datasets import labelled, read_dataset
from gem_detector.day_jobs import DAY_NS
from gem_detector.decisions import GemRule
from gem_detector.event_days import coins_of, events_between
from gem_detector.execution import BookColumns
from gem_detector.feature_days import feature_days
from gem_detector.feature_stream import FeatureSettings, Sampler
from gem_detector.label_days import Judged, label_days, weigh_days
from gem_detector.labels import episodes_of, label_gems
from gem_detector.market_watch import WatchSettings, watch_frame
from gem_detector.pairs import BasisRule
from gem_detector.planting import Desk, planted_market, tape_events
from gem_detector.recorder import EventWriter, read_events

DAY0 = 20_500 * DAY_NS
DESK = Desk()
BASIS = BasisRule(window_s=30.0, min_seen_s=10.0, hold_s=DESK.hold_s)
FEATURE = FeatureSettings(notional=DESK.notional, basis=BASIS)
SETTINGS = WatchSettings(feature=FEATURE, sampler=Sampler(step_ms=100.0), fee_tiers=DESK.fees.tiers)
RULE = GemRule(DESK.notional, latency_ms=DESK.latency_ms, basis=BASIS)


def moved(event: Event, by_ns: int) -> Event:
    "The same event at another time."
    names = ("ts_event_ns", "ts_recv_ns", "ts_engine_ns", "ts_send_ns")
    known = [name for name in names if hasattr(event, name)]
    return replace(event, **{name: getattr(event, name) + by_ns for name in known})


def write_days(folder: Path, n_days: int) -> Path:
    "Two minutes around each of some midnights; in the second hour of the night a feed has a gap."
    market, _ = planted_market(seed=5, minutes=2, gems=2, decoys=0, desk=DESK)
    events = list(tape_events(market))
    with EventWriter(folder, 10) as writer:
        for day in range(n_days - 1):
            by_ns = DAY0 + day * DAY_NS - 60 * NS_PER_S - market.start_ns
            for event in events:
                writer.write(moved(event, by_ns))
            last = moved(events[-1], by_ns)
            writer.write(Gap("binance", "BTC/USDT", last.ts_recv_ns + 1, "reconnect", -1, -1))
    return folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_days(tmp_path_factory.mktemp("days") / "recording", 4)


def tree(folder: Path) -> dict[str, bytes]:
    "Every file that is no state of a run."
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {str(path.relative_to(folder)): path for path in files}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith(".")}


def rows_in(folder: Path) -> pd.DataFrame:
    files = sorted(folder.glob("coin=*/date=*/rows.parquet"))
    return pd.concat([pd.read_parquet(file) for file in files]).set_index("ts_recv_ns")


@pytest.fixture(scope="module")
def made(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    "Rows and labelled rows, in this process."
    home = tmp_path_factory.mktemp("made")
    feature_days(recording, home / "rows", settings=SETTINGS)
    label_days(recording, home / "rows", home / "data", rule=RULE)
    return home / "rows", home / "data"


# --- as in one go


def test_slices_of_a_recording_are_the_whole(recording: Path) -> None:
    (coin,) = coins_of(recording)
    whole = read_events(recording)
    cuts = [0, *(DAY0 + k * DAY_NS + 7 * NS_PER_S for k in range(4)), 2 * DAY0]
    parts = [e for a, b in pairwise(cuts) for e in events_between(coin.files, a, b)]
    assert len(whole) == len(parts) > 10_000
    alike = (type(a) is type(b) and a.ts_recv_ns == b.ts_recv_ns for a, b in zip(whole, parts))
    assert all(alike)
    assert all(a.same_as(b) if hasattr(a, "same_as") else a == b for a, b in zip(whole, parts))


def test_rows_by_day_are_those_of_one_run(recording: Path, made: tuple[Path, Path]) -> None:
    whole = watch_frame(read_events(recording), SETTINGS)
    pd.testing.assert_frame_equal(rows_in(made[0]), whole, check_exact=True)
    assert len(sorted(made[0].glob("coin=BTC/date=*"))) == 4


def test_labels_by_day_are_those_of_one_run(recording: Path, made: tuple[Path, Path]) -> None:
    events = read_events(recording)
    own: dict[str, list[Event]] = {}
    for event in events:
        own.setdefault(f"{event.exchange} {event.symbol}", []).append(event)
    books = {name: BookColumns.from_events(one) for name, one in sorted(own.items())}
    frame = watch_frame(events, SETTINGS)
    fees = FeeTable(tiers=SETTINGS.fee_tiers)
    labels = label_gems(frame.index.to_numpy(), books, RULE, fees=fees)
    side = frame[["legs", "burst_score"]].rename(columns={"legs": "trade"})
    whole = labelled(frame.drop(columns=["legs", "burst_score"]), labels, side)
    data = read_dataset(made[1])
    pd.testing.assert_frame_equal(data.rows, whole.rows, check_exact=True)
    pd.testing.assert_frame_equal(data.sidecar, whole.sidecar, check_exact=True)
    assert data.rows["is_gem"].sum() > 10 and len(labels) > len(data)  # some are not known
    t0, t1 = data.sidecar["t0"], data.sidecar["t1"]
    assert ((t0 // DAY_NS) < (t1 // DAY_NS)).any()  # one is settled by the next day's books


@given(
    st.lists(
        st.tuples(st.integers(0, 900), st.integers(0, 5_000), st.booleans(), st.integers(0, 2)),
        min_size=1,
        max_size=60,
    ),
    st.lists(st.integers(0, 60), max_size=8),
)
@settings(max_examples=200, deadline=None)
def test_weights_and_episodes_do_not_depend_on_the_days(
    rows: list[tuple[int, int, bool, int]], cuts: list[int]
) -> None:
    step, length, is_gem, leg = (np.array(column) for column in zip(*rows))
    t0 = np.cumsum(step) * 10**6
    net = np.where((step % 7 == 0) & ~is_gem, np.nan, 1.0)
    whole = Judged(t0, t0 + length * 10**6, net, is_gem, leg)
    known = np.isfinite(net)
    ends = [0, *sorted(min(cut, len(t0)) for cut in cuts), len(t0)]
    days = [Judged(*(column[a:b] for column in whole)) for a, b in pairwise(ends)]
    found = list(weigh_days(iter(days)))
    weight = average_uniqueness(whole.t0[known], whole.t1[known])
    assert np.array_equal(np.concatenate([day.weight for day in found]), weight)
    if len(np.unique(t0)) == len(t0):  # two rows of one time have no order in which they began
        ids = episodes_of(t0, is_gem, leg).row[known]
        assert np.array_equal(np.concatenate([day.episode_id for day in found]), ids)


# --- again, after a kill, elsewhere


def test_nothing_is_done_twice_and_a_change_is_noticed(recording: Path, tmp_path: Path) -> None:
    rows, data = tmp_path / "rows", tmp_path / "data"
    assert all(day["is_new"] for day in feature_days(recording, rows, settings=SETTINGS))
    before = tree(rows)
    assert not any(day["is_new"] for day in feature_days(recording, rows, settings=SETTINGS))
    assert tree(rows) == before
    label_days(recording, rows, data, rule=RULE)
    labels = tree(data)
    assert not any(day["is_new"] for day in label_days(recording, rows, data, rule=RULE))
    third = sorted(rows.glob("coin=BTC/date=*/rows.parquet"))[2]
    third.write_bytes(third.read_bytes()[:-1])
    for path in (rows / ".state").rglob("*.pickle"):
        path.unlink()  # the state is got back from the recording
    news = [day["is_new"] for day in feature_days(recording, rows, settings=SETTINGS)]
    assert news == [False, False, True, False] and tree(rows) == before
    other = replace(RULE, min_net_bps=20.0)
    assert all(day["is_new"] for day in label_days(recording, rows, data, rule=other))
    label_days(recording, rows, data, rule=RULE)
    assert tree(data) == labels


def test_a_day_that_is_added_makes_only_its_neighbour_anew(tmp_path: Path) -> None:
    short, long = write_days(tmp_path / "short", 3), write_days(tmp_path / "long", 4)
    feature_days(short, tmp_path / "rows", settings=SETTINGS)
    news = [day["is_new"] for day in feature_days(long, tmp_path / "rows", settings=SETTINGS)]
    assert news == [False, False, True, True]
    feature_days(long, tmp_path / "whole", settings=SETTINGS)
    assert tree(tmp_path / "rows") == tree(tmp_path / "whole")


JOB = """
import sys
from test_datasets import RULE, SETTINGS, feature_days, label_days
kind, recording, rows, data = sys.argv[1:]
if kind == "features":
    feature_days(recording, rows, settings=SETTINGS)
else:
    label_days(recording, rows, data, rule=RULE)
import resource
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def job(*arguments: object) -> subprocess.Popen:
    "Run in a process of its own."
    here = os.fspath(Path(__file__).parent)
    paths = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", JOB, *map(str, arguments)]
    environ = os.environ | {"PYTHONPATH": paths}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)


def killed(folder: Path, n: int, *arguments: object) -> None:
    "Start a job and kill it when it has made n days."
    process, until = job(*arguments), time.monotonic() + 900  # a hang, not a slow machine
    try:
        while len(list(folder.glob("coin=*/date=*/stamp.json"))) < n:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()


def test_killed_and_resumed_gives_identical_files(
    recording: Path, made: tuple[Path, Path], tmp_path: Path
) -> None:
    rows, data = tmp_path / "rows", tmp_path / "data"
    killed(rows, 2, "features", recording, rows, data)
    assert len(list(rows.glob("coin=*/date=*"))) < 4
    days = feature_days(recording, rows, settings=SETTINGS)
    assert [day["is_new"] for day in days][:2] == [False, False] and days[-1]["is_new"]
    assert tree(rows) == tree(made[0])
    killed(data / ".drafts", 2, "label", recording, rows, data)
    label_days(recording, rows, data, rule=RULE)
    assert tree(data) == tree(made[1])
    assert not list(tmp_path.rglob("*.part"))


def test_processes_side_by_side_give_identical_files(
    recording: Path, made: tuple[Path, Path], tmp_path: Path
) -> None:
    warm = [tmp_path / name for name in ("one", "two")]
    label_days(recording, made[0], tmp_path / "data", rule=RULE, n_jobs=2)
    assert tree(tmp_path / "data") == tree(made[1])
    for out, n_jobs in zip(warm, (1, 2)):
        feature_days(recording, out, settings=SETTINGS, warmup_s=90, n_jobs=n_jobs)
    assert tree(warm[0]) == tree(warm[1])
    assert rows_in(warm[0]).index.equals(rows_in(made[0]).index)


@pytest.fixture
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with (
        distributed.LocalCluster(processes=False, **options) as local,
        distributed.Client(local) as client,
    ):
        yield client


def test_dask_gives_identical_files(
    recording: Path, made: tuple[Path, Path], tmp_path: Path, cluster: Any
) -> None:
    with joblib.parallel_config("dask"):
        feature_days(recording, tmp_path / "rows", settings=SETTINGS)
        label_days(recording, tmp_path / "rows", tmp_path / "data", rule=RULE)
    assert tree(tmp_path / "rows") == tree(made[0])
    assert tree(tmp_path / "data") == tree(made[1])


@pytest.mark.verify
def test_thirty_days_in_the_memory_of_four(
    tmp_path: Path, cluster: Any, record_property: Callable[[str, object], None]
) -> None:
    "Memory flat with days; killed and resumed, and on dask, the same files."
    peaks = {}
    for n in (4, 30):
        recording = write_days(tmp_path / f"recording-{n}", n)
        out = tmp_path / f"rows-{n}", tmp_path / f"data-{n}"
        for kind in ("features", "label"):
            process = job(kind, recording, *out)
            told, _ = process.communicate(timeout=600)
            assert process.returncode == 0
            peaks[kind, n] = int(told) / 1024
    for kind in ("features", "label"):
        record_property(
            f"{kind}, MB", f"{peaks[kind, 4]:.0f} of 4 days, {peaks[kind, 30]:.0f} of 30"
        )
        assert peaks[kind, 30] < peaks[kind, 4] * 1.05
    rows, data = tmp_path / "rows", tmp_path / "data"
    killed(rows, 11, "features", recording, rows, data)
    with joblib.parallel_config("dask"):
        days = feature_days(recording, rows, settings=SETTINGS)
        assert 10 < sum(not day["is_new"] for day in days) < 30
        killed(data / ".drafts", 11, "label", recording, rows, data)
        label_days(recording, rows, data, rule=RULE)
    assert tree(rows) == tree(tmp_path / "rows-30")
    assert tree(data) == tree(tmp_path / "data-30")


# --- the command line


def run(*arguments: object) -> int:
    "A command through a line that knows only these two."
    top = argparse.ArgumentParser(prog="gem-detector")
    add_parsers(top.add_subparsers(dest="command", required=True))
    args = top.parse_args(list(map(str, arguments)))
    return int(args.run(args))


def test_commands_make_a_dataset_that_can_be_read(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, data = tmp_path / "rows", tmp_path / "data"
    tiers = [f"--tier={venue}={tier}" for venue, tier in DESK.fees.tiers.items()]
    size = ["--step-ms", 500, "--notional", DESK.notional, *tiers]
    assert run("features", recording, "--out", rows, *size, "--json") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["days"] == said["new"] == 4 and said["rows"] == len(rows_in(rows))
    assert run("label", recording, rows, "--out", data, "--latency", "binance=40", "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    read = read_dataset(data)
    assert told["known"] == len(read) and told["gems"] == read.rows["is_gem"].sum()
    assert WatchSettings.from_dict(read.made or {}).feature.notional == DESK.notional


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["features", "NOTHING"], "no such folder"),
        (["label", "RECORDING", "NOTHING"], "no rows of BTC on"),
        (["features", "RECORDING", "--tier", "okx=gold"], "no fee tier 'gold'"),
        (["features", "RECORDING", "--offset", "okx=soon"], "a number of ms is wanted"),
    ],
)
def test_wrong_input_is_told_in_a_sentence(
    recording: Path, tmp_path: Path, arguments: list[str], wrong: str
) -> None:
    names = {"NOTHING": tmp_path / "nothing", "RECORDING": recording}
    given = [names.get(argument, argument) for argument in arguments]
    with pytest.raises(InputError, match=wrong):
        run(*given, "--out", tmp_path / "out")


def test_an_hour_of_others_becomes_a_dataset(
    gem_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    "LINK/USDT on two venues: imported, features, labels; at base fees nothing is a gem."
    folder, recording = gem_data / "link-binance-htx-2021-08-20", tmp_path / "recording"
    for name, venue in (("bnc", "binance"), ("hb", "htx")):
        path, where = (
            folder / f"orderbook_{name}.csv.gz",
            ["--venue", venue, "--symbol", "LINK/USDT"],
        )
        assert run("import", "ten_level_csv", path, *where, "--out", recording, "--json") == 0
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert said["events"] == {"OrderBookSnapshots": 3_600} and said["left_out"] == {}
    assert run("features", recording, "--out", tmp_path / "rows", "--step-ms", 1_000) == 0
    rows = rows_in(tmp_path / "rows")
    assert (rows["best_gross_edge_bps"] > 0).sum() == 659 and len(rows) == 3_599
    assert run("label", recording, tmp_path / "rows", "--out", tmp_path / "data", "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["gems"] == 0 < told["known"]


@pytest.mark.parametrize("wrong", [["--step-ms", "0"], ["--tier", "okx"], ["--warmup", "x"]])
def test_wrong_arguments_end_with_two(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run("features", "recording", *wrong)
    assert left.value.code == 2
