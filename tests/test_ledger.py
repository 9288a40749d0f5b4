"The research ledger: nothing is lost by a kill, nothing is changed unseen, nothing counts twice."

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_detector.core import InputError
from gem_detector.ledger import FIRST, ResearchLedger, code_commit, read_ledger

DAY_NS = 86_400 * 10**9


def filled(folder: Path, n: int = 4) -> ResearchLedger:
    ledger = ResearchLedger(folder, commit="c0ffee")
    page = ledger.page("july", sampler="grid", label="gem")
    for i in range(n):
        page.record(f"study {i}", i + 1, features=["a", "b"], at_ns=i)
    return ledger


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    first = ledger.entries()[0]
    told = {"kind": "trials", "at_ns": 0, "data": "july", "sampler": "grid", "label": "gem"}
    told |= {"study": "study 0", "n_trials": 1, "features": ["a", "b"], "commit": "c0ffee"}
    assert first | told == first and first["before"] == FIRST and first["version"]
    assert ledger.page("july").n_trials() == 10 and ledger.page("june").n_trials() == 0
    assert ResearchLedger(tmp_path).check(ledger.head()) == 4


def test_an_empty_ledger_counts_nothing(tmp_path: Path) -> None:
    ledger = ResearchLedger(tmp_path / "none")
    assert ledger.page("july").n_trials() == ledger.check() == 0 and ledger.head() == FIRST
    assert not (tmp_path / "none").exists()


@given(st.data())
def test_a_torn_end_is_no_entry(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        ledger = filled(Path(folder), 3)
        whole = ledger.path.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        ledger.path.write_bytes(whole[:cut])
        done = whole[:cut].count(b"\n")
        left = len(ledger.entries())
        is_end = cut < len(whole) and whole[cut : cut + 1] == b"\n"  # only the newline is missing
        assert left == done + is_end
        ledger.page("july").record("after", 1, at_ns=9)
        assert [entry["study"] for entry in ledger.entries()][left:] == ["after"]
        assert ledger.check() == left + 1


@given(st.data())
def test_any_changed_byte_is_seen(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        ledger = filled(Path(folder), 3)
        head, whole = ledger.head(), bytearray(ledger.path.read_bytes())
        at = data.draw(st.integers(0, len(whole) - 2))
        new = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
        before = [json.loads(line) for line in bytes(whole).splitlines()]
        whole[at] = new
        ledger.path.write_bytes(whole)
        try:
            ledger.check(head)
        except InputError:
            return
        assert ledger.entries() == before  # the same content, written otherwise


@pytest.mark.parametrize("drop", [0, 1, 2])
def test_a_missing_line_is_seen(tmp_path: Path, drop: int) -> None:
    ledger = filled(tmp_path)
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[:drop] + lines[drop + 1 :]))
    for use in (ledger.check, ledger.page("july").n_trials):
        with pytest.raises(InputError, match="chain"):
            use()
    with pytest.raises(InputError, match="chain"):
        ledger.page("july").record("more", 1)


def test_a_ledger_cut_off_is_seen_by_its_head(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    head = ledger.head()
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[:-1]))
    assert ledger.check() == 3
    with pytest.raises(InputError, match="cut off"):
        ledger.check(head)


def test_a_continued_study_counts_once(tmp_path: Path) -> None:
    page = ResearchLedger(tmp_path).page("july")
    for n_trials in (10, 25, 20):
        page.record("search", n_trials)
    page.record("search again", 7)
    assert page.by_study() == {"search": 25, "search again": 7} and page.n_trials() == 32


def test_a_final_period_opens_once(tmp_path: Path) -> None:
    ledger = ResearchLedger(tmp_path, commit="c0ffee")
    july, june = ledger.page("july"), ledger.page("june")
    first = july.open_final(10 * DAY_NS * 2_000, 10 * DAY_NS * 2_001, study="a", at_ns=5)
    assert (first.is_first, first.commit, first.at_ns, first.study) == (True, "c0ffee", 5, "a")
    assert not july.open_final(first.start_ns, first.end_ns, at_ns=6).is_first
    assert not july.open_final(first.end_ns - 1, first.end_ns + 9, at_ns=7).is_first
    assert july.open_final(first.end_ns + 9, first.end_ns + 10, at_ns=8).is_first
    assert june.open_final(first.start_ns, first.end_ns, at_ns=9).is_first
    flags = [opening.is_first for opening in ResearchLedger(tmp_path).page("july").final_openings()]
    assert flags == [True, False, False, True] and "NOT" in str(july.final_openings()[1])


WRITER = """
import sys
from gem_detector.ledger import ResearchLedger
page = ResearchLedger(sys.argv[1], commit="x").page("july")
for i in range(int(sys.argv[3])):
    page.record(f"{sys.argv[2]} {i}", 1)
    print(i, flush=True)
"""


def writer(folder: Path, name: str, n: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(folder), name, str(n)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    both = [writer(tmp_path, name, 40) for name in ("ada", "ben")]
    assert [process.wait(60) for process in both] == [0, 0]
    for process in both:
        process.communicate()
    page = ResearchLedger(tmp_path).page("july")
    assert page.n_trials() == 80 and len(page.by_study()) == 80


def test_killed_while_writing(tmp_path: Path) -> None:
    "What a killed writer was told is written, is written; and the next one goes on."
    for number in range(3):
        process = writer(tmp_path, f"run {number}", 100_000)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 * number)
        os.kill(process.pid, signal.SIGKILL)
        told = 1 + sum(1 for line in process.communicate()[0].splitlines(True) if "\n" in line)
        by_study = ResearchLedger(tmp_path).page("july").by_study()
        assert told <= sum(name.startswith(f"run {number} ") for name in by_study) <= told + 1
    ResearchLedger(tmp_path).page("july").record("after", 1)


def test_who_holds_the_lock_is_named(tmp_path: Path) -> None:
    from gem_detector.store import one_writer

    page = ResearchLedger(tmp_path, timeout_s=0.1).page("july")
    with one_writer(tmp_path), pytest.raises(InputError, match=str(os.getpid())):
        page.record("study", 1)
    page.record("study", 1)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file"):
        ResearchLedger(tmp_path / "file").page("july").record("study", 1)
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(InputError, match="ledger"):
        read_ledger(tmp_path / "ledger.jsonl")


def test_the_commit_is_gits(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert code_commit(tmp_path) == "unknown"
    git("init", "-q")
    (tmp_path / "a.txt").write_text("1")
    git("add", ".")
    git("commit", "-q", "--no-verify", "-m", "first")
    assert code_commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "a.txt").write_text("2")
    assert code_commit(tmp_path) == git("rev-parse", "HEAD") + "+"
