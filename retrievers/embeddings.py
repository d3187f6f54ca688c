"""``embeddings/DIR``: vectors that were made elsewhere, ranked here.

``DIR`` holds ``documents.*`` and ``queries.*`` (see `retrievers.vector_files` for the forms); their
ids are those of the task. Single vectors are token embeddings of one token, so dense and late
interaction models take the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from harness.documents import Documents
from harness.errors import DataError, UsageError
from harness.index import EmbeddingStore, Encoded
from harness.index.intake import check_range
from harness.index.options import ScoringSettings, without_scoring
from harness.index.scored import Scored
from harness.late_interaction import Precision, TokenEmbeddings
from harness.late_interaction.attribution import Attribution
from harness.plugin import About, Direction
from harness.retriever import Capabilities, QueryKind, Retriever
from harness.types import Modality, Query, Ranking
from harness.workspace import Workspace
from retrievers.vector_files import VectorFile, read_all

#: Items that go into the store together.
_BATCH = 1024
_LISTED = 5

Item = tuple[str, TokenEmbeddings]


class EmbeddingsSettings(ScoringSettings):
    """How vectors from elsewhere are compared."""

    similarity: Literal["dot", "cosine"] = Field(
        "dot", description="Inner product as it is, or of vectors scaled to length 1."
    )
    precision: Precision | None = Field(
        None, description="Number format of all vectors; None: as in the files."
    )
    on_mismatch: Literal["fail", "skip"] = Field(
        "fail",
        description="When only the file or only the task has a document: stop, or rank the others.",
    )


class Embeddings(Retriever):
    """Ranks by vectors that were made elsewhere.

    The identity is the content of the files, not where they lie.
    """

    about = About(
        title="Embeddings made elsewhere",
        version="1",
        licence="That of the model that made them.",
        citation="That of the model that made them.",
    )
    capabilities = Capabilities(
        modalities=frozenset(Modality),
        query_kinds=frozenset(QueryKind),
        directions=frozenset(Direction),
        explains=True,
    )
    masks = True
    Settings: ClassVar[type[EmbeddingsSettings]] = EmbeddingsSettings
    weights_help = "DIR, a folder with documents.* and queries.*: docs/embeddings.md"

    def __init__(self, name: str, weights: str | None, settings: EmbeddingsSettings) -> None:
        super().__init__(name, weights, settings)
        self._chosen = settings
        self._scored: Scored | None = None
        self._files: tuple[VectorFile, VectorFile] | None = None
        if weights:  # Without, it can only be described.
            folder = Path(weights).expanduser()
            if not folder.is_dir():
                raise UsageError(f"retriever {name}/{weights}: there is no folder {folder}.")
            self._files = VectorFile.find(folder, "documents"), VectorFile.find(folder, "queries")

    @property
    def _documents(self) -> VectorFile:
        return self._opened[0]

    @property
    def _queries(self) -> VectorFile:
        return self._opened[1]

    @property
    def _opened(self) -> tuple[VectorFile, VectorFile]:
        if self._files is None:
            raise UsageError(
                f"retriever {self.name!r} needs a folder: {self.name}/DIR, with documents.* and "
                "queries.* as docs/embeddings.md says."
            )
        return self._files

    def identity(self) -> dict[str, Any]:
        """Return the settings and the sha256 of both files; where they lie does not count."""
        return {**super().identity(), "weights": None, "files": self._digests}

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {"documents": self._documents.sha256(), "queries": self._queries.sha256()}

    def index_identity(self) -> dict[str, Any]:
        """Return the identity without the settings that only change the scoring."""
        return without_scoring(self.identity())

    def index(self, documents: Documents, workspace: Workspace) -> None:
        """Put the task's documents into the store (see `Retriever.index`)."""
        asked, given = self._queries.dim, self._documents.dim
        if asked != given and self._queries.ids and self._documents.ids:
            raise DataError(
                f"{self._queries.path} has vectors of {asked} dimensions, {self._documents.path} "
                f"of {given}: both must come from one model."
            )
        wanted = self._matched([document.id for document in documents])
        store = EmbeddingStore(workspace)
        store.fill(self._items(wanted), _key, self._stored, batch_size=_BATCH, total=len(wanted))
        self._scored = Scored(store, self._chosen, self.memory, self.direction)

    def search(self, queries: Sequence[Query], k: int) -> Ranking:
        """Rank the documents for queries that the file knows (see `Retriever.search`).

        Raises
        ------
        DataError
            If the file lacks one.
        """
        if not queries or self._scored is None:
            return Ranking({})
        return self._scored.search(queries, self._vectors(queries), k, self.modalities)

    def explain(
        self,
        queries: Sequence[Query],
        documents: Sequence[Sequence[str]],
        modalities: frozenset[Modality] | None = None,
    ) -> list[list[Attribution]]:
        """Take scores apart (see `Retriever.explain`).

        Raises
        ------
        DataError
            If the file lacks a query.
        UsageError
            If a document was not indexed.
        """
        if not queries or self._scored is None:
            return [[] for _ in queries]
        vectors = self._vectors(queries)
        return self._scored.explain(vectors, documents, self.modalities, modalities)

    def _vectors(self, queries: Sequence[Query]) -> TokenEmbeddings:
        vectors, places = self._asked
        missing = [query.id for query in queries if query.id not in places]
        if missing:
            raise DataError(
                f"{self._queries.path} has no vectors for {len(missing):,} of these "
                f"{len(queries):,} queries, for instance {_listed(missing)}: its ids must be "
                "those of the task's queries."
            )
        rows = [places[query.id] for query in queries]
        return TokenEmbeddings.concatenate([vectors[row : row + 1] for row in rows])

    @cached_property
    def _asked(self) -> tuple[TokenEmbeddings, dict[str, int]]:
        ids = self._queries.ids
        vectors = self._scaled(read_all(self._queries), ids, self._queries.path)
        if self._chosen.precision is not None:
            check_range(vectors, ids, self._chosen.precision, "query")
            vectors = vectors.astype(self._chosen.precision)
        return vectors, {id_: place for place, id_ in enumerate(ids)}

    def _matched(self, task: list[str]) -> set[str]:
        """Return the ids that both the task and the file have."""
        wanted, known = set(task), set(self._documents.ids)
        for only, which in ((sorted(known - wanted), "not in the task"),
                            (sorted(wanted - known), "only in the task")):  # fmt: skip
            if only and self._chosen.on_mismatch == "fail":
                raise DataError(
                    f"{self._documents.path}: {len(only):,} documents are {which}, for instance "
                    f"{_listed(only)}: ids must be those of the task's documents; on_mismatch=skip "
                    "ranks those that both have."
                )
        return wanted & known

    def _items(self, wanted: set[str]) -> Iterator[Item]:
        """Yield the wanted items of the file, one by one, in its order."""
        for ids, piece in self._documents.pieces():
            piece = self._scaled(piece, ids, self._documents.path)
            for place, id_ in enumerate(ids):
                if id_ in wanted:
                    yield id_, piece[place : place + 1]

    def _stored(self, batch: Sequence[Item]) -> Encoded:
        made = TokenEmbeddings.concatenate([one for _, one in batch])
        precision = self._chosen.precision or self._given
        check_range(made, [id_ for id_, _ in batch], precision)
        return Encoded(made.astype(precision))

    @cached_property
    def _given(self) -> Precision:
        for _, piece in self._documents.pieces():
            return piece.precision
        return Precision.FP32

    def _scaled(self, made: TokenEmbeddings, ids: Sequence[str], path: Path) -> TokenEmbeddings:
        """Return the embeddings, for cosine with every vector scaled to length 1."""
        if self._chosen.similarity == "dot":
            return made
        plain = made.widen(0, len(made.vectors))
        lengths = np.linalg.norm(plain, axis=1, keepdims=True)
        if not lengths.all():
            item = int(np.searchsorted(made.offsets, int(np.argmin(lengths)), side="right")) - 1
            raise DataError(
                f"{path}: {ids[item]!r} has a vector of zeros, which has no cosine: leave it out, "
                "or use similarity=dot."
            )
        return TokenEmbeddings(plain / lengths, made.offsets, made.modalities, made.segment_offsets)


def _key(item: Item) -> str:
    return item[0]


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:_LISTED]))
