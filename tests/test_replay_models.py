"""From recordings to feature rows, models, scores and gems, by the command line."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gem_detector.cli import main
from gem_detector.demo import DemoResult


def last_line(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_recording_is_scored_as_it_was_live(
    planted_demo: DemoResult, tmp_path: Path, capsys
) -> None:
    rows = tmp_path / "scored.parquet"
    asked = ["--models", str(planted_demo.folder / "models"), "--features", str(rows), "--json"]
    assert main(["replay", str(planted_demo.folder / "recording"), *asked]) == 0
    said, scored, live = last_line(capsys), pd.read_parquet(rows), planted_demo.frame()
    assert said["rows"] == len(scored) == len(live) and len(said["feeds"]) == 4
    names = list(planted_demo.trial.settings.features)
    assert np.array_equal(scored[names].to_numpy(), live[names].to_numpy(), equal_nan=True)
    later = live.index >= planted_demo.trial.middle_ns
    p = np.array([decision.p_primary for decision in planted_demo.decisions])
    assert np.array_equal(scored["p_primary"].to_numpy()[later], p[later], equal_nan=True)
    start_ns = (
        planted_demo.trial.middle_ns + 10**9
    )  # a signal just before would be merged with one after
    found = [gem["ts_recv_ns"] for gem in said["gems"] if gem["ts_recv_ns"] > start_ns]
    assert found == [gem.ts_recv_ns for gem in planted_demo.gems if gem.ts_recv_ns > start_ns]


def test_train_writes_the_documented_files(
    planted_demo: DemoResult, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "models"
    rows = str(planted_demo.folder / "rows.parquet")
    assert main(["train", rows, "--out", str(folder), "--json"]) == 0
    said = last_line(capsys)
    assert said["rows"] == len(planted_demo.learned.data)
    four = {"model.txt", "params.json", "metrics.json", "features.json"}
    assert {path.name for path in (folder / "primary").iterdir()} == four
    assert {path.name for path in (folder / "meta").iterdir()} == {*four, "best_params.json"}
    for part in ("primary", "meta"):
        for path in (folder / part).iterdir():
            assert (
                path.read_bytes()
                == (planted_demo.folder / "models" / part / path.name).read_bytes()
            )


def test_train_takes_the_number_of_trees(planted_demo: DemoResult, tmp_path: Path, capsys) -> None:
    rows = str(planted_demo.folder / "rows.parquet")
    assert main(["train", rows, "--out", str(tmp_path / "few"), "--trees", "7"]) == 0
    assert (tmp_path / "few" / "primary" / "model.txt").read_text().count("Tree=") == 7


def test_real_frames_of_two_markets_give_feature_rows(
    gem_data: Path, tmp_path: Path, capsys
) -> None:
    folder = gem_data / "binance-2024-08-08"
    out = tmp_path / "rows.csv"
    asked = ["--venue", "binance", "--symbol", "BTC/USDT", "--features", str(out), "--json"]
    also = ["--also", "binance", "BTC/USDT:USDT", str(folder / "usdm_btcusdt.gz")]
    assert main(["replay", str(folder / "spot_btcusdt.gz"), *asked, *also]) == 0
    said, rows = last_line(capsys), pd.read_csv(out)
    assert said["rows"] == len(rows) > 100 and len(said["feeds"]) == 2
    assert (rows["max_price_spread_bps"] >= 0).all()


def test_a_folder_of_something_else_is_not_replaced(
    planted_demo: DemoResult, tmp_path: Path, capsys
) -> None:
    thesis = tmp_path / "mine" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.touch()
    rows = str(planted_demo.folder / "rows.parquet")
    for command in (["train", rows], ["demo"]):
        assert main([*command, "--out", str(thesis.parent)]) == 2
        assert "holds other things" in capsys.readouterr().err and thesis.exists()


@pytest.mark.parametrize("wrong", ["folder", "rows", "models", "suffix", "one market"])
def test_mistakes_are_one_sentence(
    planted_demo: DemoResult, tmp_path: Path, capsys, wrong: str
) -> None:
    recording, empty = str(planted_demo.folder / "recording"), tmp_path / "empty"
    empty.mkdir()
    models = str(planted_demo.folder / "models")
    one = next((planted_demo.folder / "recording").rglob("*binance*"), None)
    arguments = {
        "folder": ["replay", str(empty)],
        "rows": ["train", str(tmp_path / "none.parquet"), "--out", str(tmp_path / "m")],
        "models": ["replay", recording, "--models", str(empty)],
        "suffix": ["replay", recording, "--features", str(tmp_path / "rows.txt")],
        "one market": ["replay", str(one), "--models", models],
    }[wrong]
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and said.startswith("gem-detector: ")
    assert not (tmp_path / "m").exists() and not (tmp_path / "rows.txt").exists()
