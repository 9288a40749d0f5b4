"""A PostgreSQL server of one's own: temporary folder, loopback port, no privileges."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def programs() -> Path | None:
    "The newest server's programs, which Debian keeps off the PATH."
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def free_port() -> int:
    "A port of the loopback address that nobody uses."
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres_server() -> Iterator[str]:  # the address of its database
    "Run a server until it is left; initdb refuses root, who becomes the user postgres."
    where = programs()
    if where is None:
        raise FileNotFoundError(
            "no PostgreSQL on this machine (Debian: apt-get install postgresql)"
        )
    is_root = os.name == "posix" and os.geteuid() == 0
    become = {"user": "postgres", "group": "postgres", "extra_groups": []} if is_root else {}

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [str(where / program), *arguments],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            **become,
        )

    with tempfile.TemporaryDirectory(prefix="gem-pg-") as folder:
        data, port = f"{folder}/data", free_port()
        if is_root:
            shutil.chown(folder, "postgres")
        run("initdb", "-D", data, "-U", "gem", "-A", "trust", "--locale=C.UTF-8", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://gem@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
