"""``clamr-bench report``: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DataOption, ResultsOption, RunArgument

#: Queries shown in detail, if nobody says; `harness.reporting.html.choice.DEFAULT`.
_QUERIES = "20"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("report")(report_command)


def report_command(
    run: RunArgument,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the page goes [report-RUN.html, here]."),
    ] = None,
    queries: Annotated[
        str,
        typer.Option(
            metavar="N|all",
            help="Queries shown in detail, with pictures, texts and explanations: the worst, the "
            "best and typical ones.",
        ),
    ] = _QUERIES,
    media: Annotated[
        bool, typer.Option("--media/--no-media", help="Whether the page holds pictures.")
    ] = True,
    text: Annotated[
        bool,
        typer.Option(
            "--text/--no-text", help="Whether the page holds words of queries and documents."
        ),
    ] = True,
    data: DataOption = None,
    output: ResultsOption = None,
) -> None:
    """Write a run as one HTML page to look at: figures, plots, queries, explanations.

    The page opens without a network and loads nothing. It holds content of the dataset, under the
    dataset's terms; with `--no-media --no-text` it holds ids, counts and scores. Scores are
    explained from the index in the cache, where the retriever explains.

    `clamr-bench report 20260105-1200 --queries 50 --to report.html`
    """
    from harness.files import atomic_write
    from harness.progress import terminal_progress
    from harness.reporting.html.report import Choices, report
    from harness.reporting.words import size
    from harness.results.store import ResultsStore
    from harness.workspace import results_folder

    choices = Choices(_count(queries), media, text)
    store = ResultsStore(output or results_folder())
    saved = store.find(run)
    target = to or Path(f"report-{saved.result.run_id}.html")
    page = report(saved, store.runs(), choices, data, terminal_progress())
    with atomic_write(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    typer.echo(f"{target}: {size(target.stat().st_size)}")


def _count(queries: str) -> int | None:
    from harness.errors import UsageError

    if queries == "all":
        return None
    if not (queries.isascii() and queries.isdigit()):
        raise UsageError(f"--queries {queries}: give a number, or all.")
    return int(queries)
