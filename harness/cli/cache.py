"""``clamr-bench cache``: list, check and prune workspaces."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from harness.cli import show
from harness.cli.options import JsonOption

app = typer.Typer(
    help="List, check and prune what retrievers keep in the cache.", no_args_is_help=True
)


@app.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """List the workspaces, longest unused first.

    `clamr-bench cache list`
    """
    from harness.cache import cached
    from harness.workspace import workspaces_folder

    found = cached()
    if not found and not as_json:
        typer.echo(f"no workspaces in {workspaces_folder()}: `clamr-bench run` makes them.")
        return
    rows = [
        [
            one.path.name[:12],
            one.retriever,
            str(one.identity.get("data", "unknown"))[:12],
            "+".join(one.identity.get("modalities") or ["all"]),
            one.state,
            show.size(one.size),
            datetime.fromtimestamp(one.used, UTC).strftime("%Y-%m-%d %H:%M"),
        ]
        for one in found
    ]
    headers = ["workspace", "retriever", "data", "modalities", "state", "size", "last used (UTC)"]
    show.listing(headers, rows, as_json=as_json)
    if as_json:
        return
    total = show.size(sum(one.size for one in found))
    typer.echo(f"{len(found):,} workspaces, {total}, in {workspaces_folder()}")


@app.command("check")
def check_command() -> None:
    """Compare all embeddings with their checksums.

    `clamr-bench cache check`
    """
    from harness.cache import check
    from harness.errors import StorageError
    from harness.workspace import workspaces_folder

    shards, problems = check()
    if problems:
        remedy = "the next run of the same command encodes what is damaged anew."
        raise StorageError("\n".join([*problems, remedy]))
    typer.echo(f"{shards:,} shards in {workspaces_folder()}: all as they were written.")


@app.command("prune")
def prune_command(
    older_than: Annotated[
        float | None,
        typer.Option(metavar="DAYS", min=0, help="Remove workspaces unused for so many days."),
    ] = None,
    incomplete: Annotated[
        bool,
        typer.Option("--incomplete", help="Remove those that a run could still resume, too."),
    ] = False,
    all_: Annotated[bool, typer.Option("--all", help="Remove all workspaces.")] = False,
) -> None:
    """Remove workspaces, and what killed processes left half written.

    Without an option only the latter goes. A workspace in use is never touched.

    `clamr-bench cache prune --older-than 30`
    """
    from harness.cache import prune

    done = prune(older_than=older_than, incomplete=incomplete, everything=all_)
    for one in done.busy:
        typer.echo(f"left alone: {one.path} is {one.state}", err=True)
    typer.echo(
        f"removed {len(done.removed):,} workspaces and {done.leftovers:,} leftovers: "
        f"{show.size(done.freed)} freed."
    )
