"""The encoder contract: a model author writes two methods, the harness does the rest.

An `Encoder` turns a batch of queries or documents into token embeddings. It never loops over a
collection and never writes a file: `EncoderRetriever` batches, keeps what was made, resumes and
ranks. An encoder class is registered like a retriever; the registry wraps it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from harness.documents import Documents
from harness.errors import PluginError, RankingError, StorageError
from harness.late_interaction import TokenEmbeddings, max_sim
from harness.plugin import Plugin
from harness.retriever import Capabilities, Retriever
from harness.settings import Settings
from harness.types import Document, Query, RankedList, Ranking
from harness.workspace import Workspace

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

#: Documents of a shard: of 1,500 tokens of 128 dimensions in float32 they take 200 MB.
SHARD_DOCUMENTS = 256

_ARRAYS = ("vectors", "offsets", "modalities", "segment_offsets")


class Encoder(Plugin, ABC):
    """Makes token embeddings of queries and documents.

    Parameters
    ----------
    name, weights, settings
        As for `harness.retriever.Retriever`.
    """

    capabilities: ClassVar[Capabilities]
    #: As in `harness.retriever.Retriever`.
    weights_help: ClassVar[str] = ""
    #: Items given to one call of `encode_queries` or `encode_documents`.
    batch_size: int = 16
    #: How the scores of the modalities become one (see `harness.late_interaction.maxsim`).
    aggregation: Literal["token_max", "modality_max"] = "token_max"
    #: Whether the weights in use were never trained; such runs are saved but never listed.
    untrained: bool = False

    def __init__(self, name: str, weights: str | None, settings: Settings) -> None:
        self.name, self.weights, self.settings = name, weights, settings

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, what determines the output beside weights and settings.

        Revisions and hashes of weights, dtypes, processors, prompts.
        """
        return {}

    @abstractmethod
    def encode_queries(self, batch: Sequence[Query]) -> TokenEmbeddings:
        """Return the embeddings of the queries, in their order."""

    @abstractmethod
    def encode_documents(self, batch: Sequence[Document]) -> TokenEmbeddings:
        """Return the embeddings of the documents, in their order, grouped by modality.

        A document without content that the encoder reads gets no tokens.
        """


@runtime_checkable
class Trainable(Protocol):
    """What an encoder adds to be trained by the shared adapter."""

    @property
    def module(self) -> torch.nn.Module:
        """The module whose parameters are trained and saved."""

    def lora_targets(self) -> Sequence[str]:
        """Return the names of the submodules of `module` that take LoRA adapters."""

    def forward_queries(self, batch: Sequence[Query]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode with gradients.

        Returns
        -------
        vectors
            Floating, shape ``(batch, tokens, dim)``, padded.
        modalities
            int64, shape ``(batch, tokens)``: the number of each token's `Modality`; 0 for padding
            and for every token that never wins a maximum.
        """

    def forward_documents(self, batch: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode with gradients; returns the same as `forward_queries`."""


class EncoderRetriever(Retriever):
    """Ranks by exact MaxSim over the embeddings of an encoder.

    Documents are encoded in batches and kept in the workspace in shards of `SHARD_DOCUMENTS`, each
    written whole or not at all. A killed `index` goes on at the first missing shard, with the same
    batches, so that scores come out byte for byte the same. A document without tokens is never
    listed.
    """

    encoder_class: ClassVar[type[Encoder]]

    def __init__(self, name: str, weights: str | None, settings: Settings) -> None:
        super().__init__(name, weights, settings)
        self.encoder = self.encoder_class(name, weights, settings)
        self.untrained = self.encoder.untrained
        self._shards: list[Path] = []
        self._documents: list[str] = []

    @staticmethod
    def around(encoder: type[Encoder]) -> type[EncoderRetriever]:
        """Return the retriever class that wraps an encoder class and carries its card."""
        members = {
            "__doc__": encoder.__doc__,
            "__module__": encoder.__module__,
            "encoder_class": encoder,
            "about": encoder.about,
            "capabilities": encoder.capabilities,
            "Settings": encoder.Settings,
            "api_version": encoder.api_version,
            "weights_help": encoder.weights_help,
        }
        return type(encoder.__name__, (EncoderRetriever,), members)

    def identity(self) -> dict[str, Any]:
        """Return the retriever's identity and the encoder's own."""
        encoder = {**self.encoder.identity(), "batch_size": self.encoder.batch_size}
        return {**super().identity(), "encoder": encoder, "aggregation": self.encoder.aggregation}

    def index(self, documents: Documents, workspace: Workspace) -> None:
        """Encode the documents that no earlier process encoded (see `Retriever.index`)."""
        self._shards, self._documents = [], []
        for number, shard in enumerate(_groups(documents, SHARD_DOCUMENTS)):
            name = f"shard-{number:05d}"
            ids = [document.id for document in shard]
            if not workspace.has(name):
                embeddings = _encode(self.encoder.encode_documents, shard, self.encoder.batch_size)
                with workspace.folder(name) as folder:
                    _save(folder, embeddings, ids)
            elif _ids(workspace.path / name) != ids:
                raise StorageError(
                    f"{workspace.path / name} holds embeddings of other documents: delete the "
                    f"folder {workspace.path} and give the same command again."
                )
            self._shards.append(workspace.path / name)
            self._documents.extend(ids)

    def search(self, queries: Sequence[Query], k: int) -> Ranking:
        """Rank the indexed documents, one shard in memory at a time (see `Retriever.search`)."""
        if not queries:
            return Ranking({})
        encoded = _encode(self.encoder.encode_queries, queries, self.encoder.batch_size)
        best = [_Best(k, self._documents) for _ in queries]
        first = 0
        for shard in self._shards:
            embeddings = _load(shard)
            found = max_sim(encoded, embeddings)
            scores = found.token_max
            if self.encoder.aggregation == "modality_max":
                scores = found.modality_max
            for row, kept in zip(scores, best, strict=True):
                kept.add(row, first)
            first += len(embeddings)
        return Ranking({query.id: kept.ranked() for query, kept in zip(queries, best, strict=True)})


class _Best:
    """The `k` best documents so far of one query, ties broken by document id, descending."""

    def __init__(self, k: int, ids: Sequence[str]) -> None:
        self._k, self._ids = k, ids
        self._scores = np.empty(0, np.float32)
        self._documents = np.empty(0, np.int64)

    def add(self, row: NDArray[np.float32], first: int) -> None:
        """Take in the scores of the documents from number `first` on; -inf is left out.

        Raises
        ------
        RankingError
            If a score is NaN or infinite.
        """
        if not (row < np.inf).all():
            raise RankingError(
                "a score overflows float32: the encoder's vectors are too large; normalise them."
            )
        floor = self._scores.min() if len(self._scores) >= self._k > 0 else -np.inf
        candidates = np.flatnonzero((row >= floor) & (row > -np.inf))
        if not len(candidates):
            return
        scores = np.concatenate([self._scores, row[candidates]])
        documents = np.concatenate([self._documents, candidates + first])
        if len(scores) > self._k:
            chosen = self._chosen(scores, documents)
            scores, documents = scores[chosen], documents[chosen]
        self._scores, self._documents = scores, documents

    def _chosen(self, scores: NDArray[np.float32], documents: NDArray[np.int64]) -> NDArray[Any]:
        """Return `k` positions; ids are compared only where scores tie at the cut."""
        if not self._k:
            return np.empty(0, np.int64)
        cut = np.partition(scores, -self._k)[-self._k]
        above = np.flatnonzero(scores > cut)
        level = np.flatnonzero(scores == cut).tolist()
        level.sort(key=lambda position: self._ids[int(documents[position])], reverse=True)
        return np.concatenate([above, np.asarray(level[: self._k - len(above)], np.int64)])

    def ranked(self) -> RankedList:
        ids = [self._ids[document] for document in self._documents.tolist()]
        return RankedList(ids, self._scores.astype(np.float64))


def _groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`; the last may be shorter."""
    stream = iter(items)
    while group := list(islice(stream, size)):
        yield group


def _encode(
    encode: Callable[[Sequence[T]], TokenEmbeddings], items: Sequence[T], size: int
) -> TokenEmbeddings:
    """Encode in batches and check that each gives as many items back."""
    parts = []
    for batch in _groups(items, size):
        part: Any = encode(batch)
        if not isinstance(part, TokenEmbeddings) or len(part) != len(batch):
            given = f"{len(part)} items" if isinstance(part, TokenEmbeddings) else repr(type(part))
            raise PluginError(
                f"{encode.__qualname__} returned {given} for a batch of {len(batch)}: it must "
                "return TokenEmbeddings of as many items, in their order."
            )
        parts.append(part)
    return TokenEmbeddings.concatenate(parts)


def _save(folder: Path, embeddings: TokenEmbeddings, ids: list[str]) -> None:
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", getattr(embeddings, name))
    (folder / "ids.json").write_text(json.dumps(ids), encoding="utf-8")


def _ids(folder: Path) -> Any:
    with _damage_named(folder):
        return json.loads((folder / "ids.json").read_text(encoding="utf-8"))


def _load(folder: Path) -> TokenEmbeddings:
    """Open a shard; its vectors stay on disk."""
    with _damage_named(folder):
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS]
        return TokenEmbeddings(*arrays)


@contextmanager
def _damage_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, PluginError) as error:
        raise StorageError(
            f"{folder} is damaged ({str(error).splitlines()[0]}): delete it and give the same "
            "command again; only its documents are encoded anew."
        ) from error
