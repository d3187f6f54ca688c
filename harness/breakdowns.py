"""An evaluation taken apart: by attributes of the queries, or of the relevant documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress

import numpy as np

from harness.evaluation import Evaluation, has_positive, per_query_values
from harness.measures import parse_measures
from harness.types import Qrels, Query, RankedList, Ranking


def query_groups(
    queries: Sequence[Query], attributes: Sequence[str]
) -> dict[str, dict[str, list[int]]]:
    """Return ``{attribute: {value: positions in queries}}``, values in sorted order.

    A query without an attribute is in none of its groups. An attribute that no query has has no
    groups.
    """
    groups: dict[str, dict[str, list[int]]] = {}
    for attribute in attributes:
        found: dict[str, list[int]] = {}
        for position, query in enumerate(queries):
            if attribute in query.attributes:
                found.setdefault(query.attributes[attribute], []).append(position)
        groups[attribute] = dict(sorted(found.items()))
    return groups


def breakdown_by_query(
    evaluation: Evaluation, queries: Sequence[Query], attributes: Sequence[str]
) -> dict[str, dict[str, Evaluation]]:
    """Return the evaluation of each group of queries, ``{attribute: {value: evaluation}}``.

    Values are taken from `evaluation`, not computed again. A value without an evaluated query is
    left out.

    Parameters
    ----------
    evaluation
        Of the whole ranking.
    queries
        The task's queries, with their attributes.
    attributes
        Query attributes to break down by.
    """
    row_of = {query: row for row, query in enumerate(evaluation.query_ids)}
    evaluated = [query for query in queries if query.id in row_of]
    return {
        attribute: {
            value: evaluation.select([row_of[evaluated[position].id] for position in positions])
            for value, positions in groups.items()
        }
        for attribute, groups in query_groups(evaluated, attributes).items()
    }


def breakdown_by_document(
    ranking: Ranking,
    qrels: Qrels,
    query_ids: Sequence[str],
    measures: Sequence[str],
    attribute_of: Mapping[str, str],
    *,
    documents: int | None = None,
) -> dict[str, Evaluation]:
    """Return how well the relevant documents of each attribute value are found.

    For a value, only relevant documents that have it count as relevant. Other relevant documents
    are taken out of the ranking, so that finding them is neither rewarded nor punished and the
    documents below them move up. Everything else stays. Queries without a relevant document of
    that value are left out and counted in `without_positives`.

    Parameters
    ----------
    ranking, qrels, query_ids, measures
        As for `harness.evaluation.evaluate`.
    attribute_of
        Value by document id, for instance its language. A relevant document without one belongs
        to no value and is taken out for every value.
    documents
        As for `harness.evaluation.evaluate`.
    """
    parsed = parse_measures(measures)
    positives = {
        query: [document for document, grade in qrels.get(query, {}).items() if grade > 0]
        for query in query_ids
    }
    relevant = {document for found in positives.values() for document in found}
    breakdown = {}
    for value in sorted({attribute_of[document] for document in relevant & attribute_of.keys()}):
        lists: dict[str, RankedList] = {}
        judged: dict[str, dict[str, int]] = {}
        for query, found in positives.items():
            others = {d for d in found if attribute_of.get(d) != value}
            kept = {d: grade for d, grade in qrels.get(query, {}).items() if d not in others}
            if has_positive({query: kept}, query):
                judged[query] = kept
                if query in ranking:
                    lists[query] = _without(ranking[query], others)
        evaluated = tuple(judged)
        breakdown[value] = Evaluation(
            measures=tuple(measures),
            query_ids=evaluated,
            values=per_query_values(lists, judged, evaluated, parsed, documents),
            missing_ids=tuple(query for query in evaluated if not ranking.get(query)),
            without_positives=len(query_ids) - len(evaluated),
        )
    return breakdown


def _without(ranked: RankedList, documents: set[str]) -> RankedList:
    """Return a ranked list less some documents, in the same order."""
    if documents.isdisjoint(ranked.documents):
        return ranked
    kept = np.array([document not in documents for document in ranked.documents])
    return RankedList(list(compress(ranked.documents, kept)), ranked.scores[kept])
