"""Media made for tests, with contents that tell which frame or tone one has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from harness.types import Media

Array = NDArray[np.uint8]


def media(path: Path) -> Media:
    return Media(path, path.name, path.stat().st_size if path.exists() else 1)


def shade(number: int) -> int:
    """The brightness that tells a frame's number; neighbours differ by 10 at least."""
    return 20 + (number * 67) % 211


def plain(count: int, width: int = 64, height: int = 48) -> list[Array]:
    return [np.full((height, width, 3), shade(i), np.uint8) for i in range(count)]


def write_video(
    path: Path,
    frames: Sequence[Array],
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    rate: int = 25,
    times: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    turn: float | None = None,
    mirror: bool = False,
    kind: str = "rgb24",
    options: Mapping[str, str] | None = None,
) -> Path:
    """Encode `frames`; `times` are milliseconds of a variable frame rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if turn is not None or mirror:
            stream.set_display_rotation(turn or 0, hflip=mirror)
        for number, pixel in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixel, format=kind)
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(
    path: Path, channels: NDArray[np.float32], rate: int, codec: str, kind: str, layout: str
) -> Path:
    """Encode float samples, shape ``(channels, n)``, in the sample format `kind`."""
    whole = {"s16": np.int16, "s32": np.int32, "u8": np.uint8}
    samples: NDArray[np.generic] = channels
    if kind in whole:
        bits = 8 * np.dtype(whole[kind]).itemsize
        samples = np.round(channels.astype(np.float64) * (2.0 ** (bits - 1) - 1))
        samples = (samples + 128 * (kind == "u8")).astype(whole[kind])
    if not kind.endswith("p"):
        samples = np.ascontiguousarray(samples.T).reshape(1, -1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(samples, format=kind, layout=layout)
        frame.sample_rate = rate
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sine(frequency: float, rate: int, seconds: float, level: float = 0.5) -> NDArray[np.float32]:
    moments = np.arange(round(rate * seconds)) / rate
    return (level * np.sin(2 * np.pi * frequency * moments)).astype(np.float32)
