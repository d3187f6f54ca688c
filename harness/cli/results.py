"""``clamr-bench results``: list, show and check saved runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import attribution, show
from harness.cli.options import JsonOption, ResultsOption, RunArgument, complete_runs

app = typer.Typer(help="List, show, check and export saved results.", no_args_is_help=True)


class ExportFormat(StrEnum):
    """What saved runs are written as."""

    CARD = "card"
    CSV = "csv"


@app.command("list")
def list_command(output: ResultsOption = None, as_json: JsonOption = False) -> None:
    """List the complete runs.

    `clamr-bench results list --json`
    """
    from harness.results.store import ResultsStore
    from harness.workspace import results_folder

    store = ResultsStore(output or results_folder())
    rows = []
    for run in store.runs():
        result = run.result
        main = result.task.protocol.main
        rows.append(
            [
                result.run_id,
                result.task.address,
                result.task.protocol.name,
                result.retriever.address,
                f"{main} {show.estimate(main, result.measures[main])}"
                if result.measures
                else "not judged",
            ]
        )
    if rows or as_json:
        show.listing(["run", "task", "protocol", "retriever", "result"], rows, as_json=as_json)
    else:
        typer.echo(f"no results in {store.folder}: `clamr-bench run` makes them.")


@app.command("show")
def show_command(
    run: RunArgument, output: ResultsOption = None, as_json: JsonOption = False
) -> None:
    """Show one run: measures, breakdowns, coverage, cost, environment.

    `clamr-bench results show 20260105-1200`
    """
    from harness.reporting.words import facts_of
    from harness.results.store import ResultsStore
    from harness.workspace import results_folder

    saved = ResultsStore(output or results_folder()).find(run)
    result = saved.result
    if as_json:
        show.json(result.model_dump(mode="json"))
        return
    names = result.task.protocol.measures
    facts = {**facts_of(result), "folder": str(saved.folder)}
    show.table([result.run_id, ""], [[key, value] for key, value in facts.items()])
    if result.measures:
        show.table(names, [show.measures(result.measures, names)])
        show.references(result.references, names)
    else:
        typer.echo(show.unjudged(result.run_id))
    for attribute, groups in result.breakdowns.items():
        rows = [
            [value, f"{group.queries:,}", *show.measures(group.measures, names)]
            for value, group in groups.items()
        ]
        show.table([attribute, result.task.protocol.unit, *names], rows, numeric=True)
    if result.attribution is not None:
        attribution.show_details(result.attribution)


@app.command("check")
def check(
    run: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="Runs; default: all.", autocompletion=complete_runs),
    ] = None,
    output: ResultsOption = None,
) -> None:
    """Check that saved runs are readable and as they were written.

    `clamr-bench results check`
    """
    from harness.errors import ResultError
    from harness.results.store import ResultsStore
    from harness.workspace import results_folder

    store = ResultsStore(output or results_folder())
    runs = [store.find(name) for name in run] if run else list(store.runs())
    problems = [problem for saved in runs for problem in saved.check()]
    if problems:
        raise ResultError("\n".join(problems))
    typer.echo(f"{len(runs):,} runs in {store.folder}: all as they were written.")


@app.command("export")
def export_command(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|all",
            help="Run folder, unique prefix of a run id, or all runs.",
            autocompletion=complete_runs,
        ),
    ],
    format_: Annotated[
        ExportFormat,
        typer.Option("--format", help="card: model-index of the Hugging Face hub; csv: measures."),
    ] = ExportFormat.CARD,
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to write to, instead of printing."),
    ] = None,
    output: ResultsOption = None,
) -> None:
    """Write saved runs as an evaluation card or as CSV.

    A card takes no run of some queries only, of untrained weights or without judgments: `all`
    leaves those out and says so.

    `clamr-bench results export all --format csv --to DIR`
    """
    from harness.errors import ResultError
    from harness.files import atomic_write
    from harness.reporting import export
    from harness.results.store import ResultsStore
    from harness.workspace import results_folder

    store = ResultsStore(output or results_folder())
    runs = list(store.runs()) if run == "all" else [store.find(run)]
    if format_ is ExportFormat.CSV:
        text, suffix = export.to_csv(runs), "csv"
    else:
        if run == "all":
            listed = [saved for saved in runs if not export.unlisted(saved.result)]
            if len(listed) < len(runs):
                typer.echo(f"left out: {len(runs) - len(listed)} runs that no table has", err=True)
            runs = listed
        if not runs:
            raise ResultError(f"no run in {store.folder} is for a card.")
        text, suffix = export.card(runs), "md"
    if to is None:
        typer.echo(text, nl=False)
        return
    path = to / f"{'results' if run == 'all' else runs[0].result.run_id}.{suffix}"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    typer.echo(f"written: {path}")
