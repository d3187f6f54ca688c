"""A paper's filled tables as text: Markdown, CSV, and the words that all forms share."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence

from harness.reporting.papers_fill import Cell, FilledTable, Verdict
from harness.reporting.papers_schema import Paper

_HEADERS = ("published", "ours", "difference", "verdict")

#: How Markdown and terminals number a doubt.
MARK = "†{}"


def summary(tables: Sequence[FilledTable]) -> str:
    """Return the line that says how much of the tables can be run here."""
    cells = [cell for table in tables for cell in table.cells]
    runnable = sum(cell.runnable for cell in cells)
    done = sum(cell.run is not None for cell in cells)
    counts = Counter(cell.verdict for cell in cells)
    verdicts = ", ".join(f"{verdict} {counts[verdict]}" for verdict in Verdict if counts[verdict])
    return f"{runnable} of {len(cells)} cells can be run here; {done} have a result ({verdicts})"


def tolerance(paper: Paper) -> str:
    """Return the line that says what the verdicts mean."""
    points = f"{paper.tolerance.points:g}"
    return (
        f"reproduced: within {points} points of the published figure; close: the published figure "
        f"is within {points} points of our 95% interval. {paper.tolerance.reason}"
    )


def headers(table: FilledTable) -> list[str]:
    """Return the headings of a table with a line for each cell."""
    return ["method", "column", "published", *_reruns(table), *_HEADERS[1:]]


def lines(table: FilledTable) -> Iterator[list[str]]:
    """Yield a line for each cell of a table, as `headers` says; a method is named once."""
    decimals, numbers = table.table.decimals, _numbers(table)
    row = ""
    for cell in table.cells:
        published = figure(cell.published, decimals)
        if cell.doubt:
            published += MARK.format(numbers[cell.row, cell.column])
        reruns = [
            figure(cell.reruns[name], 2) if name in cell.reruns else "-" for name in _reruns(table)
        ]
        verdict = cell.verdict.value
        label, row = "" if cell.row == row else cell.row, cell.row
        yield [label, cell.column, published, *reruns, ours(cell), difference(cell), verdict]


def figure(value: float, decimals: int) -> str:
    """Return a published figure with as many digits as it was published with."""
    return f"{value:.{decimals}f}"


def ours(cell: Cell) -> str:
    """Return our figure with its interval."""
    if cell.ours is None:
        return "-"
    return f"{cell.ours.mean:.2f} [{cell.ours.low:.1f}, {cell.ours.high:.1f}]"


def difference(cell: Cell) -> str:
    """Return ours less the published figure, with the interval."""
    found = cell.difference
    if found is None:
        return "-"
    return f"{found.mean:+.2f} [{found.low:+.1f}, {found.high:+.1f}]"


def doubts(table: FilledTable) -> list[str]:
    """Return what is doubtful about published figures; one line for each mark."""
    told: dict[str, list[Cell]] = {}
    for cell in table.doubts:
        told.setdefault(cell.doubt, []).append(cell)
    return [
        f"{MARK.format(number)} {'; '.join(f'{c.row}, {c.column}' for c in cells)}: {doubt}."
        for number, (doubt, cells) in enumerate(told.items(), 1)
    ]


def references(table: FilledTable) -> list[str]:
    """Return what our figures are read against, such as an ideal retriever's."""
    found = []
    for task, names in table.references.items():
        for name, values in names.items():
            figures = ", ".join(f"{column} {value:.2f}" for column, value in values.items())
            found.append(f"For reference, {name} ({task}): {figures}.")
    return found


def reasons(tables: Sequence[FilledTable]) -> list[tuple[int, str, str]]:
    """Return how many cells have each verdict without a comparison, and for what reason."""
    counted: Counter[tuple[str, str]] = Counter()
    for table in tables:
        for cell in table.cells:
            if cell.verdict in (Verdict.NOT_COMPARABLE, Verdict.OUT_OF_SCOPE):
                counted[cell.verdict.value, cell.reason] += 1
    return [(count, verdict, reason) for (verdict, reason), count in counted.items()]


def missing(tables: Sequence[FilledTable]) -> list[tuple[str, int, list[str]]]:
    """Return what missing cells lack (empty: nothing), how many they are, and their commands.

    A training stands before the runs of its weights.
    """
    counted: Counter[str] = Counter()
    commands: dict[str, dict[str, dict[str, None]]] = {}
    for table in tables:
        for cell in table.cells:
            if cell.verdict is Verdict.NOT_RUN:
                counted[cell.reason] += 1
                given = commands.setdefault(cell.reason, {})
                for first in cell.commands[:1]:
                    given.setdefault(first, {}).update(dict.fromkeys(cell.commands[1:]))
    return [
        (lacks, count, [c for first, runs in commands[lacks].items() for c in (first, *runs)])
        for lacks, count in counted.items()
    ]


def markdown(paper: Paper, tables: Sequence[FilledTable]) -> str:
    """Return the tables of a paper as Markdown."""
    parts = [
        f"# {_plain(paper.title)}",
        _plain(f"{paper.citation} {paper.url}"),
        f"Written by `clamr-bench reproduce` or `tables`; do not edit. {summary(tables)}.",
        _plain(f"{tolerance(paper)} Figures were read in: {paper.source}."),
    ]
    parts += [_plain(f"Run again by {name}: {where}.") for name, where in paper.reruns.items()]
    for table in tables:
        parts.append(_plain(f"## {table.table.number}. {table.table.title}"))
        parts.append(_plain(f"{table.table.place}."))
        head = headers(table)
        rows = [head, ["---", "---", *["---:"] * (len(head) - 3), "---"], *lines(table)]
        parts.append("\n".join(f"| {' | '.join(map(_plain, row))} |" for row in rows))
        parts += map(_plain, [*references(table), *doubts(table), *table.table.notes])
    found = [f"- {n} cells, {verdict}: {_plain(reason)}." for n, verdict, reason in reasons(tables)]
    if found:
        parts += ["## Not compared", "\n".join(found)]
    absent = missing(tables)
    if absent:
        parts.append("## Not run")
    for lacks, count, commands in absent:
        parts.append(f"{count} cells, {_plain(lacks).rstrip('.') or 'can be run'}:")
        if commands:
            parts.append("\n".join(["```console", *commands, "```"]))
    if paper.notes:
        parts += ["## Notes", "\n".join(f"- {_plain(note)}" for note in paper.notes)]
    return "\n\n".join(parts) + "\n"


def to_csv(tables: Sequence[FilledTable]) -> str:
    """Return a line for each cell as CSV, with a heading."""
    names = list(dict.fromkeys(name for table in tables for name in _reruns(table)))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["table", "method", "column", "published", *names, "ours", "low", "high", "difference",
         "verdict", "reason", "run", "doubt", "command"]
    )  # fmt: skip
    for table in tables:
        for cell in table.cells:
            found, gap = cell.ours, cell.difference
            values = [] if found is None else [found.mean, found.low, found.high]
            values += [] if gap is None else [gap.mean]
            writer.writerow(
                [
                    table.table.number,
                    cell.row,
                    cell.column,
                    figure(cell.published, table.table.decimals),
                    *(cell.reruns.get(name, "") for name in names),
                    *(f"{value:.4f}" for value in values),
                    *[""] * (4 - len(values)),
                    cell.verdict.value,
                    cell.reason,
                    "" if cell.run is None else cell.run.result.run_id,
                    cell.doubt,
                    " && ".join(cell.commands),
                ]
            )
    return stream.getvalue()


def _reruns(table: FilledTable) -> list[str]:
    return list(dict.fromkeys(name for cell in table.cells for name in cell.reruns))


def _numbers(table: FilledTable) -> dict[tuple[str, str], int]:
    """Return the number of each doubt, by row and column; the same doubt has one number."""
    order = list(dict.fromkeys(cell.doubt for cell in table.doubts))
    return {(cell.row, cell.column): order.index(cell.doubt) + 1 for cell in table.doubts}


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    for mark in ("\\", "|", "<"):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
