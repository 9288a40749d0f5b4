"""Find short-lived cross-exchange dislocations that can be executed with profit after fees."""

from .acceptance import OnlineAcceptance as OnlineAcceptance
from .aggregator import MultiExchangeAggregator as MultiExchangeAggregator
from .barriers import (
    average_uniqueness as average_uniqueness,
    convergence as convergence,
    cusum_events as cusum_events,
    triple_barrier as triple_barrier,
)
from .book import OrderBook as OrderBook
from .ccxt_feed import CcxtOrderBookStream as CcxtOrderBookStream
from .clock import ClockSync as ClockSync
from .compiled_book import CompiledBook as CompiledBook
from .compiled_feed import CompiledFeed as CompiledFeed
from .compiled_step import CompiledStep as CompiledStep
from .core import (
    FeedError as FeedError,
    Gap as Gap,
    Gem as Gem,
    InputError as InputError,
    Instrument as Instrument,
    MalformedMessage as MalformedMessage,
    OrderBookSnapshot as OrderBookSnapshot,
    StreamState as StreamState,
    Trade as Trade,
)
from .costs import FeeTable as FeeTable
from .dashboard import Dashboard as Dashboard
from .datasets import labelled as labelled, read_dataset as read_dataset
from .decisions import GemRule as GemRule
from .demo import run_demo as run_demo
from .detector import GemDetector as GemDetector, detect as detect
from .drift import DriftReport as DriftReport, drift_report as drift_report
from .edge_map import EdgeGrid as EdgeGrid, plot_edge_map as plot_edge_map
from .emulator import VenueServer as VenueServer
from .execution import BookColumns as BookColumns, two_leg_fills as two_leg_fills
from .feature_kernels import FEATURES_DOCUMENT as FEATURES_DOCUMENT
from .feature_stream import (
    FEATURES as FEATURES,
    FeatureSettings as FeatureSettings,
    FeatureStream as FeatureStream,
    Sampler as Sampler,
)
from .features import (
    CrossExchangeFeatureExtractor as CrossExchangeFeatureExtractor,
    CrossExchangeFeatures as CrossExchangeFeatures,
    feature_frame as feature_frame,
)
from .forest import CompiledForest as CompiledForest
from .frame_step import FrameDetector as FrameDetector
from .frames import FrameWriter as FrameWriter, read_frames as read_frames
from .gap_report import print_gap_report as print_gap_report
from .gem_classifier import GemClassifier as GemClassifier
from .gem_models import load_gem_models as load_gem_models, train_gem_models as train_gem_models
from .hpo import (
    HyperparameterOptimizer as HyperparameterOptimizer,
    MultiObjectiveOptimizer as MultiObjectiveOptimizer,
)
from .importers import Imported as Imported
from .labels import label_gems as label_gems, label_onset as label_onset
from .latency import LatencyByHop as LatencyByHop
from .leakage import audit_leakage as audit_leakage
from .ledger import LedgerPage as LedgerPage, ResearchLedger as ResearchLedger
from .lgbm import LightGBMPipeline as LightGBMPipeline
from .live import LiveRun as LiveRun
from .market_watch import MarketWatch as MarketWatch, WatchSettings as WatchSettings
from .markets import instrument as instrument, load_markets as load_markets
from .memory_link import MemoryLink as MemoryLink
from .meta_labeling import MetaLabeler as MetaLabeler, MetaLabelingConfig as MetaLabelingConfig
from .metrics import (
    start_metrics_server as start_metrics_server,
    track_prediction as track_prediction,
)
from .model_versions import ModelVersions as ModelVersions
from .monitoring import (
    alert_rules as alert_rules,
    grafana_dashboard as grafana_dashboard,
    write_monitoring as write_monitoring,
)
from .overfitting import (
    PboResult as PboResult,
    deflated_sharpe_ratio as deflated_sharpe_ratio,
    minimum_track_record_length as minimum_track_record_length,
    pbo_cscv as pbo_cscv,
    probabilistic_sharpe_ratio as probabilistic_sharpe_ratio,
    trial_clusters as trial_clusters,
)
from .pairs import BasisRule as BasisRule
from .paper import (
    Decisions as Decisions,
    PaperRule as PaperRule,
    foresight as foresight,
    paper_trade as paper_trade,
)
from .paper_results import latency_decay as latency_decay, paper_summary as paper_summary
from .planting import Desk as Desk, planted_market as planted_market
from .recorder import (
    EventWriter as EventWriter,
    read_events as read_events,
    read_table as read_table,
    record as record,
)
from .report import write_report as write_report
from .shadow_ledger import ShadowLedger as ShadowLedger, shadow_report as shadow_report
from .shadow_watch import ShadowWatch as ShadowWatch, retrain_wanted as retrain_wanted
from .simple_rules import fit_simple_rules as fit_simple_rules
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
    HTXOrderBookStream as HTXOrderBookStream,
    KrakenOrderBookStream as KrakenOrderBookStream,
    OKXOrderBookStream as OKXOrderBookStream,
    make_stream as make_stream,
    make_streams as make_streams,
)
from .track_record import (
    OverfittingReport as OverfittingReport,
    overfitting_report as overfitting_report,
)
from .training import ModelMetrics as ModelMetrics
from .trial_selection import nested_score as nested_score
from .walk_forward import WalkForwardOptimizer as WalkForwardOptimizer
from .wire_faults import Fault as Fault

__version__: str
__all__: list[str]
