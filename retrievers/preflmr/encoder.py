"""PreFLMR as an encoder of the harness. torch is imported when the model is first used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness.late_interaction import TokenEmbeddings
from harness.plugin import About, Direction
from harness.retriever import Capabilities, QueryKind
from harness.types import Document, Modality, Query
from retrievers.media_encoder import check_installed
from retrievers.model_settings import READS
from retrievers.preflmr.asking import Asking
from retrievers.preflmr.settings import PreFLMRSettings
from retrievers.shipped import TINY, BuiltIn
from retrievers.tower_encoder import TowerEncoder

if TYPE_CHECKING:
    import torch

    from harness.training.plan import Blueprint
    from retrievers.preflmr.engine import Engine
    from retrievers.preflmr.pieces import Piece
    from retrievers.source import Source


class PreFLMR(TowerEncoder["Piece"]):
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
    built_in = BuiltIn("preflmr", "preflmr")

    def __init__(self, name: str, weights: str | None, settings: PreFLMRSettings) -> None:
        super().__init__(name, weights, settings)
        self._asking = Asking(settings, self._pictures, self.query_losses)

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
        """Encode with gradients (see `harness.encoder.Trainable`)."""
        from retrievers.preflmr.engine import padded

        return padded(self.engine.document_rows(self._cut(batch)))

    def save(self, folder: Path) -> None:
        """Write a whole checkpoint, LoRA merged in (see `harness.encoder.Trainable`)."""
        from retrievers.device import place_of
        from retrievers.preflmr.saving import save

        save(self.engine.model, folder, self._source, place_of(self.settings).dtype)

    @cached_property
    def engine(self) -> Engine:
        """The model, loaded once, when it is first needed."""
        check_installed(self.name)
        from retrievers.preflmr.assembly import assemble

        return assemble(self._source, self.settings, self._shipped, self.losses)

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

    def _preparation(self, source: Source) -> Mapping[str, Any]:
        from retrievers.preflmr.loading import preparation

        return preparation(source)

    def _made(self, batch: Sequence[Document]) -> Iterator[list[Piece]]:
        return map(self.engine.cutter.document, self._loader.load(batch))

    def _batches(self, pieces: Sequence[Piece]) -> float:
        return len(pieces) / self.engine.batches.most
