"""The watch over a live detector: an account that survives any crash, levels, alarms and drift."""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gem_detector.core import NS_PER_S, InputError
from gem_detector.line_files import LineFile, read_lines
from gem_detector.shadow_watch import ErrorAccount, ShadowWatch, retrain_wanted

START_NS = 1_784_000_000 * NS_PER_S


def state(account: ErrorAccount) -> tuple[Any, ...]:
    made = account.account
    known = deepcopy(
        (account._nulls, account._fresh, account._numbers, account._known, account.why)
    )
    if made is None:
        return known
    return *known, made.null_scores.tolist(), made.is_on, made.next_level, made.realised_fdp


def busy_account(path: Path, seed: int, n: int) -> list[tuple[Any, ...]]:
    "The states of an account after each line, whatever was asked of it."
    rng, account = np.random.default_rng(seed), ErrorAccount(path, "m", q=0.3)
    states, n_lines = [state(account)], 0
    for i in range(n):
        score, is_gem = float(rng.uniform(0.2, 1.0)), bool(rng.random() < 0.3)
        if rng.random() < 0.7:
            account.test(f"{i}", score)
        if len(read_lines(path)) > n_lines:
            states.append(state(account))
        account.settle(f"{i}", score, is_gem)
        states.append(state(account))
        n_lines = len(read_lines(path))
    account.close()
    return states


@pytest.mark.parametrize("seed", range(3))
def test_wherever_a_crash_cuts_the_file_the_account_is_what_it_was(
    tmp_path: Path, seed: int
) -> None:
    path, cut = tmp_path / "control.jsonl", tmp_path / "cut.jsonl"
    states = busy_account(path, seed, 150)
    content, rng = path.read_bytes(), np.random.default_rng(seed)
    assert len(states) == content.count(b"\n") + 1
    for end in [0, len(content), *rng.integers(0, len(content), 60).tolist()]:
        cut.write_bytes(content[:end])
        again = ErrorAccount(cut, "m", q=0.3)
        assert state(again) == states[content[:end].count(b"\n")]
        again.close()
        assert cut.read_bytes() == content[: content[:end].rfind(b"\n") + 1]


def models_in(folder: Path) -> Any:
    for name in ("primary", "meta"):
        (folder / name).mkdir(parents=True)
    (folder / "detector.json").write_text("{}")
    return SimpleNamespace(folder=folder)


def gem(watch: ShadowWatch, number: int, score: float) -> dict[str, Any]:
    return {"id": str(number), "p_primary": score, "role": "gem", "model": watch.model}


def test_levels_rise_with_acceptances_and_false_ones_switch_off(tmp_path: Path) -> None:
    rng, watch = np.random.default_rng(0), ShadowWatch(tmp_path, models_in(tmp_path / "m"), q=0.2)
    watch.warm()
    for i in range(1_300):
        watch.on_settled(gem(watch, i, rng.uniform(0.3, 0.6)), {"is_gem": False})
    watch.on_settled(gem(watch, -1, 0.5), None)  # not known: says nothing
    watch.on_settled(gem(watch, -2, 0.5) | {"role": "near miss"}, {"is_gem": False})
    watch.on_settled(gem(watch, -3, 0.5) | {"model": "older"}, {"is_gem": False})
    watch.on_tick(START_NS)
    assert len(watch.account._known) == 1_300
    told = []
    for i in range(2_000, 2_060):
        one = gem(watch, i, 0.9)
        told.append(watch.judge(one)["acceptance"])
        watch.on_settled(one, {"is_gem": True})
        watch.on_tick(START_NS + i)
    assert all(one["is_accepted"] for one in told) and not watch.wanted
    assert told[50]["level"] > told[2]["level"] > 0
    for i in range(3_000, 3_100):
        one = gem(watch, i, 0.9)
        if watch.judge(one)["acceptance"]["is_accepted"]:
            watch.on_settled(one, {"is_gem": False})
        watch.on_tick(START_NS + i)
        if watch.wanted:
            break
    off = watch.judge(gem(watch, 4_000, 0.99))["acceptance"]
    assert off["is_accepted"] is False and off["level"] == 0
    assert watch.get_stats()["acceptance_is_on"] == 0 and watch.get_stats()["retrain_wanted"] == 1
    for i in range(5_000, 5_040):  # as many new false gems as a calibration needs
        watch.on_settled(gem(watch, i, 0.9), {"is_gem": False})
    watch.on_end()
    assert watch.get_stats()["acceptance_is_on"] == 1  # with nulls that score as high
    assert retrain_wanted(tmp_path, watch.model) == watch.wanted  # and still wanted


def test_what_the_ledger_settled_while_nobody_listened(tmp_path: Path) -> None:
    models = models_in(tmp_path / "m")
    watch = ShadowWatch(tmp_path, models)
    with LineFile(tmp_path / "shadow.jsonl") as file:
        for i in range(3):
            file.append({"what": "asked", **gem(watch, i, 0.5)})
        file.append({"what": "settled", "id": "0", "net_bps": 4.0, "is_gem": True})
        file.append({"what": "settled", "id": "1", "net_bps": None, "why": "no book"})
    for _ in range(2):  # a second start finds nothing new
        watch = ShadowWatch(tmp_path, models)
        watch.warm()
        watch.on_end()
    assert [line["id"] for line in read_lines(tmp_path / "control.jsonl")] == ["0"]


def test_a_file_that_is_no_account_is_refused(tmp_path: Path) -> None:
    (tmp_path / "control.jsonl").write_text('{"what": "settled", "model": "m"}\n')
    with pytest.raises(InputError, match="line 1: no step of an account"):
        ErrorAccount(tmp_path / "control.jsonl", "m")
