"""Find short-lived cross-exchange dislocations that can be executed with profit after fees."""

from .book import OrderBook as OrderBook
from .clock import ClockSync as ClockSync
from .compiled_book import CompiledBook as CompiledBook
from .core import (
    FeedError as FeedError,
    Gap as Gap,
    InputError as InputError,
    Instrument as Instrument,
    MalformedMessage as MalformedMessage,
    OrderBookSnapshot as OrderBookSnapshot,
    StreamState as StreamState,
    Trade as Trade,
)
from .demo import run_demo as run_demo
from .emulator import VenueServer as VenueServer
from .frames import FrameWriter as FrameWriter, read_frames as read_frames
from .markets import instrument as instrument, load_markets as load_markets
from .recorder import (
    EventWriter as EventWriter,
    read_events as read_events,
    read_table as read_table,
    record as record,
)
from .report import write_report as write_report
from .simulator import simulate_market as simulate_market
from .streams import (
    BinanceOrderBookStream as BinanceOrderBookStream,
    BybitOrderBookStream as BybitOrderBookStream,
    CoinbaseOrderBookStream as CoinbaseOrderBookStream,
    make_stream as make_stream,
)

__version__: str
__all__: list[str]
