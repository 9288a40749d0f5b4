"""`gem-detector walk-forward` and `tune`: real days, both kinds of rows, clear mistakes."""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gem_detector.core import InputError
from gem_detector.datasets import Dataset
from gem_detector.learning_commands import add_parsers

FIRST = 1_782_864_000  # 2026-07-01, s


def run(*arguments: object) -> int:
    "Run a command through the hook that the command line uses."
    top = argparse.ArgumentParser(prog="gem-detector")
    add_parsers(top.add_subparsers(dest="command", required=True))
    args = top.parse_args([str(argument) for argument in arguments])
    return int(args.run(args))


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    "The last line that was printed."

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    last = capsys.readouterr().out.splitlines()[-1]
    found: dict[str, Any] = json.loads(last, parse_constant=refuse)
    return found


def planted(n: int = 1_200, seed: int = 0) -> pd.DataFrame:
    "An hour a row, with a rule to be found."
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(rng.normal(size=(n, 3)), columns=["gap", "flow", "noise"])
    p = 1 / (1 + np.exp(2.5 - 2 * rows.gap - rows.flow))
    rows["is_gem"] = (rng.random(n) < p).astype(int)
    return rows.assign(timestamp=FIRST + 3_600 * np.arange(n))


def dataset(path: Path) -> Path:
    "The same rows with a sidecar."
    rows = planted()
    t0 = rows.timestamp.to_numpy() * 10**9
    index = pd.Index(t0, name="ts_recv_ns")
    known = {"t0": t0, "t1": t0 + 7_200 * 10**9, "net_bps": np.where(rows.is_gem == 1, 9.0, -4.0)}
    known |= {"weight": 1.0, "episode_id": np.where(rows.is_gem == 1, np.arange(len(rows)), -1)}
    sidecar = pd.DataFrame({**known, "legs": "a>b"}).set_index(index)
    order = ["timestamp", "gap", "flow", "noise", "is_gem"]
    Dataset(rows[order].astype({"timestamp": float}).set_index(index), sidecar).write(path)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    "A plain table."
    planted().to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


WINDOWS = ("--train-days", 20, "--test-days", 5, "--min-train-rows", 100, "--trees", 30)


# --- walk-forward


def july(folder: Path) -> list[object]:
    "27 days of minutes, triple barrier within 20 minutes."
    asked: list[object] = ["walk-forward", folder / "coinbase-btcusd-1m-2026-07"]
    asked += ["--time", "minute_utc", "--features", "book_imb", "ofi", "trades", "volume"]
    asked += ["buy_share", "--price", "close", "--barrier-bps", 15, "--horizon-minutes", 20]
    return [*asked, "--trees", 40, "--json"]


def test_july_from_the_command_line(
    gem_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = [*july(gem_data), "--out", tmp_path, "--train-days", 10, "--test-days", 3]
    assert run(*ask) == 0
    found = result(capsys)
    assert found["n_windows"] == found["n_scored"] == 5 and found["purged"]
    assert 30_000 < found["rows"] < 38_880  # of 27 days of minutes, without holes and unknown ends
    said = pd.read_csv(tmp_path / "all_predictions.csv")
    assert len(said) == found["pooled_n_rows"] and said.probability.between(0, 1).all()
    shifted = []
    for rows in (5 * 1_440, 11 * 1_440, 20_000):
        run(*ask, "--shift-labels", rows)
        shifted.append(result(capsys)["pooled_roc_auc"])
    assert np.abs(np.array(shifted) - 0.5).max() <= 0.03


def test_the_documents_windows_do_not_fit_july(gem_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one window needs 37 days") as told:
        run(*july(gem_data), "--out", tmp_path / "walk")
    assert "\n" not in str(told.value) and not (tmp_path / "walk").exists()


def test_a_plain_table_and_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    "The same rows by both ways; only the sidecar knows what they earn."
    plain = tmp_path / "plain.parquet"
    planted().to_parquet(plain)
    out = ("--json", "--out", tmp_path / "walk")
    assert run("walk-forward", plain, *WINDOWS, *out, "--horizon-minutes", 120) == 0
    first = result(capsys)
    assert run("walk-forward", dataset(tmp_path / "rows.parquet"), *WINDOWS, *out) == 0
    second = result(capsys)
    assert first["pooled_roc_auc"] == second["pooled_roc_auc"] > 0.7
    assert "pooled_net_bps" not in first and second["pooled_net_bps"] is not None
    assert first["n_windows"] == 6


def test_without_a_horizon_it_says_so(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match="not purged"):
        run("walk-forward", table, *WINDOWS, "--out", tmp_path / "walk")
    assert "NOT purged" in capsys.readouterr().out


def test_sliding_expanding_steps_and_jobs(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ("walk-forward", table, *WINDOWS, "--horizon-minutes", 120, "--json")
    run(*ask, "--out", tmp_path / "one")
    one = result(capsys)
    run(*ask, "--out", tmp_path / "two", "--jobs", 2)
    two = result(capsys)
    assert {**one, "out": 0} == {**two, "out": 0}
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    run(*ask, "--out", tmp_path / "three", "--expanding", "--step-days", 10)
    sizes = pd.read_csv(tmp_path / "three" / "window_results.csv").n_train
    assert len(sizes) == 3 and (np.diff(sizes) > 0).all()


# --- tune


def test_tune_goes_on(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    "Three trials and then three more are the six of one run; its best goes into a walk-forward."
    ask: tuple[object, ...] = ("tune", table, "--horizon-minutes", 120, "--trees", 20, "--json")
    ask += ("--study", "s", "--metric", "roc_auc", "--folds", 3)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(*ask, "--trials", 6, "--out", whole)
    one = result(capsys)
    run(*ask, "--trials", 3, "--out", parts)
    assert sum(result(capsys)["trials"].values()) == 3
    run(*ask, "--trials", 6, "--out", parts, "--storage", "journal")
    two = result(capsys)
    assert {**one, "out": 0} == {**two, "out": 0} and sum(two["trials"].values()) == 6
    best = parts / "best_params.json"
    assert json.loads(best.read_text()) == two["best_params"]
    out = ("--params", best, "--out", tmp_path / "walk", "--json")
    run("walk-forward", table, *WINDOWS, "--horizon-minutes", 120, *out)
    assert result(capsys)["pooled_roc_auc"] > 0.7


@pytest.mark.verify
def test_a_killed_tune_goes_on(table: Path, tmp_path: Path) -> None:
    "SIGKILL in the middle; the same command again ends with the file of a run left alone."
    ask = ["tune", str(table), "--horizon-minutes", "120", "--trees", "40", "--study", "s"]
    ask += ["--metric", "roc_auc", "--folds", "3", "--trials", "12"]
    command = "import sys; from gem_detector.cli import main; sys.exit(main(sys.argv[1:]))"

    def begun(out: str) -> subprocess.Popen[bytes]:
        arguments = [*ask, "--out", str(tmp_path / out)]
        return subprocess.Popen(
            [sys.executable, "-c", command, *arguments], stdout=subprocess.DEVNULL
        )

    killed, journal = begun("killed"), tmp_path / "killed/s.journal"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and killed.poll() is None:
        if journal.exists() and journal.read_text().count('"op_code":4') >= 4:
            break
        time.sleep(0.005)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL and not (tmp_path / "killed/best_params.json").exists()
    assert begun("killed").wait(120) == 0 and begun("alone").wait(120) == 0
    best = [(tmp_path / name / "best_params.json").read_bytes() for name in ("killed", "alone")]
    assert best[0] == best[1]


def test_tune_tells_how_much_may_be_luck(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = dataset(tmp_path / "rows.csv")
    ask = ("--trials", 4, "--folds", 3, "--trees", 15, "--nested", 2, "--pruner", "none")
    run("tune", rows, *ask, "--out", tmp_path / "study", "--json")
    luck = result(capsys)["overfitting"]
    assert luck["nested_score"] is not None and luck["n_trials"] == 4


# --- mistakes


@pytest.mark.parametrize(
    "wrong, told",
    [
        (("walk-forward", "none.csv"), "no such file|No such file"),
        (("walk-forward", "rows.txt"), "needs a .parquet or .csv table"),
        (("walk-forward", "TABLE", "--time", "when"), "no column 'when'; there are gap"),
        (("walk-forward", "TABLE", "--features", "gap", "gab"), "no columns gab; there are gap"),
        (("walk-forward", "TABLE", "--price", "gap"), "both a price column and barrier_bps"),
        (("walk-forward", "TABLE", "--params", "none.json"), "none.json"),
        (("walk-forward", "TABLE", "--dask", "tcp://127.0.0.1:1"), "no dask scheduler answers at"),
        (("tune", "TABLE", "--storage", "nothing"), "is no address of a database"),
    ],
)
def test_mistakes_are_one_sentence(
    table: Path, tmp_path: Path, wrong: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "--dask" in wrong:
        pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    asked = [table if word == "TABLE" else word for word in wrong]
    with pytest.raises(InputError, match=told) as error:
        run(*asked, "--horizon-minutes", 60)
    assert "\n" not in str(error.value)


def test_a_password_is_never_repeated(table: Path, tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    address = "postgresql+psycopg://me:hush-hush@127.0.0.1:1/trials"
    with pytest.raises(InputError, match="storage of the trials cannot be used") as error:
        run("tune", table, "--horizon-minutes", 60, "--storage", address, "--out", tmp_path)
    assert "hush" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [("--train-days", "0"), ("--trees", "nan"), ("--jobs", "x")])
def test_numbers_are_checked(wrong: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as end:
        run("walk-forward", "rows.csv", *wrong)
    assert end.value.code == 2
