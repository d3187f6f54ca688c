"""From an address that stands for several tasks to those tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import DataError, NotPreparedError, UsageError
from harness.task import Task
from harness.workspace import data_folder

Make = Callable[[str], Task]
"""Makes the task at an address."""


def to_run(task: Task, data: Path | None, make: Make) -> list[Task]:
    """Return the tasks to run for `task`: of a group, the evaluated members that have data.

    Raises
    ------
    NotPreparedError
        If no member has any.
    UsageError
        If a store is given for a group.
    """
    if task.group is None:
        return [task]
    _refuse_one_store(task, data)
    ready = [member for member in map(make, task.group.evaluated) if member.is_prepared]
    if not ready:
        raise _nothing(task)
    return ready


def to_prepare(task: Task, sources: Sequence[Path], data: Path | None, make: Make) -> list[Task]:
    """Return the tasks to prepare for `task`: of a group, the members whose files are there.

    Raises
    ------
    DataError
        If there are no files of any member.
    UsageError
        If a store is given for a group.
    """
    if task.group is None:
        return [task]
    _refuse_one_store(task, data)
    found = [member for member in map(make, task.group.members) if member.found_in(sources)]
    if sources and not found:
        raise DataError(
            f"{', '.join(map(str, sources))}: nothing of {task.address!r} is there. "
            f"{task.group.remedy}"
        )
    # Without a source, a member says what it needs.
    return found or [make(task.group.members[0])]


def prepared(task: Task, make: Make) -> list[Task]:
    """Return `task`, or the members of a group that have data.

    Raises
    ------
    NotPreparedError
        If no member has any.
    """
    if task.group is None:
        return [task]
    ready = [member for member in map(make, task.group.members) if member.is_prepared]
    if not ready:
        raise _nothing(task)
    return ready


def _nothing(task: Task) -> NotPreparedError:
    remedy = "" if task.group is None else task.group.remedy
    return NotPreparedError(
        f"no task of {task.address!r} has data yet: looked in {data_folder()}. {remedy}"
    )


def _refuse_one_store(task: Task, data: Path | None) -> None:
    if data is not None:
        raise UsageError(
            f"--data {data} is one store, but {task.address!r} stands for several tasks: name one "
            "of them, or set CLAMR_BENCH_DATA to the folder that holds their stores."
        )
