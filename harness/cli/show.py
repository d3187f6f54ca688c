"""How commands show things: tables, and figures as everywhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.reporting.words import losses as losses
from harness.reporting.words import size as size

if TYPE_CHECKING:
    from harness.results.schema import Estimate

#: Width of a table when standard output is no terminal: nothing is wrapped in logs and pipes.
PIPE_WIDTH = 200


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    numeric: bool = False,
) -> None:
    """Print a table; with `numeric`, all columns but the first are aligned right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else PIPE_WIDTH)
    shown = Table(title=title, title_justify="left", header_style="bold")
    for position, header in enumerate(headers):
        right = numeric and position > 0
        shown.add_column(header, justify="right" if right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    console.print(shown)


def listing(headers: Sequence[str], rows: Sequence[Sequence[str]], *, as_json: bool) -> None:
    """Print rows as a table, or as a JSON list with an object for each."""
    if as_json:
        json([dict(zip(headers, row, strict=True)) for row in rows])
    else:
        table(headers, rows)


def json(value: Any) -> None:
    """Print a value as JSON."""
    from json import dumps

    print(dumps(value, indent=1, ensure_ascii=False))  # noqa: T201


def estimate(measure: str, value: Estimate) -> str:
    """Return a mean with its interval, in percent; ranks as they are."""
    from harness.rank_measures import written

    ends = (written(measure, end, 1) for end in (value.low, value.high))
    return f"{written(measure, value.mean)} [{', '.join(ends)}]"


def measures(estimates: Mapping[str, Estimate], names: Sequence[str] | None = None) -> list[str]:
    """Return the cells of a row of measures."""
    return [estimate(name, estimates[name]) for name in (names or list(estimates))]


def references(values: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> None:
    """Print the figures that measures are read against, if there are any."""
    from harness.rank_measures import written

    if values:
        rows = [
            [name, *(written(measure, row[measure]) for measure in names)]
            for name, row in values.items()
        ]
        table(["for reference", *names], rows, numeric=True)


def unjudged(run_id: str) -> str:
    """Return the line about a run whose judgments are not public."""
    return f"no judgments here: `clamr-bench submit {run_id}` writes the submission."
