"""Peers with pins of their own live in environments of their own, made in build/peers when needed.

What is in it stands in benchmarks/peers/<name>.txt. Where it cannot be made, for want of uv or of a
package registry, that is said plainly and the benchmark goes on without the peer.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent


def peer_home(name: str, alone: Sequence[str] = (), insist: bool = False) -> Path | None:
    "The folder of a peer's environment, made where it is missing; None where it cannot be made."
    home, needs = HERE.parent / "build/peers" / name, HERE / "peers" / f"{name}.txt"
    uv = Path(sys.executable).with_name("uv")
    pip = [uv, "pip", "install", "-q", "-p", home]
    steps = [[uv, "venv", "-q", "--clear", "-p", "3.11", home], [*pip, "-r", needs]]
    steps += [[*pip, "--no-deps", package] for package in alone]  # their dependencies are not used
    if (home / "ready").exists():
        return home
    try:
        for step in steps:
            subprocess.run(step, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if insist:
            raise
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        print(f"SKIPPED the peer {name}: its environment cannot be made here ({reason})")
        return None
    (home / "ready").touch()
    return home
