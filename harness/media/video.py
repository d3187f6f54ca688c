"""Videos -> frames: chosen by real timestamps, decoded from the nearest key frame on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import PurePath
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.errors import DataError, UsageError
from harness.media.damage import DamagedMediaError, describe
from harness.media.image import read_image
from harness.media.index import FrameIndex, counted, decode, index, packets
from harness.media.sampling import choose, fitted
from harness.media.source import Window, container, opened
from harness.media.values import Frames, FrameSampling
from harness.types import Media

log = logging.getLogger("clamr_bench.media")

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
)

#: Decoders that skip frames which no other frame refers to, packet by packet, without a change to
#: the others. That takes 0.28 s instead of 0.67 s for 10 frames of 30 s of 720p H.264.
_SKIPPING = frozenset(("h264", "hevc"))

#: A gap of fewer frames is decoded through: after a seek the decoder must fill up again.
_SEEK_GAP = 8


def read_frames(
    files: Sequence[Media], sampling: FrameSampling, key_frames: Sequence[int] | None = None
) -> Frames:
    """Read the chosen frames of a video.

    They are shown as a player shows them: turned and mirrored by the file's display matrix, with
    square pixels, transparent parts on white. A frame that cannot be decoded is left out, counted
    in `Frames.lost` and named in the log; no other takes its place.

    Parameters
    ----------
    files
        One video file, or the frames of a video as images, in order.
    sampling
        Which frames, and how large.
    key_frames
        Numbers of the video's key frames, for sampling by them.

    Raises
    ------
    DamagedMediaError
        If not one frame can be had.
    UsageError
        If the sampling needs what is not there: key frames, or the times of single images.
    DataError
        If `files` are several videos, or none.
    """
    if not files:
        raise DataError("a video without files: leave the modality out of the document instead.")
    if all(PurePath(file.name).suffix.lower() in IMAGE_SUFFIXES for file in files):
        return _from_images(files, sampling, key_frames)
    if len(files) > 1:
        raise DataError(
            f"a document's video is {len(files)} files, {describe(files[0])} and on: give one "
            "video file, or its frames as images."
        )
    return _from_video(files[0], sampling, key_frames)


def _from_images(
    files: Sequence[Media], sampling: FrameSampling, key_frames: Sequence[int] | None
) -> Frames:
    if sampling.how == "fps":
        raise UsageError(
            f"{describe(files[0])}: frames given as images have no times, so they cannot be "
            "sampled by fps: choose uniform."
        )
    every = np.arange(len(files), dtype=np.int64)
    numbers, lost = choose(sampling, every, len(files), Fraction(1), key_frames)
    pictures: list[NDArray[np.uint8]] = []
    kept: list[int] = []
    failure: DamagedMediaError | None = None
    for number in numbers.tolist():
        try:
            picture = read_image(files[number])
        except DamagedMediaError as error:
            log.warning("frame left out: %s: %s", describe(error.file), error.reason)
            failure = error
            continue
        height, width = picture.shape[:2]
        size = fitted(width, height, sampling)
        if size != (width, height):
            scaled = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
            picture = np.asarray(scaled)
        if pictures and picture.shape != pictures[0].shape:
            raise DataError(
                f"{describe(files[number])} has {size[0]} x {size[1]} pixels, the frames before it "
                f"{pictures[0].shape[1]} x {pictures[0].shape[0]}: frames of a video have one size."
            )
        pictures.append(picture)
        kept.append(number)
    if not pictures:
        reason = f"of {len(files)} images, all key frames to be taken lie beyond"
        raise failure or DamagedMediaError(files[0], "no-content", reason)
    seconds = np.full(len(kept), np.nan)
    lost += len(numbers) - len(kept)
    return Frames(np.stack(pictures), seconds, np.asarray(kept, np.int64), lost)


def _from_video(file: Media, sampling: FrameSampling, key_frames: Sequence[int] | None) -> Frames:
    with opened(file) as window:
        video = _Video(file, window)
        try:
            frames = video.index
            if not len(frames.times):
                raise DamagedMediaError(file, "no-content", "its video has no frames")
            if frames.stated > len(frames.times):
                log.warning(
                    "%s: of %d frames %d can be read; the rest is cut off or never shown",
                    describe(file), frames.stated, len(frames.times),
                )  # fmt: skip
            numbers, lost = choose(sampling, frames.times, frames.end, frames.unit, key_frames)
            if not len(numbers):
                raise DamagedMediaError(
                    file,
                    "no-content",
                    f"it has {len(frames.times)} frames, and all key frames to be taken lie beyond",
                )
            pixels, kept = video.decode(numbers, sampling)
        finally:
            video.close()
        log.debug("%s: %d of %d packets decoded", describe(file), video.decoded, len(frames.times))
    lost += len(numbers) - len(kept)
    if not len(kept):
        wrong = f"none of the {lost} chosen frames can be decoded"
        raise DamagedMediaError(file, "corrupt", wrong)
    if lost:
        log.warning("%s: %d of %d chosen frames are lost", describe(file), lost, lost + len(kept))
    return Frames(pixels, frames.seconds(kept), kept, lost)


class _Video:
    """An open video file: its index, and its decoder with the position it has reached."""

    def __init__(self, file: Media, window: Window) -> None:
        self._file, self._window = file, window
        self.decoded = 0
        self._open()
        found = index(self._container, self._stream)
        if found is None:
            self._reopen()
            found = counted(self._container, self._stream)
        self.index: FrameIndex = found

    def _open(self) -> None:
        self._container = container(self._window)
        # A cover picture is a stream too.
        streams = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & av.stream.Disposition.attached_pic
        ]
        if not streams:
            self._container.close()
            raise DamagedMediaError(self._file, "no-stream", "it has no video stream")
        self._stream: Any = streams[0]
        if self._stream.codec_context is None:
            self._container.close()
            raise DamagedMediaError(
                self._file, "corrupt", "its video is coded in a way that FFmpeg cannot decode"
            )
        # Documents are decoded side by side: more threads in each would only get in the way.
        self._stream.thread_count = 1

    def close(self) -> None:
        self._container.close()

    def decode(
        self, numbers: NDArray[np.int64], sampling: FrameSampling
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the pixels of the frames `numbers`, and the numbers of those that decoded."""
        pixels = np.empty((0, 0, 0, 3), np.uint8)
        kept: list[int] = []
        picture: _Picture | None = None
        for key, group in self._groups(numbers):
            for number, frame in self._decode_group(key, group):
                if picture is None:
                    picture = _Picture(frame, self._stream.sample_aspect_ratio, sampling)
                    pixels = np.empty((len(numbers), *picture.shape), np.uint8)
                pixels[len(kept)] = picture.of(frame)
                kept.append(number)
        return pixels[: len(kept)], np.asarray(kept, np.int64)

    def _groups(self, numbers: NDArray[np.int64]) -> Iterator[tuple[int, list[int]]]:
        """Yield ``(key, numbers)``: frames decoded in one go, and the number of their key frame.

        The key is counted among the key frames; -1 is the start of the file.
        """
        group: list[int] = []
        start = -1
        for number in numbers.tolist():
            key = int(np.searchsorted(self.index.keys, number, side="right")) - 1
            if group and key >= 0 and self.index.keys[key] > group[-1] + _SEEK_GAP:
                yield start, group
                group = []
            if not group:
                start = key
            group.append(number)
        if group:
            yield start, group

    def _decode_group(self, key: int, group: list[int]) -> Iterator[tuple[int, Any]]:
        """Yield ``(number, frame)`` of those frames of the group that decode, in order."""
        times, stamped = self.index.times, self.index.stamped
        wanted = {int(times[number]): number for number in group}
        last = int(times[group[-1]])
        count = 0  # where the stream has no times, frames are told by counting
        for packet in self._packets_from(key):
            context = self._stream.codec_context
            if stamped and packet is not None and context.name in _SKIPPING:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            self.decoded += 1
            for frame in decode(self._stream, packet):
                time = frame.pts if stamped else count
                count += 1
                if time is None:
                    continue
                if time in wanted and not frame.is_corrupt:
                    yield wanted.pop(time), frame
                if time >= last:
                    return

    def _packets_from(self, key: int) -> Iterator[Any]:
        """Yield the packets from key frame `key` on, or from the start of the file."""
        if key >= 0 and self.index.stamped:
            time = int(self.index.times[self.index.keys[key]])
            start = int(self.index.key_dts[key])
            for seeks in (True, False):
                if not (self._seek(time) if seeks else self._reopen()):
                    continue
                rest = packets(self._container, self._stream)
                for packet in rest:
                    if packet is None or (packet.dts is not None and packet.dts > start):
                        break  # too far: seeking in MPEG streams is a guess
                    if packet.pts == time and packet.is_keyframe:
                        yield packet
                        yield from rest
                        return
        self._reopen()
        yield from packets(self._container, self._stream)

    def _seek(self, time: int) -> bool:
        try:
            self._container.seek(time, stream=self._stream, backward=True)
        except av.FFmpegError:
            return False
        return True

    def _reopen(self) -> bool:
        self.close()
        self._open()
        return True


class _Picture:
    """How the frames of one video become pixels; its first frame fixes their size."""

    def __init__(self, frame: Any, aspect: Fraction | None, sampling: FrameSampling) -> None:
        self._turn = _display_turn(frame)
        width, height = frame.width, frame.height
        wide, high = fitted(width, height, sampling, aspect)
        if self._turn[0] % 2:  # bounds and sizes are those of the frame as it is decoded
            self.shape = (wide, high, 3)
        else:
            self.shape = (high, wide, 3)
        self._size = wide, high

    def of(self, frame: Any) -> NDArray[np.uint8]:
        """Return the pixels as they are to be seen, uint8 ``(height, width, 3)``."""
        transparent = any(part.is_alpha for part in frame.format.components)
        kind = "rgba" if transparent else "rgb24"
        wide, high = self._size
        if (frame.width, frame.height) == self._size:
            pixels: NDArray[np.uint8] = frame.to_ndarray(format=kind)
        else:
            scaled = frame.reformat(wide, high, format=kind, interpolation="BICUBIC")
            pixels = scaled.to_ndarray()
        if transparent:
            ink, cover = pixels[..., :3].astype(np.uint16), pixels[..., 3:].astype(np.uint16)
            pixels = ((ink * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)
        quarters, mirrored = self._turn
        if mirrored:
            pixels = pixels[:, ::-1]
        return np.rot90(pixels, quarters)


def _display_turn(frame: Any) -> tuple[int, bool]:
    """Return how a frame is to be shown: mirrored left to right or not, then quarter turns.

    The display matrix (ISO/IEC 14496-12, section 8.3.2) maps a pixel (x, y), y downwards, to
    ``(a x + c y, b x + d y)``. Turns are counter-clockwise, in quarters; others are rounded.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(np.float64)
    mirrored = a * d - b * c < 0
    if mirrored:  # the mirror comes first: it turns x into -x
        a, b = -a, -b
    # The x axis goes to (a, b); with y downwards, (0, -1) is a quarter counter-clockwise.
    return round(np.degrees(np.arctan2(-b, a)) / 90) % 4, bool(mirrored)
