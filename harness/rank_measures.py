"""Measures that are ranks: MdR and MnR, median and mean rank of the first relevant document.

They are what the field of text-to-video retrieval reports beside hit rates. ir-measures has
neither: its values are means over queries of which more is better, and here less is, and one is a
median. A relevant document that is not ranked has the last rank, the number of documents.

Whoever puts a measure together over queries, compares two values or writes one down asks here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.statistics import Statistic
    from harness.types import Qrels, RankedList


@dataclass(frozen=True, slots=True)
class RankMeasure:
    """A measure whose value for a query is the rank of the first relevant document."""

    name: str
    statistic: Statistic


RANK_MEASURES: Mapping[str, RankMeasure] = {
    "MdR": RankMeasure("MdR", "median"),
    "MnR": RankMeasure("MnR", "mean"),
}


def statistic_of(measure: str) -> Statistic:
    """Return how the values of queries become one: by their mean, of MdR by their median."""
    return RANK_MEASURES[measure].statistic if measure in RANK_MEASURES else "mean"


def lower_is_better(measure: str) -> bool:
    """Whether a smaller value of `measure` is the better one."""
    return measure in RANK_MEASURES


def goodness(measure: str, value: float) -> float:
    """Return a number that is larger the better `value` is."""
    return -value if lower_is_better(measure) else value


def shown(measure: str, value: float) -> float:
    """Return `value` as exactly as it is written: two values that look equal are."""
    return round(value, 1) if measure in RANK_MEASURES else round(value, 4)


def written(measure: str, value: float, places: int = 2) -> str:
    """Return `value` in percent with so many places, a rank as it is with one."""
    if measure in RANK_MEASURES:
        return f"{value:.1f}"
    return f"{value * 100:.{places}f}"


def first_ranks(
    lists: Mapping[str, RankedList],
    qrels: Qrels,
    query_ids: Sequence[str],
    documents: int | None,
) -> NDArray[np.float64]:
    """Return the rank of the first relevant document of each query, float64, from 1.

    Parameters
    ----------
    lists
        Ranked lists in canonical order; a query may lack one.
    qrels
        Judgments; a grade above 0 is relevant.
    query_ids
        The queries.
    documents
        How many documents there are: the rank of what is not ranked.

    Raises
    ------
    UsageError
        If `documents` is None.
    """
    import numpy as np

    if documents is None:
        raise UsageError(
            f"{' and '.join(RANK_MEASURES)} are ranks among all documents: say how many there are."
        )
    ranks = np.full(len(query_ids), float(documents))
    for row, query in enumerate(query_ids):
        relevant = {document for document, grade in qrels.get(query, {}).items() if grade > 0}
        ranked = lists[query].documents if query in lists else ()
        found = (rank for rank, document in enumerate(ranked, 1) if document in relevant)
        ranks[row] = next(found, documents)
    return ranks
