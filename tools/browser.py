"""A headless Chromium for tests and pictures, spoken to over its DevTools protocol.

    with Browser() as browser, browser.page(390, 800, dark=True) as page:
        page.open("http://127.0.0.1:8000/index.html")
        page.value("document.title")
        page.picture(Path("phone.png"))

It reaches this machine only. What a page logs as an error, what it throws, and what it asks for
without an answer is in `page.faults`.
"""

import base64
import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless --no-sandbox --disable-dev-shm-usage --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --hide-scrollbars "
    "--remote-debugging-port=0 --force-color-profile=srgb"
).split()


def found() -> str | None:
    "The browser that GEM_CHROMIUM names, or one that is installed."
    return os.environ.get("GEM_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    "One tab."

    def __init__(self, socket: ClientConnection, session: str) -> None:
        self._socket, self._session, self._number = socket, session, 0
        self.faults: list[str] = []
        self.addresses: list[str] = []  # of everything that was asked for
        self._is_loaded = False

    def call(self, method: str, timeout_s: float = 60.0, **params: Any) -> dict[str, Any]:
        "Ask the browser; gives its answer."
        self._number += 1
        asked = {"id": self._number, "method": method, "params": params}
        self._socket.send(json.dumps(asked | {"sessionId": self._session}))
        end = time.monotonic() + timeout_s
        while (told := self._next(end)).get("id") != self._number:
            pass
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']['message']}")
        return dict(told["result"])

    def _next(self, end: float) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self._socket.recv(timeout=max(end - time.monotonic(), 0)))
        if told.get("sessionId") == self._session and "method" in told:
            self._note(told["method"], told["params"])
        return told

    def _note(self, what: str, told: dict[str, Any]) -> None:
        if what == "Page.loadEventFired":
            self._is_loaded = True
        elif what == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.faults.append(details.get("exception", {}).get("description", details["text"]))
        elif what == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            words = (str(arg.get("value", arg.get("description"))) for arg in told["args"])
            self.faults.append("console: " + " ".join(words))
        elif what == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.faults.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif what == "Network.requestWillBeSent":
            self.addresses.append(told["request"]["url"])

    def open(self, address: str, timeout_s: float = 60.0) -> None:
        "Load an address, to its end."
        self._is_loaded = False
        self.call("Page.navigate", url=address)
        end = time.monotonic() + timeout_s
        while not self._is_loaded:
            self._next(end)
        self.value("new Promise(done => setTimeout(done, 150))")

    def value(self, script: str) -> Any:  # plain data
        "What an expression gives in the page; a promise is awaited."
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True}
        told = self.call("Runtime.evaluate", **asked)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{script[:80]}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def wait(self, script: str, timeout_s: float = 30.0) -> None:
        "Until an expression is true."
        end = time.monotonic() + timeout_s
        while not self.value(script):
            if time.monotonic() > end:
                raise TimeoutError(f"not true after {timeout_s:g} s: {script[:120]}")
            time.sleep(0.1)

    def picture(self, path: Path, clip: dict[str, float] | None = None) -> None:
        "Write what is to be seen as a PNG."
        options = {} if clip is None else {"clip": clip | {"scale": 1}}
        told = self.call("Page.captureScreenshot", format="png", **options)
        path.write_bytes(base64.b64decode(told["data"]))


class Browser:
    "Chromium with a profile of its own, gone afterwards."

    def __init__(self) -> None:
        if (program := found()) is None:
            raise FileNotFoundError(
                "no Chromium on this machine (Debian: apt-get install chromium)"
            )
        self._program = program

    def __enter__(self) -> Self:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        only_here = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost"
        command = [self._program, *FLAGS, only_here, f"--user-data-dir={self._profile.name}"]
        self._process = subprocess.Popen(
            [*command, "about:blank"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if match := re.search(r"listening on (ws://\S+)", line):
                self._address = match[1]
                break
        else:
            raise RuntimeError("Chromium ended before it was ready")
        drain = Thread(target=self._process.stderr.read, daemon=True)  # a full pipe would stop it
        drain.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._profile.cleanup()

    @contextmanager
    def page(self, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Page]:
        "A new tab of a size in pixels, in one of the two colour schemes."
        with connect(self._address, max_size=None) as socket:
            socket.send(json.dumps({"id": 1, "method": "Target.createTarget",
                                    "params": {"url": "about:blank"}}))  # fmt: skip
            target = _answer(socket, 1)["targetId"]
            attach = {"targetId": target, "flatten": True}
            socket.send(json.dumps({"id": 2, "method": "Target.attachToTarget", "params": attach}))
            top = Page(socket, _answer(socket, 2)["sessionId"])
            for domain in ("Page", "Runtime", "Log", "Network"):
                top.call(f"{domain}.enable")
            size = {"width": width, "height": height, "deviceScaleFactor": 1}
            top.call("Emulation.setDeviceMetricsOverride", **size, mobile=width < 600)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            top.call("Emulation.setEmulatedMedia", features=[scheme])
            try:
                yield top
            finally:
                socket.send(json.dumps({"id": 3, "method": "Target.closeTarget",
                                        "params": {"targetId": target}}))  # fmt: skip
                _answer(socket, 3)


def _answer(socket: ClientConnection, number: int) -> dict[str, Any]:
    "The answer to a question of the browser itself."
    while (told := json.loads(socket.recv(timeout=60))).get("id") != number:
        pass
    return dict(told["result"])


class _Quiet(SimpleHTTPRequestHandler):
    "Serves files and says nothing."

    def log_message(self, *_: object) -> None:
        "Nothing."


@contextmanager
def served(folder: Path) -> Iterator[str]:  # its address
    "A folder on this machine's loopback, as a web server would show it."
    handler = functools.partial(_Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
