"""Files that are whole or absent, hashes, locks and names: properties, and what a crash leaves."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector.core import InputError, Instrument
from gem_detector.store import (
    FORMATS,
    atomic_file,
    atomic_folder,
    cache_folder,
    check_format,
    content_hash,
    format_stamp,
    name_of,
    one_writer,
    read_json,
    safe_name,
    write_atomic,
    write_json,
)

NOBODY = 65_534
on_disk = settings(max_examples=40, deadline=None)  # every example forces a file to the disk

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
) | st.text(st.characters(codec="utf-8"))
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


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


# --- files


@on_disk
@given(data=st.binary(max_size=5_000))
def test_written_bytes_come_back(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.bin"
    write_atomic(path, data)
    assert path.read_bytes() == data


def test_text_is_utf8_with_line_feeds(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.txt", "w") as handle:
        handle.write("é\n€\n")
    write_atomic(tmp_path / "b.txt", "é\n€\n")
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes()
    assert (tmp_path / "a.txt").read_bytes() == "é\n€\n".encode()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, ConnectionError])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "kept.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_file(path) as handle:
        handle.write(b"half")
        raise error("on purpose")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    write_atomic(tmp_path / "atomic", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from gem_detector.store import atomic_file\n"
        "with atomic_file(sys.argv[1]) as handle:\n"
        "    handle.write(b'half'); handle.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ran = subprocess.run([sys.executable, "-c", code, tmp_path / "model.txt"], check=False)
    assert ran.returncode < 0
    assert not (tmp_path / "model.txt").exists()
    assert all(path.suffix == ".part" for path in tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="it is a folder"):
        write_atomic(tmp_path, b"")
    with pytest.raises(InputError, match="no such file or folder"):
        write_atomic(tmp_path / "none" / "x", b"")
    with pytest.raises(InputError, match="not a folder"):
        write_atomic(tmp_path / "file" / "x", b"")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_no_permission_is_said_in_one_sentence(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "x.json").write_text("{}")
    locked.chmod(0o000)
    try:
        for act in (
            lambda: write_json(locked / "y.json", {}),
            lambda: read_json(locked / "x.json"),
            lambda: one_writer(locked / "deep").__enter__(),
            lambda: atomic_folder(locked / "model").__enter__(),
        ):
            with (
                unprivileged(),
                pytest.raises(InputError, match=r"cannot .*locked.*: no permission"),
            ):
                act()
    finally:
        locked.chmod(0o755)


# --- folders


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "m") as part:
        (part / "a").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "m", replace=True) as part:
        (part / "a").write_text("2")
        raise RuntimeError
    assert (tmp_path / "m" / "a").read_text() == "1" and list(tmp_path.iterdir()) == [
        tmp_path / "m"
    ]


def test_a_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with atomic_folder(tmp_path / "data") as part:  # empty: nothing is lost
        (part / "precious").write_text("years of work")
    with pytest.raises(InputError, match="not an empty folder"), atomic_folder(tmp_path / "data"):
        raise AssertionError("entered")
    assert (tmp_path / "data" / "precious").exists()
    (tmp_path / "file").write_text("x")
    for replace in (False, True):
        with (
            pytest.raises(InputError, match="exists already"),
            atomic_folder(tmp_path / "file", replace),
        ):
            raise AssertionError("entered")


# --- JSON


@on_disk
@given(tree=trees)
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "tree.json"
    write_json(path, tree)
    assert read_json(path) == tree


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {"a": [float("-inf")]}, {1, 2}, 1j, "\ud800"]
)
def test_what_json_cannot_hold_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match=r"x\.json as JSON"):
        write_json(tmp_path / "x.json", value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "line 1: not JSON"),
        (b'{"a": 1,\n "b": }', "line 2: not JSON"),
        (b'{"a": 1}\n{}', "line 2: not JSON: Extra data"),
        (b'{\n"a": "\xff"}', "line 2: not JSON: not UTF-8"),
        (b"[" * 100_000, "not JSON of ours: nested too deeply"),
    ],
)
def test_broken_json_names_its_line(tmp_path: Path, content: bytes, rule: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.json: {rule}"):
        read_json(tmp_path / "x.json")


# --- stamps


@pytest.mark.parametrize("kind", FORMATS)
def test_a_stamp_passes_its_own_check(kind: str) -> None:
    check_format(json.loads(json.dumps(format_stamp(kind))), kind)
    for other in FORMATS.keys() - {kind}:
        with pytest.raises(InputError, match="not of the format"):
            check_format(format_stamp(other), kind)


@pytest.mark.parametrize("version", [2, 99, 0, -1, True, "1", 1.0, None])
def test_other_versions_are_refused(version: Any) -> None:
    with pytest.raises(InputError, match="version"):
        check_format({"format": "model", "version": version}, "model", "folder/model")


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(InputError, match="unknown format 'picture'"):
        format_stamp("picture")


# --- hashes


@given(tree=trees)
def test_a_hash_survives_json_and_the_order_of_keys(tree: Any) -> None:
    def turned(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: turned(node[key]) for key in reversed(node)}
        return [turned(one) for one in node] if isinstance(node, list) else node

    assert content_hash(turned(tree)) == content_hash(tree)
    assert content_hash(json.loads(json.dumps(tree))) == content_hash(tree)


@given(one=trees, other=trees)
def test_different_contents_have_different_hashes(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (content_hash(one) == content_hash(other)) is same


@given(parts=st.lists(st.text(max_size=3), max_size=4), other=st.lists(st.text(max_size=3)))
def test_parts_do_not_run_together(parts: list[str], other: list[str]) -> None:
    assert (content_hash(*parts) == content_hash(*other)) is (parts == other)


def test_a_hash_is_the_same_in_another_process() -> None:
    code = "from gem_detector.store import content_hash; print(content_hash({'b': 1, 'a': [2.5]}))"
    runs = {
        subprocess.check_output(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, text=True
        ).strip()
        for seed in ("1", "2")
    }
    assert runs == {content_hash({"a": [2.5], "b": 1})}


def test_arrays_count_with_type_shape_and_content() -> None:
    base = np.arange(6, dtype=np.int32).reshape(2, 3)
    variants = [base, base.T, base.ravel(), base.astype(np.int64), base.astype(float), base + 1]
    assert len({content_hash(array) for array in variants}) == len(variants)
    assert content_hash(np.asfortranarray(base)) == content_hash(base)
    assert content_hash(base[::-1][::-1]) == content_hash(base)
    assert content_hash(np.int32(7)) == content_hash(7)
    assert content_hash(np.array([], dtype="<M8[ns]")) != content_hash(np.array([]))
    with pytest.raises(InputError, match="no content hash"):
        content_hash(np.array([object()]))


def test_paths_count_by_content(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "x").write_bytes(b"data")
    assert content_hash(tmp_path / "one") == content_hash(tmp_path / "two")
    (tmp_path / "two" / "x").rename(tmp_path / "two" / "y")
    assert content_hash(tmp_path / "one") != content_hash(tmp_path / "two")
    assert content_hash(tmp_path / "one" / "x") != content_hash(b"data")
    with pytest.raises(InputError, match="no such file"):
        content_hash(tmp_path / "three")


def test_dataclasses_count_by_name_and_fields() -> None:
    one = Instrument("a", "BTC/USDT", "x", "spot", "BTC", "USDT", "", 0.1, 0.1)
    two = Instrument("a", "BTC/USDT", "x", "spot", "BTC", "USDT", "", 0.1, 0.2)
    assert content_hash(one) != content_hash(two)


# --- one writer


def test_a_second_process_is_turned_away_until_the_first_dies(tmp_path: Path) -> None:
    code = (
        "import sys, time; from gem_detector.store import one_writer\n"
        "with one_writer(sys.argv[1]): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "rec"], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "in\n"
        with (
            pytest.raises(InputError, match=rf"rec has a writer already: process {first.pid}"),
            one_writer(tmp_path / "rec"),
        ):
            raise AssertionError("two writers")
        first.kill()
        first.wait()
    with one_writer(tmp_path / "rec"):
        pass


# --- names


@given(symbol=st.text(min_size=1))
def test_names_come_back_and_are_safe(symbol: str) -> None:
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in symbol):
        with pytest.raises(InputError, match="not valid text"):
            safe_name(symbol)
        return
    name = safe_name(symbol)
    assert name_of(name) == symbol and name.isascii() and name not in (".", "..")
    assert not set(name) & set('/\\:*?"<>| \0') and Path(name).name == name


@given(one=st.text(min_size=1), other=st.text(min_size=1))
def test_different_symbols_have_different_names(one: str, other: str) -> None:
    with suppress(InputError):
        assert (safe_name(one) == safe_name(other)) is (one == other)


def test_the_cache_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("GEM_CACHE")
    assert cache_folder().name == "gem_detector" and cache_folder().is_absolute()
