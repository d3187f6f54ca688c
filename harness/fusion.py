"""Fusion: one ranking made of several rankings of the same queries.

Everything is done query by query, so memory depends on the longest lists, not on the number of
queries. A list without documents, or of weight 0, takes no part.

====== ============================================ ===========================================
method score of document d                          in a list that lacks d
====== ============================================ ===========================================
mean   sum of w s(d) / sum of w, over the lists     the list is left out of both sums: CombANZ
       that have d                                  (Fox and Shaw, TREC-2, 1993)
max    the largest s(d)                             the list is left out: CombMAX (the same)
zscore sum of w (s(d) - mean) / deviation           d counts as the last of the list
minmax sum of w (s(d) - least) / (most - least)     d counts as the last of the list, which is 0
rrf    sum of w / (rrf_k + rank of d), from rank 1  0 (Cormack, Clarke and Buettcher, SIGIR 2009)
====== ============================================ ===========================================

``mean`` over the modalities that a document has is what CLaMR's baselines call avg
(arXiv:2506.06144, section 5). Mean and deviation (of the population), least and most are those of
the list of one query. What that leaves open is decided here: where a list scores all its documents
alike, ``zscore`` says nothing (0 for all), and ``minmax`` gives them 1, for they were found and
others were not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from harness.errors import RankingError, UsageError
from harness.types import RankedList, Ranking

#: The constant of reciprocal rank fusion that Cormack et al. settled on.
RRF_K = 60
#: Weights that `tune` tries. Only their ratios matter; 0 leaves a list out.
GRID = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
#: Rounds over all lists after which `tune` stops if it still finds better weights.
ROUNDS = 5

_Values = NDArray[np.float64]
_EMPTY = RankedList((), np.empty(0))


class Method(StrEnum):
    """How scores are fused (see `harness.fusion`)."""

    MEAN = "mean"
    MAX = "max"
    ZSCORE = "zscore"
    MINMAX = "minmax"
    RRF = "rrf"


def fuse(
    rankings: Sequence[Ranking],
    method: Method,
    *,
    weights: Sequence[float] | None = None,
    rrf_k: int = RRF_K,
    k: int | None = None,
) -> Ranking:
    """Fuse rankings; the result has every query that one of them has.

    Parameters
    ----------
    rankings
        At least one. With equal weights their order does not matter, to the bit.
    method
        See `harness.fusion`.
    weights
        One for each ranking, at least 0; None for 1 each.
    rrf_k
        The constant of ``rrf``, at least 0.
    k
        Documents kept for each query; None for all.

    Raises
    ------
    UsageError
        If the weights are not as they should be (see `check_weights`), or `rrf_k` is negative.
    RankingError
        If scores are so large that fusing them overflows.
    """
    if rrf_k < 0:
        raise UsageError(f"rrf_k = {rrf_k}: it must be at least 0, for ranks begin at 1.")
    chosen = check_weights(weights, len(rankings), method)
    queries = dict.fromkeys(chain.from_iterable(rankings))
    fused = Ranking(
        {
            query: fuse_lists(
                [ranking.get(query, _EMPTY) for ranking in rankings], method, chosen, rrf_k, k
            )
            for query in queries
        }
    )
    return fused if k is None else fused.top(k)


def check_weights(weights: Sequence[float] | None, lists: int, method: Method) -> tuple[float, ...]:
    """Return the weights of `lists` lists: 1 each if none are given.

    Raises
    ------
    UsageError
        If there are not as many weights as lists, one is negative or no number, all are 0, or the
        method takes none: a weighted maximum would favour a list whose scores are negative by
        giving it less.
    """
    if weights is None:
        return (1.0,) * lists
    given = tuple(float(weight) for weight in weights)
    shown = ", ".join(f"{weight:g}" for weight in given)
    if len(given) != lists:
        raise UsageError(f"{len(given)} weights ({shown}) for {lists} lists: give one for each.")
    if not all(0 <= weight < np.inf for weight in given) or not any(given):
        raise UsageError(
            f"weights {shown}: they must be finite numbers of at least 0, and one above 0."
        )
    if method is Method.MAX and len({weight for weight in given if weight}) > 1:
        raise UsageError(
            f"weights {shown}: method max takes none, it compares scores as they are. Use another "
            "method, or weight 0 to leave a list out."
        )
    return given


def fuse_lists(
    lists: Sequence[RankedList],
    method: Method,
    weights: Sequence[float],
    rrf_k: int = RRF_K,
    k: int | None = None,
) -> RankedList:
    """Fuse the lists of one query.

    Parameters
    ----------
    lists
        In canonical order, as a `Ranking` holds them.
    method, rrf_k
        As for `fuse`.
    weights
        One for each list, as `check_weights` returns them.
    k
        Documents to keep; more are returned where scores tie at the cut, so that whoever orders
        them (`Ranking`) can break ties by document id.

    Returns
    -------
    RankedList
        In no order.

    Raises
    ------
    RankingError
        If scores are so large that fusing them overflows.
    """
    used = [(row, weight) for row, weight in zip(lists, weights, strict=True) if weight and row]
    if not used:
        return _EMPTY
    numbers = dict.fromkeys(chain.from_iterable(row.documents for row, _ in used), 0)
    numbers.update(zip(numbers, range(len(numbers)), strict=True))
    places = [
        np.fromiter(map(numbers.__getitem__, row.documents), np.intp, len(row)) for row, _ in used
    ]
    with np.errstate(over="ignore", invalid="ignore"):  # Told in words below.
        if method is Method.MAX:
            scores = np.full(len(numbers), -np.inf)
            for (row, _), place in zip(used, places, strict=True):
                scores[place] = np.maximum(scores[place], row.scores)
        elif method is Method.MEAN:
            scores = _mean(used, places, len(numbers))
        else:
            parts = np.empty((len(used), len(numbers)))
            for part, (row, weight), place in zip(parts, used, places, strict=True):
                values, absent = _normalised(row.scores, method, rrf_k)
                part[:] = weight * absent
                part[place] = weight * values
            scores = _sum(parts)
    if not np.isfinite(scores).all():
        raise RankingError(
            f"scores up to {max(np.abs(row.scores).max() for row, _ in used):g} are too large to "
            f"be fused by {method.value}: use rrf, which reads ranks alone."
        )
    return _head(list(numbers), scores, k)


def _mean(
    used: Sequence[tuple[RankedList, float]], places: Sequence[NDArray[np.intp]], documents: int
) -> _Values:
    """Return the weighted mean of each document's scores over the lists that have it."""
    # In units of the largest weight: then equal weights are 1, and the mean of one score is it.
    largest = max(weight for _, weight in used)
    products = np.zeros((len(used), documents))
    shares = np.zeros((len(used), documents))
    for row, (ranked, weight) in enumerate(used):
        products[row, places[row]] = weight / largest * ranked.scores
        shares[row, places[row]] = weight / largest
    total: _Values = _sum(products) / _sum(shares)
    return total


def _normalised(scores: _Values, method: Method, rrf_k: int) -> tuple[_Values, float]:
    """Return what a list adds for each of its documents, and for one that it lacks."""
    if method is Method.RRF:
        return 1.0 / (rrf_k + np.arange(1.0, len(scores) + 1)), 0.0
    least = scores.min()
    span = scores.max() - least
    if not span:
        return np.full(len(scores), 1.0 if method is Method.MINMAX else 0.0), 0.0
    # Scores at the two ends of what floats hold differ by more than they hold: NaN, not 0.
    scaled = (scores - least) / (span if np.isfinite(span) else np.nan)
    if method is Method.MINMAX:
        return scaled, 0.0
    # The deviation of scores in [0, 1] that reach both ends cannot underflow; raw ones can.
    standard = (scaled - scaled.mean()) / scaled.std()
    return standard, float(standard.min())


def _sum(parts: _Values) -> _Values:
    """Sum over the lists, the first axis, in the order of the values.

    Sums of floats depend on their order: two documents with ranks (1, 2, 3) and (3, 1, 2) would
    not tie, and the order of the lists would matter. Sorting four rows of 4,000 takes 0.1 ms.
    """
    parts.sort(axis=0)
    total: _Values = parts.sum(axis=0)
    return total


def _head(documents: Sequence[str], scores: _Values, k: int | None) -> RankedList:
    """Return the best `k` documents, and those that tie with the last of them, in no order."""
    if k is None or k >= len(documents):
        return RankedList(documents, scores)
    kept = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    return RankedList([documents[place] for place in kept.tolist()], scores[kept])


@dataclass(frozen=True, slots=True)
class Tuned:
    """Weights found by `tune`.

    Attributes
    ----------
    weights
        One for each list.
    value
        The measure that they reach, on what they were tuned on.
    equal
        The measure of equal weights.
    tried
        How many weights were measured.
    """

    weights: tuple[float, ...]
    value: float
    equal: float
    tried: int


def tune(
    rankings: Sequence[Ranking],
    measure: Callable[[Ranking], float],
    method: Method,
    *,
    rrf_k: int = RRF_K,
    k: int | None = None,
) -> Tuned:
    """Find weights that fuse rankings well: coordinate ascent over `GRID` from equal weights.

    One weight at a time takes the value of the grid that measures best, until a round over all
    lists changes nothing or `ROUNDS` are done. A change must be an improvement, so the same input
    always gives the same weights, and equal ones stay where nothing is better.

    Parameters
    ----------
    rankings
        Of queries that the weights will not be judged by, such as a validation split.
    measure
        What to make large.
    method, rrf_k, k
        As for `fuse`.

    Raises
    ------
    UsageError
        If the method takes no weights, or there are fewer than two rankings.
    """
    if method is Method.MAX:
        raise UsageError("method max takes no weights, so there is nothing to tune: use another.")
    if len(rankings) < 2:
        raise UsageError("there is nothing to tune: fusing takes at least two rankings.")
    known: dict[tuple[float, ...], float] = {}

    def value(weights: tuple[float, ...]) -> float:
        # Only ratios matter: (1, 1) and (2, 2) are measured once.
        key = tuple(weight / max(weights) for weight in weights)
        if key not in known:
            known[key] = measure(fuse(rankings, method, weights=key, rrf_k=rrf_k, k=k))
        return known[key]

    best = (1.0,) * len(rankings)
    equal = value(best)
    for _ in range(ROUNDS):
        before = best
        for place in range(len(best)):
            for weight in GRID:
                candidate = (*best[:place], weight, *best[place + 1 :])
                if any(candidate) and value(candidate) > value(best):
                    best = candidate
        if best == before:
            break
    return Tuned(best, value(best), equal, len(known))
