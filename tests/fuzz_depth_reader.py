"""Look for bytes on which the depth reader and the venue's parser disagree, or it trips over.

    python tests/fuzz_depth_reader.py SECONDS [FILE ...]     also the frames in these files, first

Two ways, by NUMBA_DISABLE_JIT. With 1 the kernels run as plain Python, and where atheris is there
(`pip install atheris`) it watches which lines a changed frame reaches and goes on from new ones.
Without, frames are changed at random and go to the compiled kernels; start it with
NUMBA_BOUNDSCHECK=1 and without a kernel cache, and an index outside an array ends the run.
"""

import os
import random
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np

from gem_detector.core import MalformedMessage
from gem_detector.depth_forms import (
    ASKS,
    BIDS,
    ENGINE,
    FIRST,
    LAST,
    N_FIELDS,
    OTHER,
    PREV,
    SEND,
    SHORTEST_LEVEL,
    depth_form,
)
from gem_detector.venues.binance import BinanceProtocol
from gem_detector.venues.bybit import BybitProtocol
from gem_detector.wire import DELTA, BookMessage

try:
    import atheris
except ImportError:
    atheris = None

IS_PLAIN = os.environ.get("NUMBA_DISABLE_JIT") == "1"
if atheris is not None and IS_PLAIN:
    with atheris.instrument_imports():
        depth_reader = import_module("gem_detector.depth_reader")
else:
    depth_reader = import_module("gem_detector.depth_reader")

CHANNELS = {"binance": "depth@100ms", "bybit": "orderbook.50"}
PROTOCOLS = [
    BinanceProtocol("spot"),
    BinanceProtocol("linear"),
    BybitProtocol("spot"),
    BybitProtocol("linear"),
]
FORMS = [
    depth_form(one.exchange, one.market_type, "BTCUSDT", CHANNELS[one.exchange])
    for one in PROTOCOLS
]
LAST_MS = (2**63 - 1) // 1_000_000
TOKENS = [
    b'["',
    b'","',
    b'"],["',
    b'"]]',
    b"[]",
    b"0",
    b"00",
    b".",
    b"0.1",
    b"1e5",
    b"-1",
    b"9" * 18,
    b"9" * 19,
    b"9007199254740993",
    b"0.00000000",
    b"999999999999999.9",
    b" ",
    b"\\u0030",
    b'"x":1,',
    b"}",
    b"\x00",
    b"\x07",
    b"\xff",
]


def filled(form: bytes, bids: bytes, asks: bytes, numbers: list[int]) -> bytes:
    "A frame of a form."
    for code in (FIRST, LAST, PREV, ENGINE, SEND, OTHER):
        form = form.replace(bytes([code]), b"%d" % numbers[code % len(numbers)])
    return form.replace(bytes([BIDS]), bids).replace(bytes([ASKS]), asks)


SEEDS = [
    filled(form, bids, asks, [1723161255208, 50093239189, 50093239202, 1723161255210])
    for form in FORMS
    for bids, asks in (
        (b'[["61737.63000000","0.00000000"],["61730.17","12"]]', b"[]"),
        (b"[]", b'[["0.07053","307404"]]'),
        (b"[]", b"[]"),
    )
]


def said(message: BookMessage) -> tuple:
    "What a parser says of a delta, in comparable form."
    ids = message.first_id, message.last_id, message.prev_id
    stamps = message.ts_engine_ns, message.ts_send_ns
    return *ids, *stamps, message.bids, message.asks, message.venue_symbol, message.channel


def check(which: int, frame: bytes) -> bool:
    "Whether the reader takes a frame; fails when the parser reads something else in it."
    protocol, form = PROTOCOLS[which % len(FORMS)], FORMS[which % len(FORMS)]
    fields = np.full(N_FIELDS, -1, np.int64)
    levels = np.empty((len(frame) // SHORTEST_LEVEL + 1, 2))
    n = depth_reader.read_depth(frame, form, fields, levels)
    if n < 0 or max(fields[ENGINE], fields[SEND]) > LAST_MS or fields[LAST] < 2:
        return False  # the kernel around the reader leaves these to the parser
    try:
        (message,) = protocol.parse(frame)
    except MalformedMessage as error:
        raise AssertionError(f"taken, but the parser refuses: {error}: {frame!r}") from error
    assert isinstance(message, BookMessage) and message.kind == DELTA, frame
    rows = [tuple(row) for row in levels[:n].tolist()]
    first, last, prev = (int(fields[code]) for code in (FIRST, LAST, PREV))
    first = first if first >= 0 else last
    prev = prev if prev >= 0 else first - 1
    stamps = [max(int(fields[code]), 0) * 1_000_000 for code in (ENGINE, SEND)]
    bids, asks = rows[: fields[BIDS]], rows[fields[BIDS] :]
    channel = CHANNELS[protocol.exchange]
    assert said(message) == (first, last, prev, *stamps, bids, asks, "BTCUSDT", channel), frame
    return True


def changed(rng: random.Random, frame: bytes) -> bytes:
    "A frame with a few random changes."
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        i, j = sorted((rng.randrange(len(frame) + 1), rng.randrange(len(frame) + 1)))
        kind = rng.randrange(6)
        if kind == 0:
            frame = frame[:i] + bytes([rng.randrange(256)]) + frame[i + 1 :]
        elif kind == 1:
            frame = frame[:i] + rng.choice(TOKENS) + frame[i:]
        elif kind == 2:
            frame = frame[:i] + rng.choice(TOKENS) + frame[min(j, i + 4) :]
        elif kind == 3:
            frame = frame[:i] + frame[min(j, i + rng.randrange(1, 40)) :]
        elif kind == 4:
            frame = frame[:j] + frame[i:j] + frame[j:]
        else:
            frame = frame[:i]
    return frame


def fuzz_at_random(seconds: float, frames: list[tuple[int, bytes]]) -> None:
    "Change frames until the time is over; what was taken may be changed further."
    rng, pool, n_taken, n = random.Random(1), list(frames), 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        which, frame = rng.choice(pool)
        frame = changed(rng, frame)
        n += 1
        if check(which, frame):
            n_taken += 1
            if frame and len(frame) < 20_000:
                pool[rng.randrange(len(frames), len(pool) + 1) :] = [(which, frame)]
                del pool[len(frames) + 500 :]
    assert n_taken > 0 and n > 0, "nothing was tried"
    print(f"{n} frames tried, {n_taken} taken")


def fuzz_by_coverage(seconds: float) -> None:
    "Let atheris look for frames that reach new lines; does not return."

    def one(data: bytes) -> None:
        if data:
            check(data[0], data[1:])

    folder = Path(os.environ["FUZZ_CORPUS"])
    for number, seed in enumerate(SEEDS):
        (folder / f"seed{number}").write_bytes(bytes([number // 3]) + seed)
    limit = f"-max_total_time={max(int(seconds), 1)}"
    atheris.Setup([sys.argv[0], str(folder), limit, "-seed=1", "-max_len=4096"], one)
    atheris.Fuzz()


def assert_bounds_are_checked() -> None:
    "An array that is too short on purpose is found."
    try:
        depth_reader.read_depth(SEEDS[0], FORMS[0], np.zeros(3, np.int64), np.empty((9, 2)))
    except IndexError:
        return
    raise AssertionError("an index outside an array was not found")


def main() -> None:
    "Fuzz for as long as the command line says."
    if os.environ.get("NUMBA_BOUNDSCHECK") == "1":
        assert_bounds_are_checked()
    seconds = float(sys.argv[1])
    frames = [(number // 3, seed) for number, seed in enumerate(SEEDS)]
    assert all(check(*frame) for frame in frames), "the seeds are of their forms"
    for data in map(Path.read_bytes, map(Path, sys.argv[2:])):
        if data:
            check(data[0], data[1:])
    if IS_PLAIN and atheris is not None:
        fuzz_by_coverage(seconds)
    else:
        fuzz_at_random(seconds, frames)


if __name__ == "__main__":
    main()
