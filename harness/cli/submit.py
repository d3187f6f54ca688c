"""``clamr-bench submit``: what the holders of hidden judgments take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import DataOption, RunArgument


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("submit")(submit_command)


def submit_command(
    run: RunArgument,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to [submission.json in the run's folder]."),
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Documents of each query, at most.")] = 1000,
    data: DataOption = None,
) -> None:
    """Write a run as the submission JSON `{query: {document: score}}`.

    For tasks whose judgments are not public, such as `multivent/official`.

    `clamr-bench submit 20260105-1200`
    """
    from harness.progress import terminal_progress
    from harness.registry import make_task
    from harness.results.store import ResultsStore
    from harness.runner.submission import write_submission
    from harness.workspace import results_folder

    saved = ResultsStore(results_folder()).find(run)
    record = saved.result.task
    task = make_task(record.address, record.settings)
    target = output or saved.folder / "submission.json"
    empty = write_submission(saved, task, data, target, k, terminal_progress())
    typer.echo(f"{target}: for {task.submit_to}")
    if empty:
        typer.echo(f"{empty:,} queries have no documents in the run; they are there, empty.")
