"""A paper's tables filled with saved runs: published, ours, difference, verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from harness.errors import ClamrBenchError
from harness.rank_measures import RANK_MEASURES
from harness.reporting.papers_jobs import Availability, Job, jobs_of, place_of
from harness.reporting.papers_schema import Column, Paper, Row, Table
from harness.results.schema import Estimate
from harness.results.store import SavedRun

#: Ours and the published figures may be over numbers of queries that differ by this share.
SIZE_SHARE = 0.02


class Verdict(StrEnum):
    """What became of a published figure."""

    REPRODUCED = "reproduced"
    CLOSE = "close"
    OFF = "off"
    NOT_RUN = "not run"
    NOT_COMPARABLE = "not comparable: protocol"
    OUT_OF_SCOPE = "out of scope"


@dataclass(frozen=True, slots=True)
class Cell:
    """One published figure and what there is here beside it.

    Attributes
    ----------
    row, column
        Labels.
    published
        The figure, in points; of MdR and MnR a rank.
    reruns
        Those of third parties, by their name.
    ours
        The measure of the newest run with its interval, in the same unit; None without a run.
    verdict
        What the comparison says.
    reason
        Of a verdict that is no comparison; of a cell that was not run, what it lacks: empty if it
        can be run.
    run
        The run that `ours` is of.
    commands
        What makes the run where there is none.
    doubt
        What is doubtful about the published figure; empty if nothing.
    """

    row: str
    column: str
    published: float
    reruns: Mapping[str, float]
    verdict: Verdict
    ours: Estimate | None = None
    reason: str = ""
    run: SavedRun | None = None
    commands: tuple[str, ...] = ()
    doubt: str = ""

    @property
    def difference(self) -> Estimate | None:
        """Ours less the published figure, with the interval of ours."""
        if self.ours is None:
            return None
        mean, low, high = (
            end - self.published for end in (self.ours.mean, self.ours.low, self.ours.high)
        )
        return Estimate(mean=mean, low=low, high=high)

    @property
    def runnable(self) -> bool:
        """Whether it was run, or can be with what is here."""
        return self.run is not None or (self.verdict is Verdict.NOT_RUN and not self.reason)


@dataclass(frozen=True, slots=True)
class FilledTable:
    """A table with its cells, row by row.

    Attributes
    ----------
    table
        As published.
    cells
        Its cells.
    references
        Figures that ours are read against, in points, such as an ideal retriever's: by the task's
        address, name and column label.
    """

    table: Table
    cells: tuple[Cell, ...]
    references: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    @property
    def doubts(self) -> list[Cell]:
        """Cells whose published figure is doubtful; they are numbered in this order."""
        return [cell for cell in self.cells if cell.doubt]


def fill(
    paper: Paper, tables: Sequence[Table], runs: Sequence[SavedRun], available: Availability
) -> list[FilledTable]:
    """Fill tables of a paper with the newest complete runs that match their cells.

    Parameters
    ----------
    paper
        The paper.
    tables
        Which of its tables.
    runs
        All saved runs.
    available
        Tells what of the rest can be run.
    """
    jobs = jobs_of(paper, tables)
    newest = {place: _newest(job, runs) for place, job in jobs.items()}
    filled = []
    for table in tables:
        cells: list[Cell] = []
        references: dict[str, dict[str, dict[str, float]]] = {}
        for row, column, figure in table.cells():
            place = place_of(table, row, column)
            job, run = jobs.get(place), newest.get(place)
            cells.append(_cell(paper, table, row, column, figure, job, run, available))
            if run is not None and run.result.references and not column.group:
                task = run.result.task.address
                for name, values in run.result.references.items():
                    places = references.setdefault(task, {}).setdefault(name, {})
                    measure = column.measure or ""
                    places[column.label] = points(measure, values[measure])
        filled.append(FilledTable(table, tuple(cells), references))
    return filled


def judge(published: float, ours: Estimate, tolerance: float) -> Verdict:
    """Return the verdict on figures in the same unit.

    ``reproduced``: ours is within the tolerance. ``close``: it is not, but the published figure is
    within the tolerance of our interval: on another sample of queries it might have been. ``off``:
    neither.
    """
    # Rounded, so that 26.7 - 25.2 is 1.5.
    if round(abs(ours.mean - published), 9) <= tolerance:
        return Verdict.REPRODUCED
    outside = max(ours.low - published, published - ours.high)
    return Verdict.CLOSE if round(outside, 9) <= tolerance else Verdict.OFF


def points(measure: str, value: float) -> float:
    """Return a measure's value in points of percent; a rank as it is."""
    return value if measure in RANK_MEASURES else value * 100


def _newest(job: Job, runs: Sequence[SavedRun]) -> SavedRun | None:
    try:
        return job.newest(runs)
    except ClamrBenchError:  # A plugin that does not load: `Availability` says so of the cell.
        return None


def _cell(
    paper: Paper,
    table: Table,
    row: Row,
    column: Column,
    figure: float,
    job: Job | None,
    run: SavedRun | None,
    available: Availability,
) -> Cell:
    place = table.columns.index(column)
    reruns = {name: figures[place] for name, figures in row.reruns.items()}
    made = partial(
        Cell,
        row=row.label,
        column=column.label,
        published=figure,
        reruns={name: value for name, value in reruns.items() if value is not None},
        doubt=row.doubts.get(column.label, ""),
        run=run,
    )
    if job is None:
        method = paper.methods[table.method_of(row, column) or ""]
        return made(verdict=Verdict(method.verdict or Verdict.NOT_RUN), reason=method.reason or "")
    if run is None:
        lacks = available.lacks(job)
        return made(verdict=Verdict.NOT_RUN, reason=lacks, commands=job.commands)
    ours = _estimate(run, column)
    if ours is None:
        group = ", ".join(f"{key}={value}" for key, value in column.group.items())
        return made(verdict=Verdict.NOT_COMPARABLE, reason=f"none of our queries has {group}")
    size, expected = run.result.evaluation.queries, job.benchmark.size
    if expected is not None and abs(size - expected) > SIZE_SHARE * expected:
        unit = run.result.task.protocol.unit
        reason = f"ours is over {size:,} {unit}, the published figure over {expected:,}"
        return made(ours=ours, verdict=Verdict.NOT_COMPARABLE, reason=reason)
    return made(ours=ours, verdict=judge(figure, ours, paper.tolerance.points))


def _estimate(run: SavedRun, column: Column) -> Estimate | None:
    """Return the run's figure for a column, in points; None if it has no such group."""
    result, measure = run.result, column.measure or ""
    measures: Mapping[str, Estimate] | None = result.measures
    for attribute, value in column.group.items():
        group = result.breakdowns.get(attribute, {}).get(value)
        measures = None if group is None else group.measures
    if measures is None:
        return None
    found = measures[measure]
    ends = {name: points(measure, getattr(found, name)) for name in ("mean", "low", "high")}
    return Estimate(**ends)
