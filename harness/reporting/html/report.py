"""A saved run as one page: figures, plots, every query with what was found, and explanations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ClamrBenchError
from harness.media import FrameSampling
from harness.progress import Progress
from harness.registry import make_task
from harness.reporting.html.browser import (
    Shelf,
    Values,
    document_values,
    documents_of,
    listed,
    query_values,
    relevant_of,
)
from harness.reporting.html.choice import DEFAULT, choose
from harness.reporting.html.explained import Explained, explained
from harness.reporting.html.figures import attributed, cost_plots, name_of, tables_of
from harness.reporting.html.page import render
from harness.reporting.html.pictures import NOTHING, Seen, sampling_of, seen, thumbnails
from harness.reporting.words import facts_of
from harness.results.store import SavedRun
from harness.retriever import Retriever
from harness.runner.attribution import best_relevant, first_ranked, shown_to
from harness.runner.attribution import explained as attributions_of
from harness.runner.explain import token_texts
from harness.runner.reopen import reopened, same_split, saved_ranking
from harness.runner.transposed import as_asked
from harness.task import Split, Task
from harness.types import Document, Modality, Query, RankedList, Ranking

#: Pictures of a document in the list of a query.
_THUMBNAILS = 3
_FEW = thumbnails(_THUMBNAILS)


@dataclass(frozen=True, slots=True)
class Choices:
    """What a page holds.

    Attributes
    ----------
    queries
        How many queries are shown in detail; None for all.
    media, text
        Whether it holds pictures and words of the dataset.
    """

    queries: int | None = DEFAULT
    media: bool = True
    text: bool = True


def report(
    saved: SavedRun,
    others: Iterable[SavedRun],
    choices: Choices,
    data: Path | None,
    progress: Progress,
) -> str:
    """Return the page of a run.

    Without its data, or without its index in the cache, the page has less, and says why.

    Parameters
    ----------
    saved
        A complete run.
    others
        All saved runs; those of the same table are drawn beside it.
    choices
        What the page holds.
    data
        The dataset store that the run is of, if not the default one.
    progress
        Where to report.

    Raises
    ------
    ResultError
        If the run's ranking or values cannot be read.
    UsageError
        If jinja2 is not installed.
    """
    result = saved.result
    ranking = saved_ranking(saved)
    task, split, no_data = _reloaded(saved, data, progress)
    queries = _queries(saved, split, ranking)
    values = Values.of(saved, [query.id for query in queries])
    chosen = choose([query.id for query in queries], values.good, choices.queries)
    detailed = [query for query in queries if query.id in chosen]
    pairs = _pairs(ranking, split, detailed)
    wanted = {d for query in detailed for d in _documents(ranking, split, query)}
    wanted |= {d for _, ids in pairs for d in ids}
    documents = {} if split is None else documents_of(split.documents, wanted)
    found: dict[str, list[Explained]] = {}
    pictures: Mapping[str, Seen] = {}
    no_explanations = no_data
    try:
        if task is not None and split is not None and pairs:
            with closing(reopened(saved, task, split, progress)) as retriever:
                strips = {d for _, ids in pairs for d in ids}
                pictures = _pictures(documents, strips, retriever, choices, progress)
                found = _explanations(
                    retriever, pairs, documents, pictures, ranking, split, choices, progress
                )
    except ClamrBenchError as error:
        no_explanations = str(error)
        pictures = _pictures(documents, (), None, choices, progress)
    shelf = Shelf()
    good, groups = values.good, _groups(saved, queries)
    rows = [
        query_values(
            query,
            ranking,
            split,
            values,
            good,
            chosen.get(query.id),
            groups,
            shelf,
            media=choices.media,
            text=choices.text,
        )
        for query in queries
    ]
    return render(
        "report.html.j2",
        title=f"{name_of(result)} on {result.task.address}",
        result=result,
        facts=facts_of(result),
        choices=choices,
        tables=tables_of(result),
        attributed=attributed(result),
        costs=cost_plots(saved, others),
        chosen=len(detailed),
        no_data=no_data,
        no_explanations=no_explanations,
        explained=found,
        browser={
            "main": values.main,
            "measures": values.measures if values.rows else (),
            "groups": groups,
            "queries": rows,
            "documents": [_shelved(id_, documents, pictures, choices) for id_ in shelf.places],
        },
    )


def _reloaded(
    saved: SavedRun, data: Path | None, progress: Progress
) -> tuple[Task | None, Split | None, str]:
    """Return the run's task and split, or why they are not to be had."""
    record = saved.result.task
    try:
        task = make_task(record.address, record.settings)
        return task, as_asked(task, same_split(saved, task, data, progress)), ""
    except ClamrBenchError as error:
        return None, None, str(error)


def _queries(saved: SavedRun, split: Split | None, ranking: Ranking) -> Sequence[Query]:
    """Return the queries that ran; without the data, those that the run has lists of."""
    if split is None:
        return [Query(query, "") for query in ranking]
    limit = saved.result.options.limit
    return split.queries if limit is None else split.queries[:limit]


def _documents(ranking: Ranking, split: Split | None, query: Query) -> list[str]:
    rows = listed(ranking.get(query.id), relevant_of(split, query.id))
    return [document for document, _, _ in rows]


def _pairs(
    ranking: Ranking, split: Split | None, queries: Sequence[Query]
) -> list[tuple[Query, tuple[str, ...]]]:
    """Return the documents whose scores are explained: the first ranked, the best relevant."""
    if split is None or not queries:
        return []
    known = split.documents.attributes().keys()
    pairs = []
    for query in queries:
        ends = first_ranked(ranking, query), best_relevant(ranking, split, query, known)
        pairs.append((query, tuple(dict.fromkeys(id_ for id_ in ends if id_ is not None))))
    return pairs


def _pictures(
    documents: Mapping[str, Document],
    strips: Iterable[str],
    retriever: Retriever | None,
    choices: Choices,
    progress: Progress,
) -> dict[str, Seen]:
    """Return pictures of the documents: strips of those that are explained, else a few."""
    if not choices.media:
        return {}
    strips = set(strips)
    sampling = FrameSampling() if retriever is None else sampling_of(retriever.settings)
    explained = [document for id_, document in documents.items() if id_ in strips]
    others = [document for id_, document in documents.items() if id_ not in strips]
    sound = any(Modality.AUDIO in document.media for document in explained)
    made: dict[str, Seen] = {}
    with progress.stage(f"pictures of {len(documents):,} documents", len(documents)) as advance:
        for group, frames, heard in ((explained, sampling, sound), (others, _FEW, False)):
            for document, pictures in seen(group, frames, sound=heard):
                made[document.id] = pictures
                advance(1)
    return made


def _explanations(
    retriever: Retriever,
    pairs: Sequence[tuple[Query, Sequence[str]]],
    documents: Mapping[str, Document],
    pictures: Mapping[str, Seen],
    ranking: Ranking,
    split: Split,
    choices: Choices,
    progress: Progress,
) -> dict[str, list[Explained]]:
    made = attributions_of(retriever, pairs, progress)
    found: dict[str, list[Explained]] = {}
    for query, ids in pairs:
        relevant = relevant_of(split, query.id)
        for id_ in ids:
            attribution = made[query.id, id_]
            texts = token_texts(retriever, shown_to(retriever, query), attribution)
            place = _place(ranking.get(query.id), id_)
            found.setdefault(query.id, []).append(
                explained(
                    documents[id_],
                    attribution,
                    texts,
                    f"{place}, relevant" if id_ in relevant else place,
                    pictures.get(id_, NOTHING),
                    words=choices.text,
                )
            )
    return found


def _place(ranked: RankedList | None, document: str) -> str:
    if ranked is None or document not in ranked.documents:
        return "not in the query's list"
    return f"rank {list(ranked.documents).index(document) + 1:,}"


def _shelved(
    id_: str, documents: Mapping[str, Document], pictures: Mapping[str, Seen], choices: Choices
) -> dict[str, Any]:
    if id_ not in documents:
        return {"id": id_}
    few = pictures.get(id_)
    if few is not None and len(few.frames) > _THUMBNAILS:
        n = len(few.frames)
        kept = [few.frames[(2 * i + 1) * n // (2 * _THUMBNAILS)] for i in range(_THUMBNAILS)]
        few = Seen(tuple(kept), few.images[:_THUMBNAILS])
    return document_values(documents[id_], few, text=choices.text)


def _groups(saved: SavedRun, queries: Sequence[Query]) -> list[str]:
    """Return the attributes that queries can be chosen by."""
    present = {name for query in queries for name in query.attributes}
    return [name for name in saved.result.breakdowns if name in present]
