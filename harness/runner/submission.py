"""A saved run as the file that the holders of hidden judgments take."""

from __future__ import annotations

import json
from pathlib import Path

from harness.errors import UsageError
from harness.files import atomic_write
from harness.progress import Progress
from harness.results.store import RUN_NAME, SavedRun
from harness.runner.reopen import same_split, saved_ranking
from harness.runner.scoring import require_known
from harness.task import Task


def write_submission(
    saved: SavedRun, task: Task, data: Path | None, target: Path, k: int, progress: Progress
) -> int:
    """Write ``{query id: {document id: score}}`` JSON and return how many queries have nothing.

    Every query of the task is in the file, in the task's order; its documents stand best first.
    Scores are written so that reading gives them back exactly.

    Parameters
    ----------
    saved
        A complete run of `task`.
    task
        The task that it ran on.
    data
        The dataset store it ran on, if not the default one.
    target
        The file; replaced as a whole.
    k
        Documents of each query, at most.

    Raises
    ------
    UsageError
        If the task takes no submissions, or the run is of some queries only.
    ResultError
        If the run, or the data since the run, was changed.
    RankingError
        If the run names what the task does not have.
    """
    result = saved.result
    if not task.submit_to:
        raise UsageError(
            f"run {result.run_id} is of task {task.address!r}, which takes no submissions: its "
            "judgments are at hand. multivent/official takes them."
        )
    if result.options.limit is not None:
        raise UsageError(
            f"run {result.run_id} is of the first {result.options.limit:,} queries only, and a "
            "submission needs all: run it without --limit."
        )
    ranked = saved_ranking(saved)
    split = same_split(saved, task, data, progress)
    require_known(
        ranked,
        split.queries,
        split.documents,
        f"{saved.folder / RUN_NAME} names",
        f"is it a run of another task than {task.address}?",
    )
    rows = {}
    for query in split.queries:
        found = ranked.get(query.id)
        rows[query.id] = (
            {}
            if found is None
            else dict(zip(found.documents[:k], found.scores[:k].tolist(), strict=True))
        )
    with atomic_write(target) as temporary:
        temporary.write_text(json.dumps(rows, ensure_ascii=False) + "\n", encoding="utf-8")
    return sum(not row for row in rows.values())
