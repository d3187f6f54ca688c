"""Explains one score of a saved run: what matched, and what changes without a modality.

The document is encoded anew, by itself: that takes no workspace, and the same is done for every
variation that it is compared with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.documents import ListedDocuments
from harness.errors import CapabilityError, PluginError, UsageError, did_you_mean
from harness.late_interaction.attribution import Attribution
from harness.plugin import Direction
from harness.progress import Progress
from harness.results.store import SavedRun
from harness.retriever import Retriever
from harness.runner.attribution import shown_to
from harness.runner.reopen import require_same, same_split, saved_ranking
from harness.task import Split, Task
from harness.types import Document, Modality, Query, RankedList
from harness.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Explanation:
    """One score, taken apart.

    Attributes
    ----------
    query, document
        As the retriever was given them.
    rank, saved_score
        Of the document in the run; None if it is not in the query's list.
    tokens
        A text for each query token, or None where tokens have none.
    full
        The score as it is.
    masked
        The score where the modalities left out may not win, of the same encoding; None if none
        is left out.
    left_out
        The score of the document encoded without these modalities; None if none is left out.
    """

    query: Query
    document: Document
    rank: int | None
    saved_score: float | None
    tokens: Sequence[str] | None
    full: Attribution
    masked: Attribution | None = None
    left_out: Attribution | None = None


def explain(
    saved: SavedRun,
    task: Task,
    retriever: Retriever,
    query_id: str,
    document_id: str | None,
    without: frozenset[Modality],
    data: Path | None,
    progress: Progress,
) -> Explanation:
    """Explain the score of one document for one query.

    Parameters
    ----------
    saved
        A complete run.
    task, retriever
        What it is of, made with the run's settings.
    query_id, document_id
        Which score; without a document, of the first in the query's list.
    without
        Modalities to leave out, for the causal check; may be empty.
    data
        The dataset store that the run is of, if not the default one.
    progress
        Where to report.

    Raises
    ------
    CapabilityError
        If the retriever cannot explain its scores.
    ResultError
        If the run, the data or the retriever is not what it was.
    UsageError
        If there is no such query, document or modality.
    """
    if task.direction is Direction.REVERSE:
        raise CapabilityError(
            f"run {saved.result.run_id} ranks queries for documents ({task.protocol.name}), and "
            "what is explained is a document's score for a query: explain a run of the other "
            "direction, which has the same scores."
        )
    retriever.explain([], [])  # Refuses at once, if it cannot.
    require_same(saved, retriever)
    options = saved.result.options
    retriever.seed = options.seed
    ranking = saved_ranking(saved)
    split = same_split(saved, task, data, progress)
    query = _query(split, query_id)
    ranked = ranking.get(query_id)
    document = _document(split, query_id, document_id, ranked)
    if options.modalities is not None:
        left_in = frozenset(map(Modality.parse, options.modalities))
        if options.masked:
            retriever.modalities = left_in
        else:
            document = document.only(left_in)
    kept = _kept(document, without)
    shown = shown_to(retriever, query)
    rank, score = _place(ranked, document.id)
    full, masked = _scored(retriever, shown, document, without)
    left_out = _scored(retriever, shown, document.only(kept))[0] if without else None
    tokens = token_texts(retriever, shown, full)
    return Explanation(query, document, rank, score, tokens, full, masked, left_out)


def token_texts(
    retriever: Retriever, query: Query, attribution: Attribution
) -> Sequence[str] | None:
    """Return a text for each token of a query, or None where tokens have none.

    Parameters
    ----------
    retriever
        Ready to explain.
    query, attribution
        As it may see the query, and what it made of it.

    Raises
    ------
    PluginError
        If it gives another number of texts than of vectors.
    """
    tokens = retriever.query_tokens(query)
    if tokens is not None and len(tokens) != len(attribution.winners.parts):
        raise PluginError(
            f"retriever {retriever.address!r}: query_tokens gave {len(tokens)} texts for "
            f"{len(attribution.winners.parts)} query vectors; it must give one for each."
        )
    return tokens


def _scored(
    retriever: Retriever,
    query: Query,
    document: Document,
    without: frozenset[Modality] = frozenset(),
) -> tuple[Attribution, Attribution | None]:
    """Encode the document by itself; return its score, and the one with modalities masked."""
    with tempfile.TemporaryDirectory(prefix="clamr-bench-") as folder:
        retriever.index(ListedDocuments([document]), Workspace(Path(folder), {"for": "explain"}))
        queries, documents = [query], [[document.id]]
        full = retriever.explain(queries, documents)[0][0]
        if not without:
            return full, None
        others = frozenset(Modality) - without
        return full, retriever.explain(queries, documents, others)[0][0]


def _query(split: Split, query_id: str) -> Query:
    for query in split.queries:
        if query.id == query_id:
            return query
    raise UsageError(
        f"the task has no query {query_id!r}: name one of its {len(split.queries):,}."
        + did_you_mean(query_id, [query.id for query in split.queries])
    )


def _document(
    split: Split, query_id: str, document_id: str | None, ranked: RankedList | None
) -> Document:
    if document_id is None:
        if not ranked:
            raise UsageError(
                f"the run has no documents for query {query_id!r}: name one with --document."
            )
        document_id = ranked.documents[0]
    for document in split.documents:
        if document.id == document_id:
            return document
    near = list(ranked.documents) if ranked else []
    raise UsageError(
        f"the task has no document {document_id!r}: without --document, the first of the query's "
        f"list is explained.{did_you_mean(document_id, near)}"
    )


def _kept(document: Document, without: frozenset[Modality]) -> frozenset[Modality]:
    """Return the modalities that stay when some are left out."""
    has = document.modalities
    labels = ", ".join(modality.label for modality in sorted(has)) or "nothing"
    missing = ", ".join(modality.label for modality in sorted(without - has))
    if missing:
        raise UsageError(
            f"document {document.id!r} has no {missing} to leave out: it has {labels}."
        )
    if without and without == has:
        raise UsageError(
            f"document {document.id!r} has only {labels}: leave at least one of them in."
        )
    return has - without


def _place(ranked: RankedList | None, document_id: str) -> tuple[int | None, float | None]:
    if ranked is None or document_id not in ranked.documents:
        return None, None
    place = list(ranked.documents).index(document_id)
    return place + 1, float(ranked.scores[place])
