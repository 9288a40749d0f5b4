"""Find short-lived cross-exchange dislocations that can be executed with profit after fees."""

from .book import OrderBook as OrderBook
from .clock import ClockSync as ClockSync
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
from .frames import FrameWriter as FrameWriter, read_frames as read_frames
from .markets import instrument as instrument, load_markets as load_markets
from .simulator import simulate_market as simulate_market
from .streams import (
    BinanceOrderBookStream as BinanceOrderBookStream,
    BybitOrderBookStream as BybitOrderBookStream,
    CoinbaseOrderBookStream as CoinbaseOrderBookStream,
    make_stream as make_stream,
)

__version__: str
__all__: list[str]
