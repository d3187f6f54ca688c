"""Frames and sound -> mp4 and m4a files, as bytes."""

from __future__ import annotations

import io
from typing import Any

import av

from harness.errors import DataError
from tasks.sample.render import FRAMES_PER_SECOND, SAMPLE_RATE, SIZE, Frames, Sound

#: Files are filled up to a multiple of this many bytes. Their size is part of the data
#: fingerprint and would differ between FFmpeg builds; this way the same seed gives the same
#: fingerprint everywhere. Of the default 700 videos the largest mp4 has 21,844 bytes, the
#: largest m4a 15,626.
BLOCK = 32 * 1024

#: One thread: starting more takes longer than eight small frames do. Left to itself x264 does what
#: is quickest on a processor; with AVX-512 one video in ten came out otherwise the next time.
_H264 = {
    "preset": "veryfast",
    "crf": "24",
    "threads": "1",
    "x264-params": "cpu-independent=1",
}


def encode(frames: Frames, sound: Sound) -> tuple[bytes, bytes]:
    """Encode a video: H.264 with AAC sound in an mp4, and the same sound alone in an m4a.

    Raises
    ------
    DataError
        If this FFmpeg has no encoder for them.
    """
    alone = _m4a(sound)
    return padded(_mp4(frames, alone), BLOCK), padded(alone, BLOCK)


def padded(content: bytes, block: int) -> bytes:
    """Fill an MP4 file up to a multiple of `block` bytes with a ``free`` box.

    The format is that of ISO/IEC 14496-12, section 8.1.2: players skip such a box.
    """
    room = -len(content) % block
    if 0 < room < 8:  # a box has a header of 8 bytes
        room += block
    return content + (room.to_bytes(4, "big") + b"free").ljust(room, b"\0")[:room]


def _m4a(sound: Sound) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ipod") as container:
        # The fast coder takes half the time of the default one.
        options = {"b": "32000", "aac_coder": "fast"}
        stream = _stream(container, "aac", SAMPLE_RATE, options)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _mp4(frames: Frames, m4a: bytes) -> bytes:
    buffer = io.BytesIO()
    with (
        av.open(buffer, "w", format="mp4") as container,
        av.open(io.BytesIO(m4a)) as sound,
    ):
        video = _stream(container, "libx264", FRAMES_PER_SECOND, _H264)
        video.width = video.height = SIZE
        video.pix_fmt = "yuv420p"
        # The packets are copied: encoding the sound twice takes as long as the video.
        audio = container.add_stream_from_template(sound.streams.audio[0])
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
        for packet in sound.demux(sound.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = audio
                container.mux(packet)
    return buffer.getvalue()


def _stream(container: Any, codec: str, rate: int, options: dict[str, str]) -> Any:
    try:
        return container.add_stream(codec, rate=rate, options=options)
    except av.codec.codec.UnknownCodecError:
        raise DataError(
            f"PyAV {av.__version__} has no encoder {codec!r}, which the sample's videos need: "
            "install the wheel from PyPI (pip install --force-reinstall av)."
        ) from None
