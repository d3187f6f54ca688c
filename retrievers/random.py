"""Random order: the floor that every other retriever stands on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from harness.documents import Documents
from harness.plugin import About, Direction
from harness.retriever import Capabilities, QueryKind, Retriever
from harness.types import Modality, Query, RankedList, Ranking
from harness.workspace import Workspace


class Random(Retriever):
    """Ranks documents at random, anew for each query and seed.

    The order depends on the seed and the query id alone, so it does not change with batches.
    """

    about = About(
        title="Random order",
        version="1",
        licence="Apache-2.0",
        citation="None needed.",
    )
    capabilities = Capabilities(
        modalities=frozenset(Modality),
        query_kinds=frozenset(QueryKind),
        directions=frozenset(Direction),
    )

    def index(self, documents: Documents, workspace: Workspace) -> None:
        """Take down the document ids."""
        self._ids = sorted(document.id for document in documents)

    def search(self, queries: Sequence[Query], k: int) -> Ranking:
        """Draw `k` documents for each query."""
        lists = {}
        for query in queries:
            key = hashlib.sha256(f"{self.seed}\0{query.id}".encode()).digest()
            draw = np.random.default_rng(int.from_bytes(key)).permutation(len(self._ids))[:k]
            ids = [self._ids[position] for position in draw]
            lists[query.id] = RankedList(ids, np.arange(len(ids), 0, -1, dtype=np.float64))
        return Ranking(lists)
