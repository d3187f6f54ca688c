"""Runs what a paper's tables need and this machine can run, and writes the filled tables."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.errors import ClamrBenchError, NotPreparedError
from harness.files import atomic_write
from harness.progress import Progress
from harness.reporting.papers_fill import fill
from harness.reporting.papers_jobs import Availability, Job
from harness.reporting.papers_latex import latex
from harness.reporting.papers_schema import Paper
from harness.reporting.papers_text import markdown
from harness.results.store import ResultsStore, SavedRun
from harness.runner import run


class State(StrEnum):
    """What became of a run."""

    COMPLETE = "complete already"
    PLANNED = "would be run"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Step:
    """One run of a reproduction.

    Attributes
    ----------
    job
        What it is.
    state
        What became of it.
    detail
        The run's id, or why there is none.
    """

    job: Job
    state: State
    detail: str


def reproduce(
    jobs: Iterable[Job],
    results: Path,
    available: Availability,
    progress: Progress,
    *,
    dry_run: bool = False,
    again: bool = False,
    **options: Any,
) -> Iterator[Step]:
    """Run jobs one after the other; what fails does not stop the others.

    Parameters
    ----------
    jobs
        What to run.
    results
        Results folder. A job that has a complete run there is not run again.
    available
        Tells what can be run.
    progress
        Where to report.
    dry_run
        Say what would be done, and do nothing.
    again
        Run even what is complete.
    options
        Further options of `harness.config.RunConfig`, None for defaults: memory, on_damaged.
    """
    runs = list(ResultsStore(results).runs())
    for job in jobs:
        yield _step(job, runs, results, available, progress, dry_run, again, options)


def write(paper: Paper, results: Path, available: Availability) -> list[Path]:
    """Write all tables of a paper, filled, as ``papers/<paper>.md`` and ``.tex``."""
    tables = fill(paper, paper.tables, list(ResultsStore(results).runs()), available)
    texts = {"md": markdown(paper, tables), "tex": latex(paper, tables)}
    written = []
    for suffix, text in texts.items():
        path = results / "papers" / f"{paper.name}.{suffix}"
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _step(
    job: Job,
    runs: Sequence[SavedRun],
    results: Path,
    available: Availability,
    progress: Progress,
    dry_run: bool,
    again: bool,
    options: dict[str, Any],
) -> Step:
    try:
        found = None if again else job.newest(runs)
        lacks = "" if found is not None else available.lacks(job)
    except ClamrBenchError as error:
        return Step(job, State.SKIPPED, _line(error))
    if found is not None:
        return Step(job, State.COMPLETE, found.result.run_id)
    if lacks:
        return Step(job, State.SKIPPED, lacks)
    if dry_run:
        return Step(job, State.PLANNED, "")
    progress.note(job.commands[-1])
    try:
        saved = _run(job, results, progress, again, options)
    except NotPreparedError as error:
        return Step(job, State.SKIPPED, _line(error))
    except ClamrBenchError as error:
        return Step(job, State.FAILED, _line(error))
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the others still run
        if os.environ.get("CLAMR_BENCH_TRACEBACK"):
            traceback.print_exc()
        return Step(job, State.FAILED, f"{type(error).__name__}: {_line(error)}")
    return Step(job, State.DONE, saved.result.run_id)


def _run(
    job: Job, results: Path, progress: Progress, again: bool, options: dict[str, Any]
) -> SavedRun:
    retriever = job.made(**options)
    saved, _ = run(job.task, retriever, job.config(**options), results, progress, again=again)
    return saved


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
