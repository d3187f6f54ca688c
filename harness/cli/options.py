"""Options that several commands share, and their completions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from harness.task import Task


def complete_tasks(incomplete: str) -> list[str]:
    """Return the registered task names that begin with `incomplete`."""
    from harness.registry import TASKS

    return [name for name in TASKS.names() if name.startswith(incomplete)]


def complete_retrievers(incomplete: str) -> list[str]:
    """Return the registered retriever names that begin with `incomplete`."""
    from harness.registry import RETRIEVERS

    return [name for name in RETRIEVERS.names() if name.startswith(incomplete)]


def complete_runs(incomplete: str) -> list[str]:
    """Return the ids of saved runs that begin with `incomplete`."""
    from harness.results.store import ResultsStore
    from harness.workspace import results_folder

    folders = ResultsStore(results_folder()).folders()
    return [folder.name for folder in folders if folder.name.startswith(incomplete)]


RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Run folder or unique prefix of a run id.",
        autocompletion=complete_runs,
    ),
]
TaskOption = Annotated[
    str,
    typer.Option("--task", help="Address of a task.", autocompletion=complete_tasks),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME.KEY=VALUE", help="A setting of a task or retriever."),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Dataset store, instead of the default place."),
]
SplitOption = Annotated[str, typer.Option("--split", help="Split of the dataset.")]
ResultsOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Results folder; default: CLAMR_BENCH_RESULTS, then ./results.",
    ),
]
DamagedOption = Annotated[
    str | None,
    typer.Option(
        "--on-damaged",
        metavar="POLICY",
        help="Damaged media files: fail, skip-modality or skip-document [fail].",
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option("--memory", metavar="SIZE", help="Memory for blocks of data, as in 500MB [2GiB]."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def check_names(settings: Collection[str], known: Collection[str]) -> None:
    """Refuse settings of a task or retriever that a command has nothing to do with.

    Raises
    ------
    UsageError
        Naming it, and the nearest name.
    """
    from harness.errors import UsageError, did_you_mean

    for name in settings:
        if name not in known:
            raise UsageError(
                f"settings are given for {name!r}, which this command does not run (it runs "
                f"{', '.join(sorted(known))}).{did_you_mean(name, known)}"
            )


def task_of(address: str, assignments: Sequence[str] | None) -> Task:
    """Make the task at `address` with what ``--set`` says of its name or its whole address."""
    from harness.registry import TASKS, make_task
    from harness.settings import given_to, parse_assignments

    name, given = TASKS.find(address).name, parse_assignments(assignments or [])
    check_names(given, {name, address})
    return make_task(address, given_to(given, name, address))
