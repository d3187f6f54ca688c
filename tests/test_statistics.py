"""Bootstrap intervals against scipy, their coverage, and their edges."""

from __future__ import annotations

import numpy as np
import pytest

import harness.statistics as module
from harness.errors import UsageError
from harness.statistics import Interval, bootstrap_interval


def test_intervals_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).beta(0.4, 0.8, (80, 2))
    ours = bootstrap_interval(values, seed=2, resamples=20_000, confidence=0.9)
    for column, interval in enumerate(ours):
        theirs = stats.bootstrap(
            (values[:, column],),
            np.mean,
            n_resamples=20_000,
            confidence_level=0.9,
            method="percentile",
            rng=np.random.default_rng(3),
        ).confidence_interval
        # The ends are quantiles of 20,000 draws: their own error is about 0.5% of the width.
        width = theirs.high - theirs.low
        assert interval.low == pytest.approx(theirs.low, abs=0.03 * width)
        assert interval.high == pytest.approx(theirs.high, abs=0.03 * width)
        assert interval.mean == pytest.approx(values[:, column].mean())


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    # 1,000 experiments of 150 queries each, as columns: reciprocal-rank-like values.
    values = 1 / np.random.default_rng(4).geometric(0.3, (150, 1_000))
    truth = sum(0.3 * 0.7 ** (rank - 1) / rank for rank in range(1, 200))
    intervals = bootstrap_interval(values, seed=5, resamples=1_000, confidence=0.95)
    held = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.92 <= held <= 0.97


def test_the_seed_alone_decides() -> None:
    values = np.random.default_rng(6).random((50, 3))
    assert bootstrap_interval(values, seed=7) == bootstrap_interval(values.copy(), seed=7)
    assert bootstrap_interval(values, seed=7) != bootstrap_interval(values, seed=8)


def test_chunks_do_not_change_the_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(6).random((51, 3))
    whole = bootstrap_interval(values, seed=7, resamples=1_001)
    monkeypatch.setattr(module, "_DRAWS", 700)
    chunked = bootstrap_interval(values, seed=7, resamples=1_001)
    for one, other in zip(whole, chunked, strict=True):
        assert one.low == pytest.approx(other.low, abs=1e-12)
        assert one.high == pytest.approx(other.high, abs=1e-12)


def test_all_measures_see_the_same_resamples() -> None:
    column = np.random.default_rng(9).random((40, 1))
    alone = bootstrap_interval(column, seed=1)[0]
    beside, shifted = bootstrap_interval(np.hstack([column, column + 1]), seed=1)
    assert beside.low == pytest.approx(alone.low)
    assert shifted.high == pytest.approx(beside.high + 1)


def test_more_confidence_and_fewer_queries_make_intervals_wider() -> None:
    values = np.random.default_rng(10).random((400, 1))

    def width(rows: int, confidence: float) -> float:
        interval = bootstrap_interval(values[:rows], seed=1, confidence=confidence)[0]
        return interval.high - interval.low

    assert width(400, 0.8) < width(400, 0.95) < width(100, 0.95)


def test_equal_values_give_no_width() -> None:
    interval = bootstrap_interval(np.full((30, 1), 0.1), seed=0)[0]
    assert interval.low == pytest.approx(0.1, abs=1e-15)
    assert interval.high == pytest.approx(0.1, abs=1e-15)


def test_one_query_is_its_own_interval() -> None:
    values = np.array([[0.25, 1.0]])
    assert bootstrap_interval(values, seed=0) == [
        Interval(mean=0.25, low=0.25, high=0.25, n=1),
        Interval(mean=1.0, low=1.0, high=1.0, n=1),
    ]


@pytest.mark.parametrize(
    ("rows", "resamples", "confidence", "message"),
    [
        (0, 10, 0.95, "no query"),
        (3, 0, 0.95, "0 resamples"),
        (3, 10, 1.0, "confidence 1.0"),
        (3, 10, 0.0, "confidence 0.0"),
    ],
)
def test_what_has_no_interval_is_named(
    rows: int, resamples: int, confidence: float, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        bootstrap_interval(np.zeros((rows, 1)), 0, resamples, confidence)
