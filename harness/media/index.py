"""The frames of a video stream by their timestamps, without decoding one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

#: Frames a second of a stream that states neither times nor a rate.
_RATE = Fraction(25)


@dataclass(frozen=True, slots=True, eq=False)
class FrameIndex:
    """When each frame of a stream is shown.

    Attributes
    ----------
    times
        int64, shape ``(n,)``, strictly increasing: timestamps in units of `unit`.
    keys
        int64, strictly increasing: numbers of the frames at which decoding can start.
    key_dts
        int64: the decoding timestamps of `keys`, by which the file is ordered.
    end
        When the last frame goes.
    unit
        Seconds of one unit.
    origin
        Seconds at which the file starts; times are counted from there.
    stamped
        Whether `times` are the stream's own. Otherwise they count frames, and only decoding from
        the start finds one: so in raw streams, and in AVI files, which state no order of display.
    stated
        Frames that the file says it has; 0 if it does not say.
    """

    times: NDArray[np.int64]
    keys: NDArray[np.int64]
    key_dts: NDArray[np.int64]
    end: int
    unit: Fraction
    origin: float
    stamped: bool
    stated: int

    def seconds(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return when the frames of these numbers are shown, in seconds, float64."""
        unit = self.unit
        shown: NDArray[np.float64] = self.times[numbers] * unit.numerator / unit.denominator
        # The origin is rounded to microseconds: a first frame at -0.0000003 s starts at 0.
        return np.where(np.abs(shown - self.origin) < 1e-6, 0.0, shown - self.origin)


def packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of `stream` up to the end, or to where the file cannot be read further.

    The last one is always the empty packet that draws out what the decoder still holds.
    """
    last = None
    try:
        for last in container.demux(stream):
            yield last
    except av.FFmpegError:
        # What follows is lost; what came before is good. The index counts what is there.
        pass
    if last is None or last.size:
        yield None


def index(container: Any, stream: Any) -> FrameIndex | None:
    """Read the stream once, without decoding, and note the time of each frame.

    Returns
    -------
    FrameIndex
        None if the file states no times, or none to rely on: then `counted` makes it.
    """
    if "avi" in container.format.name.split(","):
        return None
    times: list[int] = []
    keys: dict[int, int] = {}
    last_time, last_duration = -1, 0
    for packet in packets(container, stream):
        # An edit list marks frames that are decoded but never shown.
        if packet is None or not packet.size or packet.is_discard:
            continue
        time = packet.pts
        if time is None:
            return None
        times.append(time)
        if packet.is_keyframe:
            keys[time] = time if packet.dts is None else packet.dts
        if time >= last_time:
            last_time, last_duration = time, packet.duration or 0
    shown = np.unique(np.asarray(times, np.int64))
    starts = np.asarray(sorted(keys), np.int64)
    step = last_duration or max(1, round(1 / _rate(stream) / stream.time_base))
    return FrameIndex(
        times=shown,
        keys=np.searchsorted(shown, starts),
        key_dts=np.asarray([keys[time] for time in starts.tolist()], np.int64),
        end=int(shown[-1]) + step if len(shown) else 0,
        unit=stream.time_base,
        origin=max(0.0, (container.start_time or 0) / 1e6),
        stamped=True,
        stated=stream.frames or 0,
    )


def decode(stream: Any, packet: Any) -> list[Any]:
    """Return the frames that a packet brings forth; none if it is damaged."""
    try:
        frames: list[Any] = stream.decode(packet)
        return frames
    except av.FFmpegError:
        return []


def counted(container: Any, stream: Any) -> FrameIndex:
    """Return the index of a stream without times: its frames, counted by decoding them all."""
    count = sum(len(decode(stream, packet)) for packet in packets(container, stream))
    numbers = np.arange(count, dtype=np.int64)
    unit = 1 / _rate(stream)
    return FrameIndex(numbers, numbers[:1], numbers[:1], count, unit, 0.0, False, 0)


def _rate(stream: Any) -> Fraction:
    """Return the frames a second of a stream, as far as it says."""
    return stream.average_rate or stream.guessed_rate or _RATE
