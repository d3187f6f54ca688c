"""Which modalities answered the queries of a run: shares of the score, and modality accuracy.

Of each query two documents are looked at: the first of its list, which is what a user sees, and the
best-ranked relevant one, which is what modality accuracy is defined on (CLaMR, arXiv:2506.06144,
Table 3: on the gold document). Only these are read, so it costs a small part of the search.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.documents import Documents
from harness.late_interaction.attribution import Attribution, label
from harness.progress import Progress
from harness.results.schema import (
    AccuracyRecord,
    AttributedRecord,
    AttributionRecord,
    ShareRecord,
    VotesRecord,
)
from harness.retriever import Retriever
from harness.task import Split, Task
from harness.types import NO_MODALITY, Modality, Query, Ranking

#: Queries that are encoded and read for together.
BLOCK = 64
#: The query attribute that names the modality aimed at; others (``asr+ocr``) aim at several.
TARGET = "target"
#: The attribute that shares are grouped by, if the protocol has it; else its first that occurs.
GROUPS = "query_type"

_WAYS = ("majority", "argmax")
_REFERENCE = "reference"
_TARGETS = {modality.label: modality for modality in Modality}


@dataclass(frozen=True, slots=True)
class Row:
    """A query with what its document's score is made of; None if there is no document."""

    query: Query
    attribution: Attribution | None

    @property
    def found(self) -> Attribution | None:
        """The attribution, if there is anything to attribute."""
        found = self.attribution
        return found if found is not None and found.found else None


def attribution_of(
    task: Task,
    retriever: Retriever,
    ranking: Ranking,
    split: Split,
    queries: Sequence[Query],
    documents: Documents,
    progress: Progress,
) -> AttributionRecord | None:
    """Attribute a run's scores; None for a retriever that does not explain them.

    Parameters
    ----------
    task, retriever, ranking, split
        What ran, and what came of it.
    queries
        The queries that ran, with their gold attributes.
    documents
        What was indexed.
    progress
        Where to report.
    """
    if not retriever.capabilities.explains:
        return None
    start = time.perf_counter()
    known = documents.attributes().keys()
    firsts = [first_ranked(ranking, query) for query in queries]
    judged = [query for query in queries if _positives(split, query)]
    relevant = {query.id: best_relevant(ranking, split, query, known) for query in judged}
    pairs = [
        (query, tuple(dict.fromkeys(d for d in (first, relevant.get(query.id)) if d is not None)))
        for query, first in zip(queries, firsts, strict=True)
    ]
    made = explained(retriever, pairs, progress)
    top = [
        Row(query, made.get((query.id, first)))
        for query, first in zip(queries, firsts, strict=True)
    ]
    best = [Row(query, made.get((query.id, relevant[query.id]))) for query in judged]
    attribute = _group_attribute(task, queries)
    return AttributionRecord(
        top=summary(top, attribute, _WAYS),
        relevant=summary(best, attribute, (*_WAYS, _REFERENCE)) if judged else None,
        seconds=time.perf_counter() - start,
    )


def shown_to(retriever: Retriever, query: Query) -> Query:
    """Return the query as the retriever may see it."""
    return query if retriever.capabilities.oracle else query.without_gold()


def summary(rows: Sequence[Row], attribute: str | None, ways: Sequence[str]) -> AttributedRecord:
    """Put the attributions of one document for each query together.

    Parameters
    ----------
    rows
        A row for each query.
    attribute
        The query attribute to group shares by, or None.
    ways
        The ways to find the modality that answered: see `answer`.
    """
    groups: dict[str, list[Row]] = {}
    aimed = [row for row in rows if row.query.attributes.get(TARGET) in _TARGETS]
    for row in rows:
        if attribute is not None and attribute in row.query.attributes:
            groups.setdefault(row.query.attributes[attribute], []).append(row)
    share = shares(rows)
    missing = sum(row.found is None for row in rows)
    return AttributedRecord(
        queries=len(rows),
        missing=missing,
        undivided=len(rows) - missing - share.queries,
        share=share,
        grouped_by=attribute,
        groups={value: shares(groups[value]) for value in sorted(groups)},
        accuracy={way: accuracy(aimed, way) for way in ways} if aimed else {},
    )


def shares(rows: Iterable[Row]) -> ShareRecord:
    """Return the mean share of the score by modality, over the queries that have shares."""
    found = [
        divided
        for row in rows
        if row.found is not None and (divided := row.found.shares) is not None
    ]
    numbers = sorted({number for divided in found for number in divided})
    return ShareRecord(
        queries=len(found),
        share={
            label(number): float(np.mean([divided.get(number, 0.0) for divided in found]))
            for number in numbers
        },
    )


def accuracy(rows: Sequence[Row], way: str) -> AccuracyRecord:
    """Count how often the modality that a query aims at answered it.

    Parameters
    ----------
    rows
        Rows of queries that aim at one modality each.
    way
        How the modality that answered is found.
    """
    by_target: dict[str, list[Row]] = {}
    for row in rows:
        by_target.setdefault(row.query.attributes[TARGET], []).append(row)
    ordered = sorted(by_target, key=lambda target: _TARGETS[target])
    return AccuracyRecord(
        **_votes(rows, way),
        by_target={target: VotesRecord(**_votes(by_target[target], way)) for target in ordered},
    )


def answer(found: Attribution, way: str) -> frozenset[int]:
    """Return the modality numbers that answered a query: several if they tie.

    Parameters
    ----------
    found
        Of a query and a document with something to attribute.
    way
        ``majority``: those with the most query tokens. ``argmax``: those with the largest score by
        themselves. ``reference``: as the CLaMR script counts (``src/util.py`` at 353c30ef), but
        for its padding: tokens of no modality do not vote, and of several that tie the lowest
        number wins; 0 if there is no vote.
    """
    if way == "majority":
        return found.majority
    if way == "argmax":
        return found.strongest
    votes = Counter(found.winners.modalities.tolist())
    del votes[NO_MODALITY]
    most = max(votes.values(), default=0)
    return frozenset([min((m for m in votes if votes[m] == most), default=NO_MODALITY)])


def _votes(rows: Sequence[Row], way: str) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for row in rows:
        found = row.found
        answered = answer(found, way) if found is not None else frozenset()
        if found is None:
            counts["missing"] += 1
        elif len(answered) > 1:
            counts["ties"] += 1
        elif answered == {NO_MODALITY}:
            counts["none"] += 1
        elif answered == {_TARGETS[row.query.attributes[TARGET]]}:
            counts["hits"] += 1
    left_out = counts["none"] + counts["missing"] if way == _REFERENCE else 0
    names = ("hits", "ties", "none", "missing")
    return {"queries": len(rows) - left_out, **{name: counts[name] for name in names}}


def explained(
    retriever: Retriever, pairs: Sequence[tuple[Query, Sequence[str]]], progress: Progress
) -> Mapping[tuple[str, str | None], Attribution]:
    """Return the attribution of each (query id, document id)."""
    pairs = [pair for pair in pairs if pair[1]]
    made: dict[tuple[str, str | None], Attribution] = {}
    with progress.stage(f"attribute {len(pairs):,} queries", len(pairs)) as advance:
        for start in range(0, len(pairs), BLOCK):
            block = pairs[start : start + BLOCK]
            shown = [shown_to(retriever, query) for query, _ in block]
            found = retriever.explain(shown, [ids for _, ids in block])
            for (query, ids), row in zip(block, found, strict=True):
                made.update(((query.id, id_), one) for id_, one in zip(ids, row, strict=True))
            advance(len(block))
    return made


def first_ranked(ranking: Ranking, query: Query) -> str | None:
    """Return the first document of a query's list."""
    ranked = ranking.get(query.id)
    return ranked.documents[0] if ranked else None


def best_relevant(
    ranking: Ranking, split: Split, query: Query, known: Collection[str]
) -> str | None:
    """Return the best-ranked relevant document; of those not ranked the one graded highest."""
    positives = _positives(split, query)
    for document in ranking[query.id].documents if query.id in ranking else ():
        if document in positives:
            return document
    present = [document for document in positives if document in known]
    return min(present, key=lambda document: (-positives[document], document), default=None)


def _positives(split: Split, query: Query) -> dict[str, int]:
    return {d: grade for d, grade in split.qrels.get(query.id, {}).items() if grade > 0}


def _group_attribute(task: Task, queries: Sequence[Query]) -> str | None:
    present = {name for query in queries for name in query.attributes}
    names = [name for name in task.protocol.query_breakdowns if name in present]
    return GROUPS if GROUPS in names else next(iter(names), None)
