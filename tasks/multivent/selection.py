"""Parts of the MultiVENT 2.0 store: the documents, queries and judgments of each task split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from harness.contamination import Shared, shared, without
from harness.coverage import CoverageCounter
from harness.dataset import DatasetStore
from harness.dataset.schema import document_row, query_row, row_bytes
from harness.documents import Documents
from harness.errors import NotPreparedError
from harness.task import Split
from harness.types import Document, Qrels, Query
from harness.workspace import digest

TRAIN = "train"
TEST = "test"
SYNTHETIC_TRAIN = "synthetic-train"
SYNTHETIC_VALIDATION = "synthetic-validation"

#: What each split of the store is read from.
SOURCES: Mapping[str, str] = {
    TRAIN: "multivent_2_train_queries.csv, multivent_2_train_judgments.jsonl and the videos",
    TEST: "multivent_2_test_queries.csv and the test videos",
    SYNTHETIC_TRAIN: "CLaMR's JSON file of synthetic training queries",
    SYNTHETIC_VALIDATION: "multivent_synthetic_validation_queries.json of CLaMR's repository",
}

#: Query attribute that says how many relevant videos there are: none, one, few (2 to 10) or many,
#: which is more than the measures look at: even an ideal ranking shows only a part of them.
RELEVANT = "relevant"
HOW_MANY = ("none", "one", "few", "many")
MANY = 10


class SelectedDocuments(Documents):
    """The documents of a collection that have one of the given ids, in the collection's order."""

    def __init__(self, documents: Documents, ids: AbstractSet[str]) -> None:
        self._documents, self._ids = documents, ids

    def __iter__(self) -> Iterator[Document]:
        return (document for document in self._documents if document.id in self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def attributes(self) -> dict[str, Mapping[str, str]]:
        """Return the attributes of every document by its id."""
        found = self._documents.attributes()
        return {document: row for document, row in found.items() if document in self._ids}


def stored(store: DatasetStore, name: str) -> Split:
    """Return a split of the store.

    Raises
    ------
    NotPreparedError
        If the store was made without it; says what it is made of.
    """
    if name not in store.manifest.splits:
        raise NotPreparedError(
            f"{store.folder} has no split {name!r} (it has {', '.join(store.manifest.splits)}): "
            f"prepare it again with {SOURCES[name]} among the sources (`clamr-bench data prepare "
            "multivent --source DIR`, repeated for several folders)."
        )
    return store.split(name)


def judged(store: DatasetStore) -> Split:
    """Return the human queries over the distinct videos that their judgments name."""
    split = _human(store)
    return selected(store, "test", split, split.queries, split.qrels)


def pool(store: DatasetStore) -> Split:
    """Return the human queries over every prepared training video."""
    return replace(_human(store), name="test")


def synthetic(store: DatasetStore, name: str) -> Split:
    """Return the synthetic validation queries over the videos that they were made from."""
    split = stored(store, SYNTHETIC_VALIDATION)
    return selected(store, name, split, split.queries, split.qrels)


def validation(store: DatasetStore) -> Split:
    """Return the synthetic validation queries without what they share with evaluated queries."""
    split = stored(store, SYNTHETIC_VALIDATION)
    queries, qrels = without(split.queries, split.qrels, contamination(store, split, (TRAIN, TEST)))
    return selected(store, "validation", split, queries, qrels)


def training(store: DatasetStore) -> Split:
    """Return the synthetic training queries without what they share with any evaluated split.

    All variants have the same one, so that a model trained for one of them is clean for all.
    """
    split = stored(store, SYNTHETIC_TRAIN)
    dropped = contamination(store, split, (TRAIN, TEST, SYNTHETIC_VALIDATION))
    queries, qrels = without(split.queries, split.qrels, dropped)
    return selected(store, "train", split, queries, qrels)


def contamination(store: DatasetStore, train: Split, evaluated: Sequence[str]) -> Shared:
    """Return what `train` shares with those of the splits `evaluated` that the store has."""
    found = Shared()
    for name in evaluated:
        if name in store.manifest.splits:
            found |= shared(train, store.split(name))
    return found


def selected(
    store: DatasetStore, name: str, split: Split, queries: Sequence[Query], qrels: Qrels
) -> Split:
    """Return `queries` over the documents that their judgments name, each once.

    The fingerprint is of the selected rows alone: whatever else the store holds, the same queries
    over the same documents are the same data. One pass over the documents.
    """
    ids = frozenset(document for row in qrels.values() for document in row)
    documents = SelectedDocuments(split.documents, ids)
    rows, counter = hashlib.sha256(), CoverageCounter()
    for document in documents:
        counter.add(document)
        rows.update(row_bytes(document_row(document, store.media_roots)))
    for query in queries:
        rows.update(row_bytes(query_row(query, store.media_roots)))
    judgments = {query: sorted(row.items()) for query, row in sorted(qrels.items())}
    return replace(
        split,
        name=name,
        documents=documents,
        queries=tuple(queries),
        qrels=qrels,
        fingerprint=digest(
            {"rows": rows.hexdigest(), "qrels": judgments, "channels": dict(split.channels)}
        ),
        coverage=counter.coverage(),
    )


def _human(store: DatasetStore) -> Split:
    split = stored(store, TRAIN)
    if not split.qrels:
        raise NotPreparedError(
            f"{store.folder} has no judgments of the human queries: prepare it again with "
            "multivent_2_train_judgments.jsonl among the sources."
        )
    return with_relevant(split)


def with_relevant(split: Split) -> Split:
    """Return the split with the attribute `RELEVANT` at its queries."""
    queries = tuple(
        replace(query, attributes={**query.attributes, RELEVANT: _how_many(split.qrels, query.id)})
        for query in split.queries
    )
    return replace(split, queries=queries)


def _how_many(qrels: Qrels, query: str) -> str:
    count = sum(grade > 0 for grade in qrels.get(query, {}).values())
    if count > MANY:
        return "many"
    return "one" if count == 1 else "few" if count else "none"
