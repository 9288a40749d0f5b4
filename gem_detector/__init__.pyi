"""Find short-lived cross-exchange dislocations that can be executed with profit after fees."""

from .aggregator import MultiExchangeAggregator as MultiExchangeAggregator
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
from .costs import FeeTable as FeeTable
from .demo import run_demo as run_demo
from .emulator import VenueServer as VenueServer
from .execution import BookColumns as BookColumns, two_leg_fills as two_leg_fills
from .frames import FrameWriter as FrameWriter, read_frames as read_frames
from .gem_classifier import GemClassifier as GemClassifier
from .leakage import audit_leakage as audit_leakage
from .lgbm import LightGBMPipeline as LightGBMPipeline
from .markets import instrument as instrument, load_markets as load_markets
from .meta_labeling import MetaLabeler as MetaLabeler, MetaLabelingConfig as MetaLabelingConfig
from .pairs import BasisRule as BasisRule
from .recorder import (
    EventWriter as EventWriter,
    read_events as read_events,
    read_table as read_table,
    record as record,
)
from .report import write_report as write_report
from .simulator import simulate_market as simulate_market
from .spectral_residual import (
    BurstConfirmationFilter as BurstConfirmationFilter,
    CombinedDetector as CombinedDetector,
    SpectralAnomalyScore as SpectralAnomalyScore,
    SpectralResidualDetector as SpectralResidualDetector,
)
from .splits import (
    CombinatorialPurgedCV as CombinatorialPurgedCV,
    PurgedKFold as PurgedKFold,
    WalkForwardSplit as WalkForwardSplit,
    purge as purge,
)
from .streams import (
    BinanceOrderBookStream as BinanceOrderBookStream,
    BybitOrderBookStream as BybitOrderBookStream,
    CoinbaseOrderBookStream as CoinbaseOrderBookStream,
    make_stream as make_stream,
)
from .training import ModelMetrics as ModelMetrics

__version__: str
__all__: list[str]
