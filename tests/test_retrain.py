"Retraining: promoted only above chance, refused otherwise, rolled back, and whole after a kill."

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gem_detector.core import NS_PER_S, InputError
from gem_detector.datasets import Dataset
from gem_detector.feature_stream import FEATURES
from gem_detector.gem_lines import model_hash
from gem_detector.gem_models import load_gem_models
from gem_detector.ledger import ResearchLedger
from gem_detector.line_files import LineFile
from gem_detector.live_commands import add_parsers
from gem_detector.market_watch import WatchSettings
from gem_detector.model_versions import ModelVersions, model_folder
from gem_detector.retrain import earned_by_unit, gain_interval, retrain
from gem_detector.shadow_watch import read_reference

START_S = 1_784_000_000


def candidates(seed: int, hours: tuple[float, float], tells: str, share: float = 0.05) -> Dataset:
    "Rows in which one feature says which trades pay, one every two seconds."
    rng, n = np.random.default_rng(seed), round((hours[1] - hours[0]) * 1_800)
    t0 = (START_S + round(hours[0] * 3_600) + 2 * np.arange(n)) * NS_PER_S
    values = pd.DataFrame(rng.normal(size=(n, len(FEATURES))), columns=list(FEATURES))
    is_gem = rng.random(n) < share
    values[tells] = np.where(is_gem, 3.0, 0.0) + rng.normal(size=n)
    values["best_net_edge_at_size_bps"], values["net_edge_age_ms"] = 5.0, 300.0
    index = pd.Index(t0, name="ts_recv_ns")
    rows = values.set_index(index).assign(is_gem=is_gem.astype(int))
    rows.insert(0, "timestamp", t0 / 1e9)
    side = {
        "t0": t0,
        "t1": t0 + NS_PER_S,
        "net_bps": np.where(is_gem, 8.0, -6.0),
        "weight": 1.0,
        "episode_id": np.where(is_gem, np.cumsum(is_gem) - 1, -1),
        "legs": "arbitrage a>b",
        "trade": "arbitrage a>b",
        "burst_score": 5.0,
    }
    return Dataset(rows, pd.DataFrame(side, index), WatchSettings().to_dict())


@pytest.fixture(scope="module")
def first_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A champion that learned when `ofi` told."
    folder = tmp_path_factory.mktemp("retrain") / "models"
    first = retrain(candidates(0, (0, 2), "ofi"), folder, n_trees=20)
    assert first.is_promoted and first.champion == ""
    return folder


@pytest.fixture
def store(first_models: Path, tmp_path: Path) -> ModelVersions:
    "A store of its own with that champion."
    return ModelVersions(shutil.copytree(first_models, tmp_path / "models"))


def command(*words: str) -> int:
    top = argparse.ArgumentParser()
    add_parsers(top.add_subparsers(required=True))
    args = top.parse_args(words)
    return args.run(args)


def test_promoted_where_the_market_has_changed_and_rolled_back(
    store: ModelVersions, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = retrain(candidates(1, (2, 5), "peg_bps"), store.folder, n_trees=20)
    assert verdict.is_promoted and verdict.low > 0 and verdict.n_episodes >= 30
    ours, theirs = verdict.challenger, verdict.champion_scores
    assert abs(ours["n_signals"] - theirs["n_signals"]) <= 2  # at as many signals
    assert ours["precision"] > theirs["precision"]
    assert store.in_use == "0002" and load_gem_models(model_folder(store.folder))
    assert command("retrain", "--output", str(store.folder), "--rollback", "--json") == 0
    assert store.in_use == "0001" and '"rolled_back": true' in capsys.readouterr().out
    assert store.names() == ["0001", "0002"]  # both are kept


def test_refused_where_nothing_has_changed_and_every_look_is_logged(store: ModelVersions) -> None:
    rows = candidates(2, (2, 5), "ofi")
    verdicts = [retrain(rows, store.folder, n_trees=20) for _ in range(2)]
    assert not any(verdict.is_promoted for verdict in verdicts) and store.in_use == "0001"
    assert [verdict.looks for verdict in verdicts] == [1, 2]
    openings = ResearchLedger(store.folder).page("labelled rows of this store").final_openings()
    assert [opening.is_first for opening in openings] == [True, False]


@pytest.mark.verify
def test_retrained_only_if_the_live_run_calls_for_it(
    store: ModelVersions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live, rows = tmp_path / "live", tmp_path / "rows.parquet"
    live.mkdir()
    candidates(1, (2, 5), "peg_bps").write(rows)
    words = [
        "retrain",
        "--data",
        str(rows),
        "--output",
        str(store.folder),
        "--if-wanted",
        str(live),
    ]
    assert command(*words) == 0 and "nothing calls for new models" in capsys.readouterr().out
    assert store.names() == ["0001"]
    with LineFile(live / "control.jsonl") as file:
        file.append({"what": "retrain", "why": "drift: a test", "model": "of other models"})
        assert command(*words) == 0 and store.names() == ["0001"]
        model = model_hash(model_folder(store.folder))
        file.append({"what": "retrain", "why": "drift: a test", "model": model})
    capsys.readouterr()
    assert command(*words) == 0 and "drift: a test" in capsys.readouterr().out
    assert store.in_use == "0002"
    assert not read_reference(model_folder(store.folder)).empty


def test_too_few_episodes_decide_nothing(store: ModelVersions) -> None:
    verdict = retrain(candidates(3, (2, 5), "peg_bps", share=0.012), store.folder, n_trees=20)
    assert not verdict.is_promoted and "30 are needed" in verdict.reason
    assert verdict.n_episodes < 30


def test_the_period_is_untouched_by_both(store: ModelVersions) -> None:
    "The champion learned until 1:30; of rows that end at 2:00, only what came later is judged."
    verdict = retrain(candidates(0, (0, 2), "ofi"), store.folder, share=0.9, n_trees=20)
    assert pd.Timestamp(verdict.start).value >= (START_S + 1.49 * 3_600) * NS_PER_S


def test_signals_in_one_episode_count_once() -> None:
    data = candidates(4, (0, 0.1), "ofi", share=0.5)
    data.sidecar["episode_id"] = np.where(np.arange(len(data)) < 10, 0, -1)
    rows = np.array([1, 3, 50]), np.array([3, 50, 90])
    earned = earned_by_unit(data, rows)
    net = data.sidecar["net_bps"].to_numpy()
    assert earned.tolist() == [[net[1], net[3]], [net[50], net[50]], [0.0, net[90]]]
    assert gain_interval(np.zeros((0, 2))) == (0.0, 0.0, 0.0)


def test_what_cannot_be_retrained_on_is_refused(tmp_path: Path) -> None:
    data = candidates(5, (0, 1), "ofi")
    with pytest.raises(InputError, match="do not say how they were made"):
        retrain(Dataset(data.rows, data.sidecar), tmp_path)
    with pytest.raises(InputError, match="share between 0 and 1"):
        retrain(data, tmp_path, share=2.0)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_retrain import candidates
from gem_detector.retrain import retrain
rows = candidates(1, (2, 5), "peg_bps")
print("begins", flush=True)
while True:
    print(retrain(rows, {folder!r}, n_trees=20).version, flush=True)
"""


@pytest.mark.verify
@pytest.mark.parametrize("wait_s", [0.05, 0.6, 1.7])
def test_kill_9_in_the_middle_of_retrain(store: ModelVersions, wait_s: float) -> None:
    "Whatever moment it is, a whole version is in use, and the next run goes on."
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(store.folder))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "begins\n"
    time.sleep(wait_s)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    for version in store.names():
        load_gem_models(store.path(version))
    assert store.in_use in store.names()
    ResearchLedger(store.folder).check()
    after = retrain(candidates(9, (5, 7), "ofi"), store.folder, n_trees=20)
    assert after.version == store.names()[-1]
    assert not list((store.folder / "versions").glob(".*.part"))
