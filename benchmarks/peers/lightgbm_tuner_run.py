"""Run in the peer's own environment: what LightGBMTunerCV chooses in each outer fold.

    python lightgbm_tuner_run.py CASES.npz FOUND.json

CASES holds X_<name>, y_<name> of the training part of each outer fold, and the arrays n_trials and
rounds; FOUND gets the parameters and the number of trees for each. The tuner works in steps; once
it has made its trials, each later step still makes one, so it has a few more than asked for.
"""

import json
import sys
from pathlib import Path

import lightgbm as lgb
import numpy as np
import optuna
from optuna_integration.lightgbm import LightGBMTunerCV

optuna.logging.set_verbosity(optuna.logging.WARNING)
cases, found = np.load(sys.argv[1]), {}
n_trials, rounds = int(cases["n_trials"]), int(cases["rounds"])
for name in sorted(key[2:] for key in cases.files if key.startswith("X_")):
    made = []

    def enough(study: optuna.Study, trial: optuna.trial.FrozenTrial, made: list = made) -> None:
        "End a step once all trials are made."
        made.append(trial.number)
        if len(made) >= n_trials:
            study.stop()

    params = {"objective": "binary", "metric": "binary_logloss", "verbosity": -1, "num_threads": 1}
    tuner = LightGBMTunerCV(
        params,
        lgb.Dataset(cases[f"X_{name}"], cases[f"y_{name}"]),
        num_boost_round=rounds,
        nfold=5,
        seed=0,
        callbacks=[lgb.early_stopping(50, verbose=False)],
        optuna_callbacks=[enough],
        optuna_seed=0,
        return_cvbooster=True,
        show_progress_bar=False,
    )
    tuner.run()
    trees = tuner.get_best_booster().best_iteration
    found[name] = {"params": tuner.best_params, "trees": int(trees), "n_trials": len(made)}
Path(sys.argv[2]).write_text(json.dumps(found))
