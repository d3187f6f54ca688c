"""The protocol of CLaMR's evaluation script, in closed form.

The script (meetdavidwan/clamr, ``util.py`` and ``create_data_multivent.py``, commit 353c30ef)
makes one row of every judgment. Every row is a query and a candidate, so a video that is named in
four judgments stands among the candidates four times, and a text with several relevant videos is
asked several times. For each row only its own candidate counts as relevant: the diagonal. The
copies of a video have one score, so the own candidate ties with its copies, and what the script
reports depends on how its library (torchmetrics) treats ties.

Here every figure is its exact expectation over a random order of tied candidates. With `above`
candidates scored strictly higher than the own one, and `tied` candidates at its score, itself
included, the own candidate takes each rank from ``above + 1`` to ``above + tied`` with the same
probability::

    E[hit in the first k] = clip((k - above) / tied, 0, 1)
    E[nDCG@10]            = sum of 1 / log2(rank + 1) over those ranks <= 10, / tied

torchmetrics' nDCG is that same average. Its recall cuts an unstable sort, which is one draw of what
is averaged here. From version 1.8 on it also takes a relevant document with a score of 0 or less
for one that is not there; ranks alone count here, since scores of different retrievers have no
common zero. Documents that a ranking lacks share the last place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.evaluation import Evaluation
from harness.types import Qrels, Query, RankedList, Ranking

#: Of the row's own candidate alone: no measure of ir-measures.
CUTOFFS = (1, 5, 10)
MEASURES = (*(f"R@{k} (row)" for k in CUTOFFS), "nDCG@10 (row)")

#: Query attribute: ids of documents whose judgment the file repeats, once for every repetition,
#: separated by spaces. The script makes a row of each.
REPEATED = "repeated"

_DISCOUNTS = 1 / np.log2(np.arange(2, 12))
#: DCG of the ranks up to each, from 0 to 10.
_DCG = np.concatenate([[0.0], np.cumsum(_DISCOUNTS)])

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Row:
    """One judgment: the query, its own candidate, and an id of its own."""

    id: str
    query: Query
    document: str

    def as_query(self) -> Query:
        """Return the query under the row's id."""
        return Query(self.id, self.query.text, attributes=self.query.attributes)


def judgment_rows(queries: Sequence[Query], qrels: Qrels) -> list[Row]:
    """Return a row for every relevant judgment of `queries`, repeated ones included.

    Ids are ``<query id>#<n>``, n from 1.
    """
    rows = []
    for query in queries:
        documents = [d for d, grade in qrels.get(query.id, {}).items() if grade > 0]
        documents += query.attributes.get(REPEATED, "").split()
        rows += [Row(f"{query.id}#{n}", query, d) for n, d in enumerate(documents, start=1)]
    return rows


def copies(rows: Sequence[Row]) -> Counter[str]:
    """Return how often each document stands among the candidates."""
    return Counter(row.document for row in rows)


def places(
    ranking: Ranking, rows: Sequence[Row], candidates: Mapping[str, int]
) -> tuple[Counts, Counts]:
    """Return for each row how many candidates are above its own, and how many are tied with it.

    Parameters
    ----------
    ranking
        Lists of distinct documents; documents that a list lacks share the last place.
    rows
        What is evaluated.
    candidates
        Copies of each document among all candidates.

    Returns
    -------
    above, tied
        int64, shape ``(n_rows,)``; `tied` counts the own candidate. A row whose query has no
        ranked document has ``tied = 0``.
    """
    total = sum(candidates.values())
    above, tied = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    of_query: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        of_query.setdefault(row.query.id, []).append(number)
    for query, numbers in of_query.items():
        ranked = ranking.get(query)
        if not ranked:
            continue
        groups, position = _groups(ranked, candidates)
        for number in numbers:
            group = position.get(rows[number].document)
            start, stop = (groups[-1], total) if group is None else groups[group : group + 2]
            above[number], tied[number] = start, stop - start
    return above, tied


def _groups(ranked: RankedList, candidates: Mapping[str, int]) -> tuple[Counts, dict[str, int]]:
    """Return how many candidates stand before each group of equal scores, and each one's group.

    The first array has one entry more than there are groups: all ranked candidates.
    """
    group = np.cumsum(np.r_[0, ranked.scores[1:] != ranked.scores[:-1]])
    counts = [candidates.get(document, 0) for document in ranked.documents]
    sizes = np.bincount(group, weights=counts).astype(np.int64)
    return np.r_[0, np.cumsum(sizes)], dict(zip(ranked.documents, group.tolist(), strict=True))


def expected(above: Counts, tied: Counts) -> NDArray[np.float64]:
    """Return the expected value of every measure, shape ``(n_rows, 4)``; 0 where `tied` is 0."""
    size = np.maximum(tied, 1)
    hits = [np.clip((np.minimum(k, above + tied) - above) / size, 0, 1) for k in CUTOFFS]
    gain = (_DCG[np.minimum(above + tied, 10)] - _DCG[np.minimum(above, 10)]) / size
    return np.stack([*hits, gain], axis=1)


def ideals(
    rows: Sequence[Row], qrels: Qrels, candidates: Mapping[str, int]
) -> dict[str, NDArray[np.float64]]:
    """Return the expected values of two ideal retrievers, each of shape ``(n_rows, 4)``.

    ``gold copies first`` puts the copies of the row's own video on top, which no retriever can do:
    rows of one query ask for different videos. ``all relevant first`` puts every video that is
    relevant to the query on top, which is all that a retriever can do. Both are expectations: a
    retriever may score above them where it orders relevant videos by luck as the rows do.
    """
    gold = np.array([candidates[row.document] for row in rows], dtype=np.int64)
    relevant = {
        row.query.id: sum(candidates[d] for d, grade in qrels[row.query.id].items() if grade > 0)
        for row in rows
    }
    every = np.array([relevant[row.query.id] for row in rows], dtype=np.int64)
    first = np.zeros(len(rows), np.int64)
    return {
        "gold copies first": expected(first, gold),
        "all relevant first": expected(first, every),
    }


def evaluate_rows(
    ranking: Ranking, qrels: Qrels, asked: Sequence[Query], every: Sequence[Query]
) -> Evaluation:
    """Return the evaluation of the rows of `asked` among the candidates of `every` query.

    Raises
    ------
    DataError
        If there is no row.
    """
    rows = _rows_of(asked, qrels)
    above, tied = places(ranking, rows, copies(judgment_rows(every, qrels)))
    return Evaluation(
        measures=MEASURES,
        query_ids=tuple(row.id for row in rows),
        values=expected(above, tied),
        missing_ids=tuple(row.id for row in rows if not ranking.get(row.query.id)),
        without_positives=len(asked) - len({row.query.id for row in rows}),
    )


def ideal_means(
    qrels: Qrels, asked: Sequence[Query], every: Sequence[Query]
) -> dict[str, dict[str, float]]:
    """Return the mean of every measure over the rows of `asked`, for each ideal retriever."""
    values = ideals(_rows_of(asked, qrels), qrels, copies(judgment_rows(every, qrels)))
    return {
        name: dict(zip(MEASURES, found.mean(axis=0).tolist(), strict=True))
        for name, found in values.items()
    }


def _rows_of(queries: Sequence[Query], qrels: Qrels) -> list[Row]:
    rows = judgment_rows(queries, qrels)
    if not rows:
        raise DataError(
            f"none of the {len(queries)} queries has a relevant document (a grade above 0), so "
            "there is nothing to evaluate: check the judgments."
        )
    return rows
