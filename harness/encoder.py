"""The encoder contract: a model author writes two methods, the harness does the rest.

An `Encoder` turns a batch of queries or documents into token embeddings. It never loops over a
collection and never writes a file: `EncoderRetriever` batches, keeps what was made, resumes and
ranks. An encoder class is registered like a retriever; the registry wraps it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import Field

from harness.documents import Documents
from harness.errors import PluginError
from harness.index import EmbeddingStore
from harness.index.intake import Intake
from harness.index.options import ScoringSettings, without_scoring
from harness.index.scored import Scored
from harness.late_interaction import Precision, TokenEmbeddings
from harness.late_interaction.attribution import Attribution
from harness.plugin import Plugin
from harness.retriever import Capabilities, Retriever
from harness.types import Document, Modality, Query, Ranking
from harness.workspace import Workspace

if TYPE_CHECKING:
    import torch


class EncoderSettings(ScoringSettings):
    """What every encoder can be told; an encoder's own settings extend it.

    An encoder that wants another default declares the field anew.
    """

    batch_size: int = Field(16, ge=1, description="Items encoded together.")
    precision: Precision = Field(
        Precision.FP16, description="Number format of all vectors: fp32, fp16, bf16 or int8."
    )
    on_invalid: Literal["fail", "skip"] = Field(
        "fail",
        description="When a document's vectors are NaN or infinite: stop, or rank without it.",
    )


class Encoder(Plugin, ABC):
    """Makes token embeddings of queries and documents.

    Parameters
    ----------
    name, weights
        As for `harness.retriever.Retriever`.
    settings
        An instance of the class's `Settings`, which extends `EncoderSettings`.
    """

    Settings: ClassVar[type[EncoderSettings]] = EncoderSettings

    capabilities: ClassVar[Capabilities]
    #: As in `harness.retriever.Retriever`.
    weights_help: ClassVar[str] = ""
    #: Whether the weights in use were never trained; such runs are saved but never listed.
    untrained: bool = False
    #: The folder that says how weights that come with the encoder were trained.
    trained_in: Path | None = None
    #: Whether each vector of a document belongs to one modality, so that a search can leave some
    #: out. Not so for a single vector of all modalities together.
    masks: ClassVar[bool] = True
    #: Settings that say where weights come from: not for a model that was trained from these.
    weight_settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, weights: str | None, settings: EncoderSettings) -> None:
        self.name, self.weights, self.settings = name, weights, settings
        #: What of the documents could not be used, counted by kind: ``video missing``, ``asr cut``
        #: (a text longer than the model reads). An encoder adds to it while it encodes; the
        #: harness keeps the counts with the embeddings and puts them into the result.
        self.losses: Counter[str] = Counter()
        #: The same of queries: ``query cut``. An encoder counts each query once, however often it
        #: is asked.
        self.query_losses: Counter[str] = Counter()

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds of encoding so far by part (``decode``, ``wait``, ``model``), for progress."""
        return {}

    def expect(self, documents: Sequence[Document]) -> None:
        """Take note of the documents after the next batch, to begin reading their media."""

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, what determines the output beside weights and settings.

        Revisions and hashes of weights, dtypes, processors, prompts.
        """
        return {}

    def close(self) -> None:
        """Give back what encoding held, such as worker processes; may be used again."""

    @abstractmethod
    def encode_queries(self, batch: Sequence[Query]) -> TokenEmbeddings:
        """Return the embeddings of the queries, in their order."""

    @abstractmethod
    def encode_documents(self, batch: Sequence[Document]) -> TokenEmbeddings:
        """Return the embeddings of the documents, in their order, grouped by modality.

        A document without content that the encoder reads gets no tokens.
        """

    def query_tokens(self, query: Query) -> Sequence[str] | None:
        """Return a text for each vector of the query, in their order, to show to people.

        None, the default, where tokens have none.
        """
        return None


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
        """Encode with gradients; returns the same as `forward_queries`.

        A document without anything that is read has zeros and modalities 0, if another has some.
        """

    def save(self, folder: Path) -> None:
        """Write what the address ``NAME/FOLDER`` loads.

        A whole checkpoint; or, where LoRA layers are on the module, an adapter that carries what
        its base lacks, such as the projection.
        """


class EncoderRetriever(Retriever):
    """Ranks by exact MaxSim over the embeddings of an encoder.

    Documents are encoded in batches and kept in the workspace (see `harness.index.store`). A killed
    `index` goes on at the first missing shard, with the same batches, so that scores come out byte
    for byte the same. A document without tokens is never listed.

    The workspace is keyed by what the embeddings are. How they are scored is not part of that: to
    try another aggregation encodes nothing anew.
    """

    encoder_class: ClassVar[type[Encoder]]

    def __init__(self, name: str, weights: str | None, settings: EncoderSettings) -> None:
        super().__init__(name, weights, settings)
        self.encoder = self.encoder_class(name, weights, settings)
        self._chosen = settings
        self._scored: Scored | None = None
        self._last: tuple[tuple[Query, ...], TokenEmbeddings] | None = None

    @staticmethod
    def around(encoder: type[Encoder]) -> type[EncoderRetriever]:
        """Return the retriever class that wraps an encoder class and carries its card.

        Raises
        ------
        PluginError
            If the encoder's settings do not extend `EncoderSettings`.
        """
        if not issubclass(encoder.Settings, EncoderSettings):
            raise PluginError(
                f"the Settings of encoder {encoder.__name__} do not extend EncoderSettings: write "
                f"`class {encoder.Settings.__name__}(EncoderSettings)`."
            )
        members = {
            "__doc__": encoder.__doc__,
            "__module__": encoder.__module__,
            "encoder_class": encoder,
            "about": encoder.about,
            # What cannot be told apart by modality cannot be explained by it.
            "capabilities": replace(encoder.capabilities, explains=encoder.masks),
            "Settings": encoder.Settings,
            "api_version": encoder.api_version,
            "weights_help": encoder.weights_help,
            "masks": encoder.masks,
        }
        return type(encoder.__name__, (EncoderRetriever,), members)

    @property
    def untrained(self) -> bool:
        """Whether the encoder's weights were never trained, as far as is known by now."""
        return self.encoder.untrained

    @property
    def training(self) -> Path | None:
        """The folder that says how the weights were trained, if clamr-bench trained them."""
        return self.encoder.trained_in or super().training

    def close(self) -> None:
        """Let the encoder give back what it holds."""
        self.encoder.close()

    def identity(self) -> dict[str, Any]:
        """Return the retriever's identity and the encoder's own."""
        return {**super().identity(), "encoder": self.encoder.identity()}

    def index_identity(self) -> dict[str, Any]:
        """Return the identity without the settings that only change the scoring."""
        return without_scoring(self.identity())

    @property
    def losses(self) -> Mapping[str, int]:
        """What the encoder could not use: of documents in any process, of queries in this one."""
        found = Counter() if self._scored is None else self._scored.store.losses
        return found + self.encoder.query_losses

    def index(self, documents: Documents, workspace: Workspace) -> None:
        """Encode the documents that no earlier process encoded (see `Retriever.index`)."""
        self._last = None  # The weights may have been trained since.
        store = EmbeddingStore(workspace)
        self._fill(store, documents, leads=True)
        self._scored = Scored(store, self._chosen, self.memory, self.direction)

    def assist(self, documents: Documents, workspace: Workspace) -> None:
        """Encode documents that the leading process has not come to (see `Retriever.assist`)."""
        self._fill(EmbeddingStore(workspace), documents, leads=False)

    def _fill(self, store: EmbeddingStore, documents: Documents, *, leads: bool) -> None:
        settings, encoder = self._chosen, self.encoder
        intake = Intake(
            encoder.encode_documents,
            settings.precision,
            settings.on_invalid,
            losses=encoder.losses,
        )
        store.fill(
            documents,
            _id,
            lambda batch: intake.encode(batch, _id),
            batch_size=settings.batch_size,
            total=len(documents),
            expect=encoder.expect,
            note=lambda: ", ".join(
                f"{part} {took:.0f} s" for part, took in encoder.seconds.items()
            ),
            progress=self.progress,
            processes=self.processes,
            leads=leads,
        )

    def search(self, queries: Sequence[Query], k: int) -> Ranking:
        """Rank the indexed documents by streaming them (see `Retriever.search`)."""
        if not queries or self._scored is None:
            return Ranking({})
        return self._scored.search(queries, self._encoded(queries), k, self.modalities)

    def explain(
        self,
        queries: Sequence[Query],
        documents: Sequence[Sequence[str]],
        modalities: frozenset[Modality] | None = None,
    ) -> list[list[Attribution]]:
        """Take scores apart; reads only these documents (see `Retriever.explain`).

        Raises
        ------
        CapabilityError
            If a document's vector is of all modalities together.
        UsageError
            If a document was not indexed.
        """
        if not self.capabilities.explains:
            return super().explain(queries, documents, modalities)
        if not queries or self._scored is None:
            return [[] for _ in queries]
        encoded = self._encoded(queries)
        return self._scored.explain(encoded, documents, self.modalities, modalities)

    def query_tokens(self, query: Query) -> Sequence[str] | None:
        """Return the encoder's texts of the query's tokens (see `Encoder.query_tokens`)."""
        return self.encoder.query_tokens(query)

    def _encoded(self, queries: Sequence[Query]) -> TokenEmbeddings:
        """Encode queries; the last ones are kept, for they are asked again under other masks."""
        if self._last is None or self._last[0] != tuple(queries):
            intake = Intake(self.encoder.encode_queries, self._chosen.precision, "fail", "query")
            size = self._chosen.batch_size
            batches = [queries[first : first + size] for first in range(0, len(queries), size)]
            made = [intake.encode(batch, _id).embeddings for batch in batches]
            self._last = tuple(queries), TokenEmbeddings.concatenate(made)
        return self._last[1]


def _id(item: Document | Query) -> str:
    return item.id
