"""``clamr-bench tasks`` and ``clamr-bench retrievers``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import show
from harness.cli.options import (
    DataOption,
    JsonOption,
    SettingsOption,
    SplitOption,
    complete_retrievers,
    complete_tasks,
    task_of,
)

if TYPE_CHECKING:
    from harness.registry import Registry
    from harness.task import Task


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("tasks")(tasks_command)
    app.command("retrievers")(retrievers_command)


def tasks_command(
    name: Annotated[
        str | None, typer.Argument(help="Show one task whole.", autocompletion=complete_tasks)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the tasks, or show one: protocol, settings, licence, citation.

    `clamr-bench tasks multivent/sample`
    """
    from harness.dataset.task import StoredTask
    from harness.registry import TASKS, make_task

    if name is None:
        _list(TASKS, as_json=as_json)
        return
    task = make_task(name)
    protocol = task.protocol
    facts = {
        "candidates": protocol.candidates,
        "relevant": protocol.relevance,
        "ties": protocol.ties,
        "measures": ", ".join(protocol.measures),
    }
    if task.group is not None:
        ready_members = [a for a in task.group.members if make_task(a).is_prepared]
        facts["stands for"] = ", ".join(task.group.members)
        facts["prepared"] = ", ".join(ready_members) or "none"
    elif isinstance(task, StoredTask):
        store = task.default_store
        ready = (store / "dataset.json").is_file()
        facts["data"] = f"{store} ({'prepared' if ready else 'not prepared'})"
    _show_one(task, task.address, facts, as_json=as_json)


def retrievers_command(
    name: Annotated[
        str | None,
        typer.Argument(help="Show one retriever whole.", autocompletion=complete_retrievers),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Say which can run on this task.", autocompletion=complete_tasks),
    ] = None,
    set_: SettingsOption = None,
    split: SplitOption = "test",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the retrievers, or show one: capabilities, settings, licence, citation.

    `clamr-bench retrievers --task multivent/sample`
    """
    from harness.registry import RETRIEVERS, make_retriever

    if task is not None:
        names = [name] if name else RETRIEVERS.names()
        _list_for(task_of(task, set_), names, split, data, as_json=as_json)
        return
    if name is None:
        _list(RETRIEVERS, as_json=as_json)
        return
    retriever = make_retriever(name)
    able = retriever.capabilities
    flags = [word for word in ("trainable", "explains", "oracle") if getattr(able, word)]
    flags += ["of queries reads the text alone"] if able.ignores_images else []
    facts = {
        "reads": ", ".join(modality.label for modality in sorted(able.modalities)),
        "queries": ", ".join(sorted(able.query_kinds)),
        "directions": ", ".join(sorted(able.directions)),
        "weights": retriever.weights_help or "none",
        "also": ", ".join(flags) or "-",
    }
    _show_one(retriever, retriever.address, facts, as_json=as_json)


def _list_for(
    task: Task, names: Sequence[str], split: str, data: Path | None, *, as_json: bool
) -> None:
    """Show which retrievers can run on a task, and why the others cannot."""
    from harness.errors import CapabilityError, PluginError
    from harness.progress import terminal_progress
    from harness.registry import make_retriever
    from harness.runner import check_capabilities
    from harness.types import Modality

    loaded = task.load(split, data, terminal_progress())
    present = frozenset(map(Modality.parse, loaded.coverage.modalities))
    rows = []
    for name in names:
        try:
            retriever = make_retriever(name)
            check_capabilities(task, retriever, loaded, loaded.queries, None)
        except (CapabilityError, PluginError) as error:
            rows.append([name, "no", str(error)])
            continue
        reads = sorted(retriever.capabilities.modalities & present)
        rows.append([name, "yes", "reads " + ", ".join(modality.label for modality in reads)])
    show.listing(["retriever", "runs", "why"], rows, as_json=as_json)


def _list(registry: Registry[Any], *, as_json: bool) -> None:
    from harness.errors import PluginError

    rows, broken = [], []
    for name, plugin in registry.everything():
        if isinstance(plugin, PluginError):
            broken.append(plugin)
            continue
        about = plugin.about
        rows.append([name, about.title, about.version, about.licence])
    show.listing([registry.kind, "what", "version", "licence"], rows, as_json=as_json)
    if broken:
        raise PluginError(" ".join(str(error) for error in broken))


def _show_one(plugin: Any, address: str, facts: dict[str, str], *, as_json: bool) -> None:
    from harness.settings import describe_settings

    about = plugin.about
    card = {
        "what": about.title,
        "version": about.version,
        **facts,
        "licence": about.licence,
        "citation": about.citation,
    }
    if about.url:
        card["url"] = about.url
    headers = ["setting", "type", "default", "meaning"]
    rows = [list(row) for row in describe_settings(type(plugin.settings))]
    if as_json:
        settings = [dict(zip(headers, row, strict=True)) for row in rows]
        show.json({"address": address, **card, "settings": settings})
        return
    show.table([address, ""], [[key, value] for key, value in card.items()])
    if rows:
        example = f"--set {plugin.name}.{rows[0][0]}=VALUE"
        show.table(headers, rows, title=f"Settings: {example}")
