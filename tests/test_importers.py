"""Importers: every layout in chunks as in one piece, losses noticed, the wrong file told."""

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_detector import file_rows, files_hftbacktest
from gem_detector.book import OrderBook
from gem_detector.core import Event, Gap, InputError, OrderBookSnapshot, StreamState, Trade
from gem_detector.file_rows import FileMarket, FileRows, row_events
from gem_detector.importers import LAYOUTS, Imported
from gem_detector.recorder import EventWriter, read_events

T0 = 1_755_000_000_000_000  # µs
BTC = ("binance", "BTC/USDT")


def books_of(events: list[Event]) -> list[OrderBookSnapshot]:
    return [event for event in events if isinstance(event, OrderBookSnapshot)]


def same(a: Event, b: Event) -> bool:
    return a.same_as(b) if isinstance(a, OrderBookSnapshot) else a == b


# --- books from changes, against a plain book


changes = st.lists(
    st.tuples(
        st.integers(0, 2),  # time to the next row
        st.sampled_from([0, 0, 0, 0, 1, 3]),  # kind
        st.sampled_from([1, -1]),
        st.integers(1, 6),  # ticks away from 100
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=60,
)


@given(changes, st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_rows_make_the_books_of_a_plain_book(
    rows: list[tuple[int, int, int, int, int]], n: int
) -> None:
    step, kind, side, away, qty = (np.array(column) for column in zip(*rows))
    recv = 1 + np.cumsum(step)
    px = 100.0 - side * away  # never crossed
    whole = FileRows(recv, recv, kind, side, px, qty.astype(float))
    chunks = (FileRows(*(c[i : i + n] for c in whole)) for i in range(0, len(px), n))
    found = list(row_events(chunks, FileMarket(*BTC), Path("x")))
    book, has_book, expected = OrderBook(), False, []
    for ts in np.unique(recv):
        own = recv == ts
        expected += [("trade", px[i]) for i in np.flatnonzero(own & (kind == 3) & (qty > 0))]
        own &= kind != 3
        if not own.any():
            continue
        if (kind[own] == 1).any():
            expected += [("gap", ts)] if has_book else []
            book.clear()
            has_book = True
        if has_book:
            for i in np.flatnonzero(own):
                level = [(px[i], float(qty[i]))]
                book.apply(level if side[i] > 0 else [], level if side[i] < 0 else [])
            expected.append(("book", *book.best()))
    assert len(found) == len(expected)
    for event, wanted in zip(found, expected):
        if isinstance(event, OrderBookSnapshot):
            touch = event.best_bid, event.bid_size, event.best_ask, event.ask_size
            assert wanted[0] == "book" and np.array_equal(touch, wanted[1:], equal_nan=True)
        elif isinstance(event, Trade):
            assert wanted == ("trade", event.price)
        else:
            assert wanted == ("gap", event.ts_recv_ns)


# --- layouts by their description


def tardis_book(folder: Path) -> Path:
    head = "exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount\n"
    rows = [
        f"binance,BTCUSDT,{T0},{T0 + 9},false,bid,99.0,1",  # before the snapshot
        f"binance,BTCUSDT,{T0},{T0 + 10},true,bid,100.0,1.5",
        f"binance,BTCUSDT,{T0},{T0 + 10},true,ask,100.5,2",
        f"binance,BTCUSDT,{T0 + 5},{T0 + 20},false,ask,100.4,0.5",
        f"binance,BTCUSDT,{T0 + 5},{T0 + 20},false,bid,100.1,1",
        f"binance,BTCUSDT,{T0 + 50},{T0 + 60},true,bid,99.0,1",
        f"binance,BTCUSDT,{T0 + 50},{T0 + 60},true,ask,99.5,1",
        f"binance,BTCUSDT,{T0 + 51},{T0 + 61},false,bid,99.7,1",  # crosses: something is missing
        f"binance,BTCUSDT,{T0 + 52},{T0 + 62},false,bid,99.1,1",
    ]
    path = folder / "book.csv.gz"
    path.write_bytes(gzip.compress((head + "\n".join(rows) + "\n").encode()))
    return path


def tardis_trades(folder: Path) -> Path:
    rows = [
        "exchange,symbol,timestamp,local_timestamp,id,side,price,amount",
        f"binance,BTCUSDT,{T0},{T0 + 10},a1,buy,100.5,0.25",
        f"binance,BTCUSDT,{T0},{T0 + 11},a2,unknown,100.5,0.25",
        f"binance,BTCUSDT,{T0},{T0 + 12},a3,sell,100.0,1",
    ]
    path = folder / "trades.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def agg_trades(folder: Path) -> Path:
    "Without a line of names, in microseconds, packed as the archive packs."
    rows = [
        f"7,100.5,0.25,1,1,{T0},False,True",
        f"8,100.0,0.5,2,3,{T0 + 1},True,True",
        f"11,100.0,0.5,6,6,{T0 + 2},True,True",
    ]
    path = folder / "BTCUSDT-aggTrades.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("BTCUSDT-aggTrades.csv", "\n".join(rows) + "\n")
    return path


def book_ticker(folder: Path) -> Path:
    head = "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty"
    ms = T0 // 1000
    rows = [
        f"{head},transaction_time,event_time",
        f"1,100,2,101,3,{ms},{ms + 1}",
        f"3,100.5,2,101,3,{ms + 5},{ms + 6}",
        f"2,100.2,2,101,3,{ms + 4},{ms + 6}",
    ]
    path = folder / "ticker.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


TIMES = {"ev": "<u8", "exch_ts": "<i8", "local_ts": "<i8"}
NUMBERS = {"px": "<f8", "qty": "<f8", "order_id": "<u8", "ival": "<i8", "fval": "<f8"}
EVENT = np.dtype(list((TIMES | NUMBERS).items()))


def hftbacktest(folder: Path) -> Path:
    both, buy, sell = (1 << 31) | (1 << 30), 1 << 29, 1 << 28
    rows = [
        (3 | both | buy, 1, 10, 0.0, 0.0),
        (4 | both | buy, 1, 10, 100.0, 1.5),
        (4 | both | sell, 1, 10, 100.5, 2.0),
        (1 | (1 << 31) | sell, 2, 11, 1.0, 9.0),  # for the exchange's side only
        (1 | both | sell, 5, 20, 100.4, 0.5),
        (2 | both | sell, 6, 21, 100.0, 0.3),
        (10 | both | buy, 7, 22, 100.0, 0.3),  # an order of a level-3 feed
    ]
    data = np.array([(*row, 0, 0, 0.0) for row in rows], EVENT)
    np.savez_compressed(folder / "data.npz", data=data)
    return folder / "data.npz"


MADE: dict[str, tuple[Callable[[Path], Path], list[str], dict[str, int]]] = {
    "tardis_book": (tardis_book, list("OOGOG"), {"changes before a snapshot": 2}),
    "tardis_trades": (tardis_trades, list("TT"), {"trades of an unknown side": 1}),
    "binance_agg_trades": (agg_trades, list("TTGT"), {}),
    "binance_book_ticker": (book_ticker, list("OO"), {"quotes that came late": 1}),
    "hftbacktest": (hftbacktest, list("OOT"), {"rows of another kind": 1}),
}


@pytest.mark.parametrize("layout", MADE)
def test_layouts_by_their_description(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, kinds, counts = MADE[layout]
    source = Imported(layout, make(tmp_path), *BTC)
    events = list(source)
    assert [type(event).__name__[0] for event in events] == kinds and source.counts == counts
    assert not LAYOUTS[layout].is_verified
    for rows in (1, 2):
        for reads in (file_rows.csv_chunks, files_hftbacktest.npz_chunks):
            monkeypatch.setattr(reads, "__defaults__", (rows,))
        assert all(same(a, b) for a, b in zip(events, source, strict=True))
        assert source.counts == counts
    with EventWriter(tmp_path / "tables", 5) as writer:
        for event in events:
            writer.write(event)
    again = read_events(tmp_path / "tables")
    assert all(same(a, b) for a, b in zip(events, again, strict=True))


def test_what_the_rows_say_is_in_the_events(tmp_path: Path) -> None:
    book = books_of(list(Imported("tardis_book", tardis_book(tmp_path), *BTC)))[1]
    assert (book.best_bid, book.best_ask, book.ask_size) == (100.1, 100.4, 0.5)
    assert (book.ts_event_ns, book.ts_recv_ns) == ((T0 + 5) * 1000, (T0 + 20) * 1000)
    buy, sell = Imported("tardis_trades", tardis_trades(tmp_path), *BTC)
    assert (buy.side, sell.side, buy.trade_id) == ("buy", "sell", "a1")
    events = list(Imported("binance_agg_trades", agg_trades(tmp_path), *BTC))
    assert [e.side for e in events if isinstance(e, Trade)] == ["buy", "sell", "sell"]
    gap = events[2]
    assert isinstance(gap, Gap) and (gap.expected, gap.received) == (9, 11)
    assert events[0].ts_recv_ns == T0 * 1000
    untrusted = Imported("hftbacktest", hftbacktest(tmp_path), *BTC, is_trusted=False)
    assert {b.state for b in books_of(list(untrusted))} == {StreamState.UNVERIFIABLE}


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "frames"])
@pytest.mark.parametrize("content", [b"", b"{}", b"a,b\n1,2\n", bytes(range(256)), b"PK\x03\x04"])
def test_other_files_are_told_in_a_sentence(layout: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.bin"):
        list(Imported(layout, tmp_path / "x.bin", *BTC))


def test_wrong_order_names_and_arrays(tmp_path: Path) -> None:
    path = tardis_trades(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[3], lines[1]]) + "\n")
    with pytest.raises(InputError, match="not in the order of time"):
        list(Imported("tardis_trades", path, *BTC))
    old = io.BytesIO()
    np.savez(old, data=np.zeros((3, 6)))
    (tmp_path / "old.npz").write_bytes(old.getvalue())
    with pytest.raises(InputError, match="needs records with ev"):
        list(Imported("hftbacktest", tmp_path / "old.npz", *BTC))
    for layout, wrong in (("candles", "no events"), ("csv", "unknown layout")):
        with pytest.raises(InputError, match=wrong):
            Imported(layout, path, *BTC)
    with pytest.raises(InputError, match="no such file"):
        Imported("frames", tmp_path / "nothing", *BTC)


# --- rows that cannot be so


@pytest.mark.parametrize(
    ("layout", "old", "new", "wrong"),
    [
        ("tardis_book", "100.5,2\n", "abc,2\n", "'abc'"),
        ("tardis_book", ",ask,", ",sell,", "a side is bid or ask: 'sell'"),
        ("tardis_book", f"{T0 + 20},", ",", "whole number of s, ms, µs or ns"),
        ("tardis_book", "99.1,1\n", "99.1,1,7\n", "broken after line"),
        ("tardis_trades", f",{T0},", ",yesterday,", "not 'yesterday' in column 'timestamp'"),
        ("tardis_trades", "100.5,0.25", "100.5,much", "'much'"),
        ("binance_agg_trades", "8,100.0", "eight,100.0", "'eight'"),
        ("binance_book_ticker", "100.5,2", "100.5,two", "'two'"),
    ],
)
def test_a_word_where_a_number_belongs_is_refused(
    layout: str, old: str, new: str, wrong: str, tmp_path: Path
) -> None:
    made = MADE[layout][0](tmp_path)
    if made.suffix == ".zip":
        with zipfile.ZipFile(made) as archive:
            text = archive.read(archive.namelist()[0]).decode()
    else:
        packed = made.read_bytes()
        text = (gzip.decompress(packed) if made.suffix == ".gz" else packed).decode()
    assert old in text
    (tmp_path / "bad.csv").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=r"bad\.csv") as told:
        list(Imported(layout, tmp_path / "bad.csv", *BTC))
    assert wrong in str(told.value)


@pytest.mark.parametrize("bad", ["", "nan", "inf", "-1", "0"])
@pytest.mark.parametrize("field", ["price", "amount"])
def test_bad_numbers_take_the_book_away_and_are_counted(
    bad: str, field: str, tmp_path: Path
) -> None:
    "Until the next snapshot: what stood at that price nobody knows. A quantity of 0 deletes."
    head = "exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount\n"
    px, qty = (bad, "1") if field == "price" else ("100.1", bad)
    start = f"b,B,{T0},{T0},true,bid,100.0,1\nb,B,{T0},{T0},true,ask,100.5,1\n"
    rows = start + f"b,B,{T0 + 1},{T0 + 1},false,bid,{px},{qty}\n"
    rows += f"b,B,{T0 + 2},{T0 + 2},false,bid,99.0,2\n" + start.replace(str(T0), str(T0 + 3))
    (tmp_path / "book.csv").write_text(head + rows)
    source = Imported("tardis_book", tmp_path / "book.csv", *BTC)
    events = list(source)
    if (field, bad) == ("amount", "0"):
        assert len(books_of(events)) == 4 and not source.counts
        return
    assert [type(event).__name__[0] for event in events] == list("OGO")
    assert isinstance(events[1], Gap) and events[1].reason == "bad number"
    assert source.counts == {"changes with a bad number": 1, "changes before a snapshot": 1}
    trade = f"exchange,symbol,timestamp,local_timestamp,id,side,price,amount\nb,B,{T0},{T0},1,buy,"
    (tmp_path / "trades.csv").write_text(f"{trade}{px},{qty}\n")
    source = Imported("tardis_trades", tmp_path / "trades.csv", *BTC)
    assert list(source) == [] and source.counts == {"trades with a bad number": 1}


def test_files_that_are_cut_off_are_told(tmp_path: Path) -> None:
    whole = b"exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n"
    whole += b"".join(b"b,B,%d,%d,%d,buy,100.5,0.25\n" % (T0 + i, T0 + i, i) for i in range(9_999))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(whole)[:-4_000])
    with pytest.raises(InputError, match=r"cut\.csv\.gz: broken after line"):
        list(Imported("tardis_trades", tmp_path / "cut.csv.gz", *BTC))
    packed = hftbacktest(tmp_path).read_bytes()
    for n in (10, 200, 400):
        (tmp_path / "cut.npz").write_bytes(packed[:-n])
        with pytest.raises(InputError, match=r"cut\.npz"):
            list(Imported("hftbacktest", tmp_path / "cut.npz", *BTC))


@pytest.mark.parametrize("venue", ["", "../x", "Binance", "a/b", "a=b"])
def test_a_venue_is_a_plain_word(venue: str, tmp_path: Path) -> None:
    path = tardis_trades(tmp_path)
    with pytest.raises(InputError, match="small letters"):
        Imported("tardis_trades", path, venue, "BTC/USDT")
    with pytest.raises(InputError, match="depth=0"):
        Imported("tardis_trades", path, *BTC, depth=0)


# --- on files of others


def test_the_recorded_hour_of_link(gem_data: Path) -> None:
    folder = gem_data / "link-binance-htx-2021-08-20"
    for name, exchange in (("bnc", "binance"), ("hb", "htx")):
        path = folder / f"orderbook_{name}.csv.gz"
        events = list(Imported("ten_level_csv", path, exchange, "LINK/USDT"))
        frame = pd.read_csv(path)
        assert len(events) == 3_600 == len(books_of(events))
        assert [book.best_bid for book in books_of(events)] == frame["b1"].tolist()
        assert all(len(book.asks) == 10 for book in books_of(events))


def test_recorded_parquet(gem_data: Path) -> None:
    folder = gem_data / "binance-2026-02-16-books"
    for kind, symbol, n_books, n_trades in (
        ("spot", "BTC/USDT", 2_559, 10_215),
        ("fut", "BTC/USDT:USDT", 2_559, 11_947),
    ):
        books = Imported(
            "depth_parquet", folder / f"lobdeep_btc_{kind}_2026-02-16_04.parquet", "binance", symbol
        )
        found = books_of(list(books))
        assert len(found) == n_books and all(b.best_bid < b.best_ask for b in found)
        trades = Imported(
            "trades_parquet", folder / f"trades_btc_{kind}_2026-02-16_04.parquet", "binance", symbol
        )
        assert sum(isinstance(event, Trade) for event in trades) == n_trades


def test_recorded_frames(gem_data: Path) -> None:
    path = gem_data / "binance-2024-08-08" / "usdm_btcusdt.gz"
    events = list(Imported("frames", path, "binance", "BTC/USDT:USDT", depth=5))
    assert len(books_of(events)) > 6_000 and not any(isinstance(e, Gap) for e in events[100:])
