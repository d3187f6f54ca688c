"""The reverse direction: the documents ask, and the queries are ranked (video-to-text).

The scores are those of the forward direction, read the other way: data, index and embeddings are
the same. All queries are searched with every document kept, block by block, and each document keeps
a running top k of queries; so memory depends on the number of documents times k.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness.coverage import Coverage
from harness.documents import ListedDocuments
from harness.errors import RankingError
from harness.files import atomic_write
from harness.index.topk import TopK, places
from harness.plugin import Direction
from harness.progress import Progress
from harness.retriever import Retriever
from harness.runner.search import CHECKPOINT_SECONDS, Searched, checkpoints_of, ranked_by
from harness.task import Split, Task
from harness.types import Document, Modality, Query, RankedList, Ranking
from harness.workspace import Workspace

#: Different queries of a block. With 3,000 documents a block is 0.8 million scores.
BLOCK = 256


def as_asked(task: Task, split: Split) -> Split:
    """Return what is evaluated: the split, in the reverse direction turned around."""
    return turned_around(split) if task.direction is Direction.REVERSE else split


def turned_around(split: Split) -> Split:
    """Return the split in which the documents ask for the queries.

    Its queries are the documents, with their attributes, and say nothing: they are never shown to a
    retriever. Its documents are the queries, as texts. The fingerprint is that of the same data.
    """
    documents = [
        Document(query.id, {Modality.TEXT: query.text}, attributes=query.attributes)
        for query in split.queries
    ]
    queries = tuple(
        Query(document, "", attributes=attributes)
        for document, attributes in split.documents.attributes().items()
    )
    qrels: dict[str, dict[str, int]] = {}
    for query, row in split.qrels.items():
        for document, grade in row.items():
            qrels.setdefault(document, {})[query] = grade
    return replace(
        split,
        documents=ListedDocuments(documents),
        queries=queries,
        qrels=qrels,
        coverage=Coverage.of(documents),
    )


def search_transposed(
    retriever: Retriever,
    queries: Sequence[Query],
    documents: Sequence[str],
    k: int,
    workspace: Workspace,
    progress: Progress,
) -> Searched:
    """Rank `queries` for each document, keeping what is done on disk every half minute.

    Equal queries are searched once and so tie exactly. Scores are compared as float32. What a
    killed search kept does not change the bytes of the ranking.

    Parameters
    ----------
    retriever
        Whose scores of different queries are on one scale.
    queries
        As it may see them.
    documents
        Ids of all that was indexed: what asks.
    k
        Queries kept for each document.
    workspace, progress
        As for `harness.runner.search.search`.

    Raises
    ------
    PluginError
        If the retriever returns no ranking.
    RankingError
        If it ranks what it was not given.
    """
    checkpoints = checkpoints_of(retriever, queries, k, workspace)
    groups = _equal(queries)
    ids = [query.id for group in groups for query in group]
    rows = {document: row for row, document in enumerate(documents)}
    best = TopK(len(rows), k, ids, places(ids))
    done = 0
    for part in sorted(checkpoints.glob("*.npy"))[-1:]:
        done = int(part.stem)
        best.restore(np.load(part, allow_pickle=False))
    start = saved = time.perf_counter()
    first = sum(map(len, groups[:done]))
    with progress.stage(f"search {len(queries):,} queries", len(queries)) as advance:
        advance(first)
        for number in range(done, len(groups), BLOCK):
            block = groups[number : number + BLOCK]
            ranking = ranked_by(retriever, [group[0] for group in block], len(rows))
            scores = _scores(retriever, ranking, block, rows)
            best.add(scores, first)
            first += scores.shape[1]
            advance(scores.shape[1])
            if time.perf_counter() - saved > CHECKPOINT_SECONDS:
                older = list(checkpoints.glob("*.npy"))
                with (
                    atomic_write(checkpoints / f"{number + len(block):08d}.npy") as temporary,
                    temporary.open("wb") as file,
                ):
                    np.save(file, best.state())
                for part in older:
                    part.unlink()
                saved = time.perf_counter()
    seconds = None if done else time.perf_counter() - start
    lists: Mapping[str, RankedList] = dict(zip(documents, best.ranked(), strict=True))
    return Searched(Ranking(lists), seconds, (), checkpoints)


def _equal(queries: Sequence[Query]) -> list[list[Query]]:
    """Return the queries in groups that a retriever cannot tell apart."""
    groups: dict[object, list[Query]] = {}
    for query in queries:
        key = (query.text, query.instruction, query.image, *sorted(query.attributes.items()))
        groups.setdefault(key, []).append(query)
    return list(groups.values())


def _scores(
    retriever: Retriever,
    ranking: Ranking,
    groups: Sequence[Sequence[Query]],
    rows: Mapping[str, int],
) -> NDArray[np.float32]:
    """Return the score of each document for each query of a block; -inf where it is not ranked."""
    columns = np.cumsum([0, *map(len, groups)])
    scores = np.full((len(rows), columns[-1]), -np.inf, np.float32)
    for group, left, right in zip(groups, columns[:-1], columns[1:], strict=True):
        ranked = ranking.get(group[0].id)
        if not ranked:
            continue
        try:
            found = [rows[document] for document in ranked.documents]
        except KeyError as error:
            raise RankingError(
                f"retriever {retriever.address!r} returned the unknown document {error}: it may "
                "only rank what it was given."
            ) from None
        scores[found, left:right] = ranked.scores[:, None]
    return scores
