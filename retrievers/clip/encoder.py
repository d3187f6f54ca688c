"""CLIP and SigLIP as encoders of the harness. torch is imported when a model is first used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.late_interaction import TokenEmbeddings
from harness.plugin import About, Direction
from harness.retriever import Capabilities, QueryKind
from harness.types import Document, Modality, Query
from retrievers.clip.family import CLIP, SIGLIP, Family
from retrievers.clip.settings import ClipSettings, SiglipSettings
from retrievers.media_encoder import check_installed
from retrievers.model_settings import READS
from retrievers.shipped import TINY, BuiltIn, read
from retrievers.tower_encoder import TowerEncoder

if TYPE_CHECKING:
    import torch

    from retrievers.clip.engine import Engine
    from retrievers.clip.pieces import Piece
    from retrievers.source import Source


class Clip(TowerEncoder["Piece"]):
    """CLIP: frames, images and texts as vectors of one space, compared by cosine.

    The frames of a video are pooled into one vector or kept; each text is one vector. A query is a
    text or an image, and an instruction is not read: these models were trained on either alone.
    An address names weights: ``tiny`` (built in), or a folder or a hub id of a checkpoint.
    """

    about = About(
        title="CLIP",
        version="1",
        licence="That of the checkpoint; OpenAI's: MIT",
        citation="Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, "
        "Krueger, Sutskever, Learning Transferable Visual Models From Natural Language "
        "Supervision, ICML 2021, arXiv:2103.00020.",
        url="https://github.com/openai/CLIP",
    )
    Settings: ClassVar[type[ClipSettings]] = ClipSettings
    settings: ClipSettings
    capabilities = Capabilities(
        modalities=frozenset(READS),
        query_kinds=frozenset({QueryKind.TEXT, QueryKind.IMAGE}),
        directions=frozenset(Direction),
        trainable=True,
    )
    weights_help = f"tiny, a folder or a hub id; default: {CLIP.released}"
    family: ClassVar[Family] = CLIP
    built_in = BuiltIn(CLIP.name, CLIP.name)

    def encode_queries(self, batch: Sequence[Query]) -> TokenEmbeddings:
        """Return one vector for each query, of the tower that reads it."""
        asked = self._asked(batch)
        return self._packed(asked, self._encoded([piece for pieces in asked for piece in pieces]))

    @property
    def module(self) -> torch.nn.Module:
        """The model (see `harness.encoder.Trainable`)."""
        return self.engine.towers.model

    def lora_targets(self) -> Sequence[str]:
        """Return the linear layers of both towers, and the projections."""
        return self.engine.towers.lora_targets()

    def forward_queries(self, batch: Sequence[Query]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode with gradients (see `harness.encoder.Trainable`)."""
        return self.engine.padded(self._asked(batch))

    def forward_documents(self, batch: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode with gradients (see `harness.encoder.Trainable`)."""
        return self.engine.padded(self._cut(batch))

    def save(self, folder: Path) -> None:
        """Write a whole checkpoint, LoRA merged in (see `harness.encoder.Trainable`)."""
        from retrievers.clip.saving import save
        from retrievers.device import place_of

        save(self.engine.towers, folder, self._source, self.family, place_of(self.settings))

    @cached_property
    def engine(self) -> Engine:
        """The model, loaded once, when it is first needed."""
        check_installed(self.name)
        from retrievers.clip.engine import Engine
        from retrievers.clip.loading import load
        from retrievers.clip.tiny import tiny_towers
        from retrievers.device import place_of

        if self._source is None:
            towers = tiny_towers(self.family, self.settings.initial_seed or 0)
            if self._shipped is not None:
                shapes = {n: tuple(t.shape) for n, t in towers.model.state_dict().items()}
                towers.model.load_state_dict(read(self._shipped, shapes))
            to = place_of(self.settings)
            towers.model.to(to.device, to.dtype)
        else:
            towers = load(self._source, self.family, self.settings)
        return Engine(towers, self.settings, self.losses)

    @cached_property
    def _source(self) -> Source | None:
        """The files; None for built-in weights."""
        if self.weights == TINY:
            return None
        from retrievers.clip.loading import find_weights

        return find_weights(self.family, self.weights, self.settings)

    def _asked(self, batch: Sequence[Query]) -> list[list[Piece]]:
        """Return the piece of each query; none for one that was an image alone, and damaged."""
        cutter = self.engine.cutter
        shown = [query for query in batch if QueryKind.of(query) is QueryKind.IMAGE]
        pictures = iter(self._pictures.of(shown))
        asked: list[list[Piece]] = []
        for query in batch:
            if QueryKind.of(query) is not QueryKind.IMAGE:
                asked.append([cutter.query(query.text)])
            elif (picture := next(pictures)) is not None:
                asked.append([cutter.shown(picture)])
            else:
                asked.append([])
        return asked

    @property
    def _reads(self) -> frozenset[Modality]:
        return self.settings.reads

    def _preparation(self, source: Source) -> Mapping[str, Any]:
        from retrievers.clip.loading import preparation

        return preparation(source)

    def _made(self, batch: Sequence[Document]) -> Iterator[list[Piece]]:
        return map(self.engine.cutter.document, self._loader.load(batch))

    def _batches(self, pieces: Sequence[Piece]) -> float:
        return sum(len(piece.inputs) for piece in pieces) / self.engine.batches.most


class Siglip(Clip):
    """SigLIP and SigLIP 2: as CLIP, trained with a sigmoid for each pair.

    Checkpoints of one image size and those of any (NaFlex).
    """

    about = About(
        title="SigLIP",
        version="1",
        licence="That of the checkpoint; Google's: Apache-2.0",
        citation="Zhai, Mustafa, Kolesnikov, Beyer, Sigmoid Loss for Language Image Pre-Training, "
        "ICCV 2023, arXiv:2303.15343; Tschannen and others, SigLIP 2, arXiv:2502.14786, 2025.",
        url="https://github.com/google-research/big_vision",
    )
    Settings: ClassVar[type[ClipSettings]] = SiglipSettings
    weights_help = f"tiny, a folder or a hub id; default: {SIGLIP.released}"
    family: ClassVar[Family] = SIGLIP
    built_in = BuiltIn(CLIP.name, SIGLIP.name)
