"""Tables of a page: cells that are shown, sorted by a value, and perhaps drawn as a bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.rank_measures import RANK_MEASURES, lower_is_better, written
from harness.reporting.tables import Cell as Mean
from harness.results.schema import Estimate

#: A mean with its interval: of a result or of a table.
Estimated = Estimate | Mean


@dataclass(frozen=True, slots=True)
class Bar:
    """What is drawn in a cell: from 0 to `value`, with an interval, all in percent."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell.

    Attributes
    ----------
    text
        What is shown.
    value
        What it is sorted by; None for its text.
    ends
        The interval, shown smaller.
    best
        Whether it is the best of its column.
    bar
        What is drawn, if anything.
    note
        A remark, shown as a label.
    """

    text: str
    value: float | None = None
    ends: str = ""
    best: bool = False
    bar: Bar | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column; one of figures is set right, and sorted from its better end first."""

    name: str
    figures: bool = True
    ascending: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows; the first cell of a row names it."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def measured(
    measure: str, estimate: Estimated, *, best: bool = False, drawn: bool = False, note: str = ""
) -> Cell:
    """Return the cell of a mean with its interval; ranks are not drawn, they have no scale."""
    ends = ", ".join(written(measure, end, 1) for end in (estimate.low, estimate.high))
    bar = None
    if drawn and measure not in RANK_MEASURES:
        bar = Bar(100 * estimate.mean, 100 * estimate.low, 100 * estimate.high)
    text = written(measure, estimate.mean)
    return Cell(text, estimate.mean, f"[{ends}]", best=best, bar=bar, note=note)


def columns_of(measures: Sequence[str]) -> tuple[Column, ...]:
    """Return the columns of measures."""
    return tuple(Column(name, ascending=lower_is_better(name)) for name in measures)


def counted(count: int) -> Cell:
    """Return the cell of a number of things."""
    return Cell(f"{count:,}", count)


def by_measure(
    measures: Mapping[str, Estimated], references: Mapping[str, Mapping[str, float]]
) -> Table:
    """Return a table of a row for each measure, beside the figures that it is read against."""
    rows = tuple(
        (
            Cell(name),
            measured(name, estimate, drawn=True),
            *(Cell(written(name, row[name]), row[name]) for row in references.values()),
        )
        for name, estimate in measures.items()
    )
    named = (Column(name) for name in references)
    columns = (Column("measure", figures=False), Column("mean [95% interval]"), *named)
    return Table("Measures, in percent but for ranks", columns, rows)
