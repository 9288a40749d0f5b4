"""Run in the peers' own environment: the folds of purgedcv and RiskLabAI, and purgedcv's seconds.

    python purged_splits_run.py CASES.npz FOLDS.npz

CASES holds t0_<name>, t1_<name> (int64 ns, closed) and embargo_<name>; FOLDS gets train and test
rows as <peer>_<name>_<fold>_train and …_test. The last line says the seconds of purgedcv's splits.
"""

import importlib.util
import json
import sys
import time
import types
from pathlib import Path

import numpy as np
import pandas as pd
import purgedcv

# RiskLabAI's packages import everything they have; only one module is wanted
root = Path(importlib.util.find_spec("RiskLabAI").submodule_search_locations[0])
for name in ("RiskLabAI", "RiskLabAI.backtest", "RiskLabAI.backtest.validation"):
    package = types.ModuleType(name)
    package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    sys.modules[name] = package
from RiskLabAI.backtest.validation.combinatorial_purged import CombinatorialPurged  # noqa: E402

cases, folds, seconds = np.load(sys.argv[1]), {}, {}
for name in sorted(key[3:] for key in cases.files if key.startswith("t0_")):
    t0, t1, embargo = cases[f"t0_{name}"], cases[f"t1_{name}"], int(cases[f"embargo_{name}"])
    X = np.zeros((len(t0), 1))
    if name.startswith("combinatorial"):
        stamps = pd.to_datetime(t0)
        peer = CombinatorialPurged(6, 2, pd.Series(pd.to_datetime(t1), index=stamps))
        pairs = list(peer.split(pd.DataFrame(X, index=stamps)))
    else:
        times = [pd.Series(pd.to_datetime(column)) for column in (t0, t1 + 1)]  # half-open there
        reach = pd.Timedelta(max(embargo - 1, 0), "ns")
        ends = {"prediction_times": times[0], "evaluation_times": times[1]}
        peer = purgedcv.PurgedKFold(6, **ends, embargo=reach)
        spent = []
        for _ in range(7):
            start = time.process_time()
            pairs = list(peer.split(X))
            spent.append(time.process_time() - start)
        seconds[name] = min(spent)
    for i, (train, test) in enumerate(pairs):
        folds |= {f"{name}_{i}_train": np.asarray(train), f"{name}_{i}_test": np.asarray(test)}
np.savez(sys.argv[2], **folds)
print(json.dumps(seconds))
