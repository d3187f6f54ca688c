"""From a ranking to estimates: measures, intervals, breakdowns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.breakdowns import breakdown_by_document, breakdown_by_query
from harness.documents import Documents
from harness.errors import RankingError
from harness.evaluation import Evaluation, evaluate
from harness.policy import OwnPolicy
from harness.rank_measures import statistic_of
from harness.results.schema import Estimate, Group
from harness.statistics import bootstrap_interval
from harness.task import Split, Task
from harness.types import Query, RankedList, Ranking

#: Intervals belong to the queries, not to the run: the same run always shows the same interval.
BOOTSTRAP_SEED = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """All figures of a run; none if the judgments are not public."""

    evaluation: Evaluation
    measures: dict[str, Estimate]
    breakdowns: dict[str, dict[str, Group]]
    references: dict[str, dict[str, float]]


def score(task: Task, ranking: Ranking, split: Split, queries: Sequence[Query]) -> Scores:
    """Evaluate `ranking` by the protocol of `task`, or by its own policy if it has one.

    Breakdowns by query attribute are means over the queries of each group. Breakdowns by document
    attribute (see `harness.breakdowns.breakdown_by_document`) are listed as ``document <name>``.

    A split without any judgment gives no figures, if the task's judgments are held elsewhere.

    Raises
    ------
    DataError
        If there is nothing to evaluate, but should be.
    """
    protocol = task.protocol
    if not split.qrels and task.submit_to:
        nothing = np.zeros((0, len(protocol.measures)))
        unjudged = Evaluation(protocol.measures, (), nothing, without_positives=len(queries))
        return Scores(unjudged, {}, {}, {})
    ids = [query.id for query in queries]
    rows: Sequence[Query] = queries
    size = len(split.documents)
    if isinstance(task, OwnPolicy):
        rows = task.rows(split, queries)
        evaluation = task.measure(ranking, split, queries)
    else:
        evaluation = evaluate(ranking, split.qrels, ids, protocol.measures, documents=size)
    found = task.references(split, queries)
    references = {name: dict(values) for name, values in found.items()}
    breakdowns: dict[str, dict[str, Group]] = {}
    by_query = breakdown_by_query(evaluation, rows, protocol.query_breakdowns)
    for attribute, groups in by_query.items():
        breakdowns[attribute] = {value: _group(part) for value, part in groups.items()}
    if protocol.document_breakdowns:
        attributes = split.documents.attributes()
        for name in protocol.document_breakdowns:
            values = {document: row[name] for document, row in attributes.items() if name in row}
            parts = breakdown_by_document(
                ranking, split.qrels, ids, protocol.measures, values, documents=size
            )
            breakdowns[f"document {name}"] = {v: _group(part) for v, part in parts.items()}
    return Scores(evaluation, estimates(evaluation), breakdowns, references)


def require_known(
    ranking: Ranking, queries: Sequence[Query], documents: Documents, what: str, remedy: str
) -> None:
    """Refuse a ranking with queries or documents that the task does not have.

    Parameters
    ----------
    ranking, queries, documents
        What was ranked, and what may be.
    what, remedy
        Beginning and end of the message: ``run.trec names`` ... ``is it of another task?``

    Raises
    ------
    RankingError
        Counting the unknown ids and naming the first.
    """
    known = documents.attributes().keys()
    asked = {query.id for query in queries}
    strange_queries = sorted(set(ranking) - asked)
    strange = {d for ranked in ranking.values() for d in ranked.documents if d not in known}
    problems = []
    if strange_queries:
        problems.append(f"{len(strange_queries):,} unknown queries (first {strange_queries[0]!r})")
    if strange:
        problems.append(f"{len(strange):,} unknown documents (first {min(strange)!r})")
    if problems:
        raise RankingError(f"{what} {' and '.join(problems)}: {remedy}.")


def known_part(ranking: Ranking, queries: Sequence[Query], documents: Documents) -> Ranking:
    """Return the ranking without the queries and documents that the task does not have."""
    known = documents.attributes().keys()
    lists = {}
    for query_id in {query.id for query in queries} & set(ranking):
        ranked = ranking[query_id]
        kept = [position for position, d in enumerate(ranked.documents) if d in known]
        lists[query_id] = RankedList([ranked.documents[i] for i in kept], ranked.scores[kept])
    return Ranking(lists)


def estimates(evaluation: Evaluation) -> dict[str, Estimate]:
    """Return the mean (or median) of every measure with its 95% bootstrap interval."""
    statistics = [statistic_of(measure) for measure in evaluation.measures]
    intervals = bootstrap_interval(evaluation.values, BOOTSTRAP_SEED, statistics=statistics)
    return {
        measure: Estimate(mean=interval.mean, low=interval.low, high=interval.high)
        for measure, interval in zip(evaluation.measures, intervals, strict=True)
    }


def _group(evaluation: Evaluation) -> Group:
    return Group(queries=len(evaluation.query_ids), measures=estimates(evaluation))
