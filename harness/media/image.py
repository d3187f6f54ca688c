"""Images of any mode -> RGB."""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from harness.media.damage import DamagedMediaError
from harness.media.source import opened
from harness.types import Media

#: What Pillow's readers raise for bytes that make no sense; an OSError for a file that is cut off.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
)


def read_image(file: Media) -> NDArray[np.uint8]:
    """Read an image as it is to be seen.

    The orientation of its EXIF data is applied; transparent parts are laid on white; 16-bit grey
    is scaled to 8 bits. Of an animation the first frame is taken.

    Returns
    -------
    ndarray
        uint8 RGB, shape ``(height, width, 3)``.

    Raises
    ------
    DamagedMediaError
        If the file is missing, empty, cut off or not an image, or has more than 179 million
        pixels (Pillow's bound against decompression bombs).
    """
    with opened(file) as window:
        try:
            with Image.open(io.BufferedReader(window)) as image:
                image.load()
                return np.asarray(_rgb(ImageOps.exif_transpose(image)))
        except UnidentifiedImageError as error:
            raise DamagedMediaError(file, "corrupt", "it is not an image") from error
        except Image.DecompressionBombError as error:
            raise DamagedMediaError(file, "corrupt", f"it is too large ({error})") from error
        except _BROKEN as error:
            raise DamagedMediaError(
                file, "corrupt", f"the image cannot be decoded ({error})"
            ) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow's own conversion clips at 255: every bright pixel would be white.
        grey = np.asarray(image).astype(np.int64)
        return Image.fromarray((grey.clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        grey = np.nan_to_num(np.asarray(image))
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("RGB")
