"""What encoders on image and text towers share, each with one tiny model built in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np

from harness.late_interaction import TokenEmbeddings
from harness.media import MediaLoader
from harness.types import Modality
from retrievers.media_encoder import CuttingEncoder, Part, check_installed
from retrievers.model_settings import TowerSettings
from retrievers.shipped import identity_of
from retrievers.source import Source

if TYPE_CHECKING:
    import torch


class TowerPart(Part, Protocol):
    """A piece whose vectors are all of one modality."""

    @property
    def modality(self) -> Modality:
        """Which."""

    @property
    def spans(self) -> Any:
        """Where in its source each vector comes from, shape ``(vectors, 7)``."""


T = TypeVar("T", bound=TowerPart)


class TowerEncoder(CuttingEncoder[T]):
    """An encoder of a checkpoint of image and text towers, or of the tiny one that is built in."""

    #: Of what pieces and vectors are: raise it when the same input would give others.
    version: ClassVar[int] = 1
    #: 16 frames of 224 x 224 pixels take 10 MB.
    ahead = 8
    settings: TowerSettings
    weight_settings = ("revision", "initial_seed")

    @property
    @abstractmethod
    def module(self) -> torch.nn.Module:
        """The model (see `harness.encoder.Trainable`)."""

    @property
    @abstractmethod
    def _source(self) -> Source | None:
        """The files; None for built-in weights."""

    @abstractmethod
    def _preparation(self, source: Source) -> Mapping[str, Any]:
        """Return, as JSON values, what says how images and texts are prepared."""

    def identity(self) -> dict[str, Any]:
        """Return the files' hashes or commits, the precision, and what the media reader does."""
        check_installed(self.name)
        from retrievers.device import place_of

        source = self._source
        return {
            self.built_in.retriever: self.version,
            "files": identity_of(self.weights, self._shipped)
            if source is None
            else source.identity(),
            "preparation": None if source is None else self._preparation(source),
            "dtype": place_of(self.settings).precision,
            "media": self._loader.identity(),
        }

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the model as `retrievers.shipped.write_builtin` takes them."""
        from retrievers.qwen.adapter import merged

        return merged(self.module)

    @cached_property
    def _loader(self) -> MediaLoader:
        return self.settings.loader(
            video=Modality.VIDEO in self._reads,
            images=Modality.IMAGE in self._reads,
            losses=self.losses,
        )

    def _packed(self, items: Sequence[Sequence[T]], vectors: Sequence[Any]) -> TokenEmbeddings:
        parts, rest = [], iter(vectors)
        for pieces in items:
            found = [next(rest).numpy() for _ in pieces]
            if not found:
                parts.append(TokenEmbeddings.of([{}]))
                continue
            numbers = np.repeat([int(piece.modality) for piece in pieces], [len(v) for v in found])
            spans = [np.asarray(piece.spans, np.float32) for piece in pieces]
            parts.append(
                TokenEmbeddings.from_padded(
                    np.concatenate(found)[None],
                    np.ones((1, len(numbers)), np.int64),
                    numbers[None],
                    spans=np.concatenate(spans)[None],
                )
            )
        return TokenEmbeddings.concatenate(parts)
