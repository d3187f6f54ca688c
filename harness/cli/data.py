"""``clamr-bench data``: prepare, check, describe and list dataset stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import show
from harness.cli.options import DataOption, JsonOption, SettingsOption, complete_tasks, task_of

if TYPE_CHECKING:
    from harness.dataset import DatasetStore

app = typer.Typer(help="Prepare, check, describe, list and enrich datasets.", no_args_is_help=True)

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Task address or store folder.", autocompletion=complete_tasks
    ),
]


@app.command("prepare")
def prepare(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="Task address.", autocompletion=complete_tasks)
    ],
    source: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Folder with the task's official files. Repeat it for several, which are searched "
            "in that order.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first thing that is missing.")
    ] = False,
    data: DataOption = None,
    set_: SettingsOption = None,
) -> None:
    """Turn a task's official files into a dataset store; media stay where they are.

    `clamr-bench data prepare multivent/v1 --source DIR`
    """
    from harness.dataset import DatasetStore
    from harness.groups import to_prepare
    from harness.progress import terminal_progress
    from harness.registry import make_task

    progress = terminal_progress()
    for one in to_prepare(task_of(task, set_), source or [], data, make_task):
        show_store(DatasetStore(one.prepare(source or [], data, progress, strict=strict)))


@app.command("check")
def check(
    name: NameArgument,
    media: Annotated[bool, typer.Option("--media", help="Look for every media file too.")] = False,
) -> None:
    """Read every byte of a store and name what was changed.

    `clamr-bench data check multivent/v1 --media`
    """
    from harness.errors import DataError

    for store in open_stores(name):
        problems = store.check()
        if media and not problems:
            problems = store.check_media()
        if problems:
            shown = problems[:20]
            more = [f"... and {len(problems) - 20:,} more."] if len(problems) > 20 else []
            lines = [f"{store.folder} is not as it was prepared:", *shown, *more]
            raise DataError("\n".join(lines))
        typer.echo(f"{store.folder}: every part is as it was prepared.")


@app.command("stats")
def stats(name: NameArgument) -> None:
    """Show what a store holds: splits, modality coverage, languages, notes, the task's figures.

    `clamr-bench data stats multivent/v1`
    """
    from harness.dataset.task import StoredTask
    from harness.registry import TASKS, make_task

    stores = open_stores(name)
    for store in stores:
        show_store(store)
        one = Path(name).is_dir() or len(stores) > 1
        address = store.manifest.task if one else name
        # The task of a store in a folder may not be installed here.
        if not one or address in TASKS.names():
            task = make_task(address)
            for table in task.statistics(store) if isinstance(task, StoredTask) else ():
                show.table(table.headers, table.rows, numeric=True)


@app.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """List the prepared stores.

    `clamr-bench data list`
    """
    from harness.dataset import DatasetStore
    from harness.workspace import data_folder

    rows = []
    for path in sorted(data_folder().glob("*/*/dataset.json")):
        if path.parent.name.startswith("."):
            continue
        manifest = DatasetStore(path.parent).manifest
        splits = ", ".join(
            f"{split}: {model.coverage.documents:,} documents, {model.queries.rows:,} queries"
            for split, model in manifest.splits.items()
        )
        rows.append([manifest.task, splits, str(path.parent)])
    if rows or as_json:
        show.listing(["task", "splits", "folder"], rows, as_json=as_json)
    else:
        typer.echo(
            f"no prepared datasets in {data_folder()}: `clamr-bench data prepare TASK --source "
            "DIR` makes one."
        )


def open_store(name: str) -> DatasetStore:
    """Open the store of a task, or in a folder."""
    from harness.errors import UsageError

    stores = open_stores(name)
    if len(stores) > 1:
        tasks = ", ".join(store.manifest.task for store in stores)
        raise UsageError(f"{name!r} stands for several tasks: name one of {tasks}.")
    return stores[0]


def open_stores(name: str) -> list[DatasetStore]:
    """Open the store of a task, or in a folder; of a group, those of its prepared members."""
    from harness.dataset import DatasetStore
    from harness.dataset.task import StoredTask
    from harness.errors import NotPreparedError, UsageError
    from harness.groups import prepared
    from harness.registry import make_task

    if Path(name).is_dir():
        return [DatasetStore(Path(name))]
    stores = []
    for task in prepared(make_task(name), make_task):
        if not isinstance(task, StoredTask):
            raise UsageError(f"task {name!r} keeps no dataset store.")
        try:
            stores.append(DatasetStore(task.default_store))
        except NotPreparedError:
            raise task.not_prepared(task.default_store) from None
    return stores


def show_store(store: DatasetStore) -> None:
    """Show what a store holds."""
    manifest = store.manifest
    typer.echo(f"{manifest.task} (version {manifest.task_version}) in {store.folder}")
    for split, model in manifest.splits.items():
        counts = {
            "queries": model.queries.rows,
            "judgments": model.qrels.rows,
            "judged documents": model.judged_documents,
        }
        home = f" (those of {model.documents_of})" if model.documents_of else ""
        rows = [["documents", f"{model.coverage.documents:,}{home}"]]
        rows += [[key, f"{value:,}"] for key, value in counts.items()]
        rows += [
            [
                f"queries by {attribute}",
                ", ".join(f"{value} {number:,}" for value, number in values.items()),
            ]
            for attribute, values in model.query_attributes.items()
        ]
        if model.documents_of:
            show.table([split, ""], rows, numeric=True)
            continue
        total = model.coverage.documents or 1
        rows += [
            [f"with {label}", f"{count:,} ({count / total:.1%})"]
            for label, count in model.coverage.modalities.items()
        ]
        rows += [
            [f"in {language}", f"{row['documents']:,}"]
            for language, row in model.coverage.languages.items()
        ]
        show.table([split, ""], rows, numeric=True)
    for channel, version in manifest.channels.items():
        typer.echo(f"{channel}: {version}")
    for key, count in manifest.counts.items():
        typer.echo(f"{key}: {count:,}")
    for kind, gap in manifest.gaps.items():
        typer.echo(f"missing: {kind}: {gap.count:,} (first: {gap.example})")
    for note in manifest.notes:
        typer.echo(note)
