"""What encoders share that read media, and those of them that have one tiny model built in."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from harness.encoder import Encoder, EncoderSettings
from harness.errors import UsageError
from harness.media import MediaLoader, MediaSettings
from retrievers.model_settings import TowerSettings
from retrievers.pictures import Pictures
from retrievers.qwen.shipped import card_of, place
from retrievers.qwen.source import Source, sha256

if TYPE_CHECKING:
    import torch

#: The built-in weights.
TINY = "tiny"


class MediaEncoder(Encoder):
    """An encoder of documents and queries with media; its settings extend `MediaSettings`, too."""

    def __init__(self, name: str, weights: str | None, settings: EncoderSettings) -> None:
        super().__init__(name, weights, settings)
        self._computed = 0.0

    @property
    @abstractmethod
    def _loader(self) -> MediaLoader:
        """What decodes the media of documents."""

    @cached_property
    def _pictures(self) -> Pictures:
        """What decodes the pictures of queries."""
        return Pictures(cast("MediaSettings", self.settings), self.query_losses)

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds that workers decoded, that the model waited for them, and that it computed."""
        return {
            "decode": self._loader.decoding,
            "wait": self._loader.waiting,
            "model": self._computed,
        }

    def close(self) -> None:
        """End the processes that decode media; they are started again when needed."""
        self._loader.close()
        self._pictures.close()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Count what happens meanwhile as the model's time."""
        begun = time.perf_counter()
        yield
        self._computed += time.perf_counter() - begun


class TowerEncoder(MediaEncoder):
    """An encoder of a checkpoint of image and text towers, or of the tiny one that is built in."""

    #: The package that holds trained weights of the built-in model.
    package: ClassVar[str]
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
    def shipped_as(self) -> str:
        """The name that trained weights of the built-in model go by."""

    @property
    @abstractmethod
    def _source(self) -> Source | None:
        """The files; None for built-in weights."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the model as `retrievers.qwen.shipped.write_builtin` takes them."""
        from retrievers.qwen.adapter import merged

        return merged(self.module)

    @property
    def _shipped(self) -> Path | None:
        """The file of trained built-in weights, if it is there and to be used."""
        if self.weights != TINY or self.settings.initial_seed is not None:
            return None
        file = place(self.package, self.shipped_as, TINY)
        return file if file.is_file() else None

    def _files_identity(self) -> Any:
        """Return what names the weights."""
        if self._source is not None:
            return self._source.identity()
        return TINY if self._shipped is None else {TINY: sha256(self._shipped)}
