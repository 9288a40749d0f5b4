"""The models against the simple rules on planted markets, ten seeds pooled, at as many signals.

Simulated prices. Markets come straight from their tapes, without the way over sockets that the
demo takes; what is decided is the same for the same events.
"""

import argparse
import json
import tempfile
from typing import Any

import numpy as np
from tqdm import tqdm

from gem_detector.detector import detect
from gem_detector.market_watch import watch_frame
from gem_detector.planting import tape_books, tape_events
from gem_detector.signals import precision_gain
from gem_detector.trial import TrialResult, judge, learn, planted_trial


def judged(seed: int) -> TrialResult:
    "One trial: learn on the first half, detect in the second."
    trial = planted_trial(seed)
    options: dict[str, Any] = {"fees": trial.desk.fees, "names": trial.names}
    books = tape_books(trial.market)
    frame = watch_frame(tape_events(trial.market), trial.settings, **options)
    with tempfile.TemporaryDirectory() as folder:
        learned = learn(trial, frame[frame.index < trial.middle_ns], books, folder)
    events = tape_events(trial.market)
    gems = list(detect(events, learned.models, from_ns=trial.middle_ns, **options))
    return judge(trial, learned, frame, gems, books)


def pooled(results: list[TrialResult]) -> dict[str, dict[str, Any]]:
    "The models against each simple rule, all minutes of all seeds."
    blocks = {
        name: np.concatenate([result.blocks[name] for result in results])
        for name in results[0].blocks
    }
    ours = blocks.pop("models")
    return {name: precision_gain(ours, theirs) for name, theirs in blocks.items()}


def main() -> None:
    "Run and print."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0 (10)")
    results = [judged(seed) for seed in tqdm(range(parser.parse_args().seeds))]
    planted, found = (sum(getattr(r, what) for r in results) for what in ("planted", "found"))
    print(f"planted {planted}, found {found} (simulated)")
    for name, gain in pooled(results).items():
        interval = f"{gain['gain']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
        counts = f"{gain['n_signals']} / {gain['baseline_n_signals']} signals"
        both = f"{gain['precision']:.3f} against {gain['baseline_precision']:.3f}"
        print(f"{name:36} {both}, {interval} {gain['verdict']}, {counts}")
    print(json.dumps(pooled(results)))


if __name__ == "__main__":
    main()
