"""The threat page, row by row: keys stay in memory, names are no paths, files are only data."""

import ast
import asyncio
import json
import logging
import pickle
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from gem_detector import cli
from gem_detector.arrivals import VirtualArrivals
from gem_detector.core import NS_PER_S, FeedError, InputError, OrderBookSnapshot, StreamState
from gem_detector.emulator import VenueServer, play
from gem_detector.frames import read_frames
from gem_detector.hpo import HyperparameterOptimizer
from gem_detector.ledger import ResearchLedger
from gem_detector.lgbm import LightGBMPipeline
from gem_detector.metrics import Metrics
from gem_detector.model_files import read_files
from gem_detector.recorder import EventWriter
from gem_detector.report import Report, Section, html_of
from gem_detector.simulator import DEFAULT_VENUES, simulate_market
from gem_detector.store import read_json, safe_name
from gem_detector.streams import STREAMS, make_stream
from gem_detector.structured_logs import structured_logs

PACKAGE = Path(cli.__file__).parent
KEYS = {"api_key": "k3y-nobody-sees", "api_secret": "s3cret-nobody-sees"}
NAMES = ["../../evil", "..", "/etc/evil", "a/../../b", "C:\\evil", "a\x00b", "con", "~", "x" * 400]
OPENERS = {
    f"{m}.{f}" for m in ("pickle", "marshal", "dill", "cloudpickle") for f in ("load", "loads")
}
OPENERS |= {"shelve.open", "pickle.Unpickler"}


def calls() -> list[tuple[str, ast.Call]]:
    "Every call in the package, with where it stands."
    return [
        (f"{path.relative_to(PACKAGE)}:{node.lineno}", node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


# --- keys


def test_keys_are_in_no_text_that_a_stream_makes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    "Run, recorded, logged, counted and broken off: nothing that is written down has a key."
    market = simulate_market(1, 3.0, venues=[DEFAULT_VENUES[0]])
    texts: list[str] = []

    async def run() -> None:
        arrivals = VirtualArrivals(market.start_ns)
        async with VenueServer("binance", market, arrivals=arrivals) as server:
            urls = {"url": server.url, "rest_url": server.rest_url, "record_to": tmp_path / "rec"}
            how = {"arrivals": arrivals, "book": "plain"}
            stream = make_stream("binance", "BTC/USDT", **urls, **how, **KEYS)

            def breaks(book: OrderBookSnapshot) -> None:
                raise ValueError(f"a callback that tells all it knows: {vars(stream).keys()}")

            stream.register_book_callback(breaks)
            starting = asyncio.create_task(stream.start())
            await asyncio.sleep(0)
            await play([server], arrivals)
            await starting
            metrics = Metrics()
            metrics.collector.watch("one", stream)
            texts.append(metrics.text())
            texts.append(stream._repr_html_() + repr(stream) + str(stream.get_stats()))
            await stream.stop()
        gone = {"url": server.url, "rest_url": server.rest_url}
        with pytest.raises(FeedError) as caught:
            await make_stream("binance", "BTC/USDT", **gone, **KEYS, book="plain").start(
                timeout=0.5
            )
        texts.append(str(caught.value))

    logging.getLogger("websockets").setLevel(logging.DEBUG)
    try:
        with structured_logs(tmp_path / "live.log", logging.DEBUG):
            asyncio.run(run())
    finally:
        logging.getLogger("websockets").setLevel(logging.NOTSET)
    texts += [record.getMessage() + str(record.exc_info) for record in caplog.records]
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 2 and len(texts) >= 4
    for key in KEYS.values():
        assert not any(key in text for text in texts)
        assert not any(key.encode() in content for content in written)


@pytest.mark.parametrize("venue", list(STREAMS))
def test_keys_of_the_environment_stay_there(venue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEY", "SECRET", "PASSWORD"):
        monkeypatch.setenv(f"{venue.upper()}_API_{name}", "s3cret-of-the-environment")
    symbol = "BTC/USD" if venue in ("coinbase", "kraken") else "BTC/USDT"
    stream = make_stream(venue, symbol)
    told = repr(stream) + str(stream) + stream._repr_html_() + str(stream.get_stats())
    assert "s3cret" not in told
    with pytest.raises(InputError) as caught:
        make_stream(venue, symbol, depth=0, api_key="k3y-nobody-sees")
    assert "k3y" not in str(caught.value) and "s3cret" not in str(caught.value)


def test_logs_hide_what_errors_quote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYBIT_API_SECRET", "s3cret-of-the-environment")
    logger = logging.getLogger("gem_detector.test")
    with structured_logs(tmp_path / "live.log") as path:
        try:
            raise ConnectionError("wss://me:s3cret-in-url@host/ws?api_key=s3cret-in-query refused")
        except ConnectionError:
            logger.exception("lost s3cret-of-the-environment", extra={"token": "token=s3cret-x"})
    words = path.read_text(encoding="utf-8")
    assert "s3cret" not in words and "ConnectionError" in words and "***" in words


def test_no_command_takes_a_key_and_reports_have_none() -> None:
    "A key on a command line would stand in the shell's history and in the list of processes."
    text = " ".join(
        word for command in cli.parser()._subparsers._group_actions[0].choices.values()  # type: ignore[union-attr]
        for action in command._actions for word in action.option_strings
    )  # fmt: skip
    assert not re.search(r"key|secret|passw|token", text)
    attack = '<script src="https://evil.example/x.js"></script>'
    page = html_of(Report(attack, attack, [Section(attack, attack, [{attack: attack}])]))
    assert "<script" not in page and 'src="http' not in page


# --- names


@pytest.mark.parametrize("name", NAMES)
def test_names_stay_inside_their_folder(name: str, tmp_path: Path) -> None:
    "What a recorder writes for a hostile venue and symbol lies where it was told to write."
    home = tmp_path / "home"
    levels = np.array([[100.0, 1.0]])
    book = OrderBookSnapshot(name, name, 1, NS_PER_S, levels, levels + 1, 1, StreamState.SYNCED)
    try:
        with EventWriter(home, depth=1) as writer:
            writer.write(book)
    except InputError:
        pass  # a name longer than file systems take
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and home not in path.parents]
    assert not outside
    for path in home.rglob("*"):
        assert path.resolve().is_relative_to(home.resolve())
    part = safe_name(name)
    assert Path(part).name == part and part not in (".", "..")


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a\x00b", ".."])
def test_names_of_studies_and_data_sets_are_no_paths(name: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 2)), rng.integers(0, 2, 300)
    search = HyperparameterOptimizer(name, home, n_trials=1)
    ledger = ResearchLedger(home, commit="0" * 7)
    for act in (
        lambda: search.optimize_lightgbm(X, y, X, y, num_boost_round=3, progress=False),
        lambda: ledger.page(name, label="x").record("one", 1),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                act()
            except InputError:
                continue
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and home not in path.parents]
    assert not outside and not (tmp_path.parent / "evil").exists()


def test_a_recording_cannot_name_a_place(tmp_path: Path) -> None:
    "The symbol in a recording's header is a symbol, or refused; nothing is written for it."
    header = {"gem": "header", "version": 1, "exchange": "binance", "symbols": ["../../evil"]}
    (tmp_path / "in").mkdir()
    words = f"1 {json.dumps(header)}\n2 {{}}\n".encode()
    (tmp_path / "in" / "x.frames.zst").write_bytes(zstandard.compress(words))
    status = cli.main(["replay", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert status in (1, 2) and not (tmp_path / "out").exists()


# --- files of others


class Bomb:
    "What a pickle does when it is loaded."

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return (Path.write_text, (Path("bombed"), "boom"))  # type: ignore[return-value]


def hostile(kind: str) -> bytes:
    "The content of a file that means harm."
    return {
        "pickle": pickle.dumps(Bomb()),
        "nested": b"[" * 200_000,
        "numbers": b'{"format": {"kind": "model", "version": 1e999}}',
        "text": b"tree\nversion=v4\nnum_class=-1\nTree=0\nnum_leaves=999999999\n",
        "nothing": b"",
        "zeros": b"\x00" * 10_000,
    }[kind]


KINDS = ["pickle", "nested", "numbers", "text", "nothing", "zeros"]


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_models_are_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    for name in LightGBMPipeline.FILES:
        (folder / name).write_bytes(hostile(kind))
    with pytest.raises(InputError):
        LightGBMPipeline(folder).load_model()
    (folder / "x.json").write_bytes(hostile(kind))
    with suppress(InputError):  # that of numbers is JSON, if not of ours
        assert isinstance(read_json(folder / "x.json"), dict)
    assert not (tmp_path / "bombed").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_recordings_and_tables_are_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x.jsonl", "x.parquet", "x.csv"):
        Path(name).write_bytes(hostile(kind))
    with suppress(InputError):
        list(read_frames("x.jsonl"))  # lines without stamps are allowed, and then only text
    for table in ("x.parquet", "x.csv"):
        assert cli.main(["train", table, "--out", "m"]) == 2
        told = capsys.readouterr().err
        assert "Traceback" not in told and 0 < len(told.strip().splitlines()) <= 2
    assert not Path("bombed").exists() and not Path("m").exists()


def test_nothing_that_is_read_can_be_code() -> None:
    "No module evaluates or executes; one unpickles, what it sealed; arrays hold no objects."
    opened = [where for where, call in calls() if ast.unparse(call.func) in OPENERS]
    assert [where.split(":")[0] for where in opened] == ["feature_days.py"], opened  # sealed by us
    wrong = []
    for where, call in calls():
        name = ast.unparse(call.func)
        if name in ("eval", "exec", "compile", "__import__", "os.system"):
            wrong.append(f"{where}: {name}")
        if name.endswith(("read_pickle", "joblib.load", "yaml.load", "extractall")):
            wrong.append(f"{where}: {name}")
        for word in call.keywords:
            value = ast.unparse(word.value)
            if (word.arg, value) in (("allow_pickle", "True"), ("shell", "True")):
                wrong.append(f"{where}: {word.arg}={value}")
            if word.arg in ("ssl", "verify", "check_hostname") and value in ("False", "None"):
                wrong.append(f"{where}: {word.arg}={value}")
    assert not wrong, "\n".join(wrong)


def test_a_state_that_is_not_ours_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    "Features keep a pickle to go on from: a stranger's is not opened, whatever it is called."
    from gem_detector.feature_days import _opened, _seal

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEM_CACHE", str(tmp_path / "one"))
    data = pickle.dumps({"a": 1})
    sealed = _seal(data) + data
    assert _opened(sealed) == {"a": 1}
    assert (tmp_path / "one" / "state.key").stat().st_mode & 0o077 == 0
    bomb = pickle.dumps(Bomb())
    for harm in (bomb, sealed[:32] + bomb, b"\x00" * 32 + bomb, b"", sealed[:-1]):
        assert _opened(harm) is None
    monkeypatch.setenv("GEM_CACHE", str(tmp_path / "two"))  # somebody else's machine
    assert _opened(sealed) is None and not (tmp_path / "bombed").exists()


def test_nothing_listens_beyond_this_machine() -> None:
    "No default address is an open one."
    wide = [
        f"{path.relative_to(PACKAGE)}: {node.value}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::")
    ]
    assert not wide, wide


def test_a_model_bundle_cannot_name_other_files(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("not yours", encoding="utf-8")
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(InputError, match="missing there"):
        read_files(folder, ("model.txt", "params.json"))
