"""Small pictures of documents for a page: frames, images and the outline of the sound."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.media import (
    AudioSampling,
    DamagedMediaError,
    Frames,
    FrameSampling,
    MediaLoader,
    MediaSettings,
    Waveform,
    read_image,
)
from harness.settings import Settings
from harness.types import Document, Media

#: Longer side of a frame in a strip and of a thumbnail, in pixels, and the quality of the JPEG: a
#: frame takes some 4 kB, a thumbnail 2 kB.
STRIP, THUMBNAIL = 192, 128
_QUALITY = 60
#: Steps of the outline of a sound, and the samples a second that are read for it.
_STEPS, _RATE = 240, 4_000
#: From so many documents on, decoding in other processes pays for starting them.
_MANY = 64


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame or an image as a data URI.

    Attributes
    ----------
    uri
        ``data:image/jpeg;base64,...``; "" where only the place of a frame is known.
    number
        The frame's number in its video, or the image's among those of the document.
    seconds
        When a frame is shown; NaN for images and where it is not known.
    aspect
        Width by height.
    """

    uri: str
    number: int
    seconds: float
    aspect: float = 16 / 9


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page shows of a document's media.

    Attributes
    ----------
    frames, images
        Of its video, in order; its images.
    outline
        Of its sound: the loudest sample of each of equal parts, 0 to 1; empty without sound.
    seconds
        How long the sound is.
    """

    frames: tuple[Picture, ...] = ()
    images: tuple[Picture, ...] = ()
    outline: tuple[float, ...] = ()
    seconds: float = 0.0


NOTHING = Seen()


def sampling_of(settings: Settings) -> FrameSampling:
    """Return how a retriever of these settings samples frames, scaled down for a strip."""
    if not isinstance(settings, MediaSettings):
        return FrameSampling(max_side=STRIP)
    return FrameSampling(settings.frame_sampling, settings.frames, settings.fps, max_side=STRIP)


def thumbnails(count: int) -> FrameSampling:
    """Return how frames are sampled where only an impression is wanted."""
    return FrameSampling(count=count, max_side=THUMBNAIL)


def seen(
    documents: Sequence[Document], frames: FrameSampling, *, sound: bool = False
) -> Iterator[tuple[Document, Seen]]:
    """Yield the documents with pictures of their media; what is damaged is left out.

    Parameters
    ----------
    documents
        The documents.
    frames
        Which frames, and how large; images are as large.
    sound
        Whether the outline of the sound is made.
    """
    side = frames.max_side or STRIP
    with MediaLoader(
        frames=frames,
        audio=AudioSampling(_RATE, None) if sound else None,
        images=True,
        on_damaged="skip-modality",
        workers=None if len(documents) >= _MANY else 0,
    ) as loader:
        for document, loaded in zip(documents, loader.load(documents), strict=True):
            yield (
                document,
                Seen(
                    _frames(loaded.frames),
                    tuple(
                        _picture(pixels, number, side)
                        for number, pixels in enumerate(loaded.images)
                    ),
                    _outline(loaded.waveform),
                    0.0 if loaded.waveform is None else loaded.waveform.seconds,
                ),
            )


def image_of(file: Media | None) -> str:
    """Return a query's image as a data URI; "" where there is none, or it is damaged."""
    if file is None:
        return ""
    try:
        return _picture(read_image(file), 0, STRIP).uri
    except DamagedMediaError:
        return ""


def _frames(frames: Frames | None) -> tuple[Picture, ...]:
    if frames is None:
        return ()
    places: Iterable[tuple[int, float]] = zip(
        frames.numbers.tolist(), frames.seconds.tolist(), strict=True
    )
    return tuple(
        _picture(pixels, number, STRIP, seconds)
        for pixels, (number, seconds) in zip(frames.pixels, places, strict=True)
    )


def _picture(
    pixels: NDArray[np.uint8], number: int, side: int, seconds: float = float("nan")
) -> Picture:
    from PIL import Image

    image = Image.fromarray(pixels)
    aspect = image.width / image.height
    image.thumbnail((side, side))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=_QUALITY)
    uri = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    return Picture(uri, number, seconds, aspect)


def _outline(waveform: Waveform | None) -> tuple[float, ...]:
    if waveform is None or not len(waveform.samples):
        return ()
    parts = np.array_split(np.abs(waveform.samples), min(_STEPS, len(waveform.samples)))
    loudest = np.array([part.max() for part in parts])
    return tuple((loudest / max(float(loudest.max()), 1e-9)).round(3).tolist())
