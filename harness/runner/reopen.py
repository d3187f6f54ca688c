"""A saved run with what it was made from, as long as that is what it was."""

from __future__ import annotations

from pathlib import Path

from harness.errors import ResultError
from harness.progress import Progress
from harness.results.store import RUN_NAME, SavedRun, sha256_of
from harness.runfile import read_ranking
from harness.task import Split, Task
from harness.types import Ranking


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
