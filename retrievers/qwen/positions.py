"""Rotary positions of text, frames and sound (M-RoPE), independent of the version of transformers.

Text and sound advance by one on all three axes. The tokens of a video share a start and differ by
time, row and column; what follows goes on after the largest position used. That is the rule under
which the published models were trained. transformers changed it for Qwen2.5-VL between 5.0 and 5.3
(text then goes on half a grid later), which moves every token after a video.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def positions_of(
    length: int,
    video: tuple[int, tuple[int, int, int]] | None,
    merge: int,
    step: int,
) -> NDArray[np.int64]:
    """Return the positions of a sequence with at most one video.

    Parameters
    ----------
    length
        Tokens of the sequence.
    video
        Index of the first video token, and ``(t, h, w)`` in patches; None without a video.
    merge
        Patches a side that become one token.
    step
        Positions between two temporal patches: 2 for Qwen2.5-VL, 25 for Qwen2.5-Omni. Both are
        for patches one second apart, which is what the reference assumes of any video.

    Returns
    -------
    NDArray
        int64, shape ``(3, length)``: time, row and column.
    """
    if video is None:
        return np.tile(np.arange(length), (3, 1))
    first, (times, height, width) = video
    rows, columns = height // merge, width // merge
    grid = np.indices((times, rows, columns)).reshape(3, -1)
    grid[0] *= step
    frames = grid + first
    rest = length - first - frames.shape[1]
    after = np.arange(rest) + frames.max() + 1
    parts = [np.tile(np.arange(first), (3, 1)), frames, np.tile(after, (3, 1))]
    return np.concatenate(parts, axis=1)
