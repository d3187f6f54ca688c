"""``clamr-bench compare``: runs against the first of them, query by query."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import show
from harness.cli.options import DataOption, JsonOption, ResultsOption, complete_runs

if TYPE_CHECKING:
    from harness.reporting.comparison import Compared, Comparison
    from harness.results.store import SavedRun


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("compare")(compare_command)


def compare_command(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Run folders or unique prefixes of run ids; the first is the baseline.",
            autocompletion=complete_runs,
        ),
    ],
    measure: Annotated[
        list[str] | None, typer.Option(help="A measure to test; may be repeated [all].")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="ATTRIBUTE", help="Test groups of queries apart, too: query_type."),
    ] = None,
    moves: Annotated[
        int, typer.Option(min=0, help="Queries to list whose main measure moved most.")
    ] = 10,
    as_json: JsonOption = False,
    data: DataOption = None,
    output: ResultsOption = None,
) -> None:
    """Compare runs with the first one: paired permutation test, interval, effect, what moved.

    p-values are corrected by Holm for all tests that are shown. Runs of different tasks,
    protocols, data or measures are refused.

    `clamr-bench compare 20260105-1200 20260105-1210 --by query_type`
    """
    from harness.reporting.comparison import compare, require_comparable
    from harness.results.store import ResultsStore
    from harness.workspace import results_folder

    store = ResultsStore(output or results_folder())
    found = [store.find(run) for run in runs]
    require_comparable(found)
    groups = None if by is None else _groups(found[0], by, data)
    compared = compare(found, groups, measure, moves)
    if as_json:
        show.json(asdict(compared))
        return
    _show(found, compared)


def _groups(run: SavedRun, by: str, data: DataOption) -> dict[str, frozenset[str]]:
    from harness.breakdowns import query_groups
    from harness.errors import UsageError, did_you_mean
    from harness.policy import OwnPolicy
    from harness.progress import terminal_progress
    from harness.registry import make_task
    from harness.runner.reopen import same_split
    from harness.runner.transposed import as_asked

    record = run.result.task
    task = make_task(record.address, record.settings)
    split = as_asked(task, same_split(run, task, data, terminal_progress()))
    rows = task.rows(split, split.queries) if isinstance(task, OwnPolicy) else split.queries
    known = sorted({name for query in rows for name in query.attributes})
    if by not in known:
        raise UsageError(
            f"no query of {record.address} has an attribute {by!r} (there are "
            f"{', '.join(known) or 'none'}).{did_you_mean(by, known)}"
        )
    return {
        f"{by}={value}": frozenset(rows[place].id for place in places)
        for value, places in query_groups(rows, [by])[by].items()
    }


def _show(runs: list[SavedRun], compared: Comparison) -> None:
    names = {run.result.run_id: run.result.retriever.address for run in runs}
    baseline = runs[0].result
    main, protocol = baseline.task.protocol.main, baseline.task.protocol
    typer.echo(
        f"{baseline.task.address} · {protocol.name} · {baseline.evaluation.queries:,} "
        f"{protocol.unit}; baseline: {names[baseline.run_id]} ({baseline.run_id})"
    )
    for run_id in compared.moves:
        rows = [_cells(row) for row in compared.rows if row.run == run_id]
        headers = ["measure", "queries", "difference", "p (Holm)", "wins / ties / losses"]
        show.table(
            [*headers, "effect", "detectable"],
            rows,
            title=f"{names[run_id]} ({run_id}) against the baseline",
            numeric=True,
        )
        moved = [[m.query, f"{m.baseline:.3f}", f"{m.value:.3f}"] for m in compared.moves[run_id]]
        if moved:
            show.table(["moved most", f"{main} before", "after"], moved, numeric=True)
    if compared.untested:
        typer.echo(f"not tested, as no means over queries: {', '.join(compared.untested)}")
    typer.echo(
        "difference: mean over queries with its bootstrap 95% interval, above 0 where the run is "
        "better; detectable: the smallest difference that so many queries would show in 80% of "
        "cases."
    )


def _cells(row: Compared) -> list[str]:
    from harness.rank_measures import written

    test, measure = row.test, row.measure
    ends = [written(measure, value) for value in (test.difference.low, test.difference.high)]
    mean = test.difference.mean
    return [
        measure if row.group is None else f"{measure}, {row.group}",
        f"{test.difference.n:,}",
        f"{'+' if mean > 0 else ''}{written(measure, mean)} [{', '.join(ends)}]",
        f"{row.p:.4f}" + ("*" if row.p < 0.05 else ""),
        f"{test.wins} / {test.ties} / {test.losses}",
        f"{test.effect:.2f}",
        written(measure, test.detectable),
    ]
