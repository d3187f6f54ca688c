"""``clamr-bench reproduce``: run what a paper's tables need, and fill them."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import DamagedOption, MemoryOption, ResultsOption
from harness.cli.tables import PaperArgument, TableOption, show_tables, stay_offline


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("reproduce")(reproduce_command)


def reproduce_command(
    paper: PaperArgument,
    table: TableOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be run, and do nothing.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Run even what is complete already.")
    ] = False,
    on_damaged: DamagedOption = None,
    memory: MemoryOption = None,
    output: ResultsOption = None,
) -> None:
    """Run what a paper's tables need and this machine can run; show and write the filled tables.

    What is complete is not run again, what is not here is skipped, and what fails does not stop the
    rest: the exit status says whether something failed. `papers/PAPER.md` and `papers/PAPER.tex` in
    the results folder hold all tables of the paper.

    `clamr-bench reproduce clamr --table 1 --dry-run`
    """
    from harness.errors import ClamrBenchError, UsageError
    from harness.files import writable_folder
    from harness.progress import terminal_progress
    from harness.reporting import papers
    from harness.reporting.papers_fill import fill
    from harness.reporting.papers_jobs import Availability, jobs_of
    from harness.reporting.papers_reproduce import State, reproduce, write
    from harness.results.store import ResultsStore
    from harness.team import Team
    from harness.workspace import results_folder

    if Team.here().size > 1:
        raise UsageError(
            "reproduce runs in one process: launch the `run` commands that `clamr-bench reproduce "
            f"{paper} --dry-run` lists with several, then give this one."
        )
    if dry_run:
        stay_offline()
    results = output or results_folder()
    found = papers.load(paper)
    tables = papers.chosen(found, table)
    jobs = list(jobs_of(found, tables).values())
    options = {"on_damaged": on_damaged, "memory": memory}
    for job in jobs[:1]:
        job.config(**options)  # A wrong option is told before anything runs.
    if not dry_run:
        writable_folder(results, "results folder")
    steps, available = [], Availability()
    for step in reproduce(
        jobs, results, available, terminal_progress(), dry_run=dry_run, again=again, **options
    ):
        steps.append(step)
        detail = f": {step.detail}" if step.detail else ""
        typer.echo(f"{step.state}{detail}")
        for command in step.job.commands:
            typer.echo(f"  {command}")
    if dry_run:
        return
    runs = list(ResultsStore(results).runs())
    show_tables(found, fill(found, tables, runs, available))
    for path in write(found, results, available):
        typer.echo(f"written: {path}")
    failed = [step for step in steps if step.state is State.FAILED]
    if failed:
        raise ClamrBenchError(
            f"{len(failed)} of {len(steps)} runs failed: "
            + "; ".join(f"{step.job.commands[-1]}: {step.detail}" for step in failed)
        )
