"""Run in mlfinpy's own environment: its triple barriers and uniqueness, and its seconds.

    python mlfinpy_run.py CASE.npz LABELS.npz

CASE holds ts_ns, px, t0_ns, horizon_ns and width_bps; LABELS gets t1_ns and weight. The last line
says the seconds, the least of three runs.
"""

import json
import sys
import time

import numpy as np
import pandas as pd
from mlfinpy.labeling.labeling import get_events
from mlfinpy.sampling.concurrent import get_av_uniqueness_from_triple_barrier

case = np.load(sys.argv[1])
close = pd.Series(case["px"], pd.to_datetime(case["ts_ns"]))
entries = pd.to_datetime(case["t0_ns"])
until = pd.Series(pd.to_datetime(case["t0_ns"] + case["horizon_ns"]), entries)
target = pd.Series(float(case["width_bps"]) / 1e4, entries)
spent: dict[str, list[float]] = {"triple barrier": [], "uniqueness": []}
for _ in range(3):
    start = time.perf_counter()
    events = get_events(close, entries, [1, 1], target, 0.0, 1, until, verbose=False)
    spent["triple barrier"].append(time.perf_counter() - start)
    start = time.perf_counter()
    weight = get_av_uniqueness_from_triple_barrier(events, close, 1, verbose=False)
    spent["uniqueness"].append(time.perf_counter() - start)
t1_ns = pd.DatetimeIndex(events["t1"]).as_unit("ns").asi8
np.savez(sys.argv[2], t1_ns=t1_ns, weight=weight["tW"].to_numpy(float))
print(json.dumps({name: min(times) for name, times in spent.items()}))
