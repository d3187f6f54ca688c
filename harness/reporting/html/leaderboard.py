"""All tables as one page, made from the table files alone, like ``leaderboard.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.rank_measures import shown
from harness.reporting.html.grid import Cell as Shown
from harness.reporting.html.grid import Column, Table, columns_of, measured
from harness.reporting.html.page import render
from harness.reporting.leaderboard import facts_of, notes_of, title_of
from harness.reporting.tables import Row, TableFile
from harness.reporting.tables import Table as Saved
from harness.workspace import digest


@dataclass(frozen=True, slots=True)
class _Section:
    """A table with its title, facts and notes."""

    anchor: str
    title: str
    facts: str
    grid: Table
    notes: list[str]


def leaderboard(files: Sequence[TableFile]) -> str:
    """Return the page; the same tables always give the same page.

    Raises
    ------
    UsageError
        If jinja2 is not installed.
    """
    sections = [(table, _section(file, table)) for file in files for table in file.tables]
    return render(
        "leaderboard.html.j2",
        title="Leaderboard",
        current=[section for table, section in sections if not table.superseded],
        superseded=[section for table, section in sections if table.superseded],
    )


def _section(file: TableFile, table: Saved) -> _Section:
    measures = table.identity.measures
    title = title_of(table)
    return _Section(
        anchor=f"t{digest(table.identity.model_dump(mode='json'))[:12]}",
        title=title,
        facts=" ".join(facts_of(file, table)),
        grid=Table(
            title,
            (Column("retriever", figures=False), *columns_of(measures)),
            tuple(_row(table, row, measures) for row in table.rows),
        ),
        notes=notes_of(table),
    )


def _row(table: Saved, row: Row, measures: Sequence[str]) -> tuple[Shown, ...]:
    notes = [row.note] if row.note else []
    notes += ["oracle"] if row.oracle else []
    notes += [f"mean of {len(row.seeds)} seeds"] if len(row.seeds) > 1 else []
    cells = []
    for measure in measures:
        cell, main = row.cells[measure], measure == table.main
        best = not row.oracle and shown(measure, cell.mean) == table.best(measure)
        note = "tied for first" if main and row.tied else ""
        cells.append(measured(measure, cell, best=best, drawn=main, note=note))
    return (Shown(row.retriever, note=", ".join(notes)), *cells)
