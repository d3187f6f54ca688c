"""``clamr-bench train``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import (
    DataOption,
    ResultsOption,
    SettingsOption,
    check_names,
    complete_retrievers,
    complete_tasks,
)

if TYPE_CHECKING:
    from harness.retriever import Retriever
    from harness.task import Task
    from harness.team import Team
    from harness.training.recipe import Recipe


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("train")(train_command)


def complete_recipes(incomplete: str) -> list[str]:
    """Return the recipes that begin with `incomplete`."""
    from harness.training.recipes import names

    return [name for name in names() if name.startswith(incomplete)]


def train_command(
    recipe: Annotated[
        str,
        typer.Option(help="Name of a recipe, or a YAML file.", autocompletion=complete_recipes),
    ],
    task: Annotated[
        str | None, typer.Option(help="Address of a task.", autocompletion=complete_tasks)
    ] = None,
    retriever: Annotated[
        str | None,
        typer.Option(help="Address of what to start from.", autocompletion=complete_retrievers),
    ] = None,
    set_: SettingsOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed, instead of the recipe's.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe and stop.")] = False,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Say what would be trained, and what it takes, and stop."),
    ] = False,
    track: Annotated[
        str | None, typer.Option(help="Send figures to trackio or wandb, too.")
    ] = None,
    data: DataOption = None,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder of trainings.")] = Path("trained"),
    output: ResultsOption = None,
) -> None:
    """Train a retriever by a recipe, then evaluate it as `run` does.

    A training that was killed goes on. ``--set recipe.KEY=VALUE`` changes a field of the recipe,
    ``--set NAME.KEY=VALUE`` a setting of the task or the retriever.

    `clamr-bench train --task multivent/sample --retriever clamr/tiny --recipe cpu-tiny`
    """
    from harness.config import RunConfig
    from harness.errors import UsageError
    from harness.progress import Progress, terminal_progress
    from harness.registry import RETRIEVERS, TASKS, make_retriever, make_task
    from harness.runner import assist, run
    from harness.settings import given_to, parse_assignments
    from harness.team import Team
    from harness.training import recipes
    from harness.workspace import results_folder

    given = parse_assignments(set_ or [])
    changes = recipes.taken(given)
    if seed is not None:
        changes["seed"] = seed
    chosen = recipes.load(recipe, changes)
    if show:
        typer.echo(recipes.show(recipe, changes))
        return
    if task is None or retriever is None:
        raise UsageError("name what to train, by --retriever, and on what, by --task.")
    found, about = RETRIEVERS.find(retriever), TASKS.find(task)
    check_names(given, {task, about.name, retriever, found.name, "recipe"})
    made_task = make_task(task, given_to(given, about.name, task))
    own = given_to(given, found.name, retriever)
    settings = {**chosen.settings.get(found.name, {}), **own}
    made = make_retriever(retriever, settings)
    team = Team.here()
    if plan:
        _plan(made, made_task, data, chosen, team)
        return
    from harness.cli.run import show_runs
    from harness.training.session import train, trainable

    progress = terminal_progress() if team.leads else Progress()
    progress.note(f"{retriever} on {made_task.address} by {recipe}")
    name = Path(recipe).stem
    model = train(
        made_task,
        made,
        chosen,
        to,
        progress,
        name=name,
        command=shlex.join(["clamr-bench", *sys.argv[1:]]),
        data=data,
        team=team,
        track=track,
    )
    address = f"{found.file or found.name}/{model}"
    # What says where training starts says nothing of the model that came of it.
    start = trainable(made)[0].encoder.weight_settings
    kept = {key: value for key, value in settings.items() if key not in start}
    config = RunConfig(tasks=[task], retrievers=[address], data=data, settings={address: kept})
    trained = make_retriever(address, kept)
    if team.leads:
        saved, _ = run(made_task, trained, config, output or results_folder(), progress, team=team)
        show_runs([saved])
        typer.echo(f"trained: {model}")
    else:
        assist(made_task, trained, config, team, progress)
    team.part()


def _plan(retriever: Retriever, task: Task, data: Path | None, recipe: Recipe, team: Team) -> None:
    """Show what would be trained."""
    from harness.progress import terminal_progress
    from harness.training.batches import Batches
    from harness.training.data import load
    from harness.training.plan import plan
    from harness.training.session import trainable

    _, encoder = trainable(retriever)
    drawn = recipe.batch.negatives > 0
    splits = load(task, recipe.validation, data, terminal_progress(), negatives=drawn)
    for line in plan(encoder, recipe, Batches(splits.train, recipe), team.size).lines():
        typer.echo(line)
