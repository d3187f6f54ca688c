"""Sound to mel features and their number of tokens."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

RATE = 16_000
HOP = 160
WINDOW = 400
FRAMES_A_SECOND = RATE / HOP


class Mel:
    """Log-mel features of Whisper (arXiv 2212.04356, section 2.2), as Qwen2.5-Omni was trained on.

    Parameters
    ----------
    bins
        Mel bins: 128 for Qwen2.5-Omni.
    """

    def __init__(self, bins: int) -> None:
        self._extract = WhisperFeatureExtractor(  # type: ignore[no-untyped-call]
            feature_size=bins, sampling_rate=RATE, hop_length=HOP, n_fft=WINDOW
        )

    def __call__(self, sound: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 ``(bins, ceil(samples / 160))`` of float32 samples at 16 kHz.

        The sound is followed by silence before the transform, as in the stock processor, which
        pads to 300 s: a window's length of it gives the same features.
        """
        frames = -(-len(sound) // HOP)
        silence = np.zeros((frames + 1) * HOP + WINDOW - len(sound), np.float32)
        padded = np.concatenate([sound.astype(np.float32, copy=False), silence])
        # In training the model computes in bfloat16, which features are never made in.
        with torch.autocast("cpu", enabled=False):
            features = self._extract(
                padded,
                sampling_rate=RATE,
                padding="do_not_pad",
                truncation=False,
                return_tensors="np",
            )["input_features"][0]
        return np.ascontiguousarray(features[:, :frames], np.float32)


def sound_tokens(frames: int) -> int:
    """Return how many tokens the audio tower makes of mel frames: one for each 4, or 40 ms.

    A convolution of stride 2 is followed by mean pooling of pairs. Less than 3 frames make none.
    """
    return max(0, ((frames - 1) // 2 + 1 - 2) // 2 + 1)


def token_seconds(frames: int) -> list[tuple[float, float]]:
    """Return the range of seconds of each token of `frames` mel frames."""
    count = sound_tokens(frames)
    ranges = [(4 * i / FRAMES_A_SECOND, 4 * (i + 1) / FRAMES_A_SECOND) for i in range(count)]
    if ranges:
        # The last token takes in what is left, up to 3 frames.
        ranges[-1] = (ranges[-1][0], frames / FRAMES_A_SECOND)
    return ranges
