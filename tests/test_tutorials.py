"""The document's complete examples: tutorials run as scripts, and the example as it stands."""

import ast
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from notebooks import NBS, cells

from gem_detector.hpo import HyperparameterOptimizer
from gem_detector.lgbm import LightGBMPipeline
from gem_detector.meta_labeling import MetaLabeler
from gem_detector.walk_forward import WalkForwardOptimizer

# --- the live example


async def executed(name: str) -> dict[str, Any]:
    "Run the code cells of a tutorial in one loop: what it leaves behind."
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells(NBS / f"{name}.ipynb"):
        if cell.kind == "code":
            code = compile(cell.tree, cell.where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            waiting = eval(code, names)
            if waiting is not None:
                await waiting
    return names


@pytest.fixture(scope="module")
def live() -> dict[str, Any]:
    "What the live tutorial leaves behind: its models too."
    matplotlib.use("Agg")
    before = os.environ.get("OMP_NUM_THREADS")
    try:
        return asyncio.run(executed("tutorial_live"))
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


@pytest.mark.verify  # the notebook itself runs with all notebooks
def test_live_example(live: dict[str, Any]) -> None:
    "At least one planted gem in 120 polls, and none on an empty market."
    polls, quiet = live["polls"], live["quiet"]
    assert len(polls) == len(quiet) == 120
    printed = polls[polls["is_gem"]]
    assert (printed["planted"] == "gem").sum() >= 1
    gems = live["truth"].query("label == 'gem'")
    for ts_ns, legs in printed.query("planted == 'gem'")[["ts_recv_ns", "legs"]].to_numpy():
        is_on = (gems["start_ns"] <= ts_ns) & (ts_ns <= gems["end_ns"] + 100_000_000)
        assert gems["legs"][is_on].isin(legs).any()
    assert not quiet["is_gem"].any() and (quiet["edge_bps"] == 0).all()


@pytest.mark.verify
@pytest.mark.parametrize("seed", [4, 5, 6, 7])
def test_live_example_on_other_markets(
    live: dict[str, Any], seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    "The same models and loop on markets that the tutorial does not show."
    market, truth = live["planted_market"](seed, 6, 8, decoys=2, desk=live["DESK"])
    polls = asyncio.run(live["on_emulator"](market, live["main"]))
    planted = [
        label for label, gem in zip(live["planted_at"](polls, truth), polls["is_gem"]) if gem
    ]
    assert planted.count("gem") >= 1 and len(planted) - planted.count("gem") <= 1
    assert capsys.readouterr().out.count("GEM DETECTED") == len(planted)
    empty, _ = live["planted_market"](seed + 10, 4, 0, desk=live["DESK"])
    quiet = asyncio.run(live["on_emulator"](empty, live["main"]))
    assert len(quiet) == 120 and not quiet["is_gem"].any()


@pytest.mark.verify
def test_live_example_is_the_same_twice(
    live: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    "A market and its models give the same polls, bit for bit."
    polls = asyncio.run(live["on_emulator"](live["empty"], live["main"]))
    names = ["ts_recv_ns", "edge_bps", "p_primary", "p_meta", "is_burst"]
    assert polls[names].equals(live["quiet"][names]) and not capsys.readouterr().out


# --- the training example


def run_as_script(name: str, folder: Path, limit_s: float) -> str:
    "Run the code of a tutorial in a plain Python process; gives what it prints."
    code = [cell.source for cell in cells(NBS / f"{name}.ipynb") if cell.kind == "code"]
    script = folder / f"{name}.py"
    script.write_text("\n\n".join(code), encoding="utf-8")
    environment = os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, script.name],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.verify  # the notebook itself runs with all notebooks
def test_training_example_runs_in_five_minutes(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    begun = time.monotonic()
    printed = run_as_script("tutorial_training", tmp_path, limit_s=300)
    record_property("seconds", round(time.monotonic() - begun))
    for words in ("Mean F1: 0.", "Top Stable Features:", "walk-forward       : F1 0."):
        assert words in printed
    assert [path.name for path in tmp_path.iterdir()] == ["tutorial_training.py"]


@pytest.mark.verify  # the notebook itself runs with all notebooks
def test_cluster_tutorial_leaves_nothing_behind(tmp_path: Path) -> None:
    "It compares the files itself; with PostgreSQL it says who made the trials."
    printed = run_as_script("tutorial_cluster", tmp_path, limit_s=400)
    assert "SKIPPED" in printed or "workers made trials" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["tutorial_cluster.py"]


def historical_features(path: Path) -> None:
    "A file as the document has it: 45 days, a row every quarter of an hour, a planted signal."
    n, rng = 45 * 96, np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(n, 4)), columns=list("abcd"))
    p = 1 / (1 + np.exp(-(2 * X.a + X.b - 2.5)))
    stamps = 1_782_864_000 + 900 * np.arange(n)
    X.assign(timestamp=stamps, is_gem=(rng.random(n) < p).astype(int)).to_csv(path, index=False)


def test_training_example_word_for_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Its calls with our import paths and fewer trials; it is told that nothing was purged."
    historical_features(tmp_path / "historical_features.csv")
    monkeypatch.chdir(tmp_path)

    df = pd.read_csv("historical_features.csv")
    feature_cols = [c for c in df.columns if c not in ["timestamp", "is_gem"]]
    hp_optimizer = HyperparameterOptimizer(
        study_name="gem_detector", storage_dir=Path("optuna"), n_trials=3
    )
    X_train, X_val = df[feature_cols][:1000], df[feature_cols][1000:1500]
    y_train, y_val = df["is_gem"][:1000], df["is_gem"][1000:1500]
    with pytest.warns(UserWarning, match="neither t1 nor horizon"):
        best_params = hp_optimizer.optimize_lightgbm(X_train, y_train, X_val, y_val, metric="f1")
        primary_pipeline = LightGBMPipeline(model_dir=Path("models/primary"), params=best_params)
        X, y = primary_pipeline.prepare_features(df, feature_cols, "is_gem")
        metrics = primary_pipeline.train(X, y)
        meta_labeler = MetaLabeler(
            primary_model=primary_pipeline, meta_model_dir=Path("models/meta")
        )
        meta_metrics = meta_labeler.train_meta_model(X, y)
        wf_optimizer = WalkForwardOptimizer(
            train_window_size=timedelta(days=30),
            test_window_size=timedelta(days=7),
            step_size=timedelta(days=7),
            results_dir=Path("results/walk_forward"),
        )
        wf_results = wf_optimizer.run_optimization(df, feature_cols, "is_gem", "timestamp")
    agg_metrics = wf_optimizer.get_aggregate_metrics()
    stability = wf_optimizer.get_feature_stability()

    assert metrics.roc_auc > 0.7 and not metrics.purged and not meta_metrics.purged
    assert len(wf_results) == 2 and agg_metrics["mean_f1"] > 0.4 and agg_metrics["std_f1"] >= 0
    assert not agg_metrics["purged"] and stability.head(10).feature[0] == "a"
    for folder, names in (
        ("results/walk_forward", WalkForwardOptimizer.FILES),
        ("models/primary", ("model.txt", "params.json", "metrics.json", "features.json")),
        ("models/meta", ("best_params.json",)),
        ("optuna", ("best_params.json",)),
    ):
        assert all(Path(folder, name).exists() for name in names)


# --- a venue of one's own


def test_a_venue_can_be_added(tmp_path: Path) -> None:
    "The toy venue passes what every venue has to pass, in a plain process."
    printed = run_as_script("tutorial_add_venue", tmp_path, limit_s=200)
    assert "200 books, all as they should be" in printed and "40 of 40 losses noticed" in printed
