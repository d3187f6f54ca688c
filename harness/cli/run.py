"""``clamr-bench run``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import attribution, show
from harness.cli.options import (
    DamagedOption,
    DataOption,
    MemoryOption,
    ResultsOption,
    SettingsOption,
    check_names,
    complete_retrievers,
    complete_tasks,
)

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.progress import Progress
    from harness.results.store import SavedRun
    from harness.retriever import Retriever
    from harness.task import Group, Task


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("run")(run_command)


def run_command(
    task: Annotated[
        list[str] | None,
        typer.Option(help="Address of a task; may be repeated.", autocompletion=complete_tasks),
    ] = None,
    retriever: Annotated[
        list[str] | None,
        typer.Option(
            help="Address of a retriever, or file.py:Class; may be repeated.",
            autocompletion=complete_retrievers,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML file with the same keys; flags go before it."),
    ] = None,
    set_: SettingsOption = None,
    split: Annotated[str | None, typer.Option(help="Split to evaluate on [test].")] = None,
    k: Annotated[int | None, typer.Option(help="Documents returned a query [1000].")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of random choices [0].")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Run only the first queries; never listed in tables.")
    ] = None,
    modalities: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Score by these document modalities only."),
    ] = None,
    on_damaged: DamagedOption = None,
    memory: MemoryOption = None,
    data: DataOption = None,
    output: ResultsOption = None,
    again: Annotated[
        bool, typer.Option("--again", help="Run even what is complete already.")
    ] = False,
) -> None:
    """Run retrievers on tasks and save results.

    Every retriever runs on every task. A run that was killed goes on; one that is complete is
    shown again. An address that stands for several tasks (m2kr) runs those that are prepared, and
    a retriever leaves out what it cannot do of them.

    `clamr-bench run --task multivent/sample --retriever bm25-asr --retriever bm25-text`
    """
    from itertools import product

    from harness.config import RunConfig
    from harness.errors import CapabilityError, UsageError
    from harness.groups import to_run
    from harness.progress import Progress, terminal_progress
    from harness.registry import RETRIEVERS, TASKS, make_retriever, make_task
    from harness.runner import assist, run
    from harness.settings import parse_assignments
    from harness.team import Team
    from harness.workspace import results_folder

    flags = {
        "tasks": task,
        "retrievers": retriever,
        "settings": parse_assignments(set_ or []),
        "split": split,
        "k": k,
        "seed": seed,
        "limit": limit,
        "modalities": None if modalities is None else modalities.split(","),
        "on_damaged": on_damaged,
        "memory": memory,
        "data": data,
        "output": output,
    }
    chosen = RunConfig.make(config, flags)
    results = chosen.output or results_folder()

    def task_at(address: str) -> Task:
        return make_task(address, chosen.settings_of(address, TASKS.find(address).name))

    # Everything is made before anything runs: a typo in the last retriever costs no hours.
    asked = [task_at(address) for address in chosen.tasks]
    groups = [one.group for one in asked if one.group is not None]
    found = [(a, RETRIEVERS.find(a)) for a in chosen.retrievers]
    members = {address for group in groups for address in group.members}
    names = {one.name for one in asked} | {one.name for _, one in found}
    check_names(chosen.settings, {*names, *members, *chosen.tasks, *chosen.retrievers})
    known = [one.plugin.Settings.model_fields for _, one in found]
    if chosen.on_damaged and not any("on_damaged" in fields for fields in known):
        raise UsageError(
            f"--on-damaged {chosen.on_damaged} is for retrievers that read media files, and "
            f"{', '.join(chosen.retrievers)} reads none: leave it out."
        )
    expanded = [member for one in asked for member in to_run(one, chosen.data, task_at)]
    made_tasks = list({one.address: one for one in expanded}.values())
    made = [
        make_retriever(a, chosen.settings_of(a, one.name, fields))
        for (a, one), fields in zip(found, known, strict=True)
    ]
    team = Team.here()
    progress = terminal_progress() if team.leads else Progress()
    saved: list[SavedRun] = []
    left_out: list[str] = []
    for one_task, one_retriever in product(made_tasks, made):
        if one_task.address in members - set(chosen.tasks):
            reason = _cannot(one_task, one_retriever, chosen, progress)
            if reason is not None:
                progress.note(f"left out: {reason}")
                left_out.append(reason)
                continue
        if not team.leads:
            assist(one_task, one_retriever, chosen, team, progress)
            continue
        progress.note(f"{one_task.address} · {one_retriever.address}")
        done, already = run(
            one_task, one_retriever, chosen, results, progress, again=again, team=team
        )
        if already:
            progress.note("complete already (--again runs it anew)")
        saved.append(done)
    team.part()
    if left_out and team.leads and not saved:
        raise CapabilityError(f"there is nothing to run. {left_out[0]}")
    show_runs(saved)
    order = [one.address for one in made]
    saved.sort(key=lambda run: order.index(run.result.retriever.address))
    for group in groups:
        show_group(group, saved)


def _cannot(task: Task, retriever: Retriever, config: RunConfig, progress: Progress) -> str | None:
    """Return why a retriever cannot do a member of a group, which is then left out.

    Every process of a launch finds the same, so none waits for another.
    """
    from harness.errors import CapabilityError
    from harness.runner import check_capabilities

    split = task.load(config.split, config.data, progress)
    try:
        check_capabilities(task, retriever, split, split.queries, config.modality_set)
    except CapabilityError as error:
        return str(error)
    return None


def show_group(group: Group, saved: Sequence[SavedRun]) -> None:
    """Show the table of a group: one row a retriever, blank where nothing was run."""
    from harness.rank_measures import written

    measures = [column.measure for column in group.columns]
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for run in saved:
        address = run.result.task.address
        if address in group.evaluated:
            means = {name: value.mean for name, value in run.result.measures.items()}
            figures.setdefault(_label(run), {})[address] = means
    rows = []
    for label, values in group.layout(figures):
        pairs = zip(measures, values, strict=True)
        rows.append([label, *("" if value is None else written(m, value) for m, value in pairs)])
    if rows:
        show.table(["retriever", *(c.heading for c in group.columns)], rows, numeric=True)


def show_runs(saved: Sequence[SavedRun]) -> None:
    """Show the measures of runs, and the breakdowns by query, a table for each protocol."""
    groups: dict[tuple[str, str], list[SavedRun]] = {}
    for run in saved:
        task = run.result.task
        if run.result.measures:
            groups.setdefault((task.address, task.protocol.name), []).append(run)
    for (address, _), runs in groups.items():
        task = runs[0].result.task
        names = task.protocol.measures
        title = (
            f"{address} · {task.split} · {runs[0].result.evaluation.queries:,} {task.protocol.unit}"
        )
        rows = [[_label(run), *show.measures(run.result.measures, names)] for run in runs]
        show.table(["retriever", *names], rows, title=title, numeric=True)
        show.references(runs[0].result.references, names)
        for attribute in runs[0].result.breakdowns:
            _show_breakdown(attribute, task.protocol.main, runs)
        attributed = [
            (_label(run), run.result.attribution)
            for run in runs
            if run.result.attribution is not None
        ]
        if attributed:
            attribution.show_summary(attributed)
    for run in saved:
        if run.result.data.losses:
            typer.echo(f"{_label(run)} could not use all: {show.losses(run.result.data.losses)}")
        typer.echo(f"saved: {run.folder}")
        if not run.result.measures:
            typer.echo(show.unjudged(run.result.run_id))


def _show_breakdown(attribute: str, measure: str, runs: Sequence[SavedRun]) -> None:
    from harness.rank_measures import written

    groups = runs[0].result.breakdowns[attribute]
    if not 2 <= len(groups) <= 12:  # A wider table is for `results show`.
        return
    headers = [f"{value} ({group.queries})" for value, group in groups.items()]
    rows = []
    for run in runs:
        parts = run.result.breakdowns.get(attribute, {})
        rows.append(
            [
                _label(run),
                *(
                    written(measure, parts[v].measures[measure].mean) if v in parts else "-"
                    for v in groups
                ),
            ]
        )
    unit = runs[0].result.task.protocol.unit
    title = f"{measure} by {attribute.replace('_', ' ')} (number of {unit})"
    show.table(["retriever", *headers], rows, title=title, numeric=True)


def _label(run: SavedRun) -> str:
    result = run.result
    changed = [f"{key}={value}" for key, value in result.retriever.changed_settings.items()]
    if result.options.restriction is not None:
        changed.append(result.options.restriction)
    label = result.retriever.address
    return f"{label} ({', '.join(changed)})" if changed else label
