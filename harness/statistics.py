"""How far a mean over queries can be trusted: bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError

# Indices drawn at a time; with their counts they take about 40 MB.
_DRAWS = 2_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over queries and the interval that holds it.

    Attributes
    ----------
    mean
        Mean of the values.
    low, high
        Ends of the interval.
    n
        Number of queries. For one query the interval is that query's value and says nothing.
    """

    mean: float
    low: float
    high: float
    n: int


def bootstrap_interval(
    values: NDArray[np.float64], seed: int, resamples: int = 10_000, confidence: float = 0.95
) -> list[Interval]:
    """Return the percentile bootstrap interval of the mean of each measure.

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
    mean = values.mean(axis=0)
    # Deviations, so that equal values give an interval of exactly no width.
    deviations = values - mean
    means = np.empty((resamples, values.shape[1]))
    generator = np.random.default_rng(seed)
    step = max(1, _DRAWS // n)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = generator.integers(0, n, size=(size, n), dtype=np.int32)
        # How often each query was drawn, row by row: a product with the values then sums them,
        # many times faster than gathering them.
        drawn += np.arange(0, size * n, n, dtype=np.int32)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means[start : start + size] = counts.astype(np.float64) @ deviations / n
    tail = (1 - confidence) / 2
    # Rounding may carry a resampled mean a hair out of the values' range: no "-0.0" to be shown.
    least, most = values.min(axis=0), values.max(axis=0)
    low, high = np.clip(mean + np.quantile(means, [tail, 1 - tail], axis=0), least, most)
    return [
        Interval(mean=float(m), low=float(lo), high=float(hi), n=n)
        for m, lo, hi in zip(mean, low, high, strict=True)
    ]
