"""What encoders on image and text towers share, each with one tiny model built in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np

from harness.errors import UsageError
from harness.late_interaction import TokenEmbeddings
from harness.types import Modality
from retrievers.media_encoder import CuttingEncoder, Part, check_installed
from retrievers.model_settings import TowerSettings
from retrievers.shipped import TINY, card_of, place
from retrievers.source import Source, sha256

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

    #: The package that holds trained weights of the built-in model.
    package: ClassVar[str]
    #: Of what pieces and vectors are: raise it when the same input would give others.
    version: ClassVar[int] = 1
    #: 16 frames of 224 x 224 pixels take 10 MB.
    ahead = 8
    settings: TowerSettings
    weight_settings = ("revision", "initial_seed")

    def __init__(self, name: str, weights: str | None, settings: TowerSettings) -> None:
        super().__init__(name, weights, settings)
        if settings.initial_seed is not None and weights != TINY:
            raise UsageError(
                f"initial_seed = {settings.initial_seed}: only built-in weights can be drawn anew "
                f"({TINY}); leave the setting out."
            )
        self.untrained = weights == TINY and self._shipped is None
        self.trained_in = card_of(self._shipped)

    @property
    @abstractmethod
    def module(self) -> torch.nn.Module:
        """The model (see `harness.encoder.Trainable`)."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name of its kind, by which trained weights of the built-in model go."""

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
            self.kind: self.version,
            "files": self._files_identity(),
            "preparation": None if source is None else self._preparation(source),
            "dtype": str(place_of(self.settings).dtype).removeprefix("torch."),
            "media": self._loader.identity(),
        }

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the model as `retrievers.shipped.write_builtin` takes them."""
        from retrievers.qwen.adapter import merged

        return merged(self.module)

    @property
    def _shipped(self) -> Path | None:
        """The file of trained built-in weights, if it is there and to be used."""
        if self.weights != TINY or self.settings.initial_seed is not None:
            return None
        file = place(self.package, self.kind, TINY)
        return file if file.is_file() else None

    def _files_identity(self) -> Any:
        """Return what names the weights."""
        if self._source is not None:
            return self._source.identity()
        return TINY if self._shipped is None else {TINY: sha256(self._shipped)}

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
