"""The running top k: the best documents of each query so far, in canonical order.

A score and a document become one int64 that sorts as canonical order does: score, then document
id. Then a partial sort of integers gives exactly the first k of the full ranking, whatever the
order in which blocks come and however many scores tie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.errors import RankingError
from harness.types import RankedList

#: Below the key of every score.
_NOTHING = np.iinfo(np.int64).min
#: Least room for candidates beside the k kept ones.
ROOM = 1024


class TopK:
    """Keeps the `k` best of all scores that it is given.

    Parameters
    ----------
    queries
        Number of queries.
    k
        Documents kept for each.
    ids
        Ids of all documents.
    order
        int64, shape ``(n_documents,)``: place of each document among all when ids ascend (see
        `places`).
    """

    def __init__(self, queries: int, k: int, ids: Sequence[str], order: NDArray[np.int64]) -> None:
        self._k, self._ids, self._order = min(k, len(ids)), ids, order
        # A partial sort is paid once for as many candidates as fit beside the k kept ones.
        self._keys = np.full((queries, self._k + _room(self._k)), _NOTHING, np.int64)
        self._filled = np.zeros(queries, np.int64)
        self._floor = np.full((queries, 1), -np.inf, np.float32)

    @staticmethod
    def bytes_per_query(k: int) -> int:
        """Memory that a query takes: its keys, and what a partial sort of them takes."""
        return 2 * (k + _room(k)) * 8

    def add(self, scores: NDArray[np.float32], first: int) -> None:
        """Take in the scores of the documents from number `first` on; -inf is left out.

        Parameters
        ----------
        scores
            float32, shape ``(n_queries, n_documents)``.
        first
            Number of the first of these documents.

        Raises
        ------
        RankingError
            If a score is NaN or infinite.
        """
        if not (scores < np.inf).all():
            raise RankingError(
                "a score overflows float32: the encoder's vectors are too large; normalise them."
            )
        if not self._k:
            return
        room = _room(self._k)
        for start in range(0, scores.shape[1], room):
            self._take(scores[:, start : start + room], first + start)

    def _take(self, scores: NDArray[np.float32], first: int) -> None:
        """Take in no more documents than there is room for after a partial sort."""
        # Most documents fall below the floor: one comparison is all that they cost.
        rows, columns = np.nonzero((scores >= self._floor) & (scores > -np.inf))
        if not len(rows):
            return
        counts = np.bincount(rows, minlength=len(scores))
        if (self._filled + counts).max() > self._keys.shape[1]:
            self._sort()
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        keys = _keys(scores[rows, columns], self._order[first + columns])
        self._keys[rows, self._filled[rows] + within] = keys
        self._filled += counts

    def _sort(self) -> None:
        """Keep the best k of each query, and learn the score that others must reach."""
        k = self._k
        self._keys.partition(self._keys.shape[1] - k, axis=1)
        self._keys[:, :k] = self._keys[:, -k:]
        self._keys[:, k:] = _NOTHING
        self._filled[:] = k
        worst = self._keys[:, :k].min(axis=1)
        reached = np.where(worst == _NOTHING, -np.inf, _scores(worst))
        self._floor = reached.astype(np.float32)[:, None]

    def state(self) -> NDArray[np.int64]:
        """Return all that is kept, int64, shape ``(n_queries, k)``, for `restore`."""
        if self._k:
            self._sort()
        return self._keys[:, : self._k].copy()

    def restore(self, state: NDArray[np.int64]) -> None:
        """Go on from the `state` of another of the same queries, k and ids; this one is new."""
        self._keys[:, : self._k] = state
        if self._k:
            self._sort()

    def ranked(self) -> list[RankedList]:
        """Return the ranked list of each query."""
        ids = self._ids
        by_place = np.argsort(self._order)
        lists = []
        for row in self._keys:
            keys = np.sort(row[row != _NOTHING])[::-1][: self._k]
            documents = by_place[keys & 0xFFFFFFFF]
            lists.append(RankedList([ids[d] for d in documents.tolist()], _scores(keys)))
        return lists


def _room(k: int) -> int:
    return max(k, ROOM)


def places(ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the place of each id among all when they ascend."""
    order = np.empty(len(ids), np.int64)
    order[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return order


def _keys(scores: NDArray[np.float32], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return keys: the score's bits, in their order as numbers, above the document's place."""
    bits = (scores + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0: they are equal
    ordered = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return (ordered.astype(np.int64) << 32) | order


def _scores(keys: NDArray[np.int64]) -> NDArray[np.float64]:
    ordered = (keys >> 32).astype(np.int32)
    bits = ordered ^ ((ordered >> 31) & np.int32(0x7FFFFFFF))
    return bits.view(np.float32).astype(np.float64)
