"""Images of every mode, as they are to be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.media import DamagedMediaError, read_image
from tests.media_files import media

GREY = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], -1)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK"])
def test_every_mode(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOUR).convert(mode)
    path = saved(tmp_path / ("v.tif" if mode == "CMYK" else "v.png"), image)
    pixels = read_image(media(path))
    assert pixels.shape == (4, 6, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


def test_sixteen_bits_keep_their_brightness(tmp_path: Path) -> None:
    deep = (GREY.astype(np.uint16)) * 257
    path = saved(tmp_path / "v.png", Image.fromarray(deep))
    np.testing.assert_array_equal(read_image(media(path)), np.stack([GREY] * 3, -1))


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    cover = np.full((4, 6), 255, np.uint8)
    cover[:2] = 0
    image = Image.fromarray(np.dstack([COLOUR, cover]))
    pixels = read_image(media(saved(tmp_path / "v.png", image)))
    assert (pixels[:2] == 255).all()
    np.testing.assert_array_equal(pixels[2:], COLOUR[2:])
    palette = Image.fromarray(GREY).convert("P")
    pixels = read_image(media(saved(tmp_path / "p.png", palette, transparency=int(GREY[0, 1]))))
    assert pixels[0, 1].tolist() == [255, 255, 255]
    assert pixels[0, 2].tolist() == [20, 20, 20]


@pytest.mark.parametrize(("orientation", "quarters"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation(tmp_path: Path, orientation: int, quarters: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "v.png", Image.fromarray(COLOUR), exif=exif)
    np.testing.assert_array_equal(read_image(media(path)), np.rot90(COLOUR, quarters))


def test_the_first_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "v.webp", frames[0], save_all=True, append_images=frames[1:])
    assert read_image(media(path))[0, 0].argmax() == 0


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_cut_off_images(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = saved(tmp_path / f"v.{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DamagedMediaError) as caught:
        read_image(media(path))
    assert caught.value.kind == "corrupt"
    assert str(path) in str(caught.value)


def test_what_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "v.jpg"
    path.write_text("hello")
    with pytest.raises(DamagedMediaError, match="not an image"):
        read_image(media(path))
    path.write_bytes(b"")
    with pytest.raises(DamagedMediaError, match="empty"):
        read_image(media(path))
    path.unlink()
    with pytest.raises(DamagedMediaError, match="no such file"):
        read_image(media(path))


def test_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "v.png", Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DamagedMediaError, match="too large"):
        read_image(media(path))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of tags that make no sense
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif"])
def test_flipped_bits_give_an_image_or_damage(tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(0)
    path = saved(tmp_path / f"v.{suffix}", Image.fromarray(COLOUR.repeat(4, 0)))
    content = path.read_bytes()
    for _ in range(150):
        broken = bytearray(content)
        broken[random.integers(len(broken))] ^= 1 << random.integers(8)
        path.write_bytes(broken)
        try:
            pixels = read_image(media(path))
        except DamagedMediaError:
            continue
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
