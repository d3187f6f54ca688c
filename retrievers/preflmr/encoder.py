"""PreFLMR as an encoder of the harness. torch is imported when the model is first used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness.late_interaction import TokenEmbeddings
from harness.media import MediaLoader
from harness.plugin import About, Direction
from harness.retriever import Capabilities, QueryKind
from harness.types import Document, Modality, Query
from retrievers.media_encoder import TINY, TowerEncoder
from retrievers.model_settings import READS
from retrievers.preflmr.asking import Asking
from retrievers.preflmr.settings import PreFLMRSettings
from retrievers.qwen.ahead import Ahead
from retrievers.qwen.encoder import check_installed
from retrievers.qwen.kept import Kept

if TYPE_CHECKING:
    import torch

    from harness.training.plan import Blueprint
    from retrievers.preflmr.engine import Engine
    from retrievers.preflmr.pieces import Piece
    from retrievers.qwen.source import Source

#: Version of what sequences and vectors are: raise it when the same input would give others.
VERSION = 1

#: Documents that are prepared ahead of the model: 10 frames of 224 x 224 pixels take 6 MB.
_AHEAD = 8
#: Batches that go to the model together; the documents after them are decoded meanwhile.
_TOGETHER = 4


class PreFLMR(TowerEncoder):
    """PreFLMR and FLMR: a question with its picture against passages, by late interaction.

    A query's vectors are those of its text without the instruction, of its picture, and of each
    patch of the picture as seen with the text. An address names weights: ``tiny`` (built in), or a
    folder or a hub id of a checkpoint.
    """

    about = About(
        title="PreFLMR",
        version="1",
        licence="MIT (the published checkpoints)",
        citation="Lin, Mei, Chen, Byrne, PreFLMR: Scaling Up Fine-Grained Late-Interaction "
        "Multi-modal Retrievers, ACL 2024, arXiv:2402.08327.",
        url="https://github.com/LinWeizheDragon/FLMR",
    )
    Settings: ClassVar[type[PreFLMRSettings]] = PreFLMRSettings
    settings: PreFLMRSettings
    capabilities = Capabilities(
        modalities=frozenset(READS),
        query_kinds=frozenset(QueryKind),
        directions=frozenset(Direction),
        trainable=True,
    )
    weights_help = "tiny, a folder or a hub id; default: LinWeizheDragon/PreFLMR_ViT-L"
    package = "preflmr"

    def __init__(self, name: str, weights: str | None, settings: PreFLMRSettings) -> None:
        super().__init__(name, weights, settings)
        self._kept: Kept[list[Piece]] = Kept(_bytes)
        self._asking = Asking(settings, self._pictures, self.query_losses)

    def expect(self, documents: Sequence[Document]) -> None:
        """Let the workers begin on the documents after the next batch when they are free."""
        self._loader.expect(self._kept.missing(self._restricted(documents)))

    def identity(self) -> dict[str, Any]:
        """Return the files' hashes or commits, the precision, and what the media reader does."""
        check_installed(self.name)
        from retrievers.clip.loading import place_of
        from retrievers.preflmr.loading import preparation

        source = self._source
        return {
            "preflmr": VERSION,
            "files": self._files_identity(),
            "preparation": None if source is None else preparation(source),
            "dtype": str(place_of(self.settings).dtype).removeprefix("torch."),
            "media": self._loader.identity(),
        }

    def encode_queries(self, batch: Sequence[Query]) -> TokenEmbeddings:
        """Return the vectors of queries that count: of their images, then of their texts."""
        asked = self._asking.asked(batch, self.engine)
        with self._computing():
            rows = self.engine.encode_queries(asked)
        return TokenEmbeddings.concatenate(
            [
                TokenEmbeddings.from_padded(
                    vectors.numpy()[None], np.ones((1, len(kinds)), np.int64), kinds.numpy()[None]
                )
                for vectors, kinds in rows
            ]
        )

    def encode_documents(self, batch: Sequence[Document]) -> TokenEmbeddings:
        """Return the documents' vectors, and where in its source each comes from.

        Media are decoded and prepared ahead of the model.
        """
        engine = self.engine
        made: list[list[Piece]] = []
        vectors: list[torch.Tensor] = []
        waiting: list[Piece] = []
        for pieces in Ahead(self._made([*self._restricted(batch)]), depth=_AHEAD):
            made.append(pieces)
            waiting.extend(pieces)
            if len(waiting) >= _TOGETHER * engine.batches.most:
                vectors.extend(self._encoded(waiting))
                waiting = []
        vectors.extend(self._encoded(waiting))
        return _packed(made, vectors)

    def query_tokens(self, query: Query) -> Sequence[str]:
        """Return word pieces, ``[image 3/32]`` and ``[patch 2,5]``, as `encode_queries` has them.

        Patches are numbered by row and column, from 1.
        """
        engine = self.engine
        (asked,) = self._asking.asked([query], engine)
        question = asked.question
        texts = [engine.questions.pieces.spell(n) for n in question.ids[question.kept].tolist()]
        return texts if asked.pixels is None else [*engine.image_names(), *texts]

    def blueprint(self) -> Blueprint:
        """Return the architecture, without weights (see `harness.training.plan`)."""
        from retrievers.preflmr.published import blueprint

        return blueprint(self.weights, self.settings)

    @property
    def module(self) -> torch.nn.Module:
        """The model (see `harness.encoder.Trainable`)."""
        return self.engine.model

    def lora_targets(self) -> Sequence[str]:
        """Return the linear layers of all but the image tower."""
        return self.engine.model.lora_targets()

    def forward_queries(self, batch: Sequence[Query]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode with gradients (see `harness.encoder.Trainable`)."""
        from retrievers.preflmr.engine import padded

        return padded(self.engine.query_rows(self._asking.asked(batch, self.engine)))

    def forward_documents(self, batch: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode with gradients (see `harness.encoder.Trainable`).

        What documents are made into is kept, so that a later epoch decodes nothing again.
        """
        from retrievers.preflmr.engine import padded

        pieces = self._kept.of([*self._restricted(batch)], self._made)
        return padded(self.engine.document_rows(pieces))

    def save(self, folder: Path) -> None:
        """Write a whole checkpoint, LoRA merged in (see `harness.encoder.Trainable`)."""
        from retrievers.clip.loading import place_of
        from retrievers.preflmr.saving import save

        save(self.engine.model, folder, self._source, place_of(self.settings).dtype)

    @cached_property
    def engine(self) -> Engine:
        """The model, loaded once, when it is first needed."""
        check_installed(self.name)
        from retrievers.preflmr.assembly import assemble

        return assemble(self._source, self.settings, self._shipped, self.losses)

    def close(self) -> None:
        """End the processes that decode media; they are started again when needed."""
        super().close()
        self._kept.clear()

    @property
    def shipped_as(self) -> str:
        """The retriever's name."""
        return "preflmr"

    @cached_property
    def _source(self) -> Source | None:
        """The files; None for built-in weights."""
        if self.weights == TINY:
            return None
        from retrievers.preflmr.loading import find_weights

        return find_weights(self.weights, self.settings)

    @property
    def _reads(self) -> frozenset[Modality]:
        pictures = frozenset({Modality.VIDEO, Modality.IMAGE})
        reads = self.settings.reads
        return reads if self.settings.document_images else reads - pictures

    @cached_property
    def _loader(self) -> MediaLoader:
        return self.settings.loader(
            video=Modality.VIDEO in self._reads,
            images=Modality.IMAGE in self._reads,
            losses=self.losses,
        )

    def _restricted(self, documents: Sequence[Document]) -> Iterator[Document]:
        """Yield the documents with what is read of them."""
        return (document.only(self._reads) for document in documents)

    def _made(self, batch: Sequence[Document]) -> Iterator[list[Piece]]:
        """Yield the pieces of documents that hold only what is read, decoded ahead."""
        return map(self.engine.cutter.document, self._loader.load(batch))

    def _encoded(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
        with self._computing():
            return self.engine.encode(pieces)


def _packed(items: Sequence[Sequence[Piece]], vectors: Sequence[torch.Tensor]) -> TokenEmbeddings:
    """Join the vectors of each item's pieces, which follow one another."""
    parts, rest = [], iter(vectors)
    for pieces in items:
        found = [next(rest).numpy() for _ in pieces]
        if not found:
            parts.append(TokenEmbeddings.of([{}]))
            continue
        numbers = np.repeat([int(piece.modality) for piece in pieces], [len(v) for v in found])
        parts.append(
            TokenEmbeddings.from_padded(
                np.concatenate(found)[None],
                np.ones((1, len(numbers)), np.int64),
                numbers[None],
                spans=np.concatenate([piece.spans for piece in pieces])[None],
            )
        )
    return TokenEmbeddings.concatenate(parts)


def _bytes(pieces: Sequence[Piece]) -> int:
    """Return what the pieces of a document take in memory."""
    return sum(piece.nbytes for piece in pieces)
