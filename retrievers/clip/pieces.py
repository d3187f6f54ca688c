"""What a document is made of for the towers, and the vectors that come of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from harness.media import Frames, LoadedDocument
from harness.types import Modality
from retrievers.clip.settings import ClipSettings
from retrievers.clip.texts import Window
from retrievers.clip.towers import Prepared, Towers

#: A span is ``(start, end, left, top, right, bottom, frame)``; a whole frame or image has this box.
_WHOLE = (0.0, 0.0, 1.0, 1.0)
_NO_BOX = (math.nan,) * 5

Span = tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One modality of a document, or a query.

    Attributes
    ----------
    modality
        Which.
    inputs
        Images as the image tower takes them, or texts as ids; at least one.
    pooling
        How their vectors become one, or ``each`` to keep them.
    spans
        Where in its source each resulting vector comes from.
    """

    modality: Modality
    inputs: Sequence[Prepared] | Sequence[list[int]]
    pooling: Literal["mean", "max", "each"]
    spans: Sequence[Span]

    @property
    def nbytes(self) -> int:
        """Bytes of the inputs' tensors; ids are next to nothing."""
        images = [each for each in self.inputs if isinstance(each, Mapping)]
        return sum(tensor.nbytes for image in images for tensor in image.values())

    def without_media(self) -> Piece:
        """Return the piece without its inputs."""
        return replace(self, inputs=[])


class Cutter:
    """Makes pieces.

    Parameters
    ----------
    towers
        They know how images and texts are prepared.
    settings
        Pooling of frames, long texts.
    losses
        Where to count texts that were cut, or of which nothing can be read.
    """

    def __init__(self, towers: Towers, settings: ClipSettings, losses: Counter[str]) -> None:
        self._towers, self._settings, self._losses = towers, settings, losses

    def query(self, text: str) -> Piece:
        """Return the piece of a query."""
        return self._text(Modality.TEXT, self._towers.texts.query_windows(text))

    def shown(self, picture: NDArray[np.uint8]) -> Piece:
        """Return the piece of a query that is an image, uint8 RGB ``(height, width, 3)``."""
        span = (math.nan, math.nan, *_WHOLE, 0.0)
        return Piece(Modality.IMAGE, self._towers.prepare([picture]), "each", [span])

    def document(self, loaded: LoadedDocument) -> list[Piece]:
        """Return the pieces of a document; none if there is nothing to read."""
        pieces = []
        if loaded.frames is not None and len(loaded.frames):
            pieces.append(self._video(loaded.frames))
        if loaded.images:
            # Pictures of a document need not show one thing, as the frames of a video do.
            spans = [(math.nan, math.nan, *_WHOLE, number) for number in range(len(loaded.images))]
            inputs = self._towers.prepare(loaded.images)
            pieces.append(Piece(Modality.IMAGE, inputs, "each", spans))
        for modality, text in loaded.document.texts.items():
            windows = self._towers.texts.windows(text)
            if not windows:
                self._losses[f"{modality.label} unreadable"] += 1
                continue
            if len(windows) > 1 and self._settings.long_texts == "cut":
                self._losses[f"{modality.label} cut"] += 1
            pieces.append(self._text(modality, windows))
        return pieces

    def _video(self, frames: Frames) -> Piece:
        pooling, seconds = self._settings.frames_as, frames.seconds.tolist()
        spans: list[Span] = [
            (second, second, *_WHOLE, number)
            for second, number in zip(seconds, frames.numbers.tolist(), strict=True)
        ]
        if pooling != "each":
            spans = [(seconds[0], seconds[-1], *_WHOLE, math.nan)]
        return Piece(Modality.VIDEO, self._towers.prepare(list(frames.pixels)), pooling, spans)

    def _text(self, modality: Modality, windows: list[Window]) -> Piece:
        if self._settings.long_texts == "cut":
            windows = windows[:1]
        span = (float(windows[0].start), float(windows[-1].end), *_NO_BOX)
        return Piece(modality, [window.ids for window in windows], "mean", [span])


Run = Callable[[bool, Sequence[Any]], torch.Tensor]


def vectors_of(pieces: Sequence[Piece], run: Run) -> list[torch.Tensor]:
    """Return the unit vectors of each piece, shape ``(len(spans), dim)``.

    Parameters
    ----------
    pieces
        Of any documents and modalities: their images go through the tower together, and so do
        their texts.
    run
        Called with whether the inputs are images, and the inputs; returns their unit vectors,
        shape ``(inputs, dim)``.
    """
    found: list[torch.Tensor] = [torch.empty(0)] * len(pieces)
    for are_images in (True, False):
        own = [n for n, piece in enumerate(pieces) if piece.modality.is_text is not are_images]
        if not own:
            continue
        inputs: list[Any] = [each for n in own for each in pieces[n].inputs]
        made = run(are_images, inputs).split([len(pieces[n].inputs) for n in own])
        for n, vectors in zip(own, made, strict=True):
            found[n] = pooled(vectors, pieces[n].pooling)
    return found


def pooled(vectors: torch.Tensor, how: Literal["mean", "max", "each"]) -> torch.Tensor:
    """Return unit vectors ``(n, dim)`` as one, of length 1 again, shape ``(1, dim)``; or as is."""
    if how == "each" or len(vectors) == 1:
        return vectors
    one = vectors.mean(dim=0) if how == "mean" else vectors.amax(dim=0)
    return torch.nn.functional.normalize(one, dim=-1)[None]
