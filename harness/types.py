"""The words of the field as values: modality, document, query, qrels, ranking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import RankingError, UsageError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NO_MODALITY = 0
"""Number of a token of no modality (template, padding); it never wins a maximum."""

Qrels = Mapping[str, Mapping[str, int]]
"""Graded, set-valued relevance: query id -> {document id: grade}. A grade above 0 is relevant."""


class Modality(IntEnum):
    """What a piece of a document is made of.

    One global numbering, 1-based: 0 is "no modality" (`NO_MODALITY`). The numbers are stored in
    embeddings and must never change.
    """

    VIDEO = 1
    AUDIO = 2
    ASR = 3
    OCR = 4
    DESCRIPTION = 5
    IMAGE = 6
    TEXT = 7

    @property
    def label(self) -> str:
        """The name as it is written in settings, files and tables."""
        return self.name.lower()

    @property
    def is_text(self) -> bool:
        """Whether a document holds this modality as a string."""
        return self in TEXT_MODALITIES

    @classmethod
    def parse(cls, name: str) -> Modality:
        """Return the modality called `name`.

        Raises
        ------
        UsageError
            If there is none; the message lists those that exist.
        """
        try:
            return cls[name.strip().upper()]
        except KeyError:
            known = [modality.label for modality in cls]
            raise UsageError(
                f"unknown modality {name!r}: choose from {', '.join(known)}."
                + did_you_mean(name.lower(), known)
            ) from None


TEXT_MODALITIES = (Modality.ASR, Modality.OCR, Modality.DESCRIPTION, Modality.TEXT)
MEDIA_MODALITIES = (Modality.VIDEO, Modality.AUDIO, Modality.IMAGE)


@dataclass(frozen=True, slots=True)
class Media:
    """Where the bytes of a media file lie: a file, or a member of an uncompressed tar.

    Attributes
    ----------
    path
        The file, or the tar that holds it.
    name
        The file's own name; its suffix tells the format.
    size
        Bytes.
    offset
        Byte offset of a tar member's data; None for a plain file.
    """

    path: Path
    name: str
    size: int
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One retrievable item: an id and whichever modalities it has.

    Absent is absent: a modality without content is not in `texts` or `media`, never ``""``.

    Attributes
    ----------
    id
        Unique within its collection.
    texts
        Content of text modalities.
    media
        Files of media modalities, in order: one video file, or its frames as images.
    title
        The item's title where it has one; no retriever reads it unless it says so.
    attributes
        Facts for breakdowns and reports (``language``, ...).
    """

    id: str
    texts: Mapping[Modality, str] = field(default_factory=dict)
    media: Mapping[Modality, tuple[Media, ...]] = field(default_factory=dict)
    title: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def modalities(self) -> frozenset[Modality]:
        """The modalities that this document has."""
        return frozenset(self.texts) | frozenset(self.media)

    def only(self, modalities: frozenset[Modality]) -> Document:
        """Return the document with every other modality taken away."""
        if self.modalities <= modalities:
            return self
        return replace(
            self,
            texts={m: text for m, text in self.texts.items() if m in modalities},
            media={m: files for m, files in self.media.items() if m in modalities},
        )


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked: text, optionally with an image and an instruction.

    `attributes` hold gold facts (target modality, language, event, ...) that breakdowns use.
    They are taken away before a retriever sees the query, unless it declares ``oracle``.
    """

    id: str
    text: str
    image: Media | None = None
    instruction: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    def without_gold(self) -> Query:
        """Return the query as a retriever may see it."""
        return replace(self, attributes={}) if self.attributes else self


@dataclass(frozen=True, slots=True)
class RankedList:
    """Documents of one query with their scores.

    Attributes
    ----------
    documents
        Document ids, best first.
    scores
        float64, shape ``(n_documents,)``; higher is better.
    """

    documents: Sequence[str]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.documents)


class Ranking(Mapping[str, RankedList]):
    """Ranked lists by query id, in canonical order.

    Canonical order is score descending, then document id descending. That is the order in which
    ``trec_eval`` reads a run, so its figures for a saved run are ours (but where scores differ only
    beyond float32, which it takes for ties).

    Parameters
    ----------
    lists
        Ranked lists by query id, in any order; they are put in canonical order here.

    Raises
    ------
    RankingError
        If a score is NaN or infinite, a document id repeats within a query, or ids and scores
        differ in number.
    """

    __slots__ = ("_lists",)

    def __init__(self, lists: Mapping[str, RankedList]) -> None:
        self._lists = {query: _canonical(query, ranked) for query, ranked in lists.items()}

    @classmethod
    def from_scores(cls, scores: Mapping[str, Mapping[str, float]]) -> Ranking:
        """Make a ranking from ``{query id: {document id: score}}``."""
        import numpy as np

        return cls(
            {
                query: RankedList(list(row), np.fromiter(row.values(), np.float64, len(row)))
                for query, row in scores.items()
            }
        )

    def __getitem__(self, query: str) -> RankedList:
        return self._lists[query]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lists)

    def __len__(self) -> int:
        return len(self._lists)

    def top(self, k: int) -> Ranking:
        """Return the ranking cut to the first `k` documents of each query."""
        cut = Ranking({})
        cut._lists = {
            query: RankedList(ranked.documents[:k], ranked.scores[:k])
            for query, ranked in self._lists.items()
        }
        return cut


def _canonical(query: str, ranked: RankedList) -> RankedList:
    """Check one ranked list and return it in canonical order."""
    import numpy as np

    documents, scores = ranked.documents, np.asarray(ranked.scores, dtype=np.float64)
    if scores.ndim != 1 or len(documents) != len(scores):
        raise RankingError(
            f"query {query!r}: {len(documents)} document ids but scores of shape {scores.shape}; "
            "give one score for each document."
        )
    finite = np.isfinite(scores)
    if not finite.all():
        first = int(np.argmin(finite))
        raise RankingError(
            f"query {query!r}: document {documents[first]!r} has score {scores[first]}; scores "
            "must be finite numbers (leave a document out rather than give it -inf)."
        )
    if len(set(documents)) != len(documents):
        seen: set[str] = set()
        twice = next(d for d in documents if d in seen or seen.add(d))  # type: ignore[func-returns-value]
        raise RankingError(
            f"query {query!r}: document {twice!r} is listed twice; a ranking holds each document "
            "once a query."
        )
    # Ids that are not strings would match no judgment and score 0 in silence. One of a list tells.
    if len(documents) and not isinstance(documents[0], str):
        raise RankingError(
            f"query {query!r}: document id {documents[0]!r} is a {type(documents[0]).__name__}; "
            "document ids must be strings."
        )
    # Retrievers mostly return distinct scores, best first: one comparison then settles it, and
    # ids are sorted as strings only where scores tie. For 2,500 lists of 1,000 that is 0.07 s,
    # and 0.2 s for lists in no order; 0.06 s of either is the search for repeated ids above.
    if bool((scores[:-1] > scores[1:]).all()):
        return RankedList(documents, scores)
    order = np.argsort(-scores)
    ordered = scores[order]
    ids = list(map(documents.__getitem__, order.tolist()))
    if bool((ordered[:-1] == ordered[1:]).any()):
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1], True])
        for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            if stop - start > 1:
                ids[start:stop] = sorted(ids[start:stop], reverse=True)
    return RankedList(ids, ordered)
