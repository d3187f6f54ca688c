"""A saved run with what it was made from, as long as that is what it was."""

from __future__ import annotations

from pathlib import Path

from harness.documents import Documents, RestrictedDocuments
from harness.errors import CapabilityError, ResultError
from harness.plugin import Direction
from harness.progress import Progress
from harness.registry import make_retriever
from harness.results.store import RUN_NAME, SavedRun, sha256_of
from harness.retriever import INDEX_NAME, Retriever
from harness.runfile import read_ranking
from harness.runner.record import workspace_identity
from harness.task import Split, Task
from harness.types import Modality, Ranking
from harness.workspace import Workspace, digest, workspaces_folder


def saved_ranking(saved: SavedRun) -> Ranking:
    """Return the ranking of a run.

    Raises
    ------
    ResultError
        If its file was changed since.
    """
    path = saved.folder / RUN_NAME
    if not path.is_file() or sha256_of(path) != saved.result.files.get(RUN_NAME):
        raise ResultError(f"{path} is missing or was changed since the run: run it again.")
    return read_ranking(path)


def same_split(saved: SavedRun, task: Task, data: Path | None, progress: Progress) -> Split:
    """Return the split that a run was made on.

    Raises
    ------
    ResultError
        If the data are others now.
    """
    result = saved.result
    split = task.load(result.task.split, data, progress)
    if split.fingerprint != result.data.fingerprint:
        raise ResultError(
            f"run {result.run_id} is of other data than {split.dataset} holds now (fingerprint "
            f"{result.data.fingerprint[:12]}, now {split.fingerprint[:12]}): point --data at the "
            "store that it ran on, or run it again."
        )
    return split


def same_retriever(saved: SavedRun) -> Retriever:
    """Return the retriever that a run was made with, before it has indexed anything.

    Raises
    ------
    CapabilityError
        If the run fuses saved runs: no retriever made it.
    """
    from harness.runner.fused_runs import NAME

    record = saved.result.retriever
    if record.name == NAME:
        raise CapabilityError(
            f"run {saved.result.run_id} fuses saved runs, so its scores are of ranks and lists: "
            f"explain one of these: {', '.join(record.settings['runs'])}."
        )
    return make_retriever(record.address, record.settings)


def require_same(saved: SavedRun, retriever: Retriever) -> None:
    """Refuse a retriever whose files or version are not those of the run.

    Raises
    ------
    ResultError
        Saying so.
    """
    if retriever.fingerprint != saved.result.retriever.fingerprint:
        raise ResultError(
            f"run {saved.result.run_id} was made by another {retriever.address}: its files or "
            "version have changed since. Run it again."
        )


def reopened(saved: SavedRun, task: Task, split: Split, progress: Progress) -> Retriever:
    """Return the retriever of a run with the index that the run searched, ready to explain.

    Nothing is encoded: the index must lie in the cache as the run left it.

    Parameters
    ----------
    saved
        A complete run.
    task, split
        What it is of, as `same_split` gives it.
    progress
        Where to report.

    Raises
    ------
    CapabilityError
        If the retriever does not explain its scores, or the run is of the reverse direction.
    ResultError
        If the retriever is another one now, or the index is gone.
    """
    result = saved.result
    retriever = same_retriever(saved)
    retriever.explain([], [])  # Refuses at once, if it cannot.
    if task.direction is Direction.REVERSE:
        raise CapabilityError(f"run {result.run_id} is of the reverse direction.")
    require_same(saved, retriever)
    options = result.options
    identity = workspace_identity(retriever, split, options)
    if not (workspaces_folder() / digest(identity)[:32] / INDEX_NAME).is_file():
        raise ResultError(
            f"the index of run {result.run_id} is no longer in the cache: run it again."
        )
    left_in = (
        None if options.modalities is None else frozenset(map(Modality.parse, options.modalities))
    )
    documents: Documents = split.documents
    if left_in is not None and options.masked:
        retriever.modalities = left_in
    elif left_in is not None:
        documents = RestrictedDocuments(documents, left_in)
    retriever.seed, retriever.progress = options.seed, progress
    workspace = Workspace.of(identity)

    def busy(holder: str) -> None:
        progress.note(f"waiting for process {holder}, which works in {workspace.path}")

    with workspace.locked(busy):
        retriever.index(documents, workspace)
    return retriever
