"""Run in alibi-detect's own environment: its scores and its seconds, as .npy and JSON.

    python alibi_detect_run.py SERIES.npy SCORES.npy WINDOW...

The last line says the seconds for the whole series and, for each window, for one new point.
"""

import json
import sys
import time

import numpy as np
from alibi_detect.od import SpectralResidual

series_file, scores_file, *windows = sys.argv[1:]
x = np.load(series_file)
detector = SpectralResidual(
    threshold=3.0, window_amp=3, window_local=21, n_est_points=5, n_grad_points=5
)
start = time.perf_counter()
scores = detector.score(x)
seconds = {"series": time.perf_counter() - start}
np.save(scores_file, scores)
for size in map(int, windows):
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        for i in range(200):
            detector.score(x[i : i + size])
        best = min(best, (time.perf_counter() - start) / 200)
    seconds[str(size)] = best
print(json.dumps(seconds))
