"""Print the requirements in settings.ini, one a line: what requirements.lock is made from."""

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEYS = ("requirements", "jupyter_requirements", "cluster_requirements", "dev_requirements")


def requirements() -> list[str]:
    "Every requirement once, in the order of settings.ini."
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return list(dict.fromkeys(" ".join(config["DEFAULT"][key] for key in KEYS).split()))


if __name__ == "__main__":
    print("\n".join(requirements()))
