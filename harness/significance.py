"""Whether two retrievers differ: paired tests over the queries that both answered.

Every query is its own control: what is tested are the differences of its two values. Smucker, Allan
and Carterette (A Comparison of Statistical Significance Tests for Information Retrieval Evaluation,
CIKM 2007) recommend the permutation test for that, and not the sign or the Wilcoxon test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.statistics import Interval, bootstrap_interval

#: Up to so many queries that differ, all permutations are gone through: 65,536.
_EXACT = 16
#: Signs drawn at a time; as float32 they take 16 MB.
_DRAWS = 4_000_000
#: Quantiles of the normal distribution for a two-sided test at 5% that finds what is there in 80%
#: of the cases.
_DETECTED = 1.959964 + 0.841621


@dataclass(frozen=True, slots=True)
class PairedTest:
    """The differences of two retrievers over the same queries, for one measure.

    Attributes
    ----------
    difference
        Mean of the differences with its bootstrap interval.
    p
        Two-sided p-value of the permutation test: how often signs given to the differences by
        chance make their mean as far from 0 as it is.
    wins, ties, losses
        Queries with a difference above, equal to and below 0.
    effect
        Mean of the differences over their standard deviation (Cohen's d of paired values); 0 if
        all are 0, infinite if all are the same.
    detectable
        The smallest true difference that as many queries with differences as spread as these show
        at 5% in 80% of the cases.
    """

    difference: Interval
    p: float
    wins: int
    ties: int
    losses: int
    effect: float
    detectable: float


def paired_test(
    values: NDArray[np.float64],
    baseline: NDArray[np.float64],
    seed: int,
    permutations: int = 100_000,
) -> PairedTest:
    """Test a retriever against another, query by query.

    Parameters
    ----------
    values, baseline
        float64, shape ``(n_queries,)``: values of the same measure, query by query.
    seed
        Of bootstrap and permutations; the same seed gives the same figures.
    permutations
        How many are drawn where there are too many to go through: the p-value is at least
        1 / (permutations + 1).

    Raises
    ------
    UsageError
        If there are no queries, or the shapes differ.
    """
    if values.shape != baseline.shape or values.ndim != 1 or not len(values):
        raise UsageError(
            f"values of shapes {values.shape} and {baseline.shape} cannot be paired: give one "
            "value for each query, of at least one."
        )
    differences = values - baseline
    n = len(differences)
    spread = float(differences.std(ddof=1)) if n > 1 else 0.0
    mean = float(differences.mean())
    return PairedTest(
        difference=bootstrap_interval(differences[:, None], seed)[0],
        p=permutation_p(differences, seed, permutations),
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
        effect=mean / spread if spread else math.copysign(math.inf, mean) if mean else 0.0,
        detectable=_DETECTED * spread / math.sqrt(n),
    )


def permutation_p(differences: NDArray[np.float64], seed: int, permutations: int) -> float:
    """Return the two-sided p-value of the permutation test of a mean of 0.

    All signs are gone through where at most 16 differences are not 0, else `permutations` are
    drawn; the observed one counts among these (Phipson and Smyth, Permutation P-values Should Never
    Be Zero, 2010).
    """
    moved = np.abs(differences[differences != 0])
    if not len(moved):
        return 1.0
    # What differs by rounding alone is as far from 0 as what is observed.
    observed = abs(float(differences.sum())) * (1 - 1e-9)
    if len(moved) <= _EXACT:
        rows = np.arange(2 ** len(moved))[:, None]
        signs = 1.0 - 2.0 * ((rows >> np.arange(len(moved))) & 1)
        return float((np.abs(signs @ moved) >= observed).mean())
    rng = np.random.default_rng(seed)
    at_a_time = max(1, _DRAWS // len(moved))
    beyond = 0
    for start in range(0, permutations, at_a_time):
        count = min(at_a_time, permutations - start)
        bits = rng.integers(0, 2, (count, len(moved)), dtype=np.int8)
        beyond += int((np.abs((1.0 - 2.0 * bits) @ moved) >= observed).sum())
    return (beyond + 1) / (permutations + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in their order.

    Holm's step-down method (A Simple Sequentially Rejective Multiple Test Procedure, 1979): the
    chance that any of them is below 5% while nothing differs is at most 5%.
    """
    corrected = [0.0] * len(p_values)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = least
    return corrected
