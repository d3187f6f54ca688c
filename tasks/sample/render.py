"""Facts -> what is seen and heard: frames and sound as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tasks.sample.facts import Scene, Thing, Tone

#: Width and height of the video, in pixels: 8 x 8 patches of 14 pixels.
SIZE = 112
#: Rows of the scene; below it lies the band with the text.
SCENE_HEIGHT = 74
FRAMES = 8
FRAMES_PER_SECOND = 4
SAMPLE_RATE = 16_000
SECONDS = FRAMES // FRAMES_PER_SECOND

_COLOURS = {
    "red": (220, 30, 35),
    "green": (35, 170, 60),
    "blue": (60, 90, 250),
    "yellow": (245, 220, 40),
    "purple": (160, 50, 190),
    "cyan": (50, 215, 225),
    "orange": (250, 135, 25),
    "white": (245, 245, 245),
}
_BACKGROUNDS = {
    "black": (12, 12, 12),
    "grey": (112, 112, 112),
    "navy": (18, 22, 84),
    "brown": (88, 56, 30),
    "olive": (72, 84, 34),
}
_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_BAND = (24, 24, 28)
_INK = (250, 250, 235)
_LINE_HEIGHT = 12
_FONT_SIZE = 11

#: Hz
_PITCHES = {"low": 160.0, "middle": 400.0, "high": 1000.0}

Frames = NDArray[np.uint8]
Sound = NDArray[np.float32]


def render_frames(scene: Scene, lines: Sequence[str], random: Random) -> Frames:
    """Draw a video: things that move over a background, and text in a band below.

    Parameters
    ----------
    scene
        What moves, and on which background.
    lines
        Up to three lines of ASCII text.
    random
        Places, sizes and noise.

    Returns
    -------
    array
        RGB, uint8, shape ``(FRAMES, SIZE, SIZE, 3)``.
    """
    frames = np.empty((FRAMES, SIZE, SIZE, 3), np.int16)
    frames[:, :SCENE_HEIGHT] = _BACKGROUNDS[scene.background]
    frames[:, SCENE_HEIGHT:] = text_band(lines)
    return _filled(frames, scene, SCENE_HEIGHT, random)


def render_picture(scene: Scene, random: Random) -> Frames:
    """Draw a picture of things that do not move; RGB, uint8, shape ``(SIZE, SIZE, 3)``."""
    pictures = np.empty((1, SIZE, SIZE, 3), np.int16)
    pictures[:] = _BACKGROUNDS[scene.background]
    picture: Frames = _filled(pictures, scene, SIZE, random)[0]
    return picture


def _filled(frames: NDArray[np.int16], scene: Scene, height: int, random: Random) -> Frames:
    """Draw the things into the first `height` rows of every frame, and camera noise."""
    width = SIZE // len(scene.things)
    alone = len(scene.things) == 1
    for i, thing in enumerate(scene.things):
        columns = (i * width, (i + 1) * width)
        _draw(frames[:, :height], thing, columns, random, alone=alone)
    for frame in frames:
        frame += _noise()[random.randrange(len(_noise()))]
    return frames.clip(0, 255).astype(np.uint8)


def text_band(lines: Sequence[str]) -> Frames:
    """Draw the band with the text; shape ``(SIZE - SCENE_HEIGHT, SIZE, 3)``."""
    band = Image.new("RGB", (SIZE, SIZE - SCENE_HEIGHT), _BAND)
    draw = ImageDraw.Draw(band)
    for i, line in enumerate(lines):
        draw.text((4, i * _LINE_HEIGHT), line, fill=_INK, font=ImageFont.load_default(_FONT_SIZE))
    return np.asarray(band)


@cache
def _noise() -> NDArray[np.int16]:
    """Return eight fields of camera noise, of 3 levels; one is added to each frame."""
    noise = np.random.default_rng(0).normal(0, 3, (8, SIZE, SIZE, 3)).round().astype(np.int16)
    noise.flags.writeable = False
    return noise


def _draw(
    frames: NDArray[np.int16],
    thing: Thing,
    columns: tuple[int, int],
    random: Random,
    *,
    alone: bool,
) -> None:
    """Draw one thing into every frame; it stays within them and within `columns`."""
    count, height = frames.shape[:2]
    radius = random.randint(12, 18) if alone else random.randint(9, 13)
    step = 4.0 if alone else 2.5
    dx, dy = _DIRECTIONS[thing.direction]
    reach = step * (count - 1) / 2
    margin_x, margin_y = radius + reach * abs(dx) + 1, radius + reach * abs(dy) + 1
    x = random.uniform(columns[0] + margin_x, columns[1] - margin_x)
    y = random.uniform(margin_y, height - margin_y)
    rows, cols = np.ogrid[:height, :SIZE]
    for i, frame in enumerate(frames):
        moved = step * (i - (count - 1) / 2)
        across, down = (cols - x - dx * moved) / radius, (rows - y - dy * moved) / radius
        frame[_inside(thing.shape, across, down)] = _COLOURS[thing.colour]


def _inside(shape: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the pixels of a shape of radius 1 around the origin."""
    square = np.maximum(abs(x), abs(y)) <= 0.9
    distance = np.hypot(x, y)
    masks = {
        "square": square,
        "disc": distance <= 1,
        "ring": (distance <= 1) & (distance >= 0.6),
        "triangle": (abs(y) <= 0.9) & (abs(x) <= (y + 0.9) / 1.8),
        "cross": square & (np.minimum(abs(x), abs(y)) <= 0.3),
        "stripes": square & (np.floor((y + 0.9) / 0.36) % 2 == 0),  # three bars of five
    }
    mask: NDArray[np.bool_] = masks[shape]
    return mask


def render_sound(tones: Sequence[Tone]) -> Sound:
    """Play the tones one after the other; float32 in -1..1, ``SECONDS * SAMPLE_RATE`` samples."""
    length = SECONDS * SAMPLE_RATE // len(tones)
    return np.concatenate([_tone(tone, length) for tone in tones])


def _tone(tone: Tone, length: int) -> Sound:
    time = np.arange(length) / length
    octaves = {
        "steady": np.zeros(length),
        "climbing": time * 1.2 - 0.6,
        "dropping": 0.6 - time * 1.2,
        "wavering": 0.3 * np.sin(2 * np.pi * 5 * time),
    }[tone.contour]
    # Turns since the start; the frequency is _PITCHES[pitch] * 2**octaves.
    turns = np.cumsum(_PITCHES[tone.pitch] * 2**octaves) / SAMPLE_RATE
    wave = np.sin(2 * np.pi * turns)
    if tone.timbre == "saw":
        wave = 2 * (turns % 1) - 1
    elif tone.timbre == "square":
        wave = np.sign(wave)
    elif tone.timbre == "bell":
        wave = (wave + 0.6 * np.sin(2 * np.pi * 2.76 * turns)) * np.exp(-4 * time)
    fade = np.clip(np.minimum(time, 1 - time) / 0.02, 0, 1)
    return (0.3 * wave * fade).astype(np.float32)
