"""Damaged files: a named reason or the frames that are good, never another error, never a hang."""

from __future__ import annotations

import io
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.media import DamagedMediaError, FrameSampling, read_audio, read_frames
from harness.media.source import Window
from harness.types import Media
from tests.media_files import media, plain, shade, sine, write_sound, write_video


def refused(path: Path) -> DamagedMediaError:
    with pytest.raises(DamagedMediaError) as caught:
        read_frames([media(path)], FrameSampling())
    assert str(path) in str(caught.value)
    assert "--on-damaged" in str(caught.value)
    return caught.value


def test_every_kind_has_its_word(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    assert refused(path).kind == "missing"
    path.write_bytes(b"")
    assert refused(path).kind == "empty"
    path.write_text("This is not a video.\n" * 100)
    assert refused(path).kind == "corrupt"
    path.write_bytes(bytes(10_000))
    assert refused(path).kind == "corrupt"
    write_sound(path, sine(440, 16_000, 1)[None], 16_000, "aac", "fltp", "mono")
    assert refused(path).kind == "no-stream"
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    assert refused(folder).kind == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", plain(2))
    path.chmod(0)
    assert refused(path).kind == "unreadable"


def test_an_error_travels_between_processes(tmp_path: Path) -> None:
    error = refused(tmp_path / "v.mp4")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(again), again.kind, again.file) == (str(error), error.kind, error.file)


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\n{}\n", "ffconcat version 1.0\nfile '{}'\n"])
def test_a_playlist_leads_nowhere(tmp_path: Path, text: str) -> None:
    """Such a file named mp4 could make FFmpeg read other files, or the network."""
    video = write_video(tmp_path / "v.ts", plain(3))
    (tmp_path / "list.mp4").write_text(text.format(video))
    assert refused(tmp_path / "list.mp4").kind == "corrupt"


def test_the_index_is_cut_off(tmp_path: Path) -> None:
    """An mp4 has its index at the end: without it there is nothing."""
    path = write_video(tmp_path / "v.mp4", plain(30))
    path.write_bytes(path.read_bytes()[:-500])
    assert refused(path).kind == "corrupt"


def test_a_file_cut_short_gives_what_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), np.uint8)
    path = write_video(tmp_path / "v.mp4", list(noise), options={"g": "5", "movflags": "faststart"})
    path = faststart(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    frames = read_frames([media(path)], FrameSampling(count=4))
    assert 0 < frames.numbers.max() < 40
    assert "of 60 frames" in caplog.text


def faststart(path: Path) -> Path:
    """Write the file again with its index in front."""
    import av

    front = path.with_name("front.mp4")
    with (
        av.open(str(path)) as source,
        av.open(str(front), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return front


def test_garbage_in_the_middle_costs_only_what_it_hits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    drawn = plain(60, 64, 64)
    path = write_video(tmp_path / "v.mkv", drawn, "ffv1", "bgr0", options={"slicecrc": "1"})
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : third + 400] = np.random.default_rng(0).bytes(400)
    path.write_bytes(content)
    frames = read_frames([media(path)], FrameSampling(count=100))
    assert 0 < len(frames) < 60
    assert len(frames.pixels) == len(frames.numbers) == len(frames.seconds)
    assert len(set(frames.numbers.tolist())) == len(frames)  # none stands in for another
    # The start, before the garbage, is whole.
    for pixels, number in list(zip(frames.pixels, frames.numbers.tolist(), strict=True))[:10]:
        assert (pixels == shade(number)).all()
    assert frames.lost == 0 or "lost" in caplog.text


SMALL = {
    "mp4": ("libx264", {"g": "6"}),
    "webm": ("libvpx-vp9", {"g": "6"}),
    "avi": ("mpeg4", {"g": "6"}),
    "ts": ("mpeg2video", {"g": "6"}),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("suffix", SMALL)
def test_flipped_bits_give_frames_or_damage(tmp_path: Path, suffix: str) -> None:
    codec, options = SMALL[suffix]
    path = write_video(tmp_path / f"v.{suffix}", plain(16), codec, options=options)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    outcomes = {"frames": 0, "damage": 0}
    positions = np.linspace(0, len(content) - 1, 200).astype(int)
    for position in positions.tolist():
        broken = bytearray(content)
        broken[position] ^= 1 << random.integers(8)
        path.write_bytes(broken)
        try:
            frames = read_frames([media(path)], FrameSampling(count=6))
        except DamagedMediaError:
            outcomes["damage"] += 1
            continue
        outcomes["frames"] += 1
        assert frames.pixels.ndim == 4
        assert 1 <= len(frames) == len(frames.numbers) == len(frames.seconds)
        assert len(frames) + frames.lost <= 16
        assert (np.diff(frames.numbers) > 0).all()
        assert np.isfinite(frames.seconds).all()
    assert outcomes["frames"] > 20


@pytest.mark.timeout(120)
def test_files_cut_anywhere(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", plain(16))
    content = path.read_bytes()
    assert content.index(b"moov") > content.index(b"mdat")
    for length in np.linspace(1, content.index(b"moov") + 200, 100).astype(int).tolist():
        path.write_bytes(content[:length])
        # The index comes last, so that nothing can be read.
        assert refused(path).kind in ("corrupt", "no-stream", "no-content")


def test_flipped_bits_of_sound(tmp_path: Path) -> None:
    path = write_sound(
        tmp_path / "v.m4a", sine(440, 48_000, 1)[None], 48_000, "aac", "fltp", "mono"
    )
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for position in np.linspace(0, len(content) - 1, 200).astype(int).tolist():
        broken = bytearray(content)
        broken[position] ^= 1 << random.integers(8)
        path.write_bytes(broken)
        try:
            heard = read_audio(media(path))
        except DamagedMediaError:
            continue
        assert len(heard.samples)
        assert np.isfinite(heard.samples).all()


READS = st.lists(
    st.tuples(st.integers(-40, 80), st.sampled_from([0, 1, 2]), st.integers(0, 50)), max_size=20
)


@settings(max_examples=60)
@given(st.binary(max_size=40), st.integers(0, 50), st.none() | st.integers(0, 50), READS)
def test_a_window_is_a_file_of_its_own(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    start: int,
    size: int | None,
    reads: list[tuple[int, int, int]],
) -> None:
    path = tmp_path_factory.getbasetemp() / "window.bin"
    path.write_bytes(content)
    part = content[start:] if size is None else content[start : start + size]
    model = io.BytesIO(part)
    with Window(path, start, size) as window:
        assert len(window) == len(part)
        for offset, whence, count in reads:
            position = (0, model.tell(), len(part))[whence] + offset
            if position < 0:
                with pytest.raises(ValueError, match="before the start"):
                    window.seek(offset, whence)
                continue
            assert window.seek(offset, whence) == position
            model.seek(position)
            assert window.read(count) == model.read(count)
            assert window.tell() == model.tell()


def test_a_tar_that_ends_before_its_member(tmp_path: Path) -> None:
    (tmp_path / "shard.tar").write_bytes(bytes(512))
    with pytest.raises(DamagedMediaError, match="empty"):
        read_frames([Media(tmp_path / "shard.tar", "v.mp4", 900, 1024)], FrameSampling())
