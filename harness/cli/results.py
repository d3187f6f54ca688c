"""``clamr-bench results``: list, show and check saved runs."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli import attribution, show
from harness.cli.options import JsonOption, ResultsOption, RunArgument, complete_runs

app = typer.Typer(help="List, show and check saved results.", no_args_is_help=True)


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
