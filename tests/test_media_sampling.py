"""Which frames are taken, and how large: arithmetic against the definition, by brute force."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import PluginError, UsageError
from harness.media import AudioSampling, FrameSampling, check_frames
from harness.media.sampling import choose, fitted

MILLI = Fraction(1, 1000)

#: Gaps between frames, from a steady rate to slides that stand for minutes.
GAPS = st.lists(st.integers(1, 500), min_size=1, max_size=60)


def timeline(gaps: list[int], start: int) -> tuple[np.ndarray, int]:
    times = start + np.cumsum([0, *gaps])
    return times[:-1].astype(np.int64), int(times[-1])


def shown(moment: Fraction, times: np.ndarray) -> int:
    """The frame on screen at a moment, by the definition."""
    return max(i for i, time in enumerate(times.tolist()) if time <= moment)


@given(GAPS, st.integers(-100, 10**15), st.integers(1, 80))
def test_uniform_takes_the_frames_at_the_middles_of_equal_parts(
    gaps: list[int], start: int, count: int
) -> None:
    times, end = timeline(gaps, start)
    numbers, beyond = choose(FrameSampling("uniform", count), times, end, MILLI)
    if count >= len(times):
        expected = list(range(len(times)))
    else:
        part = Fraction(end - start, count)
        expected = sorted({shown(start + (i + Fraction(1, 2)) * part, times) for i in range(count)})
    assert numbers.tolist() == expected
    assert beyond == 0


@given(st.integers(1, 200), st.integers(1, 50))
def test_uniform_on_a_steady_rate_is_the_textbook_formula(frames: int, count: int) -> None:
    times = np.arange(frames, dtype=np.int64) * 40
    numbers, _ = choose(FrameSampling("uniform", count), times, frames * 40, MILLI)
    n = min(frames, count)
    assert numbers.tolist() == [(2 * i + 1) * frames // (2 * n) for i in range(n)]


@given(GAPS, st.integers(0, 1000), st.integers(1, 40), st.sampled_from([0.5, 1.0, 3.0, 29.97, 400]))
def test_fps_takes_what_is_shown_at_each_step(
    gaps: list[int], start: int, count: int, fps: float
) -> None:
    times, end = timeline(gaps, start)
    numbers, _ = choose(FrameSampling("fps", count, fps=fps), times, end, MILLI)
    step = 1000 / Fraction(fps)
    moments = [start + math.floor(i * step) for i in range(count)]
    assert numbers.tolist() == sorted({shown(Fraction(m), times) for m in moments if m < end})


@given(st.sets(st.integers(0, 300), min_size=1), st.integers(1, 20), st.integers(1, 250))
def test_key_frames_are_the_given_ones_spread_evenly(
    given_ones: set[int], count: int, frames: int
) -> None:
    times = np.arange(frames, dtype=np.int64)
    keys = sorted(given_ones)
    numbers, beyond = choose(FrameSampling("key_frames", count), times, frames, MILLI, keys)
    assert set(numbers.tolist()) <= given_ones
    assert len(numbers) + beyond == min(count, len(keys))
    assert all(np.diff(numbers) > 0)
    assert all(number < frames for number in numbers)
    if count >= len(keys):
        assert numbers.tolist() == [key for key in keys if key < frames]


@pytest.mark.parametrize("keys", [None, [], [3, -1]])
def test_key_frames_that_are_not_there(keys: list[int] | None) -> None:
    with pytest.raises(UsageError, match="key frame"):
        choose(FrameSampling("key_frames"), np.arange(9, dtype=np.int64), 9, MILLI, keys)


SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, st.none() | st.integers(1, 700), st.none() | st.integers(1, 300_000))
def test_scaled_frames_keep_bounds_and_aspect(
    width: int, height: int, side: int | None, pixels: int | None
) -> None:
    wide, high = fitted(width, height, FrameSampling(max_side=side, max_pixels=pixels))
    assert 1 <= wide <= width
    assert 1 <= high <= height
    assert side is None or max(wide, high) <= side
    assert pixels is None or wide * high <= pixels
    if side is None and pixels is None:
        assert (wide, high) == (width, height)
    if min(wide, high) > 1:  # a strip of one pixel cannot keep its aspect
        assert abs(wide / width - high / height) < 1 / width + 1 / height
        slack = (wide + 1) * (high + 1)
        reached = max(wide, high) + 1 >= (side or 10**9) or slack >= (pixels or 10**9)
        assert reached or (wide, high) == (width, height)


@pytest.mark.parametrize(
    ("size", "bounds", "expected"),
    [
        ((1280, 720), {"max_side": 224}, (224, 126)),
        ((720, 1280), {"max_side": 224}, (126, 224)),
        ((448, 448), {"max_pixels": 224 * 224}, (224, 224)),
        ((100, 50), {"max_side": 224}, (100, 50)),
        ((5000, 1), {"max_side": 10}, (10, 1)),
    ],
)
def test_scaled_sizes(
    size: tuple[int, int], bounds: dict[str, int], expected: tuple[int, int]
) -> None:
    assert fitted(*size, FrameSampling(**bounds)) == expected


def test_pixels_become_square() -> None:
    assert fitted(720, 576, FrameSampling(), Fraction(16, 15)) == (768, 576)
    assert fitted(720, 576, FrameSampling(max_side=384), Fraction(16, 15)) == (384, 288)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"how": "random"}, "random"),
        ({"count": 0}, "count = 0"),
        ({"max_side": 0}, "max_side = 0"),
        ({"max_pixels": -4}, "max_pixels = -4"),
        ({"how": "fps"}, "fps = None"),
        ({"how": "fps", "fps": 0.0}, "fps = 0.0"),
        ({"how": "fps", "fps": float("inf")}, "fps = inf"),
        ({"fps": 2.0}, "no effect"),
    ],
)
def test_sampling_out_of_range(values: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        FrameSampling(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [{"rate": 0}, {"max_seconds": 0.0}, {"max_seconds": -1.0}])
def test_sound_out_of_range(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="above 0"):
        AudioSampling(**values)  # type: ignore[arg-type]


def test_every_setting_is_in_the_identity() -> None:
    base = FrameSampling().identity()
    others = (
        FrameSampling(count=9),
        FrameSampling("fps", fps=1.0),
        FrameSampling("fps", fps=2.0),
        FrameSampling("key_frames"),
        FrameSampling(max_side=5),
        FrameSampling(max_pixels=5),
    )
    assert len({str(s.identity()) for s in others} | {str(base)}) == 7
    assert AudioSampling(rate=1).identity() != AudioSampling(max_seconds=1.0).identity()


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((4, 3, 8, 9), np.uint8), "channels first"),
        (np.zeros((4, 8, 9, 3), np.float32), "float32"),
        (np.zeros((4, 8, 9, 1), np.uint8), "shape"),
        (np.zeros((8, 9, 3), np.uint8), "shape"),
        (np.zeros((0, 8, 9, 3), np.uint8), "no pixels"),
        ([[0]], "list"),
    ],
)
def test_frames_that_break_the_contract(array: object, word: str) -> None:
    with pytest.raises(PluginError, match=word) as caught:
        check_frames(array, "my-retriever")
    assert str(caught.value).startswith("my-retriever")


def test_frames_that_keep_the_contract() -> None:
    array = np.zeros((2, 3, 5, 3), np.uint8)  # three pixels high, and still channels last
    assert check_frames(array) is array
