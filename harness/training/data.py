"""What a retriever is trained on: documents with the queries that they answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.contamination import Shared, shared, without
from harness.errors import DataError, NotPreparedError, UsageError
from harness.progress import Progress
from harness.task import Split, Task
from harness.training.recipe import ValidationRecipe
from harness.types import Document, Query

#: The query attribute that names the modality aimed at.
TARGET = "target"

#: Documents to draw negatives from: 100,000 passages take about 100 MB.
POOL = 100_000


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Examples of a task's split ``train``.

    Attributes
    ----------
    documents
        Documents that answer a query, by id, in the order of the split.
    queries
        For each of these, the queries that it answers.
    relevant
        For each query, all documents that answer it: none is a negative of it.
    judged_against
        For each query, the documents that are judged not to answer it.
    pool
        What further negatives are drawn from: documents by id, those of `documents` among them.
    fingerprint
        Of the split.
    dropped
        What was left out because an evaluated split has it.
    """

    documents: Mapping[str, Document]
    queries: Mapping[str, tuple[Query, ...]]
    relevant: Mapping[str, frozenset[str]]
    fingerprint: str
    dropped: Shared
    judged_against: Mapping[str, frozenset[str]] = field(default_factory=dict)
    pool: Mapping[str, Document] = field(default_factory=dict)

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """Every (document id, place of the query among its queries)."""
        return [(d, place) for d, row in self.queries.items() for place in range(len(row))]


@dataclass(frozen=True, slots=True)
class Splits:
    """Training data, and what the best weights are chosen on."""

    train: TrainingData
    validation: Split | None


def load(
    task: Task,
    recipe: ValidationRecipe,
    data: Path | None,
    progress: Progress,
    *,
    negatives: bool = False,
) -> Splits:
    """Load a task's training data, clean of what it evaluates on.

    Documents that a query of the split ``test`` asks for, and queries that ask what one of its
    queries asks, are dropped and counted. Where splits have their documents in common, only the
    queries are. Without a split ``validation``, a share of the training documents is held out,
    chosen by their ids: always the same.

    With `negatives`, about `POOL` documents more are held in memory to draw negatives from, chosen
    by their ids.

    Raises
    ------
    UsageError
        If the task has no training data.
    DataError
        If nothing is left of them.
    """
    try:
        split = task.load("train", data, progress)
    except NotPreparedError:
        raise
    except DataError as error:
        raise UsageError(f"{task.address} has nothing to train on: {error}") from error
    test = _other(task, "test", data, progress)
    validation = _other(task, "validation", data, progress)
    dropped = Shared()
    for other in (test, validation):
        if other is not None:
            dropped |= shared(split, other)
    if task.common_documents:
        dropped = replace(dropped, documents=frozenset())
    queries, qrels = without(split.queries, split.qrels, dropped)
    answers = {
        query.id: frozenset(d for d, grade in qrels[query.id].items() if grade > 0)
        for query in queries
        if query.id in qrels
    }
    wanted = frozenset[str]().union(*answers.values())
    against: dict[str, frozenset[str]] = {}
    share = 0.0
    if negatives:
        rows = {query: qrels[query] for query in answers}
        against = {q: frozenset(d for d, g in row.items() if g <= 0) for q, row in rows.items()}
        share = POOL / len(split.documents)
    judged = frozenset[str]().union(*against.values())
    pool = {
        d.id: d
        for d in split.documents
        if d.id in wanted
        or (d.id not in dropped.documents and (d.id in judged or draw(d.id) < share))
    }
    documents = {id_: d for id_, d in pool.items() if id_ in wanted}
    held_out = frozenset[str]()
    if validation is None and recipe.share:
        held_out = frozenset(d for d in documents if draw(d) < recipe.share)
        validation = _held_out(documents, queries, answers, held_out)
    by_document: dict[str, list[Query]] = {d: [] for d in documents if d not in held_out}
    for query in queries:
        for id_ in sorted(answers.get(query.id, ())):
            if id_ in by_document:
                by_document[id_].append(query)
    train = TrainingData(
        documents={d: documents[d] for d, row in by_document.items() if row},
        queries={d: tuple(row) for d, row in by_document.items() if row},
        relevant=answers,
        fingerprint=split.fingerprint,
        dropped=dropped,
        judged_against=against,
        pool={id_: d for id_, d in pool.items() if id_ not in held_out} if negatives else {},
    )
    if not train.documents:
        raise DataError(
            f"{task.address} has {len(split.queries):,} training queries, but none is left with a "
            "relevant document that is no evaluated one."
        )
    return Splits(train, validation)


def _other(task: Task, name: str, data: Path | None, progress: Progress) -> Split | None:
    """Return another split of the task, if it has one."""
    try:
        return task.load(name, data, progress)
    except DataError:
        return None


def draw(id_: str) -> float:
    """Return a number of [0, 1) that depends on the id alone."""
    return int.from_bytes(hashlib.sha256(id_.encode()).digest()[:8]) / 2**64


def _held_out(
    documents: Mapping[str, Document],
    queries: Sequence[Query],
    answers: Mapping[str, frozenset[str]],
    held_out: frozenset[str],
) -> Split | None:
    asked = [query for query in queries if answers.get(query.id, frozenset()) & held_out]
    if not asked:
        return None
    return Split.of(
        "validation",
        [documents[d] for d in documents if d in held_out],
        asked,
        {query.id: dict.fromkeys(sorted(answers[query.id] & held_out), 1) for query in asked},
    )
