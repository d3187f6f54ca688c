"""What a document is cut into: its texts, each by itself, its frames and its images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from harness.late_interaction.embeddings import SPAN_FIELDS
from harness.media import LoadedDocument
from harness.types import Modality
from retrievers.clip.towers import prepare
from retrievers.preflmr.images import ImageProcessor
from retrievers.preflmr.wordpieces import WordPieces

#: A whole frame or image.
_BOX = (0.0, 0.0, 1.0, 1.0)
_NO_BOX = (math.nan,) * 5
_NOWHERE = (math.nan,) * len(SPAN_FIELDS)


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """A text of a document.

    Attributes
    ----------
    modality
        Which.
    ids
        Its tokens, marks included.
    kept
        bool, shape ``(tokens,)``: those whose vectors count.
    spans
        float32, shape ``(kept tokens, 7)``: where in the text each stands; NaN for marks.
    """

    modality: Modality
    ids: list[int]
    kept: NDArray[np.bool_]
    spans: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return 8 * len(self.ids) + self.kept.nbytes + self.spans.nbytes

    def without_media(self) -> Passage:
        """Return the passage, which has none."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A frame or an image of a document.

    Attributes
    ----------
    modality
        VIDEO or IMAGE.
    pixels
        As the image tower takes them: float32, shape ``(channels, side, side)``.
    spans
        float32, shape ``(prefix, 7)``: its seconds, the whole box, its number.
    """

    modality: Modality
    pixels: torch.Tensor
    spans: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return int(self.pixels.nbytes) + self.spans.nbytes

    def without_media(self) -> Picture:
        """Return the picture without its pixels."""
        return replace(self, pixels=torch.empty(0))


Piece = Passage | Picture


class Cutter:
    """Makes pieces of documents.

    Parameters
    ----------
    pieces
        The tokeniser of documents.
    images
        The image processor.
    prefix
        Vectors of an image.
    losses
        Where to count texts that were cut.
    punctuation
        Whether punctuation counts.
    """

    def __init__(
        self,
        pieces: WordPieces,
        images: ImageProcessor,
        prefix: int,
        losses: Counter[str],
        *,
        punctuation: bool,
    ) -> None:
        self._pieces, self._images, self._prefix, self._losses = pieces, images, prefix, losses
        self._skipped = [] if punctuation else sorted(pieces.punctuation())

    def document(self, loaded: LoadedDocument) -> list[Piece]:
        """Return the pieces of a document: pictures first, as the model has them."""
        return [*self._pictures(loaded), *self._passages(loaded)]

    def prepared(self, pictures: Sequence[NDArray[np.uint8]]) -> list[torch.Tensor]:
        """Return pictures, at least one, as the image tower takes them."""
        return [made["pixel_values"] for made in prepare(self._images, pictures)]

    def _pictures(self, loaded: LoadedDocument) -> Iterator[Picture]:
        frames = loaded.frames
        if frames is not None and len(frames):
            seconds, numbers = frames.seconds.tolist(), frames.numbers.tolist()
            made = self.prepared(list(frames.pixels))
            for pixels, second, number in zip(made, seconds, numbers, strict=True):
                yield self._picture(Modality.VIDEO, pixels, (second, second, *_BOX, number))
        if loaded.images:
            for number, pixels in enumerate(self.prepared(loaded.images)):
                yield self._picture(Modality.IMAGE, pixels, (math.nan, math.nan, *_BOX, number))

    def _picture(
        self, modality: Modality, pixels: torch.Tensor, span: tuple[float, ...]
    ) -> Picture:
        return Picture(modality, pixels, np.tile(np.asarray(span, np.float32), (self._prefix, 1)))

    def _passages(self, loaded: LoadedDocument) -> Iterator[Passage]:
        for modality, text in sorted(loaded.document.texts.items()):
            read = self._pieces.read(text)
            if read.cut:
                self._losses[f"{modality.label} cut"] += 1
            spans = [_NOWHERE, _NOWHERE, *((*pair, *_NO_BOX) for pair in read.ranges), _NOWHERE]
            kept = ~np.isin(read.ids, self._skipped)
            yield Passage(modality, read.ids, kept, np.asarray(spans, np.float32)[kept])
