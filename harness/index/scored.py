"""A filled store under one scoring: ranks documents, and takes single scores apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.index.exact import ExactIndex
from harness.index.lookup import Lookup
from harness.index.options import ScoringSettings
from harness.index.store import EmbeddingStore
from harness.late_interaction import TokenEmbeddings
from harness.late_interaction.attribution import Attribution, attribute
from harness.plugin import Direction
from harness.types import Modality, Query, Ranking


class Scored:
    """What a retriever with token embeddings does once its documents are stored.

    Parameters
    ----------
    store
        The documents' embeddings, filled.
    settings
        How a score is made.
    memory
        Budget in bytes of a search.
    direction
        In the reverse one, scores of different queries are compared. A sum over query tokens grows
        with their number, so it is divided by it, whatever the settings say.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        settings: ScoringSettings,
        memory: int,
        direction: Direction = Direction.FORWARD,
    ) -> None:
        self.store, self._scoring = store, settings.scoring
        if direction is Direction.REVERSE:
            self._scoring = replace(self._scoring, normalise=True)
        self._lookup = Lookup(store)
        self._index = ExactIndex(store, self._scoring, memory=memory, device=settings.search_device)

    def search(
        self,
        queries: Sequence[Query],
        encoded: TokenEmbeddings,
        k: int,
        modalities: frozenset[Modality] | None,
    ) -> Ranking:
        """Return the best `k` documents of each query.

        Parameters
        ----------
        queries, encoded
            The queries, and their embeddings in the same order.
        k
            How many documents.
        modalities
            The only modalities that count, of those that the settings let count; None for these.
        """
        lists = self._index.only(modalities).search(encoded, k)
        return Ranking({query.id: found for query, found in zip(queries, lists, strict=True)})

    def explain(
        self,
        encoded: TokenEmbeddings,
        documents: Sequence[Sequence[str]],
        *masks: frozenset[Modality] | None,
    ) -> list[list[Attribution]]:
        """Take scores apart; reads only these documents (see `Retriever.explain`).

        Parameters
        ----------
        encoded
            Embeddings of the queries.
        documents
            For each query, ids of documents.
        masks
            As `modalities` of `search`; all hold.

        Raises
        ------
        UsageError
            If a document was not indexed, or no modality is left.
        """
        scoring = self._scoring
        for mask in masks:
            scoring = scoring.only(mask)
        read = self._lookup.read(id_ for row in documents for id_ in row)
        return [
            [attribute(encoded[place : place + 1], read[id_], scoring) for id_ in row]
            for place, row in enumerate(documents)
        ]
