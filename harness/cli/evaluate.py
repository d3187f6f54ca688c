"""``clamr-bench evaluate``: someone else's run file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import show
from harness.cli.options import DataOption, SettingsOption, SplitOption, TaskOption


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("evaluate")(evaluate_command)


def evaluate_command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="TREC run or {query: {document: score}} JSON.")
    ],
    task: TaskOption,
    split: SplitOption = "test",
    data: DataOption = None,
    set_: SettingsOption = None,
    ignore_unknown: Annotated[
        bool, typer.Option("--ignore-unknown", help="Drop queries and documents not in the task.")
    ] = False,
) -> None:
    """Score a run file (`.gz` or not) by a task's protocol.

    `clamr-bench evaluate run.trec.gz --task multivent/v1`
    """
    from harness.progress import terminal_progress
    from harness.registry import TASKS, make_task
    from harness.runfile import read_ranking
    from harness.runner.scoring import known_part, require_known, score
    from harness.settings import parse_assignments

    name = TASKS.find(task).name
    given = parse_assignments(set_ or [])
    made = make_task(task, {**given.get(name, {}), **given.get(task, {})})
    ranking = read_ranking(run)
    loaded = made.load(split, data, terminal_progress())
    if ignore_unknown:
        ranking = known_part(ranking, loaded.queries, loaded.documents)
    require_known(
        ranking,
        loaded.queries,
        loaded.documents,
        f"{run} names",
        f"is it a run of another task than {made.address}? --ignore-unknown drops them",
    )
    scores = score(ranking, loaded, loaded.queries, made.protocol)
    evaluation = scores.evaluation
    title = f"{run.name} · {made.address} · {split} · {len(evaluation.query_ids):,} queries"
    names = list(made.protocol.measures)
    show.table(names, [show.measures(scores.measures, names)], title=title)
    main = made.protocol.main
    for attribute, groups in scores.breakdowns.items():
        rows = [
            [value, f"{group.queries:,}", show.estimate(group.measures[main])]
            for value, group in groups.items()
        ]
        show.table([attribute, "queries", main], rows, numeric=True)
    if evaluation.missing:
        typer.echo(f"{evaluation.missing:,} queries have no documents in the run; they count 0.")
    if evaluation.without_positives:
        typer.echo(f"{evaluation.without_positives:,} queries have no relevant document; dropped.")
