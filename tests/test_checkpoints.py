"""A training that is killed goes on, and ends with the bytes of one that was not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector.checkpoints import Checkpoint, best_length, train_in_stages
from gem_detector.core import InputError
from gem_detector.gem_classifier import GemClassifier, model_text
from gem_detector.lgbm import LightGBMPipeline

TRAIN = """
import os, signal, sys
import numpy as np, pandas as pd
from gem_detector import checkpoints
from gem_detector.lgbm import LightGBMPipeline
folder, stop_at = sys.argv[1], int(sys.argv[2])
write, calls = checkpoints.write_json, 0
def counted(path, state):
    global calls
    write(path, state)
    calls += 1
    if calls == stop_at:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoints.write_json = counted
rng = np.random.default_rng(0)
X = pd.DataFrame(rng.normal(size=(900, 4)), columns=list("abcd"))
y = (X.a + rng.normal(size=900) > 1).astype(int)
pipeline = LightGBMPipeline(folder, {"num_leaves": 7})
pipeline.train(X, y, 60, 15, horizon=3, checkpoint_every=8)
"""


def trained(folder: Path, stop_at: int) -> int:
    "Train in a process of its own, killed after so many savings (0 = never); its return code."
    command = [sys.executable, "-c", TRAIN, str(folder), str(stop_at)]
    return subprocess.run(command, check=False).returncode


@pytest.mark.verify
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
def test_killed_and_taken_up_again_gives_the_same_bytes(tmp_path: Path) -> None:
    assert trained(tmp_path / "whole", 0) == 0
    assert trained(tmp_path / "parts", 1) == -signal.SIGKILL
    left = json.loads((tmp_path / "parts/checkpoint.json").read_text())
    assert len(left["scores"]) == 8 and not (tmp_path / "parts/model.txt").exists()
    assert trained(tmp_path / "parts", 0) == 0
    for name in LightGBMPipeline.FILES:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert not (tmp_path / "parts/checkpoint.json").exists()


def rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    "Features and a target that depends on two of them."
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(500, 3))
    return X, (X[:, 0] + rng.normal(size=500) > 0).astype(int)


def test_one_stage_is_a_plain_training(tmp_path: Path) -> None:
    X, y = rows(0)
    watched = rows(1)
    plain = GemClassifier(40, 5, num_leaves=7).fit(X, y, eval_set=watched)
    checkpoint = Checkpoint(tmp_path / "checkpoint.json", 40)
    staged = GemClassifier(40, 5, num_leaves=7).fit(X, y, None, watched, checkpoint)
    assert staged.best_iteration_ == plain.best_iteration_ < 40
    texts = [model_text(m.booster_, m.best_iteration_) for m in (plain, staged)]
    assert texts[0].split("\nparameters:")[0] == texts[1].split("\nparameters:")[0]
    assert np.array_equal(plain.predict_proba(X), staged.predict_proba(X))


def test_other_data_or_parameters_start_anew(tmp_path: Path) -> None:
    X, y = rows(0)
    checkpoint = Checkpoint(tmp_path / "checkpoint.json", 5)
    first = GemClassifier(20, num_leaves=7).fit(X, y, checkpoint=checkpoint)
    again = GemClassifier(20, num_leaves=7).fit(X, y, checkpoint=checkpoint)
    assert model_text(first.booster_) == model_text(again.booster_)
    other = GemClassifier(20, num_leaves=6).fit(X, y, checkpoint=checkpoint)
    alone = GemClassifier(20, num_leaves=6).fit(X, y, checkpoint=Checkpoint(tmp_path / "b", 5))
    assert model_text(other.booster_) == model_text(alone.booster_) != model_text(first.booster_)
    turned = GemClassifier(20, num_leaves=7).fit(X, 1 - y, checkpoint=checkpoint)
    assert np.corrcoef(turned.predict_proba(X)[:, 1], first.predict_proba(X)[:, 1])[0, 1] < 0


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 6), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_stages_never_change_where_it_stops(
    tmp_path_factory: pytest.TempPathFactory, scores: list[int], stopping: int, every: int
) -> None:
    def add(model: str, n: int, stage: int) -> tuple[str, list[float]]:
        begin = stage * every
        return model + "x" * n, [float(s) for s in scores[begin : begin + n]]

    checkpoint = Checkpoint(tmp_path_factory.mktemp("stages") / "c.json", every)
    _, found = train_in_stages(checkpoint, "k", add, len(scores), stopping)
    best = 0
    for i, score in enumerate(scores):  # LightGBM's rule, tree by tree
        best = i if score < scores[best] else best
        if i - best >= stopping:
            break
    assert found == best + 1 == best_length(scores, stopping)[0]


def test_what_cannot_have_checkpoints_says_so(tmp_path: Path) -> None:
    X, y = rows(0)
    with pytest.raises(InputError, match="dart changes earlier trees"):
        GemClassifier(5, boosting_type="dart").fit(X, y, checkpoint=Checkpoint(tmp_path / "c"))
    with pytest.raises(InputError, match="every 1 or more"):
        Checkpoint(tmp_path, 0)
    pipeline = LightGBMPipeline(tmp_path, {"num_leaves": 4})
    frame = pd.DataFrame(X, columns=list("abc"))
    with pytest.raises(InputError, match="every 1 or more"):
        pipeline.train(frame, y, 10, 5, horizon=1, checkpoint_every=0)
