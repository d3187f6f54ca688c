"""Searches block by block, so that a killed search goes on where it was."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import PluginError
from harness.plugin import Direction
from harness.progress import Progress
from harness.retriever import Retriever
from harness.runfile import read_ranking, write_ranking
from harness.types import Query, RankedList, Ranking
from harness.workspace import Workspace, digest

#: Queries of a block. The first queries are searched one by one: their times are the latencies.
BLOCK = 64
SINGLE = 50
#: Seconds of searching that a kill may cost.
CHECKPOINT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search gave.

    Attributes
    ----------
    ranking
        At most k documents for each query.
    seconds
        Wall time; None if a part was taken from an earlier process.
    latencies
        Milliseconds of single queries, sorted.
    checkpoints
        Folder of partial rankings.
    """

    ranking: Ranking
    seconds: float | None
    latencies: tuple[float, ...]
    checkpoints: Path

    def latency(self, percentile: int) -> float | None:
        """Return a percentile of the single-query latencies in ms (nearest rank)."""
        if not self.latencies:
            return None
        position = -(-percentile * len(self.latencies) // 100) - 1
        return self.latencies[position]

    def only(self, queries: Iterable[str]) -> Searched:
        """Return what the search gave for these queries alone."""
        asked = set(queries)
        lists = {query: row for query, row in self.ranking.items() if query in asked}
        return replace(self, ranking=Ranking(lists))

    def forget(self) -> None:
        """Delete the checkpoints, once the run is saved."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)


def search(
    retriever: Retriever,
    queries: Sequence[Query],
    k: int,
    workspace: Workspace,
    progress: Progress,
) -> Searched:
    """Search all `queries`, keeping what is done on disk every half minute.

    Blocks are the same whatever was done before, so a search that was killed and resumed gives
    the same bytes.

    Raises
    ------
    PluginError
        If the retriever returns no ranking.
    """
    checkpoints = checkpoints_of(retriever, queries, k, workspace)
    lists: dict[str, RankedList] = {}
    for part in sorted(checkpoints.glob("*.trec.gz")):
        lists.update(read_ranking(part))
    done = _done(checkpoints)
    latencies: list[float] = []
    start = saved = time.perf_counter()
    unsaved: dict[str, RankedList] = {}
    with progress.stage(f"search {len(queries):,} queries", len(queries)) as advance:
        for number, block in _blocks(queries):
            if number < done:
                advance(len(block))
                continue
            before = time.perf_counter()
            ranking = ranked_by(retriever, block, k)
            if len(block) == 1:
                latencies.append((time.perf_counter() - before) * 1000)
            unsaved.update(ranking.top(k))
            advance(len(block))
            # A run file cannot hold empty lists alone; they cost nothing to make again.
            due = time.perf_counter() - saved > CHECKPOINT_SECONDS
            if due and any(map(len, unsaved.values())):
                write_ranking(Ranking(unsaved), checkpoints / f"{number + 1:08d}.trec.gz", "part")
                lists.update(unsaved)
                unsaved = {}
                saved = time.perf_counter()
    seconds = None if done else time.perf_counter() - start
    return Searched(Ranking(lists | unsaved), seconds, tuple(sorted(latencies)), checkpoints)


def checkpoints_of(
    retriever: Retriever, queries: Sequence[Query], k: int, workspace: Workspace
) -> Path:
    """Return the folder in which a search keeps what is done, made if it is not there."""
    identity = {
        "k": k,
        "seed": retriever.seed,
        "retriever": retriever.fingerprint,
        "modalities": None
        if retriever.modalities is None
        else [modality.label for modality in sorted(retriever.modalities)],
        "queries": [query.id for query in queries],
    }
    if retriever.direction is Direction.REVERSE:
        identity["direction"] = retriever.direction.value
    folder = workspace.path / f"search-{digest(identity)[:16]}"
    folder.mkdir(exist_ok=True)
    return folder


def ranked_by(retriever: Retriever, queries: Sequence[Query], k: int) -> Ranking:
    """Return the retriever's ranking.

    Raises
    ------
    PluginError
        If it returns something else.
    """
    ranking = retriever.search(queries, k)
    if not isinstance(ranking, Ranking):
        raise PluginError(
            f"retriever {retriever.address!r}: search returned {type(ranking).__name__}, not a "
            "Ranking."
        )
    return ranking


def _blocks(queries: Sequence[Query]) -> Iterator[tuple[int, Sequence[Query]]]:
    """Yield numbered blocks: single queries first, then blocks of `BLOCK`."""
    singles = min(SINGLE, len(queries))
    for number in range(singles):
        yield number, queries[number : number + 1]
    for count, first in enumerate(range(singles, len(queries), BLOCK)):
        yield singles + count, queries[first : first + BLOCK]


def _done(checkpoints: Path) -> int:
    """Return how many blocks are on disk: a checkpoint is named by the blocks up to it."""
    names = [int(part.name.partition(".")[0]) for part in checkpoints.glob("*.trec.gz")]
    return max(names, default=0)
