"""``clamr-bench leaderboard``: saved results -> tables -> ``leaderboard.md``, or a page."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import ResultsOption


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("leaderboard")(leaderboard_command)


def leaderboard_command(
    html: Annotated[
        bool,
        typer.Option("--html", help="Write leaderboard.html beside it: sortable, one file."),
    ] = False,
    output: ResultsOption = None,
) -> None:
    """Write the versioned tables and `leaderboard.md` beside the results folder.

    `clamr-bench leaderboard --html`
    """
    from harness.files import atomic_write
    from harness.reporting.leaderboard import render
    from harness.reporting.tables import update_tables
    from harness.results.store import ResultsStore
    from harness.workspace import results_folder

    folder = output or results_folder()
    files = update_tables(folder, ResultsStore(folder).runs())
    pages = {"leaderboard.md": render(files)}
    if html:
        from harness.reporting.html.leaderboard import leaderboard

        pages["leaderboard.html"] = leaderboard(files)
    tables = sum(len(file.tables) for file in files)
    for name, text in pages.items():
        target = folder.resolve().parent / name
        with atomic_write(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
        typer.echo(f"{target}: {tables} tables from {folder}")
