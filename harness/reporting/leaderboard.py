"""Renders ``leaderboard.md`` from the table files alone."""

from __future__ import annotations

from collections.abc import Sequence

from harness.rank_measures import RANK_MEASURES, shown, written
from harness.reporting.tables import Row, Table, TableFile

_HEADER = """\
# Leaderboard

Written by `clamr-bench leaderboard` from `results/tables/`; do not edit. Every figure is the mean
over queries in percent with its bootstrap 95% interval; **bold** is the best of its column, ties
together. Tables differ in task version, protocol, split, data or measures, and are not to be
compared with each other. `Success@k` is the hit rate that many papers call R@k; `R@k` is the share
of the relevant documents found.
"""

_RANKS = (
    "MdR and MnR are the median and the mean rank of the first relevant document: ranks, not "
    "percent, and the lower the better. What is not ranked has the last rank."
)


_TIED = (
    "(tied for first): the 95% interval of the differences from the best row, query by query on "
    "{}, includes 0; on the best row itself, there is another such row."
)


def render(files: Sequence[TableFile]) -> str:
    """Return the Markdown text; the same tables always give the same text."""
    current = [(f, t) for f in files for t in f.tables if not t.superseded]
    superseded = [(f, t) for f in files for t in f.tables if t.superseded]
    parts = [_HEADER]
    if not current:
        parts.append("No results yet: `clamr-bench run` makes them.\n")
    parts += [_section(file, table) for file, table in current]
    if superseded:
        parts.append("## Superseded\n\nOf earlier data, versions or measures; kept as they were.\n")
        parts += [_section(file, table, level=3) for file, table in superseded]
    return "\n".join(parts)


def title_of(table: Table) -> str:
    """Return a table's address, split and settings."""
    identity = table.identity
    settings = "".join(f", {key}={value}" for key, value in sorted(identity.settings.items()))
    return f"{identity.address} ({identity.split}{settings})"


def facts_of(file: TableFile, table: Table, quote: str = "") -> list[str]:
    """Return what a table is of, in two lines; names stand between `quote`."""
    names = (file.protocol, table.identity.data_fingerprint[:12])
    protocol, data = (f"{quote}{name}{quote}" for name in names)
    first = (
        f"{table.title}. {file.task}@{file.version}, protocol {protocol}, {table.documents:,} "
        f"documents, {table.queries:,} {table.unit}, data {data}."
    )
    rules = f"Candidates: {table.candidates}. Relevant: {table.relevance}. Ties: {table.ties}."
    return [first, rules]


def notes_of(table: Table) -> list[str]:
    """Return what is to be said below a table."""
    notes = [_reference(name, values) for name, values in table.references.items()]
    notes += [
        f"{row.retriever} left {row.missing} {table.unit} without any document; they count 0."
        for row in table.rows
        if row.missing
    ]
    if any(row.tied for row in table.rows):
        notes.append(_TIED.format(table.main))
    if any(measure in RANK_MEASURES for measure in table.identity.measures):
        notes.append(_RANKS)
    if any(row.oracle for row in table.rows):
        notes.append("(oracle) reads gold attributes of the queries and never counts as best.")
    return notes


def _section(file: TableFile, table: Table, level: int = 2) -> str:
    identity = table.identity
    lines = [
        f"{'#' * level} {title_of(table)}",
        "",
        *facts_of(file, table, "`"),
        "",
        "| retriever | " + " | ".join(identity.measures) + " |",
        "|---" + "|---:" * len(identity.measures) + "|",
    ]
    best = {measure: table.best(measure) for measure in identity.measures}
    lines += [_row(row, identity.measures, best) for row in table.rows]
    notes = notes_of(table)
    if notes:
        lines += ["", *notes]
    return "\n".join(lines) + "\n"


def _row(row: Row, measures: Sequence[str], best: dict[str, float | None]) -> str:
    label = _escape(row.retriever)
    if row.note:
        label += f" ({_escape(row.note)})"
    if row.oracle:
        label += " (oracle)"
    if row.tied:
        label += " (tied for first)"
    if len(row.seeds) > 1:
        label += f" (mean of {len(row.seeds)} seeds)"
    cells = []
    for measure in measures:
        cell = row.cells[measure]
        # Bold is decided on the figures that are shown, so that equal figures look equal.
        exact = shown(measure, cell.mean)
        mean = written(measure, exact)
        if not row.oracle and exact == best[measure]:
            mean = f"**{mean}**"
        ends = (written(measure, end, 1) for end in (cell.low, cell.high))
        cells.append(f"{mean} [{', '.join(ends)}]")
    return f"| {label} | " + " | ".join(cells) + " |"


def _reference(name: str, values: dict[str, float]) -> str:
    figures = ", ".join(f"{measure} {written(measure, value)}" for measure, value in values.items())
    return f"For reference, {name}: {figures}."


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
