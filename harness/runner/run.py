"""Runs one retriever on one task and saves the result."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from harness.config import RunConfig
from harness.documents import Documents, RestrictedDocuments
from harness.environment import peak_memory, reset_peak_memory
from harness.errors import CapabilityError, PluginError
from harness.files import writable_folder
from harness.plugin import Direction
from harness.progress import Progress
from harness.results.schema import Efficiency
from harness.results.store import SavedRun
from harness.retriever import QueryKind, Retriever
from harness.runfile import check_ids
from harness.runner.attribution import attribution_of, shown_to
from harness.runner.folder import RunFolder
from harness.runner.record import (
    build_result,
    masked,
    options,
    run_identity,
    workspace_identity,
)
from harness.runner.scoring import require_known, score
from harness.runner.search import search
from harness.runner.transposed import as_asked, search_transposed
from harness.task import Split, Task
from harness.team import Team
from harness.types import Modality, Query
from harness.workspace import Workspace, digest

#: A process that nobody launched with others.
ALONE = Team()


def run(
    task: Task,
    retriever: Retriever,
    config: RunConfig,
    results: Path,
    progress: Progress,
    *,
    again: bool = False,
    team: Team = ALONE,
) -> tuple[SavedRun, bool]:
    """Run `retriever` on `task` and save the result.

    Parameters
    ----------
    task, retriever
        What to run.
    config
        Split, k, seed, limit, modalities, memory and data; the rest is not read.
    results
        Results folder; created and write-tested before any work.
    progress
        Where to report.
    again
        Run even if the same run is complete already.
    team
        The processes of the launch, of which this is the first one; the others `assist`.

    Returns
    -------
    SavedRun, bool
        The saved run, and whether it was there already.

    Raises
    ------
    CapabilityError
        If the retriever cannot do what the task asks.
    StorageError
        If the results folder cannot be written, or another process writes the same run.
    RankingError
        If the retriever returns what is no ranking of the task's documents.
    """
    writable_folder(results, "results folder")
    split = task.load(config.split, config.data, progress)
    reverse = task.direction is Direction.REVERSE
    asked = as_asked(task, split)
    queries = asked.queries if config.limit is None else asked.queries[: config.limit]
    searched_for = split.queries if reverse else queries
    check_capabilities(task, retriever, split, searched_for, config.modality_set)
    check_ids((query.id for query in queries), asked.documents.attributes())
    documents = _prepared(task, retriever, split, config, team, progress)
    identity = run_identity(task, retriever, split, config)
    fingerprint = digest(identity)
    with (
        closing(retriever),
        RunFolder.open(results, task, retriever, fingerprint, again=again) as folder,
    ):
        if folder.complete is not None:
            team.tell(False)
            return folder.complete, True
        folder.write_config(task, retriever, config)
        reset_peak_memory()
        shown = [shown_to(retriever, query) for query in searched_for]
        workspace = _workspace(retriever, split, config)

        def busy(holder: str) -> None:
            progress.note(f"waiting for process {holder}, which works in {workspace.path}")

        with workspace.locked(busy):
            team.tell(True)
            with progress.stage(f"index {len(documents):,} documents"):
                index_seconds = retriever.timed_index(documents, workspace)
            if reverse:
                ids = [query.id for query in asked.queries]
                searched = search_transposed(
                    retriever, shown, ids, config.k, workspace, progress
                ).only(query.id for query in queries)
            else:
                searched = search(retriever, shown, config.k, workspace, progress)
            index_bytes = retriever.index_bytes(workspace)
            require_known(
                searched.ranking,
                queries,
                asked.documents,
                f"retriever {retriever.address!r} returned",
                "it may only rank what it was given",
            )
            with progress.stage("evaluate"):
                scores = score(task, searched.ranking, asked, queries)
            attribution = None
            if not reverse:
                attribution = attribution_of(
                    task, retriever, searched.ranking, split, queries, documents, progress
                )
            efficiency = Efficiency(
                index_seconds=index_seconds,
                search_seconds=searched.seconds,
                query_p50_ms=searched.latency(50),
                query_p95_ms=searched.latency(95),
                index_bytes=index_bytes,
                peak_memory_bytes=peak_memory(),
            )
            result = build_result(
                folder.run_id,
                fingerprint,
                task,
                retriever,
                split,
                config,
                scores,
                attribution,
                efficiency,
                queries=len(queries),
            )
            saved = folder.save(result, searched.ranking, scores.evaluation)
            searched.forget()
    return saved, False


def assist(
    task: Task, retriever: Retriever, config: RunConfig, team: Team, progress: Progress
) -> None:
    """Lend a hand with a run that the first process of the team does (see `run`).

    Parameters
    ----------
    task, retriever, config, progress
        As for `run`.
    team
        The processes of the launch; this one does not lead.
    """
    if not team.hear():
        return
    split = task.load(config.split, config.data, progress)
    documents = _prepared(task, retriever, split, config, team, progress)
    with closing(retriever):
        retriever.assist(documents, _workspace(retriever, split, config))


def _prepared(
    task: Task,
    retriever: Retriever,
    split: Split,
    config: RunConfig,
    team: Team,
    progress: Progress,
) -> Documents:
    """Tell the retriever what the run asks of it; return the documents that it is to index."""
    retriever.seed, retriever.memory = config.seed, config.memory
    retriever.direction = task.direction
    retriever.progress, retriever.processes = progress, team.size
    retriever.modalities = config.modality_set if masked(retriever, config) else None
    if config.modality_set is None or masked(retriever, config):
        return split.documents
    return RestrictedDocuments(split.documents, config.modality_set)


def _workspace(retriever: Retriever, split: Split, config: RunConfig) -> Workspace:
    return Workspace.of(workspace_identity(retriever, split, options(retriever, config)))


def check_capabilities(
    task: Task,
    retriever: Retriever,
    split: Split,
    queries: Sequence[Query],
    modalities: frozenset[Modality] | None,
) -> None:
    """Refuse a retriever that cannot do what the task asks, before any work.

    Raises
    ------
    CapabilityError
        Saying what the retriever lacks.
    PluginError
        If it declares what it does not implement.
    """
    able = retriever.capabilities
    if able.explains and type(retriever).explain is Retriever.explain:
        raise PluginError(
            f"retriever {retriever.address!r} declares `explains`, but does not implement "
            "`explain`: do either both or neither."
        )
    if task.direction not in able.directions:
        raise CapabilityError(
            f"retriever {retriever.address!r} cannot rank in direction {task.direction.value!r}, "
            f"which {task.address!r} asks for"
            + (
                ": documents ask there, which takes scores of different queries on one scale, as "
                "those of vectors are."
                if task.direction is Direction.REVERSE
                else "."
            )
        )
    kinds = set(map(QueryKind.of, queries))
    if not kinds <= able.query_kinds:
        lacking = ", ".join(sorted(kinds - able.query_kinds))
        raise CapabilityError(
            f"retriever {retriever.address!r} takes no {lacking} queries, which {task.address!r} "
            "has."
        )
    present = {Modality.parse(name) for name in split.coverage.modalities}
    visible = present if modalities is None else present & modalities
    if not visible & able.modalities:
        reads = ", ".join(modality.label for modality in sorted(able.modalities))
        has = ", ".join(modality.label for modality in sorted(visible)) or "nothing"
        raise CapabilityError(
            f"retriever {retriever.address!r} reads {reads}, but the documents of "
            f"{task.address!r} have {has}: choose another retriever"
            + (", or other --modalities." if modalities is not None else ".")
        )
