"""The recording: arrivals come back, bad files say what is wrong, crashes lose nothing flushed."""

import gzip
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gem_detector import frames
from gem_detector.core import InputError
from gem_detector.frames import (
    KINDS,
    Arrival,
    FrameReader,
    FrameWriter,
    line_of,
    merge_frames,
    part_of,
    read_frames,
    read_header,
)

NOBODY = 65_534
CARD = {"exchange": "binance", "symbols": ["BTC/USDT"], "market_type": "spot", "depth": 20}
COMPRESSIONS = ("zstd", "gzip", None)
GOOD = b"".join(b'%d {"u":%d}\n' % (i, i) for i in range(1, 201))

tricky = st.sampled_from(
    [
        b"",
        b"pong",
        b"ping",
        b"{",
        b"[",
        b"\n",
        b"{\n}",
        b'{"gem":',
        b'{"gem":{"kind":"header",',
        b"}}",
    ]
)
payloads = st.binary(max_size=60) | tricky | st.builds(lambda a, b: a + b, tricky, st.binary())
arrivals = st.builds(
    Arrival,
    ts_recv_ns=st.integers(0, 2**63 - 1),
    kind=st.sampled_from(KINDS),
    payload=payloads,
    socket=st.sampled_from(["", "public", "market"]) | st.text(max_size=8),
)
on_disk = settings(max_examples=60, deadline=None)


def pack(compression: str | None, data: bytes) -> bytes:
    "Data as another program would compress it."
    if compression == "gzip":
        return gzip.compress(data)
    return zstandard.compress(data) if compression == "zstd" else data


def record(path: Path, sequence: list[Arrival], compression: Any = "zstd") -> Path:
    "Write a whole recording."
    with FrameWriter(path, CARD, compression) as writer:
        for arrival in sequence:
            writer.write(arrival)
    return path


def frame(i: int, socket: str = "") -> Arrival:
    "A small frame."
    return Arrival(i, "frame", b'{"u":%d}' % i, socket)


# --- round trips


@on_disk
@given(sequence=st.lists(arrivals, max_size=12), compression=st.sampled_from(COMPRESSIONS))
@example([Arrival(5, "frame", b'{"gem":{"kind":"header",}}')], None)
@example([Arrival(5, "rest", b'{"a":"}}"}}}', '"x"')], None)
def test_everything_comes_back(
    tmp_path_factory: pytest.TempPathFactory, sequence: list[Arrival], compression: Any
) -> None:
    path = tmp_path_factory.mktemp("rec") / "day"
    record(path, sequence, compression)
    assert list(read_frames(path)) == sequence
    assert read_header(path) == {"format": "recording", "version": 1, **CARD}


@given(arrival=arrivals)
def test_an_arrival_is_one_line(arrival: Arrival) -> None:
    line = line_of(arrival)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert line.startswith(b"%d " % arrival.ts_recv_ns)


@on_disk
@given(
    sequence=st.lists(arrivals, min_size=1, max_size=12),
    flushes=st.lists(st.booleans(), min_size=12, max_size=12),
    compression=st.sampled_from(COMPRESSIONS),
    data=st.data(),
)
def test_what_was_flushed_survives_any_cut(
    tmp_path_factory: pytest.TempPathFactory,
    sequence: list[Arrival],
    flushes: list[bool],
    compression: Any,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    safe = [(0, 0)]  # (bytes on disk, arrivals written) at every flush
    with FrameWriter(folder / "day", CARD, compression) as writer:
        for n, (arrival, is_flushed) in enumerate(zip(sequence, flushes), 1):
            writer.write(arrival)
            if is_flushed:
                writer.flush()
                safe.append((part_of(writer.path).stat().st_size, n))
    whole = (folder / "day").read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    (folder / "cut").write_bytes(whole[:cut])
    read = list(read_frames(folder / "cut", tolerant=True))
    assert read == sequence[: len(read)]
    assert len(read) >= max(n for size, n in safe if size <= cut)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_killed_writer_loses_nothing_that_was_flushed(
    compression: str | None, tmp_path: Path
) -> None:
    code = f"""
import os, signal, sys
from gem_detector.frames import Arrival, FrameWriter
writer = FrameWriter(sys.argv[1], {CARD!r}, {compression!r})
for i in range(1, 100_001):
    writer.write(Arrival(i, "frame", b'{{"u":%d}}' % i, "public"))
    if i == 50_000:
        writer.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "day.rec"
    ran = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert ran.returncode == -signal.SIGKILL
    assert not path.exists()
    reader = FrameReader(part_of(path), tolerant=True)
    read = list(reader)
    assert len(read) >= 50_000
    assert read == [frame(i, "public") for i in range(1, len(read) + 1)]
    assert reader.header["exchange"] == "binance"


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_an_exception_keeps_what_was_received(compression: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), FrameWriter(tmp_path / "day", CARD, compression) as writer:
        writer.write(frame(1))
        raise RuntimeError
    assert list(read_frames(tmp_path / "day")) == [frame(1)]
    assert list(tmp_path.iterdir()) == [tmp_path / "day"]


def test_the_same_arrivals_give_the_same_bytes(tmp_path: Path) -> None:
    for compression in COMPRESSIONS:
        one = record(tmp_path / f"1{compression}", [frame(i) for i in range(99)], compression)
        two = record(tmp_path / f"2{compression}", [frame(i) for i in range(99)], compression)
        assert one.read_bytes() == two.read_bytes()


def test_empty_recordings_and_repeated_flushes(tmp_path: Path) -> None:
    writer = FrameWriter(tmp_path / "day", CARD)
    writer.flush()
    size = part_of(writer.path).stat().st_size
    writer.flush()
    assert part_of(writer.path).stat().st_size == size > 0
    writer.close()
    writer.close()
    assert (
        list(read_frames(tmp_path / "day")) == [] and read_header(tmp_path / "day")["depth"] == 20
    )
    with pytest.raises(ValueError, match="closed"):
        writer.write(frame(1))


def test_recordings_can_be_joined_by_cat(tmp_path: Path) -> None:
    one = record(tmp_path / "1", [frame(1, "a"), frame(2, "b")])
    two = record(tmp_path / "2", [frame(3), frame(4, "b")])
    both = tmp_path / "both"
    both.write_bytes(one.read_bytes() + two.read_bytes())
    reader = FrameReader(both)
    assert list(reader) == [frame(1, "a"), frame(2, "b"), frame(3), frame(4, "b")]
    assert reader.n_backwards == 0


# --- captures of others


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("end", [b"\n", b"", b"\n\n\n"])
def test_other_captures_are_read(compression: str | None, end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "misleading.txt"  # the name says nothing
    path.write_bytes(pack(compression, GOOD.rstrip(b"\n") + end))
    assert list(read_frames(path)) == [frame(i) for i in range(1, 201)]


def test_pieces_of_any_size_are_joined(tmp_path: Path) -> None:
    many = b"".join(gzip.compress(GOOD[i : i + 7]) for i in range(0, len(GOOD), 7))
    (tmp_path / "many.gz").write_bytes(many + b"\0" * 512)  # padded, as tapes and gzip allow
    assert len(list(read_frames(tmp_path / "many.gz"))) == 200
    many = b"".join(zstandard.compress(GOOD[i : i + 7]) for i in range(0, len(GOOD), 7))
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    (tmp_path / "many.zst").write_bytes(skippable + many + skippable)
    assert len(list(read_frames(tmp_path / "many.zst"))) == 200


def test_lines_without_stamps_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"a":1}\n\n[1,2]\n')
    read = [(one.ts_recv_ns, one.payload) for one in read_frames(tmp_path / "x.jsonl")]
    assert read == [(1, b'{"a":1}'), (3, b"[1,2]")]


def test_stamps_keep_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"5 {}\n5 {}\n3 {}\n4 {}\n")
    reader = FrameReader(tmp_path / "x")
    assert [one.ts_recv_ns for one in reader] == [5, 5, 3, 4]
    assert (reader.n_lines, reader.n_backwards, list(reader)) == (4, 1, [])


REAL = {
    "binance-2024-08-08/spot_btcusdt.gz": 41_249,
    "binance-2024-08-08/usdm_btcusdt.gz": 93_954,
    "wire-2026-08-frames/bybit_linear.gz": 2_546,
    "wire-2026-08-frames/coinbase_advanced_btcusd_ethusd.gz": 300,
    "wire-2026-08/binance_us_depth.jsonl": 25,
    "wire-2026-08/bitstamp_diff.jsonl": 12,
    "wire-2026-08/bitstamp_live_orders.jsonl": 501,
    "wire-2026-08/bybit_orderbook.jsonl": 10,
    "wire-2026-08/coinbase_l2.jsonl": 12,
    "wire-2026-08/kraken_book.jsonl": 8,
    "wire-2026-08/okx_books.jsonl": 8,
}


@pytest.mark.parametrize("name", REAL)
def test_real_captures_are_read_and_kept_verbatim(
    name: str, gem_data: Path, tmp_path: Path
) -> None:
    read = list(read_frames(gem_data / name))
    assert len(read) == REAL[name]
    raw = (gem_data / name).read_bytes()
    text = gzip.decompress(raw) if name.endswith("gz") else raw
    stamped = name.endswith("gz")
    for line, one in zip(text.splitlines(), read, strict=True):
        assert line == (b"%d %b" % (one.ts_recv_ns, one.payload) if stamped else one.payload)
    assert list(read_frames(record(tmp_path / "copy", read))) == read


def test_no_capture_is_overlooked(gem_data: Path) -> None:
    folders = {name.split("/")[0] for name in REAL}
    found = [p for f in folders for end in ("gz", "jsonl") for p in (gem_data / f).glob(f"*.{end}")]
    assert {str(path.relative_to(gem_data)) for path in found} == set(REAL)


# --- bad input


@contextmanager
def unprivileged() -> Iterator[None]:
    "Act as a user whom file permissions bind (root is bound by none)."
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def refusal(path: Path, tolerant: bool = False) -> str:
    "The one sentence with which a file is refused."
    with pytest.raises(InputError) as caught:
        list(read_frames(path, tolerant))
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message.replace(str(path), "FILE")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "FILE: line 1: the file is empty"),
        (b"\n\n", "FILE: line 3: the file is empty"),
        (b"hello world\n", "FILE: line 1: not a frame: b'hello world'"),
        (b"\x89PNG\r\n\x1a\n\0\0", "FILE: line 1: not a frame"),
        (b"PK\x03\x04" + bytes(99), "FILE: line 1: the line ends in the middle"),
        (b"timestamp,price\n1,2\n", "FILE: line 1: not a frame"),
        (b"17 hello\n", "FILE: line 1: not a frame"),
        (b"-5 {}\n", "FILE: line 1: not a frame"),
        (b"1_000 {}\n", "FILE: line 1: not a frame"),
        (b"1.5 {}\n", "FILE: line 1: not a frame"),
        (b" 5 {}\n", "FILE: line 1: not a frame"),
        (b"5{}\n", "FILE: line 1: not a frame"),
        (GOOD + b"\x00\xff garbage\n" + GOOD, "FILE: line 201: not a frame"),
        (GOOD + b"garbage", "FILE: line 201: the line ends in the middle"),
        (GOOD + b'201 {"u":2', "FILE: line 201: the line ends in the middle"),
        (GOOD + b"20", "FILE: line 201: the line ends in the middle"),
        (GOOD + b'{"u":201}\n', "FILE: line 201: not a frame"),
        (b'{"u":1}\n2 {"u":2}\n', "FILE: line 2: not a frame"),
        (b"9223372036854775808 {}\n", "FILE: line 1: the stamp 9223372036854775808 is no time"),
        (b"9" * 5000 + b" {}\n", "FILE: line 1: "),
        (b'1 {"gem":{"kind":"future"}}\n', "FILE: line 1: a mark that this version does not know"),
        (b'1 {"gem":{"kind":"open","socket":"\n', "FILE: line 1: a mark that this version"),
        (b'1 {"gem":{"kind":"rest","socket":"","base64":"%%"}}\n', "FILE: line 1: "),
        (
            b'0 {"gem":{"kind":"header","format":"recording","version":2}}\n',
            "FILE: a recording of v",
        ),
        (b'0 {"gem":{"kind":"header","format":"model","version":1}}\n', "FILE: not of the format"),
        (b'0 {"gem":{"kind":"header",broken}}\n', "FILE: line 1: "),
        (b'0 {"gem":{"kind":"header","a":' + b"[" * 100_000 + b"\n", "FILE: line 1: "),
        (b'0 {"gem":{"kind":"header","a":1},"gem":5}\n', "FILE: line 1: not the header"),
        (b'1 {"gem":{"kind":"rest","socket":"","text":5}}\n', "FILE: line 1: a mark that this"),
        (b"1 " + b"[" * 100_000, "FILE: line 1: the line ends in the middle"),
    ],
)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_is_no_recording_is_refused(
    content: bytes, words: str, compression: str | None, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(pack(compression, content))
    assert refusal(tmp_path / "x").startswith(words)


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_truncated_archives(compression: str, tmp_path: Path) -> None:
    whole = pack(compression, GOOD)
    for n_bytes in range(5, len(whole)):
        (tmp_path / "x").write_bytes(whole[:n_bytes])
        assert f"the {compression} data end in the middle: the recording was cut off" in refusal(
            tmp_path / "x"
        )
        reader = FrameReader(tmp_path / "x", tolerant=True)
        read = list(reader)
        assert read == [frame(i) for i in range(1, len(read) + 1)] and reader.is_truncated


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_damaged_archives_are_refused_even_by_a_tolerant_reader(
    compression: str, tmp_path: Path
) -> None:
    whole = bytearray(pack(compression, GOOD))
    record(tmp_path / "ours", [frame(i) for i in range(500)], compression)
    for packed in (whole, bytearray((tmp_path / "ours").read_bytes())):
        packed[len(packed) // 2] ^= 0xFF
        (tmp_path / "x").write_bytes(packed)
        for tolerant in (False, True):
            assert refusal(tmp_path / "x", tolerant).startswith("FILE: line ")
    (tmp_path / "x").write_bytes(pack(compression, GOOD) + b"trailing garbage")
    assert f"FILE: line 201: damaged {compression} data" in refusal(tmp_path / "x")


@on_disk
@given(
    noise=st.binary(max_size=200), compression=st.sampled_from(COMPRESSIONS), tolerant=st.booleans()
)
def test_noise_is_read_or_refused_never_worse(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, compression: Any, tolerant: bool
) -> None:
    path = tmp_path_factory.mktemp("noise") / "x"
    for content in (pack(compression, noise), pack(compression, GOOD) + noise):
        path.write_bytes(content)
        try:
            read = list(read_frames(path, tolerant))
        except InputError:
            continue
        assert all(one.kind in KINDS for one in read)


@on_disk
@given(
    sequence=st.lists(arrivals, min_size=1, max_size=6),
    changes=st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3
    ),
)
def test_a_recording_with_changed_bytes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    sequence: list[Arrival],
    changes: list[tuple[int, int]],
) -> None:
    path = record(tmp_path_factory.mktemp("mutant") / "day", sequence, None)
    content = bytearray(path.read_bytes())
    for at, byte in changes:
        content[at % len(content)] = byte
    path.write_bytes(content)
    try:
        read = list(read_frames(path))
    except InputError:
        return
    assert all(one.kind in KINDS for one in read)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == "cannot read FILE: no such file or folder"
    assert refusal(tmp_path) == "cannot read FILE: it is a folder"
    (tmp_path / "file").write_bytes(GOOD)
    assert "a part of its path is a file" in refusal(tmp_path / "file" / "x")
    with pytest.raises(InputError, match=r"cannot read .*none"):
        read_header(tmp_path / "none")


def test_no_permission(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "x").write_bytes(GOOD)
    locked.chmod(0o000)
    try:
        with unprivileged(), pytest.raises(InputError, match="no permission"):
            read_frames(locked / "x")
        with unprivileged(), pytest.raises(InputError, match="no permission"):
            FrameWriter(locked / "y", CARD)
    finally:
        locked.chmod(0o755)


def test_mistakes_show_at_the_call_not_at_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nonsense\n")
    for path in (tmp_path / "x", tmp_path / "none"):
        with pytest.raises(InputError):
            read_frames(path)


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_LINE", 3_000_000)
    for n_bytes in (2_900_000, 6_000_000):
        payload = b'{"a":"' + os.urandom(n_bytes // 2).hex().encode() + b'"}'
        for compression in COMPRESSIONS:
            (tmp_path / "x").write_bytes(pack(compression, b"1 {}\n2 " + payload + b"\n3 {}\n"))
            if n_bytes < 3_000_000:
                assert [a.payload for a in read_frames(tmp_path / "x")] == [b"{}", payload, b"{}"]
            else:
                assert "FILE: line 2: longer than 3000000 bytes" in refusal(tmp_path / "x")


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_memory_is_bounded_whatever_the_file_unpacks_to(compression: str, tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(pack(compression, b"1 {}\n" + bytes(300 << 20)))
    tracemalloc.start()
    try:
        assert "longer than" in refusal(tmp_path / "bomb")
        assert tracemalloc.get_traced_memory()[1] < 160 << 20
    finally:
        tracemalloc.stop()


# --- the writer's own refusals


def test_nothing_is_written_over(tmp_path: Path) -> None:
    record(tmp_path / "day", [frame(1)])
    with pytest.raises(InputError, match=r"cannot write .*day: it exists already"):
        FrameWriter(tmp_path / "day", CARD)
    part_of(tmp_path / "night").write_bytes(b"from a crash")
    with pytest.raises(InputError, match=r"night\.part: it exists already"):
        FrameWriter(tmp_path / "night", CARD)
    assert part_of(tmp_path / "night").read_bytes() == b"from a crash"
    with pytest.raises(InputError, match=r"night\.part is there, a recording that was cut off"):
        read_frames(tmp_path / "night")


@pytest.mark.parametrize(
    ("header", "compression", "words"),
    [
        ({"kind": "x", "version": 3}, "zstd", "a header cannot set kind, version"),
        (CARD, "bzip2", "unknown compression 'bzip2'"),
    ],
)
def test_a_refused_writer_leaves_nothing(
    header: dict[str, Any], compression: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        FrameWriter(tmp_path / "day", header, compression)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [Arrival(-1, "frame", b"{}"), Arrival(1, "header", b"{}")])
def test_what_is_no_arrival_is_refused(wrong: Arrival) -> None:
    with pytest.raises(InputError, match="not an arrival"):
        line_of(wrong)


# --- merging


@given(st.lists(st.lists(st.integers(0, 20)), max_size=4))
def test_a_merge_is_a_stable_sort_of_sorted_sources(stamps: list[list[int]]) -> None:
    sources = [[frame(ts, str(i)) for ts in sorted(row)] for i, row in enumerate(stamps)]
    together = [arrival for source in sources for arrival in source]
    expected = sorted(together, key=lambda arrival: arrival.ts_recv_ns)  # Python's sort is stable
    assert list(merge_frames(*sources)) == expected


@given(st.lists(st.lists(st.integers(0, 20)), max_size=4))
def test_a_merge_keeps_the_order_of_every_source(stamps: list[list[int]]) -> None:
    sources = [[frame(ts, str(i)) for ts in row] for i, row in enumerate(stamps)]
    merged = list(merge_frames(*sources))
    for i, source in enumerate(sources):
        assert [arrival for arrival in merged if arrival.socket == str(i)] == source


def test_a_merge_reads_as_it_goes() -> None:
    def endless(socket: str) -> Iterator[Arrival]:
        i = 0
        while True:
            yield frame(i := i + 1, socket)

    merged = merge_frames(endless("a"), endless("b"))
    assert [next(merged).socket for _ in range(4)] == ["a", "b", "a", "b"]


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with subprocess.Popen([sys.executable, "-c", f"open({str(path)!r}, 'wb').write({GOOD!r})"]):
        assert len(list(read_frames(path))) == 200


def test_handles_are_closed(tmp_path: Path) -> None:
    record(tmp_path / "day", [frame(i) for i in range(1000)])
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("only Linux lists open files in /proc")
    before = len(list(folder.iterdir()))
    for _ in range(3):
        list(read_frames(tmp_path / "day"))
        next(read_frames(tmp_path / "day"))
        read_header(tmp_path / "day")
    assert len(list(folder.iterdir())) == before
