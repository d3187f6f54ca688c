"""What the model reads: a document's decoded content, and the sequence of tokens made of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from harness.late_interaction.embeddings import SPAN_FIELDS
from harness.media import LoadedDocument
from harness.types import NO_MODALITY, Modality
from retrievers.qwen.vision import Frames, Patches

#: The span of a token that stands for no part of the content.
NOWHERE = (math.nan,) * len(SPAN_FIELDS)
#: Follows the start and end of a token without a place in a frame.
_NO_FRAME = (math.nan,) * (len(SPAN_FIELDS) - 2)


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """A document's content, decoded.

    Attributes
    ----------
    frames
        uint8 RGB, each ``(height, width, 3)``; empty without a video.
    seconds
        When each frame is shown; NaN or shorter where that is unknown.
    numbers
        The number of each frame in its video; shorter where that is unknown.
    images
        uint8 RGB, as `frames`; each of its own size.
    sound
        float32, 16 kHz, mono; None without sound.
    texts
        Texts by modality, none of them empty.
    """

    frames: Frames = ()
    seconds: Sequence[float] = ()
    numbers: Sequence[float] = ()
    images: Frames = ()
    sound: NDArray[np.float32] | None = None
    texts: Mapping[Modality, str] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: LoadedDocument) -> Self:
        """Return what was decoded of a document."""
        frames, sound = loaded.frames, loaded.waveform
        return cls(
            frames=() if frames is None else list(frames.pixels),
            seconds=() if frames is None else frames.seconds.tolist(),
            numbers=() if frames is None else frames.numbers.tolist(),
            images=loaded.images,
            sound=None if sound is None else sound.samples,
            texts=loaded.document.texts,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """One sequence as the model takes it.

    Attributes
    ----------
    ids
        int64, shape ``(n,)``.
    modalities
        uint8, shape ``(n,)``: number of the `Modality`, or 0 for the prompt.
    spans
        float32, shape ``(n, 7)``: where in its source each token comes from (see
        `harness.late_interaction.TokenEmbeddings`). NaN for the prompt and the names of modalities.
    patches
        The video or still; None without one.
    mel
        float32, shape ``(mel bins, frames)``; None without sound.
    video_start
        Index of the first token of `patches`; -1 where none are, or where their positions are to
        follow one another as those of text do.
    still
        Whether `patches` are a still, and not a video.
    """

    ids: NDArray[np.int64]
    modalities: NDArray[np.uint8]
    spans: NDArray[np.float32]
    patches: Patches | None = None
    mel: NDArray[np.float32] | None = None
    video_start: int = -1
    still: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays: list[NDArray[Any]] = [self.ids, self.modalities, self.spans]
        arrays += [] if self.patches is None else [self.patches.pixels]
        arrays += [] if self.mel is None else [self.mel]
        return sum(array.nbytes for array in arrays)

    def without_media(self) -> Tokens:
        """Return the tokens alone: pixels weigh five kilobytes a token."""
        return replace(self, patches=None, mel=None)


class TokensBuilder:
    """Puts a sequence together piece by piece."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._modalities: list[int] = []
        self._spans: list[tuple[float, ...]] = []
        self._patches: Patches | None = None
        self._mel: NDArray[np.float32] | None = None
        self._video_start = -1
        self._still = False

    def add(self, ids: Sequence[int], modality: Modality | None = None) -> None:
        """Append tokens that stand for no part of the content."""
        self._add(ids, modality, [NOWHERE] * len(ids))

    def add_text(
        self, ids: Sequence[int], modality: Modality, ranges: Iterable[tuple[float, float]]
    ) -> None:
        """Append tokens of a text; each stands for a half-open range of its characters."""
        self._add(ids, modality, [(*pair, *_NO_FRAME) for pair in ranges])

    def add_sound(
        self, place: int, mel: NDArray[np.float32], ranges: Sequence[tuple[float, float]]
    ) -> None:
        """Append the placeholders of sound; each stands for a range of seconds."""
        self._mel = mel
        self.add_text([place] * len(ranges), Modality.AUDIO, ranges)

    def add_video(
        self,
        place: int,
        patches: Patches,
        seconds: Sequence[float],
        numbers: Sequence[float] = (),
    ) -> None:
        """Append the placeholders of a video, whose frames `numbers` are shown at `seconds`."""
        self._patches, self._video_start = patches, len(self._ids)
        cells = list(_cells(patches, seconds, numbers))
        self._add([place] * patches.tokens, Modality.VIDEO, cells)

    def add_still(
        self,
        place: int,
        patches: Patches,
        modality: Modality,
        second: float = math.nan,
        number: float = math.nan,
        *,
        flat: bool = False,
    ) -> None:
        """Append the placeholders of a still: frame `number`, shown at `second`, or an image.

        With `flat` their positions follow one another.
        """
        self._patches, self._still = patches, True
        self._video_start = -1 if flat else len(self._ids)
        self._add([place] * patches.tokens, modality, list(_cells(patches, [second], [number])))

    def _add(
        self, ids: Sequence[int], modality: Modality | None, spans: list[tuple[float, ...]]
    ) -> None:
        self._ids.extend(ids)
        self._modalities.extend([NO_MODALITY if modality is None else int(modality)] * len(ids))
        self._spans.extend(spans)

    def build(self) -> Tokens:
        """Return the sequence."""
        return Tokens(
            np.asarray(self._ids, np.int64),
            np.asarray(self._modalities, np.uint8),
            np.asarray(self._spans, np.float32).reshape(-1, len(SPAN_FIELDS)),
            self._patches,
            self._mel,
            self._video_start,
            self._still,
        )


def _cells(
    patches: Patches, seconds: Sequence[float], numbers: Sequence[float]
) -> Iterator[tuple[float, ...]]:
    """Yield the span of each video token: times of its first and last frame, box, frame."""
    times, height, width = patches.grid
    rows, columns = height // patches.merge, width // patches.merge
    for time in range(times):
        shown = seconds[time * patches.temporal : (time + 1) * patches.temporal]
        start, end = (shown[0], shown[-1]) if len(shown) else (math.nan, math.nan)
        number = next(iter(numbers[time * patches.temporal :]), math.nan)
        for row in range(rows):
            for column in range(columns):
                yield (
                    start, end,
                    column / columns, row / rows, (column + 1) / columns, (row + 1) / rows, number,
                )  # fmt: skip
