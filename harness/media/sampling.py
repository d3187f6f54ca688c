"""Which frames are taken: arithmetic on numbers and timestamps, exact in integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.media.values import FrameSampling


def choose(
    sampling: FrameSampling,
    times: NDArray[np.int64],
    end: int,
    unit: Fraction,
    key_frames: Sequence[int] | None = None,
) -> tuple[NDArray[np.int64], int]:
    """Choose frames by their times.

    Parameters
    ----------
    sampling
        How.
    times
        int64, shape ``(n,)``, n > 0: when each frame is first shown, strictly increasing.
    end
        When the last frame goes, in the same unit.
    unit
        Seconds of one unit of time.
    key_frames
        Numbers of the video's key frames.

    Returns
    -------
    numbers
        int64, strictly increasing: indices into `times`.
    beyond
        How many of the chosen key frames lie beyond the last frame.

    Raises
    ------
    UsageError
        If key frames are to be taken and `key_frames` is None, empty or has a negative number.
    """
    if sampling.how == "key_frames":
        wanted = _key_frames(sampling.count, key_frames)
        inside = wanted[wanted < len(times)]
        return inside, len(wanted) - len(inside)
    if sampling.how == "fps":
        return _every(sampling.count, 1 / Fraction(sampling.fps or 1), times, end, unit), 0
    return _middles(sampling.count, times, end), 0


def fitted(
    width: int, height: int, sampling: FrameSampling, aspect: Fraction | None = None
) -> tuple[int, int]:
    """Return the width and height of a frame as it is shown, scaled down to the bounds.

    Parameters
    ----------
    width, height
        As decoded.
    sampling
        Holds the bounds.
    aspect
        Width of a pixel by its height; None or 0 where unknown: square.
    """
    shown = width * (aspect or 1)
    scale = 1.0
    if sampling.max_side is not None:
        scale = min(scale, sampling.max_side / float(max(shown, height)))
    if sampling.max_pixels is not None:
        scale = min(scale, math.sqrt(sampling.max_pixels / float(shown * height)))
    if scale == 1.0:
        return max(1, round(shown)), height
    # Rounded down, so that the bounds hold; the tiny addend undoes 223.99999 for 224.
    wide, high = (max(1, int(side * scale + 1e-9)) for side in (float(shown), height))
    # A strip may have been lifted to one pixel: then its other side must give way.
    if sampling.max_pixels is not None:
        wide, high = min(wide, sampling.max_pixels // high), min(high, sampling.max_pixels // wide)
    return max(1, wide), max(1, high)


def _middles(count: int, times: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    """Return the frames shown at the middle of `count` equal parts; all if there are no more."""
    if count >= len(times):
        return np.arange(len(times))
    start = int(times[0])
    # In Python's integers: timestamps in nanoseconds times 2 * count may pass 2 ** 63.
    middles = [start + ((2 * i + 1) * (end - start)) // (2 * count) for i in range(count)]
    return _shown_at(middles, times)


def _every(
    count: int, step: Fraction, times: NDArray[np.int64], end: int, unit: Fraction
) -> NDArray[np.int64]:
    """Return the frames shown every `step` seconds from the first one on."""
    start = int(times[0])
    ticks = step / unit
    moments = []
    for i in range(count):
        moment = start + math.floor(i * ticks)
        if moment >= end:
            break
        moments.append(moment)
    return _shown_at(moments, times)


def _shown_at(moments: Sequence[int], times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of the frames on screen at `moments`, each once."""
    found = np.searchsorted(times, np.asarray(moments, np.int64), side="right") - 1
    return np.unique(np.maximum(found, 0)).astype(np.int64)


def _key_frames(count: int, key_frames: Sequence[int] | None) -> NDArray[np.int64]:
    if key_frames is None or not len(key_frames):
        raise UsageError(
            "frames are to be taken by key frames, but this video's numbers are not given: choose "
            "uniform or fps sampling, or give them."
        )
    numbers = np.unique(np.asarray(key_frames, np.int64))
    if numbers[0] < 0:
        raise UsageError(f"key frame {numbers[0]}: frame numbers start at 0.")
    if len(numbers) > count:
        numbers = numbers[(2 * np.arange(count) + 1) * len(numbers) // (2 * count)]
    return numbers
