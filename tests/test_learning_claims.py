"""What the learning part claims as a whole, in the size of every day; longer runs are marked."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from gem_detector.acceptance import OnlineAcceptance
from gem_detector.comparison import compare_at_equal_count
from gem_detector.core import InputError
from gem_detector.intervals import Rows
from gem_detector.leakage import audit_leakage
from gem_detector.meta_labeling import MetaLabeler, MetaLabelingConfig
from gem_detector.splits import WalkForwardSplit

NS = 1_000_000_000


def test_random_walks_show_no_skill_when_purged_and_a_leak_when_not(
    record_property: Callable[[str, object], None],
) -> None:
    "Labels of 20 bars, 200 windows a seed, six seeds pooled, the first 20 bars of each test part."

    def walk(is_purged: bool) -> Callable[..., WalkForwardSplit]:
        return lambda s: WalkForwardSplit(
            200, intervals=s if is_purged else (s[0], s[0]), train_size=Rows(300)
        )

    aucs = []
    for is_purged in (True, False):
        row = audit_leakage(KNeighborsClassifier(5), walk(is_purged), n_seeds=6).iloc[0]
        assert row.n_parts >= 6 * 200 and row.n_rows <= 20 * row.n_parts
        aucs.append(row.auc)
    record_property("AUC purged", round(aucs[0], 3))
    record_property("AUC unpurged", round(aucs[1], 3))
    assert abs(aucs[0] - 0.5) <= 0.03 and aucs[1] > 0.55


def sized_market(seed: int) -> tuple[np.ndarray, ...]:
    "A primary's score, what a filter knows beyond it, gems, and sizes that differ a hundredfold."
    rng = np.random.default_rng(seed)
    seen, hidden = rng.normal(size=4_000), rng.normal(size=4_000)
    y = rng.random(4_000) < 1 / (1 + np.exp(1.5 - seen - 1.5 * hidden))
    return 1 / (1 + np.exp(1.5 - seen)), hidden, y, np.exp(1.5 * rng.normal(size=4_000))


def test_a_gain_has_to_show_at_equal_turnover_too() -> None:
    p, hidden, y, size = sized_market(0)
    both = compare_at_equal_count(p, (p > 0.2) & (hidden > 0.5), y, n_bootstrap=200, size=size)
    assert both["verdict"] == "gain" and both["turnover_low"] > 0
    small = size < np.median(size)  # right on small signals, wrong on large ones
    kept = (p > 0.2) & np.where(small, hidden > 0.5, hidden < -0.5)
    kept &= small | (np.arange(4_000) % 16 == 0)
    count_only = compare_at_equal_count(p, kept, y, n_bootstrap=200)
    weighed = compare_at_equal_count(p, kept, y, n_bootstrap=200, size=size)
    assert count_only["verdict"] == "gain" and weighed["verdict"] == "no gain"
    assert weighed["gain"] == count_only["gain"] and weighed["low"] == count_only["low"]
    same = compare_at_equal_count(p, kept, y, n_bootstrap=50, size=np.full(4_000, 7.0))
    assert same["gain_at_equal_turnover"] == pytest.approx(same["gain"])
    with pytest.raises(InputError, match="size has to be"):
        compare_at_equal_count(p, kept, y, size=-size)


def test_a_labeler_gives_its_acceptance_the_scores_of_false_decisions(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rng = np.random.default_rng(0)
    n = 6_000
    X = pd.DataFrame(rng.normal(size=(n, 3)), columns=list("abc"))
    X.index = pd.Index(1_767_225_600 * NS + np.arange(n) * NS // 4, name="ts_recv_ns")
    side = pd.DataFrame({"hidden": rng.normal(size=n)}, index=X.index)
    y = pd.Series(rng.random(n) < 1 / (1 + np.exp(1 - 2 * X.a - 3 * side.hidden)), index=X.index)
    y, learn, new = y.astype(int), slice(0, 3_000), slice(3_000, n)
    primary = LogisticRegression().fit(X[learn], y[learn])
    config = MetaLabelingConfig("oof", 0.6)
    labeler = MetaLabeler(primary, tmp_path_factory.mktemp("meta"), config)
    labeler.train_meta_model(X[learn], y[learn], side[learn], horizon=NS)
    every = labeler.null_scores(X[new], y[new], side[new], gap_ns=0)
    _, p_meta, _ = labeler.predict_with_meta(X[new], side[new])
    is_null = np.isfinite(p_meta) & (y[new] == 0).to_numpy()
    assert np.array_equal(every, p_meta[is_null])
    runs = labeler.null_scores(X[new], y[new], side[new])
    assert 0 < len(runs) < len(every)  # neighbours within a second are one decision
    by_hand = labeler.null_scores(
        X[new].reset_index(drop=True),
        y[new].to_numpy(),
        side[new].reset_index(drop=True),
        t0=X.index[new],
    )
    assert np.array_equal(by_hand, runs)
    assert OnlineAcceptance(every, 0.2).accept(2.0).is_accepted
