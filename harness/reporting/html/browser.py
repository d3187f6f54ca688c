"""The queries of a run with what was found, as the values that the page's script reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.documents import Documents
from harness.rank_measures import goodness, written
from harness.reporting.html.pictures import Seen, image_of
from harness.results.per_query import read_per_query
from harness.results.store import PER_QUERY_NAME, SavedRun
from harness.task import Split
from harness.types import Document, Query, RankedList, Ranking

#: Documents of a query that are listed, and relevant ones below them.
TOP, BELOW = 5, 3
#: Characters of a text that are shown of a document.
SNIPPET = 160


@dataclass(frozen=True, slots=True)
class Values:
    """What the measures say of each query.

    Attributes
    ----------
    measures
        Their names.
    main
        The one that queries are ordered by.
    rows
        Values by query id; empty where the protocol's means are over something else.
    """

    measures: tuple[str, ...]
    main: str
    rows: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, saved: SavedRun, queries: Iterable[str]) -> Values:
        """Read them."""
        protocol = saved.result.task.protocol
        if not saved.result.measures:
            return cls((), protocol.main, {})
        ids, values, measures = read_per_query(saved.folder / PER_QUERY_NAME)
        rows = dict(zip(ids, values.tolist(), strict=True))
        known = {query: rows[query] for query in queries if query in rows}
        return cls(tuple(measures), protocol.main, known)

    @property
    def good(self) -> dict[str, float]:
        """How good the main measure is of each query, the larger the better."""
        place = self.measures.index(self.main) if self.rows else 0
        return {query: goodness(self.main, row[place]) for query, row in self.rows.items()}

    def written(self, query: str) -> list[str]:
        """Return the values of a query as they are shown; empty if there are none."""
        if query not in self.rows:
            return []
        row = self.rows[query]
        return [written(m, value, 1) for m, value in zip(self.measures, row, strict=True)]


@dataclass(slots=True)
class Shelf:
    """Documents that are shown, each once, whichever queries found it."""

    places: dict[str, int] = field(default_factory=dict)

    def place(self, document: str) -> int:
        """Return the number of a document on the page."""
        return self.places.setdefault(document, len(self.places))


def listed(ranked: RankedList | None, relevant: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """Return the documents that are shown, with rank and score.

    They are the first ones, and the best-ranked relevant ones below these.
    """
    if ranked is None:
        return []
    found = zip(ranked.documents, range(1, len(ranked) + 1), ranked.scores.tolist(), strict=True)
    rows = list(found)
    below = [row for row in rows[TOP:] if row[0] in relevant]
    return [*rows[:TOP], *below[:BELOW]]


def relevant_of(split: Split | None, query: str) -> dict[str, int]:
    """Return the relevant documents of a query with their grades."""
    judged = {} if split is None else split.qrels.get(query, {})
    return {document: grade for document, grade in judged.items() if grade > 0}


def query_values(
    query: Query,
    ranking: Ranking,
    split: Split | None,
    values: Values,
    good: Mapping[str, float],
    why: str | None,
    groups: Collection[str],
    shelf: Shelf,
    *,
    media: bool,
    text: bool,
) -> dict[str, Any]:
    """Return what the script reads of a query.

    Parameters
    ----------
    query
        The query.
    ranking, split, values, good
        Of the run; `good` as `Values.good`.
    why
        Why it is shown in detail; None if it is not.
    groups
        Attributes that the run's figures are broken down by; others count as words.
    shelf
        Takes its documents.
    media, text
        Whether the page may hold its image and words.
    """
    relevant = relevant_of(split, query.id)
    ranked = ranking.get(query.id)
    documents = listed(ranked, relevant)
    unlisted = set(relevant) - set(ranked.documents if ranked else ())
    found: dict[str, Any] = {
        "id": query.id,
        "text": query.text if text else "",
        "instruction": (query.instruction or "") if text else "",
        "image": image_of(query.image) if media and why is not None else "",
        "attributes": {
            name: value for name, value in query.attributes.items() if text or name in groups
        },
        "values": values.written(query.id),
        "good": good.get(query.id),
        "documents": [
            [shelf.place(document), rank, f"{score:.4f}", relevant.get(document, 0)]
            for document, rank, score in documents
        ],
        "relevant": len(relevant),
        "unlisted": len(unlisted),
    }
    if why is not None:
        found["why"] = why
    return found


def document_values(document: Document, seen: Seen | None, *, text: bool) -> dict[str, Any]:
    """Return what the script reads of a document that is shown in detail."""
    pictures = () if seen is None else (*seen.frames, *seen.images)
    found: dict[str, Any] = {"id": document.id, "modalities": _labels(document)}
    if pictures:
        found["pictures"] = [picture.uri for picture in pictures]
    if text:
        if document.title:
            found["title"] = document.title
        found["texts"] = {
            modality.label: snippet(words) for modality, words in sorted(document.texts.items())
        }
    return found


def snippet(words: str) -> str:
    """Return the beginning of a text on one line."""
    line = " ".join(words[: 4 * SNIPPET].split())
    return line if len(line) <= SNIPPET and len(words) <= 4 * SNIPPET else f"{line[:SNIPPET]}…"


def documents_of(documents: Documents, wanted: Iterable[str]) -> dict[str, Document]:
    """Return documents by id; those that the collection does not have are left out."""
    missing, found = set(wanted), {}
    for document in documents if missing else ():
        if document.id in missing:
            found[document.id] = document
            missing.remove(document.id)
            if not missing:
                break
    return found


def _labels(document: Document) -> list[str]:
    return [modality.label for modality in sorted(document.modalities)]
