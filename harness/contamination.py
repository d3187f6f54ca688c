"""What a training split shares with an evaluated one: documents, and texts of queries."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import DataError
from harness.task import Split
from harness.types import Qrels, Query
from harness.workspace import TRAINED_ON_NAME


@dataclass(frozen=True, slots=True)
class Shared:
    """What training on a split would leak of another.

    Attributes
    ----------
    documents
        Documents that are relevant to a training query and to an evaluated one. Of an evaluated
        split without judgments, all documents count.
    queries
        Ids of training queries that ask what an evaluated query asks: its words, about its image.
    """

    documents: frozenset[str] = frozenset()
    queries: frozenset[str] = frozenset()

    def __or__(self, other: Shared) -> Shared:
        return Shared(self.documents | other.documents, self.queries | other.queries)


def shared(train: Split, evaluated: Split) -> Shared:
    """Return what the training split shares with the evaluated one."""
    held_out = relevant_documents(evaluated.qrels)
    if not evaluated.qrels:
        held_out = frozenset(evaluated.documents.attributes())
    asked = {what_is_asked(query) for query in evaluated.queries}
    return Shared(
        relevant_documents(train.qrels) & held_out,
        frozenset(query.id for query in train.queries if what_is_asked(query) in asked),
    )


def without(
    queries: Sequence[Query], qrels: Qrels, dropped: Shared
) -> tuple[tuple[Query, ...], dict[str, Mapping[str, int]]]:
    """Return training queries and judgments without what is shared.

    A query goes if it is shared, or if no relevant document is left to it.
    """
    kept = {
        query.id: {d: g for d, g in qrels.get(query.id, {}).items() if d not in dropped.documents}
        for query in queries
        if query.id not in dropped.queries
    }
    judged: dict[str, Mapping[str, int]] = {
        query: row for query, row in kept.items() if any(grade > 0 for grade in row.values())
    }
    return tuple(query for query in queries if query.id in judged), judged


def seen_of(folder: Path, evaluated: Split) -> tuple[int, int]:
    """Count what the weights in `folder` were trained on and an evaluated split has.

    Returns
    -------
    int, int
        Relevant documents of the split, and queries of it, by their texts and images.

    Raises
    ------
    DataError
        If the folder does not say what was trained on.
    """
    path = folder / TRAINED_ON_NAME
    try:
        seen = json.loads(path.read_text(encoding="utf-8"))
        documents, queries = frozenset(seen["documents"]), frozenset(seen["queries"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} does not say what these weights were trained on: copy the whole folder that "
            "`clamr-bench train` wrote."
        ) from error
    return (
        len(relevant_documents(evaluated.qrels) & documents),
        sum(query_digest(query) in queries for query in evaluated.queries),
    )


def query_digest(query: Query) -> str:
    """Return what stands for a query where its text is not to be kept."""
    return hashlib.sha256(what_is_asked(query).encode()).hexdigest()[:16]


def what_is_asked(query: Query) -> str:
    """Return what two queries have in common that ask the same: words, and an image's file.

    One question is asked about many images, so the words alone tell only queries without one.
    """
    words = normalised(query.text)
    image = query.image
    return words if image is None else f"{words}\0{image.name}\0{image.size}"


def relevant_documents(qrels: Qrels) -> frozenset[str]:
    """Return the documents with a grade above 0 for any query."""
    return frozenset(d for row in qrels.values() for d, grade in row.items() if grade > 0)


def normalised(text: str) -> str:
    """Return the words of a text, by which two queries are the same.

    Letter case and compatibility forms are unified as Unicode's caseless matching does it (The
    Unicode Standard, section 3.13, D146); punctuation is ignored.
    """
    folded = unicodedata.normalize("NFD", text)
    for _ in range(2):  # Folding can undo a normal form, and a normal form can undo folding.
        folded = unicodedata.normalize("NFKC", folded.casefold())
    return " ".join(re.findall(r"\w+", folded)) or folded.strip()
