"""Importing the package costs no more than half as much again as importing numpy."""

import subprocess
import sys
from collections.abc import Callable
from statistics import median

CLOCK = (
    "import time; start = time.perf_counter_ns(); import {}; print(time.perf_counter_ns() - start)"
)
RUNS = 7  # interleaved, so that a busy moment hits both


def import_ns(module: str) -> int:
    "What one import costs in a fresh interpreter, ns."
    command = [sys.executable, "-c", CLOCK.format(module)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_import_costs_at_most_half_as_much_again_as_numpy(
    record_property: Callable[[str, object], None],
) -> None:
    pairs = [(import_ns("numpy"), import_ns("gem_detector")) for _ in range(RUNS + 1)][1:]
    numpy_ns, package_ns = (median(times) for times in zip(*pairs, strict=True))
    record_property("ratio", round(package_ns / numpy_ns, 3))
    assert package_ns <= 1.5 * numpy_ns, (
        f"{package_ns / 1e6:.1f} ms against {numpy_ns / 1e6:.1f} ms"
    )
