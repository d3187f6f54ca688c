"""``clamr-bench evaluate``: someone else's run file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import show
from harness.cli.options import DataOption, SettingsOption, SplitOption, TaskOption, task_of


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
    from harness.errors import DataError
    from harness.progress import terminal_progress
    from harness.runfile import read_ranking
    from harness.runner.scoring import known_part, require_known, score
    from harness.runner.transposed import as_asked

    made = task_of(task, set_)
    ranking = read_ranking(run)
    loaded = as_asked(made, made.load(split, data, terminal_progress()))
    if not loaded.qrels:
        raise DataError(
            f"split {split!r} of {made.address!r} has no judgments, so there is nothing to evaluate"
            + (f": they are held by {made.submit_to}." if made.submit_to else ".")
        )
    if ignore_unknown:
        ranking = known_part(ranking, loaded.queries, loaded.documents)
    require_known(
        ranking,
        loaded.queries,
        loaded.documents,
        f"{run} names",
        f"is it a run of another task than {made.address}? --ignore-unknown drops them",
    )
    scores = score(made, ranking, loaded, loaded.queries)
    evaluation = scores.evaluation
    unit = made.protocol.unit
    title = f"{run.name} · {made.address} · {split} · {len(evaluation.query_ids):,} {unit}"
    names = list(made.protocol.measures)
    show.table(names, [show.measures(scores.measures, names)], title=title)
    show.references(scores.references, names)
    main = made.protocol.main
    for attribute, groups in scores.breakdowns.items():
        rows = [
            [value, f"{group.queries:,}", show.estimate(main, group.measures[main])]
            for value, group in groups.items()
        ]
        show.table([attribute, unit, main], rows, numeric=True)
    if evaluation.missing:
        typer.echo(f"{evaluation.missing:,} {unit} have no documents in the run; they count 0.")
    if evaluation.without_positives:
        typer.echo(f"{evaluation.without_positives:,} queries have no relevant document; dropped.")
