"""What encoders share that read media.

`MediaEncoder` decodes; `CuttingEncoder` also cuts documents into pieces, which it keeps between the
epochs of a training.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

from harness.encoder import Encoder, EncoderSettings
from harness.errors import UsageError
from harness.late_interaction import TokenEmbeddings
from harness.media import MediaLoader, MediaSettings
from harness.types import Document, Modality
from retrievers.ahead import Ahead
from retrievers.kept import Kept
from retrievers.pictures import Pictures
from retrievers.shipped import BuiltIn, card_of

#: The model's batches that are encoded together: several, so that like lengths meet; not all
#: documents, so that the rest is decoded while the model works.
_TOGETHER = 4


class MediaEncoder(Encoder):
    """An encoder of documents and queries with media; its settings extend `MediaSettings`, too."""

    def __init__(self, name: str, weights: str | None, settings: EncoderSettings) -> None:
        super().__init__(name, weights, settings)
        self._computed = 0.0

    @property
    @abstractmethod
    def _loader(self) -> MediaLoader:
        """What decodes the media of documents."""

    @property
    @abstractmethod
    def _reads(self) -> frozenset[Modality]:
        """The modalities of documents that are read."""

    def _restricted(self, documents: Sequence[Document]) -> Iterator[Document]:
        """Yield the documents with what is read of them."""
        reads = self._reads
        return (document.only(reads) for document in documents)

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


class _Seeded(Protocol):
    """Settings of built-in weights."""

    @property
    def initial_seed(self) -> int | None:
        """What to draw them from; None for those that ship."""


class Part(Protocol):
    """A piece of a document or query."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""

    def without_media(self) -> Self:
        """Return the piece without what the model alone needs: pixels and sound."""


P = TypeVar("P", bound=Part)


class CuttingEncoder(MediaEncoder, Generic[P]):
    """An encoder whose documents are cut into pieces ahead of the model, with weights built in.

    Its settings have an ``initial_seed``.
    """

    built_in: ClassVar[BuiltIn]
    #: Documents that are cut before the model asks for them; None: all that are taken together.
    ahead: ClassVar[int | None] = None

    def __init__(self, name: str, weights: str | None, settings: EncoderSettings) -> None:
        super().__init__(name, weights, settings)
        self._kept: Kept[list[P]] = Kept(lambda pieces: sum(piece.nbytes for piece in pieces))
        self.built_in.check(weights, cast("_Seeded", settings).initial_seed)
        self.untrained = weights in self.built_in.names and self._shipped is None
        self.trained_in = card_of(self._shipped)

    @property
    @abstractmethod
    def engine(self) -> Any:
        """The model, loaded once, when it is first needed; its `encode` takes pieces."""

    @property
    def _shipped(self) -> Path | None:
        """The file of trained built-in weights, if it is there and to be used."""
        return self.built_in.shipped(self.weights, cast("_Seeded", self.settings).initial_seed)

    @abstractmethod
    def _made(self, batch: Sequence[Document]) -> Iterator[list[P]]:
        """Yield the pieces of documents that hold only what is read, decoded ahead."""

    @abstractmethod
    def _batches(self, pieces: Sequence[P]) -> float:
        """Return how many of the model's batches the pieces fill."""

    @abstractmethod
    def _packed(self, items: Sequence[Sequence[P]], vectors: Sequence[Any]) -> TokenEmbeddings:
        """Join the vectors of each item's pieces, which follow one another."""

    def expect(self, documents: Sequence[Document]) -> None:
        """Let the workers begin on the documents after the next batch when they are free."""
        self._loader.expect(self._kept.missing(self._restricted(documents)))

    def encode_documents(self, batch: Sequence[Document]) -> TokenEmbeddings:
        """Return the documents' vectors, and where in its source each comes from.

        Media are decoded and prepared ahead of the model.
        """
        made: list[list[P]] = []
        vectors: list[Any] = []
        waiting: list[P] = []
        cut = self._made([*self._restricted(batch)])
        for pieces in Ahead(cut, depth=self.ahead or len(batch)):
            made.append([piece.without_media() for piece in pieces])
            waiting.extend(pieces)
            if self._batches(waiting) >= _TOGETHER:
                vectors.extend(self._encoded(waiting))
                waiting = []
        vectors.extend(self._encoded(waiting))
        return self._packed(made, vectors)

    def close(self) -> None:
        """End the processes that decode media; they are started again when needed."""
        super().close()
        self._kept.clear()

    def _cut(self, batch: Sequence[Document]) -> list[list[P]]:
        """Return the pieces of each document, kept so that a later epoch decodes nothing again."""
        return self._kept.of([*self._restricted(batch)], self._made)

    def _encoded(self, pieces: Sequence[P]) -> list[Any]:
        with self._computing():
            found: list[Any] = self.engine.encode(pieces)
        return found


def check_installed(name: str) -> None:
    """Check that the libraries of the extra are there, and new enough.

    Raises
    ------
    UsageError
        Saying what to install.
    """
    missing = [name for name in ("torch", "peft", "tokenizers") if find_spec(name) is None]
    try:
        # The class that is Omni without a voice came with 5.22.
        from transformers import Qwen2_5OmniThinkerModel  # noqa: F401
    except ImportError:
        missing.append("transformers 5.22 or later")
    if missing:
        raise UsageError(
            f"{name} needs {', '.join(missing)}: pip install --upgrade 'clamr-bench[models]'."
        )
