"""Exact search: every query against every document, under a memory budget.

Blocks of documents are streamed from disk past a block of queries by several threads, and only the
best k of each query are kept. What that takes depends on the budget, not on the collection. A
score is the same bits whatever the blocks, and the best k are the same whatever their order; so a
ranking does not depend on budget or threads.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError
from harness.index.store import EmbeddingStore
from harness.index.topk import TopK, places
from harness.late_interaction import Scoring, TokenEmbeddings, max_sim
from harness.types import Modality, RankedList
from harness.workers import usable_cores

#: Fewest and most tokens of a block of documents: at 128 dimensions in float32, 0.25 and 16 MB.
FEWEST_TOKENS, MOST_TOKENS = 512, 32768
#: Bytes that a pair of query and document takes on its way: its score, its key, temporaries.
_PAIR = 32


class ExactIndex:
    """Ranks the documents of a store.

    Parameters
    ----------
    store
        The documents' embeddings.
    scoring
        How a score is made of the tokens' products.
    memory
        Budget in bytes for what a search allocates: query vectors, blocks, the best k.
    threads
        Blocks scored at the same time; None for the processors that this process may use.
    device
        Where products are computed (see `harness.late_interaction.max_sim`).
    """

    def __init__(
        self,
        store: EmbeddingStore,
        scoring: Scoring,
        *,
        memory: int,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        self._store, self._scoring, self._device = store, scoring, device
        self._memory = memory
        # A device takes one block at a time: more would only share its memory.
        self._threads = threads or (usable_cores() if device == "cpu" else 1)
        self._ids = store.ids
        self._places = places(self._ids)
        self._tokens = sum(sum(s.manifest.tokens.values()) for s in store.shards)

    def only(self, modalities: frozenset[Modality] | None) -> ExactIndex:
        """Return the same index with none but these modalities counting."""
        if modalities is None:
            return self
        masked = copy.copy(self)
        masked._scoring = self._scoring.only(modalities)
        return masked

    def search(self, queries: TokenEmbeddings, k: int) -> list[RankedList]:
        """Return the best `k` documents of each query, in canonical order.

        A document without a token that may win is left out.

        Raises
        ------
        PluginError
            If queries and documents have other dimensions.
        RankingError
            If a score overflows.
        StorageError
            If a shard was damaged since it was checked.
        """
        if len(queries.vectors) and self._store.dim not in (0, queries.dim):
            raise PluginError(
                f"query vectors have {queries.dim} dimensions, document vectors {self._store.dim}: "
                "an encoder must give both the same dimension."
            )
        k = min(k, len(self._ids))
        lists: list[RankedList] = []
        per_query = TopK.bytes_per_query(k)
        for first, last in self._query_blocks(queries, per_query):
            lists.extend(self._search(queries[first:last], k))
        return lists

    def _query_blocks(self, queries: TokenEmbeddings, extra: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of queries that take at most a quarter of the budget, or are one query."""
        costs = np.diff(queries.offsets) * (queries.dim * 8) + extra
        ends = np.cumsum(costs)
        first = 0
        while first < len(queries):
            before = ends[first - 1] if first else 0
            last = int(np.searchsorted(ends, before + self._memory // 4, side="right"))
            last = max(last, first + 1)
            yield first, last
            first = last

    def _search(self, queries: TokenEmbeddings, k: int) -> list[RankedList]:
        best = TopK(len(queries), k, self._ids, self._places)
        waiting: deque[tuple[int, Future[NDArray[np.float32]]]] = deque()
        with ThreadPoolExecutor(self._threads) as pool:
            for first, block in self._store.blocks(self._block_tokens(len(queries))):
                waiting.append((first, pool.submit(self._score, queries, block)))
                if len(waiting) > self._threads:
                    start, future = waiting.popleft()
                    best.add(future.result(), start)
            for start, future in waiting:
                best.add(future.result(), start)
        return best.ranked()

    def _score(self, queries: TokenEmbeddings, documents: TokenEmbeddings) -> NDArray[np.float32]:
        return max_sim(queries, documents, self._scoring, device=self._device).total

    def _block_tokens(self, queries: int) -> int:
        """Return how many document tokens half of the budget holds for each thread."""
        documents_per_token = len(self._ids) / max(self._tokens, 1)
        per_token = self._store.dim * 8 + queries * _PAIR * documents_per_token
        blocks = self._threads + 1  # one is merged while the others are scored
        fits = int(self._memory / 2 / blocks / max(per_token, 1))
        # Enough blocks that all threads end at about the same time.
        fair = -(-self._tokens // (4 * self._threads))
        return max(FEWEST_TOKENS, min(fits, fair, MOST_TOKENS))
