"""The models against the simple rules on planted markets, ten seeds pooled, at as many signals.

Simulated prices. Markets come straight from their tapes, without the way over sockets that the
demo takes; what is decided is the same for the same events.
"""

import argparse
import json
import tempfile

from tqdm import tqdm

from gem_detector.trial import (
    TrialResult,
    judge_on_tapes,
    learn_on_tapes,
    planted_trial,
    pooled_gains,
)


def judged(seed: int) -> TrialResult:
    "One trial: learn on the first half, detect in the second."
    trial = planted_trial(seed)
    with tempfile.TemporaryDirectory() as folder:
        return judge_on_tapes(trial, learn_on_tapes(trial, folder))


def main() -> None:
    "Run and print."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0 (10)")
    results = [judged(seed) for seed in tqdm(range(parser.parse_args().seeds))]
    planted, found = (sum(getattr(r, what) for r in results) for what in ("planted", "found"))
    print(f"planted {planted}, found {found} (simulated)")
    for name, gain in pooled_gains(results).items():
        interval = f"{gain['gain']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
        counts = f"{gain['n_signals']} / {gain['baseline_n_signals']} signals"
        both = f"{gain['precision']:.3f} against {gain['baseline_precision']:.3f}"
        print(f"{name:36} {both}, {interval} {gain['verdict']}, {counts}")
    print(json.dumps(pooled_gains(results)))


if __name__ == "__main__":
    main()
