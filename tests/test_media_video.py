"""Frames: the right ones, at their real times, as a player shows them, and no more decoded."""

from __future__ import annotations

import hashlib
import logging
import re
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from harness.errors import DataError, UsageError
from harness.media import VERSION, DamagedMediaError, FrameSampling, read_frames
from harness.types import Media
from tests.media_files import Array, media, plain, shade, write_video

COUNT = 60
GROUPS = {"g": "12", "bf": "3"}
TWO_PASS = {**GROUPS, "auto-alt-ref": "1", "lag-in-frames": "16"}

#: file name, codec, pixel format, options: containers and codecs that order and time frames each
#: in another way.
KINDS = [
    ("h264.mp4", "libx264", "yuv420p", GROUPS),
    ("open-groups.mp4", "libx264", "yuv420p", {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
    ("h264.mkv", "libx264", "yuv420p", GROUPS),
    ("h264.ts", "libx264", "yuv420p", GROUPS),
    ("h264.avi", "libx264", "yuv420p", GROUPS),
    ("bare.h264", "libx264", "yuv420p", GROUPS),
    ("hevc10.mp4", "libx265", "yuv420p10le", {"x265-params": "keyint=12:log-level=none"}),
    ("vp8.webm", "libvpx", "yuv420p", TWO_PASS),
    ("vp9.webm", "libvpx-vp9", "yuv420p", TWO_PASS),
    ("mpeg2.mpg", "mpeg2video", "yuv420p", {"g": "12", "bf": "2"}),
    ("mpeg4.avi", "mpeg4", "yuv420p", {"g": "12", "bf": "2"}),
    ("grey.mkv", "ffv1", "gray", {}),
    ("grey16.mkv", "ffv1", "gray16le", {}),
    ("lossless.mkv", "ffv1", "bgr0", {}),
    ("moving.gif", "gif", "rgb8", {}),
]


def brightness(pixels: Array) -> np.ndarray:
    return pixels.reshape(len(pixels), -1).mean(1)


def decoded_packets(caplog: pytest.LogCaptureFixture) -> int:
    (found,) = re.findall(r"(\d+) of \d+ packets decoded", caplog.text)
    return int(found)


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options"), KINDS, ids=[kind[0] for kind in KINDS]
)
def test_the_frames_asked_for_come_back(
    tmp_path: Path, name: str, codec: str, pixels: str, options: dict[str, str]
) -> None:
    path = write_video(tmp_path / name, plain(COUNT, 66, 50), codec, pixels, options=options)
    seen = [
        ("uniform", FrameSampling(count=7), None, [4, 12, 21, 30, 38, 47, 55]),
        ("all", FrameSampling(count=COUNT + 1), None, list(range(COUNT))),
        ("key frames", FrameSampling("key_frames", 9), [59, 0, 1, 35, 36], [0, 1, 35, 36, 59]),
        ("fps", FrameSampling("fps", 3, fps=1.0), None, [0, 25, 50]),
    ]
    if name.endswith(".gif"):
        seen = seen[:3]  # a gif counts hundredths of a second
    # The independent expectation is the brightness that was drawn; lossy colour is near it.
    tolerance = 20 if name.endswith(".gif") else 8
    for what, sampling, keys, numbers in seen:
        frames = read_frames([media(path)], sampling, keys)
        assert frames.numbers.tolist() == numbers, what
        assert frames.lost == 0
        assert frames.pixels.shape == (len(numbers), 50, 66, 3)
        assert frames.pixels.dtype == np.uint8
        expected = np.array([shade(number) for number in numbers])
        assert np.abs(brightness(frames.pixels) - expected).max() <= tolerance, what
        np.testing.assert_allclose(frames.seconds, frames.numbers / 25, atol=2e-3)


def test_seeking_changes_no_pixel(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    drawn = [np.roll(noise, 2 * i, 1) for i in range(COUNT)]
    path = write_video(tmp_path / "v.mp4", drawn, options={**GROUPS, "b-pyramid": "normal"})
    with av.open(str(path)) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for keys in ([5], [13, 59], [0, 23, 24, 25, 47]):
        frames = read_frames([media(path)], FrameSampling("key_frames"), keys)
        np.testing.assert_array_equal(frames.pixels, np.stack([every[key] for key in keys]))


def test_uneven_times_are_the_real_ones(tmp_path: Path) -> None:
    times = [0, 10, 20, 30, 3000, 3500, 9000, 9001]
    path = write_video(tmp_path / "v.mkv", plain(8), times=times)
    frames = read_frames([media(path)], FrameSampling(count=3))
    # Middles of three parts of 9 s: 1.5, 4.5 and 7.5 s. A slide that stands is taken once.
    assert frames.numbers.tolist() == [3, 5]
    np.testing.assert_allclose(frames.seconds, [0.03, 3.5])
    assert np.abs(brightness(frames.pixels) - [shade(3), shade(5)]).max() <= 4


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_two_hours_are_not_decoded(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / f"long.{suffix}"
    options = {"g": "30", "preset": "ultrafast"}
    write_video(path, plain(7200, 16, 16), rate=1, options=options)
    frames = read_frames([media(path)], FrameSampling(count=10))
    assert frames.numbers.tolist() == [360 + 720 * i for i in range(10)]
    np.testing.assert_allclose(frames.seconds, frames.numbers, atol=1e-3)
    expected = [shade(number) for number in frames.numbers]
    assert np.abs(brightness(frames.pixels) - expected).max() <= 4
    # At most a group of pictures and what the decoder holds back for each of the ten.
    assert decoded_packets(caplog) <= 10 * (30 + 3)


def test_the_tail_is_not_decoded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = write_video(tmp_path / "v.mp4", plain(200), options={"g": "250"})
    read_frames([media(path)], FrameSampling("fps", 2, fps=25.0))
    assert decoded_packets(caplog) < 60


QUADRANTS = np.zeros((48, 64, 3), np.uint8)
QUADRANTS[:24, :32], QUADRANTS[:24, 32:] = 40, 90
QUADRANTS[24:, :32], QUADRANTS[24:, 32:] = 140, 190


def corners(picture: Array) -> list[int]:
    """Top left, top right, bottom left, bottom right, as multiples of 50 from 40 on."""
    height, width = picture.shape[:2]
    points = ((y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4))
    return [round((int(picture[point].mean()) - 40) / 50) for point in points]


@pytest.mark.parametrize(
    ("turn", "mirror", "expected"),
    [
        # Counter-clockwise: what was top right comes to the top left.
        (90, False, [1, 3, 0, 2]),
        (180, False, [3, 2, 1, 0]),
        (270, False, [2, 0, 3, 1]),
        (-90, False, [2, 0, 3, 1]),
        (0, True, [1, 0, 3, 2]),
        (180, True, [2, 3, 0, 1]),
        # Turned first, then mirrored left to right, as FFmpeg writes the matrix.
        (90, True, [3, 1, 2, 0]),
        (270, True, [0, 2, 1, 3]),
    ],
)
def test_the_display_matrix_is_applied(
    tmp_path: Path, turn: float, mirror: bool, expected: list[int]
) -> None:
    path = write_video(tmp_path / "v.mp4", [QUADRANTS] * 3, turn=turn, mirror=mirror)
    sideways = turn in (90, 270, -90)
    for bounds, size in (({}, (64, 48)), ({"max_side": 32}, (32, 24))):
        frames = read_frames([media(path)], FrameSampling(**bounds))
        assert frames.pixels.shape[1:3] == (size if sideways else size[::-1])
        assert corners(frames.pixels[1]) == expected


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [QUADRANTS] * 2, aspect=Fraction(2))
    frames = read_frames([media(path)], FrameSampling())
    assert frames.pixels.shape == (2, 48, 128, 3)
    assert corners(frames.pixels[0]) == [0, 1, 2, 3]


def test_scaled_while_decoding(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [QUADRANTS] * 2)
    frames = read_frames([media(path)], FrameSampling(max_pixels=12 * 16))
    assert frames.pixels.shape == (2, 12, 16, 3)
    assert corners(frames.pixels[0]) == [0, 1, 2, 3]


def test_odd_sizes(tmp_path: Path) -> None:
    drawn = plain(3, 33, 21)
    path = write_video(tmp_path / "v.mkv", drawn, "ffv1", "bgr0")
    frames = read_frames([media(path)], FrameSampling())
    np.testing.assert_array_equal(frames.pixels, np.stack(drawn))


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    clear = np.full((16, 16, 4), 60, np.uint8)
    clear[:8, :, 3], clear[8:, :, 3] = 0, 255
    path = write_video(tmp_path / "v.mov", [clear] * 2, "qtrle", "argb", kind="rgba")
    frames = read_frames([media(path)], FrameSampling())
    assert (frames.pixels[0, :8] == 255).all()
    assert (frames.pixels[0, 8:] == 60).all()


def test_one_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", plain(1))
    for sampling in (FrameSampling(count=10), FrameSampling("fps", 10, fps=50.0)):
        frames = read_frames([media(path)], sampling)
        assert (len(frames), frames.seconds.tolist(), frames.numbers.tolist()) == (1, [0.0], [0])


def test_a_member_of_a_tar(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", plain(20))
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(__file__, "first.txt")
        tar.add(path, "v.mp4")
        tar.add(__file__, "last.txt")
    with tarfile.open(tmp_path / "shard.tar") as tar:
        member = tar.getmember("v.mp4")
    inside = Media(tmp_path / "shard.tar", "v.mp4", member.size, member.offset_data)
    alone = read_frames([media(path)], FrameSampling(count=4))
    np.testing.assert_array_equal(
        read_frames([inside], FrameSampling(count=4)).pixels, alone.pixels
    )
    with pytest.raises(DamagedMediaError, match=r"shard\.tar \(member v\.mp4\)"):
        read_frames([Media(inside.path, "v.mp4", 700, member.offset_data)], FrameSampling())


def write_images(folder: Path, count: int) -> list[Media]:
    for i, picture in enumerate(plain(count)):
        Image.fromarray(picture).save(folder / f"{i}.png")
    return [media(folder / f"{i}.png") for i in range(count)]


def test_frames_as_images(tmp_path: Path) -> None:
    files = write_images(tmp_path, 9)
    frames = read_frames(files, FrameSampling(count=3, max_side=32))
    assert frames.numbers.tolist() == [1, 4, 7]
    assert frames.pixels.shape == (3, 24, 32, 3)
    assert brightness(frames.pixels).tolist() == [shade(1), shade(4), shade(7)]
    assert np.isnan(frames.seconds).all()
    with pytest.raises(UsageError, match="no times"):
        read_frames(files, FrameSampling("fps", fps=1.0))


def test_a_damaged_image_among_the_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write_images(tmp_path, 3)
    files[1].path.write_bytes(b"not an image")
    frames = read_frames(files, FrameSampling())
    assert (frames.numbers.tolist(), frames.lost) == ([0, 2], 1)
    assert "1.png" in caplog.text
    for file in files:
        file.path.write_bytes(b"not an image")
    with pytest.raises(DamagedMediaError):
        read_frames(files, FrameSampling())


def test_lists_of_files_that_are_no_video(tmp_path: Path) -> None:
    files = write_images(tmp_path, 2)
    Image.new("RGB", (5, 5)).save(files[1].path)
    with pytest.raises(DataError, match="one size"):
        read_frames(files, FrameSampling())
    video = media(write_video(tmp_path / "v.mp4", plain(2)))
    with pytest.raises(DataError, match="2 files"):
        read_frames([video, video], FrameSampling())
    with pytest.raises(DataError, match="without files"):
        read_frames([], FrameSampling())


def test_key_frames_beyond_the_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", plain(10))
    frames = read_frames([media(path)], FrameSampling("key_frames"), [3, 10, 90])
    assert (frames.numbers.tolist(), frames.lost) == ([3], 2)
    with pytest.raises(DamagedMediaError, match="key frames"):
        read_frames([media(path)], FrameSampling("key_frames"), [10, 90])


def test_the_version_is_raised_when_output_changes(tmp_path: Path) -> None:
    """If this fails, the same file gives other frames: raise VERSION, then store the new digest."""
    picture = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    drawn = [np.roll(picture, i, 1) for i in range(40)]
    path = write_video(
        tmp_path / "v.mkv", drawn, "ffv1", "bgr0", times=[i * i * 3 for i in range(40)]
    )
    digest = hashlib.sha256()
    for sampling in (FrameSampling(count=7), FrameSampling("fps", 5, fps=1.5)):
        frames = read_frames([media(path)], sampling)
        for array in (frames.pixels, frames.numbers, np.round(frames.seconds * 1e6).astype("<i8")):
            digest.update(np.ascontiguousarray(array).tobytes())
    small = read_frames([media(path)], FrameSampling(count=1, max_side=6)).pixels[0]
    assert (VERSION, digest.hexdigest()[:16]) == (1, "f9614cad3f6fafb7")
    # Scaling may differ by a step between FFmpeg's builds; a change of the filter shows here.
    stored = [
        [143, 126, 112, 103, 106, 133],
        [118, 114, 125, 110, 138, 138],
        [119, 102, 115, 117, 122, 155],
        [137, 119, 121, 125, 115, 121],
    ]
    np.testing.assert_allclose(small[:, :, 0].astype(int), stored, atol=3)
