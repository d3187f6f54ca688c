"""``clamr-bench leaderboard``: saved results -> tables -> ``leaderboard.md``."""

from __future__ import annotations

import typer

from harness.cli.options import ResultsOption


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("leaderboard")(leaderboard_command)


def leaderboard_command(output: ResultsOption = None) -> None:
    """Write the versioned tables and `leaderboard.md` beside the results folder."""
    from harness.reporting.leaderboard import render
    from harness.reporting.tables import update_tables
    from harness.results.store import ResultsStore
    from harness.workspace import atomic_write, results_folder

    folder = output or results_folder()
    files = update_tables(folder, ResultsStore(folder).runs())
    target = folder.resolve().parent / "leaderboard.md"
    with atomic_write(target) as temporary:
        temporary.write_text(render(files), encoding="utf-8")
    tables = sum(len(file.tables) for file in files)
    typer.echo(f"{target}: {tables} tables from {folder}")
