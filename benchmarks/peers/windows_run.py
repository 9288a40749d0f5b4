"""Run in the peer's own environment: the windows of skfolio's WalkForward, in its row modes.

    python windows_run.py CASES.json FOUND.json

CASES lists cases with n, train_size, test_size, purged_size, expand_train and reduce_test; FOUND
gets the train and test rows of each.
"""

import json
import sys
from pathlib import Path

import numpy as np
from skfolio.model_selection import WalkForward

found = []
for case in json.loads(Path(sys.argv[1]).read_text()):
    rows = np.arange(case.pop("n")).reshape(-1, 1)
    found.append([[part.tolist() for part in pair] for pair in WalkForward(**case).split(rows)])
Path(sys.argv[2]).write_text(json.dumps(found))
