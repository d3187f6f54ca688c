"""Frames to patches, without torchvision.

The processors of transformers 5 need torchvision for video. The steps are few: one size for all
frames, bicubic resizing, pairs of frames, and patches in the order in which the vision tower merges
them (Qwen2.5-VL technical report, arXiv 2502.13923, section 2.1). Normalisation is left to the
model's device: the patches stay uint8, a quarter of the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.errors import PluginError

#: Mean and standard deviation of the three channels, of CLIP's training images.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

Frames = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Patching:
    """How the vision tower cuts frames: pixels and merged patches a side, frames of a patch."""

    patch: int = 14
    merge: int = 2
    temporal: int = 2

    @property
    def factor(self) -> int:
        """Pixels a side of one token."""
        return self.patch * self.merge


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """The patches of a video.

    Attributes
    ----------
    pixels
        uint8, shape ``(t * h * w, 3 * temporal * patch * patch)``.
    grid
        ``(t, h, w)`` in patches; ``h`` and ``w`` are multiples of `merge`.
    merge, temporal
        Patches a side that become one token, and frames of a patch.
    """

    pixels: NDArray[np.uint8]
    grid: tuple[int, int, int]
    merge: int
    temporal: int

    @property
    def tokens(self) -> int:
        """Number of tokens that the vision tower makes of them."""
        frames, height, width = self.grid
        return frames * (height // self.merge) * (width // self.merge)


def size_for(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return the size, in multiples of `factor`, at which a frame is seen.

    The aspect is kept as nearly as the multiples allow, and the area lies between `min_pixels` and
    `max_pixels`. This is the rule of Qwen2-VL's processors. A side is at least `factor`: of a
    very long and thin frame the area can then exceed `max_pixels`.
    """
    near = [max(factor, round(side / factor) * factor) for side in (height, width)]
    if near[0] * near[1] > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        near = [
            max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width)
        ]
    elif near[0] * near[1] < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        near = [math.ceil(side * grow / factor) * factor for side in (height, width)]
    return near[0], near[1]


def patches_of(frames: Frames, patching: Patching, min_pixels: int, max_pixels: int) -> Patches:
    """Resize frames to the size that the first asks for, and cut them into patches.

    Parameters
    ----------
    frames
        At least one; uint8 RGB of shape ``(height, width, 3)``, sizes may differ.
    patching, min_pixels, max_pixels
        See `Patching` and `size_for`.

    Raises
    ------
    PluginError
        If a frame has another shape or type.
    """
    for frame in frames:
        _check(frame)
    height, width = frames[0].shape[:2]
    size = size_for(height, width, patching.factor, min_pixels, max_pixels)
    return cut(np.stack([resized(frame, size) for frame in frames]), patching)


def resized(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the frame at ``(height, width)``, bicubic."""
    if frame.shape[:2] == size:
        return frame
    image = Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(image)


def cut(video: NDArray[np.uint8], patching: Patching) -> Patches:
    """Cut a video of shape ``(frames, height, width, 3)`` into patches.

    The last frame is repeated where the number of frames is no multiple of `Patching.temporal`.
    """
    short = -len(video) % patching.temporal
    video = np.concatenate([video, np.repeat(video[-1:], short, axis=0)])
    side, merge = patching.patch, patching.merge
    times = len(video) // patching.temporal
    rows, columns = video.shape[1] // side, video.shape[2] // side
    blocks = video.reshape(
        times, patching.temporal, rows // merge, merge, side, columns // merge, merge, side, 3
    )
    # Patches that are merged lie together: time, block row, block column, row, column within it;
    # then channel, frame of the pair, and the pixels of the patch.
    ordered = blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    pixels = ordered.reshape(times * rows * columns, 3 * patching.temporal * side * side)
    return Patches(np.ascontiguousarray(pixels), (times, rows, columns), merge, patching.temporal)


def _check(frame: Any) -> None:
    """Refuse what is not an RGB frame; frames of a plugin come here too."""
    shape, kind = getattr(frame, "shape", None), getattr(frame, "dtype", type(frame))
    if shape is not None and len(shape) == 3 and shape[2] == 3 and kind == np.uint8 and all(shape):
        return
    if shape is not None and len(shape) == 3 and shape[0] == 3:
        raise PluginError(
            f"a frame of shape {shape} has its channels first: give (height, width, 3), for "
            "example frame.transpose(1, 2, 0)."
        )
    raise PluginError(
        f"a frame is {kind} of shape {shape}: give uint8 RGB of shape (height, width, 3)."
    )
