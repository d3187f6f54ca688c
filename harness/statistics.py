"""How far a mean or median over queries can be trusted: bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError

#: How the values of queries become one.
Statistic = Literal["mean", "median"]

# Indices drawn at a time; with their counts they take about 40 MB.
_DRAWS = 2_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over queries and the interval that holds it.

    Attributes
    ----------
    mean
        Mean of the values, or their median where that was asked for.
    low, high
        Ends of the interval.
    n
        Number of queries. For one query the interval is that query's value and says nothing.
    """

    mean: float
    low: float
    high: float
    n: int


def averages(
    values: NDArray[np.float64], statistics: Sequence[Statistic] | None = None
) -> NDArray[np.float64]:
    """Return the mean of each column of `values`, or its median where `statistics` says so."""
    found: NDArray[np.float64] = values.mean(axis=0)
    for column in _medians(statistics):
        found[column] = np.median(values[:, column])
    return found


def bootstrap_interval(
    values: NDArray[np.float64],
    seed: int,
    resamples: int = 10_000,
    confidence: float = 0.95,
    statistics: Sequence[Statistic] | None = None,
) -> list[Interval]:
    """Return the percentile bootstrap interval of the mean, or the median, of each measure.

    Queries are drawn with replacement; the interval runs between quantiles of the resampled means
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3). All measures see
    the same resamples. The same seed gives the same intervals.

    Parameters
    ----------
    values
        Shape ``(n_queries, n_measures)``, finite.
    seed
        Of the random generator.
    resamples
        How many samples are drawn.
    confidence
        Share of the resampled means inside of the interval, between 0 and 1.
    statistics
        For each measure, what is resampled; None for means.

    Raises
    ------
    UsageError
        If there are no queries, or a parameter is out of range.
    """
    if resamples < 1 or not 0 < confidence < 1:
        raise UsageError(
            f"a bootstrap of {resamples} resamples with confidence {confidence} cannot be: give at "
            "least 1 resample and a confidence between 0 and 1."
        )
    n = len(values)
    if n == 0:
        raise UsageError("no query to take a mean over: an interval needs at least one.")
    centre = values.mean(axis=0)
    # Deviations, so that equal values give an interval of exactly no width.
    deviations = values - centre
    medians = {column: np.argsort(values[:, column]) for column in _medians(statistics)}
    centre[list(medians)] = 0
    sampled = np.empty((resamples, values.shape[1]))
    generator = np.random.default_rng(seed)
    step = max(1, _DRAWS // n)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = generator.integers(0, n, size=(size, n), dtype=np.int32)
        # How often each query was drawn, row by row: a product with the values then sums them,
        # many times faster than gathering them.
        drawn += np.arange(0, size * n, n, dtype=np.int32)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        block = sampled[start : start + size]
        block[:] = counts @ deviations / n
        for column, order in medians.items():
            block[:, column] = _resampled_medians(values[:, column], order, counts)
    tail = (1 - confidence) / 2
    # Rounding may carry a resampled mean a hair out of the values' range: no "-0.0" to be shown.
    least, most = values.min(axis=0), values.max(axis=0)
    low, high = np.clip(centre + np.quantile(sampled, [tail, 1 - tail], axis=0), least, most)
    return [
        Interval(mean=float(m), low=float(lo), high=float(hi), n=n)
        for m, lo, hi in zip(averages(values, statistics), low, high, strict=True)
    ]


def _medians(statistics: Sequence[Statistic] | None) -> list[int]:
    """Return the columns whose median is asked for."""
    return [column for column, name in enumerate(statistics or ()) if name == "median"]


def _resampled_medians(
    values: NDArray[np.float64], order: NDArray[np.intp], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the median of each resample.

    Parameters
    ----------
    values
        Shape ``(n,)``.
    order
        Places of the values when they ascend.
    counts
        How often each was drawn, shape ``(resamples, n)``; each row sums to n.
    """
    n = len(values)
    # How many of n draws fall into the lower half is off by sqrt(n) / 2 on average: the middle ones
    # are never twenty times that away. For 60,000 values that takes a tenth of the time.
    reach = 10 * math.isqrt(n) + 1
    first, last = max(0, n // 2 - reach), min(n, n // 2 + reach)
    below = np.zeros(n)
    below[order[:first]] = 1
    near = order[first:last]
    reached = (counts @ below)[:, None] + np.cumsum(counts[:, near], axis=1)
    # The two middle ones of n drawn values; they are one where n is odd.
    lower = values[near[(reached < (n + 1) // 2).sum(axis=1)]]
    upper = values[near[(reached < n // 2 + 1).sum(axis=1)]]
    middle: NDArray[np.float64] = (lower + upper) / 2
    return middle
