"""Run in the peers' own environment: PBO and Sharpe statistics of purgedcv and RiskLabAI.

    python overfitting_run.py CASES.npz FOUND.npz

CASES holds performance_<name> (bars x configurations), partitions_<name>, and the arrays `returns`
(series x bars), `n_trials` and `var_sharpe`; FOUND gets what each peer makes of them. The last line
says purgedcv's seconds for each case of PBO.
"""

import importlib.util
import json
import sys
import time
import types
from pathlib import Path

import numpy as np
import purgedcv

# RiskLabAI's packages import everything they have; only two modules are wanted
root = Path(importlib.util.find_spec("RiskLabAI").submodule_search_locations[0])
for name in ("RiskLabAI", "RiskLabAI.backtest"):
    package = types.ModuleType(name)
    package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    sys.modules[name] = package
from RiskLabAI.backtest import probability_of_backtest_overfitting as risklab  # noqa: E402
from RiskLabAI.backtest.probabilistic_sharpe_ratio import (  # noqa: E402
    probabilistic_sharpe_ratio,
)


def sharpe(returns: np.ndarray, risk_free: float) -> float:
    "The Sharpe ratio as the paper has it; RiskLabAI's own is compiled and the same up to ddof."
    return float((returns - risk_free).mean() / returns.std(ddof=1))


cases, found, seconds = np.load(sys.argv[1]), {}, {}
for name in sorted(key[12:] for key in cases.files if key.startswith("performance_")):
    matrix, n = cases[f"performance_{name}"], int(cases[f"partitions_{name}"])
    start = time.perf_counter()
    theirs = purgedcv.probability_of_backtest_overfitting(matrix.T, n)
    seconds[name] = time.perf_counter() - start
    found |= {f"pbo_purgedcv_{name}": theirs.pbo, f"logits_purgedcv_{name}": theirs.logits}
    pbo, logits = risklab.probability_of_backtest_overfitting(matrix, n, metric=sharpe)
    found |= {f"pbo_risklabai_{name}": pbo, f"logits_risklabai_{name}": logits}
rows = []
for returns, n_trials, var in zip(cases["returns"], cases["n_trials"], cases["var_sharpe"]):
    all_about = purgedcv.deflated_sharpe_ratio_full(returns, int(n_trials), float(var))
    psr = purgedcv.probabilistic_sharpe_ratio(returns, 0.0)
    moments = (all_about.skew, all_about.kurt)
    length = purgedcv.min_track_record_length(all_about.observed_sr, 0.0, 0.05, *moments)
    about = (all_about.observed_sr, 0.0, len(returns), *moments)
    rows.append([psr, all_about.dsr, length, probabilistic_sharpe_ratio(*about)])
np.savez(sys.argv[2], **found, sharpe=np.array(rows))
print(json.dumps(seconds))
