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


def _section(file: TableFile, table: Table, level: int = 2) -> str:
    identity = table.identity
    settings = "".join(f", {key}={value}" for key, value in sorted(identity.settings.items()))
    title = f"{identity.address} ({identity.split}{settings})"
    facts = (
        f"{table.title}. {file.task}@{file.version}, protocol `{file.protocol}`, "
        f"{table.documents:,} documents, {table.queries:,} {table.unit}, data "
        f"`{identity.data_fingerprint[:12]}`."
    )
    lines = [
        f"{'#' * level} {title}",
        "",
        facts,
        f"Candidates: {table.candidates}. Relevant: {table.relevance}. Ties: {table.ties}.",
        "",
        "| retriever | " + " | ".join(identity.measures) + " |",
        "|---" + "|---:" * len(identity.measures) + "|",
    ]
    best = {measure: table.best(measure) for measure in identity.measures}
    lines += [_row(row, identity.measures, best) for row in table.rows]
    notes = [_reference(name, values) for name, values in table.references.items()]
    notes += [
        f"{row.retriever} left {row.missing} {table.unit} without any document; they count 0."
        for row in table.rows
        if row.missing
    ]
    if any(measure in RANK_MEASURES for measure in identity.measures):
        notes.append(_RANKS)
    if any(row.oracle for row in table.rows):
        notes.append("(oracle) reads gold attributes of the queries and never counts as best.")
    if notes:
        lines += ["", *notes]
    return "\n".join(lines) + "\n"


def _row(row: Row, measures: Sequence[str], best: dict[str, float | None]) -> str:
    label = _escape(row.retriever)
    if row.note:
        label += f" ({_escape(row.note)})"
    if row.oracle:
        label += " (oracle)"
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
