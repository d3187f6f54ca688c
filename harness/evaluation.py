"""Measures of a ranking against relevance judgments, query by query.

The ranking is canonical before any measure sees it (`harness.types.Ranking`), and providers are
given ranks in place of scores. So neither ties nor scores that differ only beyond float32, which
is what ``trec_eval`` compares, can make two measures read the same run in different orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import filterfalse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError, RankingError, UsageError, did_you_mean
from harness.measures import PROVIDERS, parse_measures, provider_of
from harness.rank_measures import RankMeasure, first_ranks, statistic_of
from harness.statistics import averages
from harness.types import Qrels, RankedList, Ranking

# Measures that documents after the last judged one cannot change. For these a list is cut there:
# 2,500 queries x 1,000 documents then take 0.3 s, not 1 s (benchmarks/evaluation.py).
_BLIND_TO_TAIL = frozenset(
    {"nDCG", "RR", "AP", "P", "R", "Success", "Rprec", "IPrec", "Bpref", "infAP"}
)

# Queries converted to dictionaries at a time: 256 lists of 1,000 take about 20 MB.
_CHUNK = 256


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Values of each measure for each evaluated query.

    Attributes
    ----------
    measures
        Names as they were given, such as ``nDCG@10``.
    query_ids
        The evaluated queries, in the order given: those with a relevant document.
    values
        float64, shape ``(n_queries, n_measures)``.
    missing_ids
        Evaluated queries for which the ranking has no document; they count 0 in every measure, and
        the last rank in measures that are ranks.
    without_positives
        Queries left out by rule, because no document is relevant to them.
    unknown_queries
        Queries of the ranking that were not asked for; they are ignored.
    unknown_documents
        Distinct ranked documents outside the collection; they keep their ranks, as in trec_eval.
        None if the collection was not given.
    """

    measures: tuple[str, ...]
    query_ids: tuple[str, ...]
    values: NDArray[np.float64]
    missing_ids: tuple[str, ...] = ()
    without_positives: int = 0
    unknown_queries: int = 0
    unknown_documents: int | None = None

    @property
    def missing(self) -> int:
        """How many evaluated queries have no ranked document."""
        return len(self.missing_ids)

    def of(self, measure: str) -> NDArray[np.float64]:
        """Return the values of one measure, shape ``(n_queries,)``.

        Raises
        ------
        UsageError
            If it was not evaluated.
        """
        if measure not in self.measures:
            raise UsageError(
                f"measure {measure!r} was not evaluated; there are {', '.join(self.measures)}."
                + did_you_mean(measure, self.measures)
            )
        column: NDArray[np.float64] = self.values[:, self.measures.index(measure)]
        return column

    def mean(self, measure: str) -> float:
        """Return the mean of one measure over the evaluated queries; the median of a median."""
        return float(averages(self.of(measure)[:, None], [statistic_of(measure)])[0])

    def means(self) -> dict[str, float]:
        """Return the mean of every measure."""
        return {measure: self.mean(measure) for measure in self.measures}

    def select(self, rows: Sequence[int]) -> Evaluation:
        """Return the evaluation of the queries at the positions `rows` alone.

        What was counted over the whole ranking or task is not carried over.
        """
        ids = tuple(self.query_ids[row] for row in rows)
        chosen = set(ids)
        return Evaluation(
            measures=self.measures,
            query_ids=ids,
            values=self.values[list(rows)],
            missing_ids=tuple(query for query in self.missing_ids if query in chosen),
        )


def evaluate(
    ranking: Ranking,
    qrels: Qrels,
    query_ids: Sequence[str],
    measures: Sequence[str],
    known_documents: AbstractSet[str] | None = None,
    *,
    documents: int | None = None,
) -> Evaluation:
    """Measure `ranking` on the queries `query_ids`.

    Queries without a relevant document (a grade above 0) are left out and counted. Evaluated
    queries that are missing from the ranking count 0. With a measure of its own relevance
    threshold, ``Success(rel=2)@1``, the same queries are evaluated: a query whose documents all
    have grade 1 counts 0.

    Parameters
    ----------
    ranking
        Ranked lists; queries that are not in `query_ids` are ignored and counted.
    qrels
        Graded judgments.
    query_ids
        All queries of the split, each once.
    measures
        Names; see `harness.measures.parse_measures`.
    known_documents
        Ids of the collection; if given, ranked documents outside of it are counted.
    documents
        How many documents the collection has; measures that are ranks need it.

    Raises
    ------
    UsageError
        If a measure is unknown, or one is a rank and `documents` is not given.
    DataError
        If no query has a relevant document.
    RankingError
        If the ranking has none of the queries, or none of the collection's documents.
    """
    parsed = parse_measures(measures)
    evaluated = tuple(query for query in query_ids if has_positive(qrels, query))
    if not evaluated:
        raise DataError(
            f"none of the {len(query_ids)} queries has a relevant document (a grade above 0), so "
            "there is nothing to evaluate: check the judgments."
        )
    asked = set(query_ids)
    unknown = [query for query in ranking if query not in asked]
    if len(unknown) == len(ranking):
        raise RankingError(
            f"the ranking has none of the {len(query_ids)} queries of the task: "
            + (f"it has {unknown[0]!r}, " if unknown else "it is empty, ")
            + f"the task has {query_ids[0]!r}. Check that it belongs to this task and split."
        )
    return Evaluation(
        measures=tuple(measures),
        query_ids=evaluated,
        values=per_query_values(ranking, qrels, evaluated, parsed, documents),
        missing_ids=tuple(query for query in evaluated if not ranking.get(query)),
        without_positives=len(query_ids) - len(evaluated),
        unknown_queries=len(unknown),
        unknown_documents=_count_unknown(ranking, asked, known_documents),
    )


def has_positive(qrels: Qrels, query: str) -> bool:
    """Whether a document is relevant to `query`: has a grade above 0."""
    return any(grade > 0 for grade in qrels.get(query, {}).values())


def per_query_values(
    lists: Mapping[str, RankedList],
    qrels: Qrels,
    query_ids: Sequence[str],
    measures: Sequence[Any],
    documents: int | None = None,
) -> NDArray[np.float64]:
    """Return values of shape ``(n_queries, n_measures)``; queries without a list count 0.

    Parameters
    ----------
    lists
        Ranked lists in canonical order.
    qrels
        Judgments of at least `query_ids`.
    query_ids
        Queries, one for each row.
    measures
        What `parse_measures` returns, one for each column.
    documents
        As for `evaluate`.
    """
    values = np.zeros((len(query_ids), len(measures)))
    groups: dict[tuple[int, bool], list[Any]] = {}
    for column, measure in enumerate(measures):
        if isinstance(measure, RankMeasure):
            values[:, column] = first_ranks(lists, qrels, query_ids, documents)
            continue
        key = (PROVIDERS.index(provider_of(measure)), measure.NAME in _BLIND_TO_TAIL)
        groups.setdefault(key, []).append(measure)
    # By identity: ir-measures hashes a measure by formatting its name, once for every value.
    columns = {id(measure): column for column, measure in enumerate(measures)}
    rows = {query: row for row, query in enumerate(query_ids) if lists.get(query)}
    longest = max((len(lists[query]) for query in rows), default=0)
    # Falling whole numbers in place of scores; float32 holds them exactly up to 2**24.
    falling = np.arange(longest, 0, -1, dtype=np.float64).tolist()

    ranked = list(rows)
    for start in range(0, len(ranked), _CHUNK):
        judged = {query: dict(qrels[query]) for query in ranked[start : start + _CHUNK]}
        cut = {query: _through_last_judged(lists[query], judged[query]) for query in judged}
        for (provider, cuttable), members in groups.items():
            run = {
                query: dict(zip(lists[query].documents, falling[: cut[query]], strict=False))
                if cuttable
                else dict(zip(lists[query].documents, falling, strict=False))
                for query in judged
                if cut[query] or not cuttable
            }
            asked = {query: judged[query] for query in run}
            for metric in PROVIDERS[provider].evaluator(members, asked).iter_calc(run):
                values[rows[metric.query_id], columns[id(metric.measure)]] = metric.value
    return values


def _through_last_judged(ranked: RankedList, judged: Mapping[str, int]) -> int:
    """Return how many documents there are down to the last judged one."""
    return bytes(map(judged.__contains__, ranked.documents)).rfind(1) + 1


def _count_unknown(
    ranking: Ranking, queries: AbstractSet[str], known: AbstractSet[str] | None
) -> int | None:
    """Count distinct ranked documents that are not in `known`."""
    if known is None:
        return None
    unknown: set[str] = set()
    any_known = False
    for query in ranking.keys() & queries:
        documents = ranking[query].documents
        strangers = list(filterfalse(known.__contains__, documents))
        unknown.update(strangers)
        any_known = any_known or len(strangers) < len(documents)
    if unknown and not any_known:
        raise RankingError(
            f"none of the {len(unknown)} ranked documents is in the task's collection: the ranking "
            f"has {min(unknown)!r}, the collection has {min(known, default='no document')!r}. "
            "Check that it belongs to this task and split."
        )
    return len(unknown)
