"""Plots as shapes of an inline SVG: places are computed here, the template draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.rank_measures import lower_is_better, written
from harness.reporting.html.grid import Estimated

#: Size of a plot, and of what is left for its axes, in units of the SVG.
WIDTH, HEIGHT = 460, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 30, 14, 46
#: Ticks of the vertical axis, about.
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Spot:
    """What is drawn: its number and name, what it costs (above 0), and how good it is."""

    number: int
    name: str
    cost: float
    quality: Estimated


@dataclass(frozen=True, slots=True)
class Point:
    """A spot in its place, with the ends of its interval; `title` says all in words."""

    number: int
    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True, slots=True)
class Plot:
    """Quality against a cost on a logarithmic axis; ticks are ``(place, label)``."""

    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    points: tuple[Point, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def scatter(
    measure: str, cost: str, words: Callable[[float], str], spots: Sequence[Spot]
) -> Plot | None:
    """Return quality against cost; None if there is nothing to draw.

    Parameters
    ----------
    measure
        The measure of quality.
    cost
        What the cost is.
    words
        Writes a cost down.
    spots
        What to draw.
    """
    if not spots:
        return None
    first, last = _decades([spot.cost for spot in spots])
    ends = [end for spot in spots for end in (spot.quality.low, spot.quality.high)]
    steps = _steps(min(ends), max(ends))
    bottom, top = steps[0], steps[-1]

    def across(value: float) -> float:
        part = (math.log10(value) - first) / (last - first)
        return round(_LEFT + part * (WIDTH - _LEFT - _RIGHT), 1)

    def up(value: float) -> float:
        part = (value - bottom) / (top - bottom)
        return round(HEIGHT - _BOTTOM - part * (HEIGHT - _TOP - _BOTTOM), 1)

    points = tuple(
        Point(
            spot.number,
            across(spot.cost),
            up(spot.quality.mean),
            up(spot.quality.low),
            up(spot.quality.high),
            f"{spot.name}: {measure} {written(measure, spot.quality.mean)}, {words(spot.cost)}",
        )
        for spot in spots
    )
    decades = [10.0**power for power in range(first, last + 1)]
    return Plot(
        title=f"{measure} against {cost}",
        x_label=f"{cost}, logarithmic",
        y_label=measure + (", the lower the better" if lower_is_better(measure) else " (%)"),
        x_ticks=tuple((across(value), words(value).replace(".0 ", " ")) for value in decades),
        y_ticks=tuple((up(value), written(measure, value, 0)) for value in steps),
        points=points,
    )


def _decades(costs: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten that hold all costs, at least one apart."""
    first, last = math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs)))
    return (first, last) if last > first else (first, first + 1)


def _steps(low: float, high: float) -> list[float]:
    """Return about five round values from below `low` to above `high`."""
    span = max(high - low, 0.02)
    rough = span / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * i, 10) for i in range(first, max(last, first + 1) + 1)]
