"""Sound -> one channel at one rate."""

from __future__ import annotations

import logging
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.media.damage import DamagedMediaError, describe
from harness.media.index import packets
from harness.media.source import container, opened
from harness.media.values import AudioSampling, Waveform
from harness.types import Media

log = logging.getLogger("clamr_bench.media")

#: Seconds read beyond the bound: the filter of the resampler reaches 20 ms ahead, so the samples
#: kept do not depend on where reading stopped.
_MARGIN = 0.1


def read_audio(file: Media, rate: int = 16_000, max_seconds: float | None = 30.0) -> Waveform:
    """Read the sound of an audio or video file.

    Decoded at its own rate, channels averaged, then resampled by soxr in its HQ quality, which is
    what librosa does. (FFmpeg's own mixing to one channel is louder by sqrt(2).) Packets that
    cannot be decoded are left out and counted in the log.

    Parameters
    ----------
    file
        m4a, mp4, wav, flac, mp3, ogg, webm, ...
    rate
        Samples a second of the result.
    max_seconds
        Only so much is read, from the start; None for all.

    Raises
    ------
    DamagedMediaError
        If the file is missing, empty or damaged, has no audio stream (kind ``no-stream``) or not
        one sample. Silence is sound and raises nothing.
    UsageError
        If a number is not above 0, or soxr is needed and not installed.
    """
    AudioSampling(rate, max_seconds)  # holds the bounds of both
    with opened(file) as window, container(window) as source:
        if not source.streams.audio:
            raise DamagedMediaError(file, "no-stream", "it has no audio stream")
        stream = source.streams.audio[0]
        if stream.codec_context is None:
            raise DamagedMediaError(
                file, "corrupt", "its sound is coded in a way that FFmpeg cannot decode"
            )
        stream.thread_count = 1
        samples, native, damaged = _decode(source, stream, max_seconds)
    if damaged:
        log.warning("%s: %d packets of sound are damaged and left out", describe(file), damaged)
    if not len(samples):
        wrong = "its sound cannot be decoded" if damaged else "its sound has no samples"
        raise DamagedMediaError(file, "corrupt" if damaged else "no-content", wrong)
    if not np.isfinite(samples).all():
        raise DamagedMediaError(file, "corrupt", "its sound has samples that are not numbers")
    samples = _resample(samples, native, rate)
    if max_seconds is not None:
        samples = samples[: max(1, round(max_seconds * rate))]
    return Waveform(np.ascontiguousarray(samples, np.float32), rate)


def has_sound(file: Media) -> bool:
    """Whether a file has a stream of sound, or cannot be opened, which shows when it is read."""
    try:
        with opened(file) as window, container(window) as source:
            return bool(source.streams.audio)
    except DamagedMediaError:
        return True


def _decode(
    source: Any, stream: Any, max_seconds: float | None
) -> tuple[NDArray[np.float32], int, int]:
    """Return mono samples, their rate and the number of damaged packets."""
    parts: list[NDArray[np.float32]] = []
    rate = length = damaged = 0
    for packet in packets(source, stream):
        try:
            frames = stream.decode(packet)
        except av.FFmpegError:
            damaged += 1
            continue
        for frame in frames:
            rate = rate or frame.sample_rate
            part = mono(frame)
            if frame.sample_rate != rate:  # a broadcast may change it midway
                part = _resample(part, frame.sample_rate, rate)
            parts.append(part)
            length += len(part)
        if max_seconds is not None and length > (max_seconds + _MARGIN) * rate > 0:
            break
    samples = np.concatenate(parts) if parts else np.empty(0, np.float32)
    return samples, rate, damaged


def mono(frame: Any) -> NDArray[np.float32]:
    """Return the mean of a frame's channels, float32 ``(samples,)``, full scale -1 to 1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    mixed = samples.mean(axis=0, dtype=np.float64)
    if samples.dtype.kind in "iu":
        full = 2.0 ** (8 * samples.dtype.itemsize - 1)
        mixed = mixed / full - (samples.dtype.kind == "u")
    return np.asarray(mixed, np.float32)


def _resample(samples: NDArray[np.float32], rate: int, to: int) -> NDArray[np.float32]:
    if rate == to:
        return samples
    try:
        import soxr
    except ModuleNotFoundError:
        raise UsageError(
            f"sound at {rate} samples/s is to be resampled to {to}, and soxr is not installed: "
            "pip install 'clamr-bench[models]'."
        ) from None
    resampled: NDArray[np.float32] = soxr.resample(samples, rate, to, "HQ")
    return resampled
