"""What media become: frames with their times, a waveform; and how frames are chosen."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError, UsageError

#: The media reader's own version. Raise it when the same file would give other frames, times,
#: samples or pixels: it enters fingerprints and the keys of cached frames.
VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Frames of one video, in the order of their times.

    Attributes
    ----------
    pixels
        uint8 RGB, shape ``(n, height, width, 3)``.
    seconds
        float64, shape ``(n,)``: when each frame is shown, counted from the start of the file. NaN
        for frames that were given as images.
    numbers
        int64, shape ``(n,)``: the frame's index in the video (or in the list of images).
    lost
        Chosen frames that could not be decoded. They are left out, never replaced.
    """

    pixels: NDArray[np.uint8]
    seconds: NDArray[np.float64]
    numbers: NDArray[np.int64]
    lost: int = 0

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, slots=True)
class FrameSampling:
    """Which frames of a video are taken, and how large.

    Attributes
    ----------
    how
        ``uniform``: the frames shown at the middle of `count` equal parts of the video's time.
        ``fps``: the frames shown at 0, 1/`fps`, 2/`fps`, ... seconds, up to `count` of them.
        ``key_frames``: frames of given numbers, at most `count` of them, spread evenly.
        No frame is taken twice: a shorter video gives fewer frames.
    count
        Number of frames, at most.
    fps
        Frames a second; for ``fps`` only.
    max_side, max_pixels
        Frames are scaled down, as they are decoded, so that neither the longer side nor
        ``width * height`` exceeds these. The aspect ratio is kept; nothing is scaled up.

    Raises
    ------
    UsageError
        If a value is out of range, or `fps` is missing or idle.
    """

    how: Literal["uniform", "fps", "key_frames"] = "uniform"
    count: int = 10
    fps: float | None = None
    max_side: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.how not in ("uniform", "fps", "key_frames"):
            raise UsageError(
                f"frames cannot be sampled by {self.how!r}: choose uniform, fps or key_frames."
            )
        for name in ("count", "max_side", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"frame sampling: {name} = {value}; it must be 1 or more.")
        if self.how == "fps" and not (self.fps is not None and 0 < self.fps < float("inf")):
            raise UsageError(f"frame sampling by fps needs a rate above 0, not fps = {self.fps}.")
        if self.how != "fps" and self.fps is not None:
            raise UsageError(
                f"frame sampling: fps = {self.fps} has no effect on {self.how!r}; leave it out or "
                "choose how = fps."
            )

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, what determines the frames: for fingerprints and cache keys."""
        return {**asdict(self), "media_version": VERSION}


@dataclass(frozen=True, slots=True)
class AudioSampling:
    """How much sound is read, and at which rate.

    Attributes
    ----------
    rate
        Samples a second.
    max_seconds
        Only so much is read, from the start; None for all.

    Raises
    ------
    UsageError
        If a number is not above 0.
    """

    rate: int = 16_000
    max_seconds: float | None = 30.0

    def __post_init__(self) -> None:
        if self.rate < 1 or not (self.max_seconds is None or self.max_seconds > 0):
            raise UsageError(
                f"sound at {self.rate} samples/s for {self.max_seconds} s: both must be above 0."
            )

    def identity(self) -> dict[str, Any]:
        """Return, as JSON values, what determines the samples: for fingerprints."""
        return {**asdict(self), "media_version": VERSION}


@dataclass(frozen=True, slots=True, eq=False)
class Waveform:
    """Sound of one channel.

    Attributes
    ----------
    samples
        float32, shape ``(n,)``; full scale is -1 to 1.
    rate
        Samples a second.
    """

    samples: NDArray[np.float32]
    rate: int

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.samples) / self.rate

    @property
    def silent(self) -> bool:
        """Whether no sample is louder than the smallest step of 16-bit sound (-90 dB)."""
        return not bool((np.abs(self.samples) > 1 / 32768).any())


def check_frames(array: Any, owner: str = "frames") -> NDArray[np.uint8]:
    """Hold the contract of frames that come from elsewhere, a plugin for example.

    Parameters
    ----------
    array
        What is to be uint8 RGB, shape ``(n, height, width, 3)``.
    owner
        Whose frames they are, for the message.

    Returns
    -------
    ndarray
        The same array.

    Raises
    ------
    PluginError
        If type or shape differ: channels first, floating point, grey, no frames.
    """
    contract = "frames are uint8 RGB of shape (n, height, width, 3)"
    if not isinstance(array, np.ndarray):
        raise PluginError(
            f"{owner}: a {type(array).__name__} was given; {contract}, a NumPy array."
        )
    shape = array.shape
    # Nobody has videos three pixels wide: a 3 in second place is a channel axis.
    if array.ndim == 4 and shape[1] == 3 and shape[3] != 3:
        raise PluginError(
            f"{owner}: shape {shape} has channels first; {contract}: give "
            "array.transpose(0, 2, 3, 1)."
        )
    if array.ndim != 4 or shape[3] != 3:
        raise PluginError(f"{owner}: shape {shape}; {contract}.")
    if 0 in shape:
        raise PluginError(
            f"{owner}: shape {shape} holds no pixels; leave the modality out instead."
        )
    if array.dtype != np.uint8:
        raise PluginError(
            f"{owner}: dtype {array.dtype}; {contract}, values 0 to 255, not normalised."
        )
    return array
