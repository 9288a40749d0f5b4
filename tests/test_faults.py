"""Every fault at every venue, over many seeds: no wrong book, and the right one comes back."""

from collections import Counter
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from random import Random

import pytest

from gem_detector.bad_days import BadDay, Ladder, bad_day, ladder_after, ladder_bytes
from gem_detector.core import NS_PER_S, Gap, Instrument
from gem_detector.markets import instrument
from gem_detector.simulator import DEFAULT_VENUES, Market, VenueSpec, simulate_market
from gem_detector.sync import Feed
from gem_detector.venues.binance import BinanceProtocol
from gem_detector.venues.bybit import BybitProtocol
from gem_detector.venues.coinbase import CoinbaseProtocol
from gem_detector.venues.htx import HTXProtocol
from gem_detector.venues.kraken import KrakenProtocol
from gem_detector.venues.okx import OKXProtocol
from gem_detector.wire import DELTA, BookMessage, VenueProtocol
from gem_detector.wire_faults import KINDS, UNPROVEN, Fault

N_SEEDS = 20
DURATION_S = 32.0
DEPTH = 10  # rows a side of every book here: Kraken's checksum covers all of them
PROTOCOLS: dict[str, tuple[VenueProtocol, str]] = {
    "binance spot": (BinanceProtocol("spot"), "BTC/USDT"),
    "binance linear": (BinanceProtocol("linear"), "BTC/USDT:USDT"),
    "bybit spot": (BybitProtocol("spot"), "BTC/USDT"),
    "bybit linear": (BybitProtocol("linear"), "BTC/USDT:USDT"),
    "coinbase spot": (CoinbaseProtocol(), "BTC/USD"),
    "kraken spot": (KrakenProtocol(), "BTC/USD"),
    "okx spot": (OKXProtocol("spot"), "BTC/USDT"),
    "okx linear": (OKXProtocol("linear"), "BTC/USDT:USDT"),
    "htx spot": (HTXProtocol("spot"), "BTC/USDT"),
    "htx linear": (HTXProtocol("linear"), "BTC/USDT:USDT"),
}
BAD_DAYS = (*KINDS, "our_clock_jumps", "two_faults")


def spec_of(name: str) -> VenueSpec:
    protocol, symbol = PROTOCOLS[name]
    return replace(
        DEFAULT_VENUES[0],
        instrument=instrument(protocol.exchange, symbol),
        name=name,
        depth_levels=DEPTH,
        change_rate_hz=15.0,
        batch_ms=200.0,
        trade_rate_hz=0.3,
        wire_ms=40.0,
    )


@lru_cache(maxsize=N_SEEDS)
def market_of(seed: int) -> Market:
    return simulate_market(seed, DURATION_S, [spec_of(name) for name in PROTOCOLS])


@cache
def truth_of(name: str, seed: int) -> list[Ladder]:
    tape = market_of(seed).tapes[name]
    return [ladder_after(tape, i) for i in range(len(tape))]


def faults_of(kind: str, seed: int) -> list[Fault]:
    "A bad day of a kind, different for each seed."
    rng = Random(f"{kind} {seed}")
    if kind in ("clean", "our_clock_jumps"):
        return []
    if kind == "two_faults":
        return [fault for one in rng.sample(list(KINDS), 2) for fault in faults_of(one, seed)]
    many = dict.fromkeys(("silence_after_ack", "half_open", "dead_stream"), 1)
    many |= {"disconnect_storm": 5, "http_429": 3, "http_5xx": 3, "sequence_reset": 1}
    return [
        Fault(
            kind,
            at_s=0.0 if kind.startswith("http") or "ack" in kind else rng.uniform(0.0, 7.0),
            n=rng.randint(1, many.get(kind, 2)),
            chance=rng.choice([0.3, 1.0]),
            for_s=rng.uniform(0.1, 1.5),
            jump_s=rng.choice([-1, 1]) * rng.uniform(0.1, 20.0),
        )
    ]


def jump_of(kind: str, seed: int, start_ns: int):
    "Our own clock, which jumps once on such a day."
    if kind != "our_clock_jumps":
        return int
    rng = Random(seed)
    at_ns = start_ns + round(rng.uniform(3.0, 12.0) * NS_PER_S)
    by_ns = round(rng.choice([-1, 1]) * rng.uniform(0.1, 200.0) * NS_PER_S)
    return lambda ns: ns + by_ns * (ns >= at_ns)


def new_feed(name: str) -> Feed:
    protocol, symbol = PROTOCOLS[name]
    return Feed(protocol, [instrument(protocol.exchange, symbol)], DEPTH)


def day_of(name: str, kind: str, seed: int) -> BadDay:
    "One run, judged frame by frame: the venue's book is the one after the last frame delivered."
    market = market_of(seed)
    only = replace(market, tapes={name: market.tapes[name]})
    known = {"clock": jump_of(kind, seed, market.start_ns), "ladders": truth_of(name, seed)}
    return bad_day(PROTOCOLS[name][0], only, faults_of(kind, seed), seed, **known)


def is_provable(name: str, kind: str, seed: int) -> bool:
    venue = name.split()[0]
    return not any(fault.kind in UNPROVEN[venue] for fault in faults_of(kind, seed))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_clean_day_has_no_gap_and_every_book(name: str) -> None:
    for seed in range(N_SEEDS):
        day = day_of(name, "clean", seed)
        assert not day.gaps and not day.n_wrong and day.is_right_at_end and not day.feed.rejected
        assert day.n_books > 0.9 * len(market_of(seed).tapes[name])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_bad_days(name: str, record_property) -> None:
    "Provable faults: no wrong book, and at the end the whole ladder. Others are counted apart."
    wrong, counted, hits = [], Counter(), Counter()
    for kind in BAD_DAYS:
        for seed in range(N_SEEDS):
            day = day_of(name, kind, seed)
            hits[kind] += day.n_strikes
            if not is_provable(name, kind, seed):
                counted[kind] += day.n_wrong
            elif day.n_wrong or not day.is_right_at_end:
                wrong.append((kind, seed, day.n_wrong, day.is_right_at_end, day.gaps))
    record_property("wrong books of unprovable faults", dict(counted))
    record_property("strikes", dict(hits))
    assert not wrong, wrong


def test_what_a_bad_day_brought_replays_to_the_same(  # the recording is the arrivals
) -> None:
    for name in PROTOCOLS:
        day, again = day_of(name, "two_faults", 3), new_feed(name)
        for arrival in day.arrivals:
            again.handle(arrival)
            again.actions.clear()
        assert again.counts == day.feed.counts and again.rejected == day.feed.rejected
        (one,), (other,) = again.syncs.values(), day.feed.syncs.values()
        assert one.states == other.states and ladder_bytes(*one.book.ladder()) == ladder_bytes(
            *other.book.ladder()
        )


def test_one_lost_delta_of_the_real_bybit_capture_is_flagged_forty_times_of_forty(
    gem_data: Path,
) -> None:
    from gem_detector.frames import read_frames

    frames = list(read_frames(gem_data / "wire-2026-08-frames" / "bybit_linear.gz"))
    protocol = BybitProtocol("linear")
    parsed = [protocol.parse(arrival.payload) for arrival in frames]
    deltas = [
        i
        for i, messages in enumerate(parsed)
        if any(isinstance(m, BookMessage) and m.kind == DELTA for m in messages)
    ]
    symbol_at = {i: parsed[i][0].venue_symbol for i in deltas}
    last = {symbol: i for i, symbol in symbol_at.items()}
    places = Random(7).sample([i for i in deltas if i != last[symbol_at[i]]], 40)
    names = {"BTCUSDT": "BTC", "ETHUSDT": "ETH", "SOLUSDT": "SOL", "DOGEUSDT": "DOGE"}

    def gaps_without(place: int | None) -> list[Gap]:
        made = [
            Instrument("bybit", f"{b}/USDT:USDT", n, "linear", b, "USDT", "USDT", 1e-5, 1e-3)
            for n, b in names.items()
        ]
        feed, gaps = Feed(protocol, made, 20), []
        for i, arrival in enumerate(frames):
            if i != place:
                gaps += [e for e in feed.handle(arrival) if isinstance(e, Gap)]
                feed.actions.clear()
        return gaps

    assert not gaps_without(None)
    for place in places:
        (gap,) = gaps_without(place)
        assert gap.reason == "sequence" and gap.symbol.startswith(names[symbol_at[place]])
