"""``clamr-bench tables``: a paper's tables, published beside ours."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import show
from harness.cli.options import ResultsOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.reporting.papers_fill import FilledTable
    from harness.reporting.papers_schema import Paper


class Format(StrEnum):
    """What tables are written as."""

    TERMINAL = "terminal"
    MD = "md"
    LATEX = "latex"
    CSV = "csv"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("tables")(tables_command)


def complete_papers(incomplete: str) -> list[str]:
    """Return the papers that begin with `incomplete`."""
    from harness.reporting.papers import names

    return [name for name in names() if name.startswith(incomplete)]


PaperArgument = Annotated[
    str,
    typer.Argument(
        metavar="PAPER",
        help="Name of a paper, or a YAML file of one's own.",
        autocompletion=complete_papers,
    ),
]
TableOption = Annotated[
    list[str] | None,
    typer.Option("--table", metavar="NUMBER", help="One of its tables; may be repeated [all]."),
]


def tables_command(
    paper: PaperArgument,
    table: TableOption = None,
    format_: Annotated[
        Format, typer.Option("--format", help="What to print.", show_default=True)
    ] = Format.TERMINAL,
    output: ResultsOption = None,
) -> None:
    """Show a paper's tables: published, ours, the difference with its interval, the verdict.

    Ours is the newest complete saved run that is of the same task, retriever and settings. Nothing
    is run or fetched; what is missing has the command that makes it.

    `clamr-bench tables clamr --table 1`
    """
    from harness.reporting import papers, papers_latex, papers_text
    from harness.reporting.papers_fill import fill
    from harness.reporting.papers_jobs import Availability
    from harness.results.store import ResultsStore
    from harness.workspace import results_folder

    stay_offline()
    found = papers.load(paper)
    runs = list(ResultsStore(output or results_folder()).runs())
    filled = fill(found, papers.chosen(found, table), runs, Availability())
    match format_:
        case Format.TERMINAL:
            show_tables(found, filled)
        case Format.MD:
            typer.echo(papers_text.markdown(found, filled), nl=False)
        case Format.LATEX:
            typer.echo(papers_latex.latex(found, filled), nl=False)
        case Format.CSV:
            typer.echo(papers_text.to_csv(filled), nl=False)


def stay_offline() -> None:
    """Look for weights on this machine only: to show what can be run must not fetch gigabytes."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def show_tables(paper: Paper, filled: Sequence[FilledTable]) -> None:
    """Print tables with what they say of themselves."""
    from harness.reporting import papers_text

    typer.echo(papers_text.summary(filled))
    typer.echo(papers_text.tolerance(paper))
    for one in filled:
        rows = list(papers_text.lines(one))
        title = f"{one.table.number}. {one.table.title} ({one.table.place})"
        show.table(papers_text.headers(one), rows, title=title)
        notes = [*papers_text.references(one), *papers_text.doubts(one), *one.table.notes]
        for note in notes:
            typer.echo(note)
    for name, where in paper.reruns.items():
        typer.echo(f"{name}: {where}.")
    for count, verdict, reason in papers_text.reasons(filled):
        typer.echo(f"{verdict}, {count} cells: {reason}.")
    for lacks, count, commands in papers_text.missing(filled):
        typer.echo(f"not run, {count} cells: {lacks.rstrip('.') or 'can be run'}:")
        for command in commands:
            typer.echo(f"  {command}")
    for note in paper.notes:
        typer.echo(note)
