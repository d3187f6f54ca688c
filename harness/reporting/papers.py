"""Papers by name (entry points ``clamr_bench.papers``) or by path, and what their files must hold.

An entry point names a package that holds ``<name>.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import yaml
from pydantic import ValidationError

from harness.errors import ClamrBenchError, PluginError, UsageError, did_you_mean
from harness.registry import entry_points, make_task
from harness.reporting.papers_jobs import Job, jobs_of
from harness.reporting.papers_schema import Column, Paper, Table
from harness.settings import problems

GROUP = "clamr_bench.papers"


def names() -> list[str]:
    """Return the names of the papers that are installed."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def load(paper: str) -> Paper:
    """Read a paper's file and hold it against what is installed.

    Parameters
    ----------
    paper
        A name of `names`, or the path of a YAML file.

    Raises
    ------
    UsageError
        If there is no such paper, its file is not as the schema says, or it names a task, measure,
        retriever or setting that does not exist: each by its place.
    PluginError
        If two packages have a paper of that name.
    """
    where, text = _text(paper)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{where} is not a mapping of fields (schema_version, name, tables, ...).")
    try:
        found = Paper.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{where}: {'; '.join(problems(error, Paper))}") from None
    wrong = list(dict.fromkeys(_wrong(found)))
    if wrong:
        raise UsageError(f"{where}: {'; '.join(wrong)}")
    return found


def chosen(paper: Paper, numbers: Sequence[str] | None) -> list[Table]:
    """Return the tables of these numbers, in the paper's order; all without.

    Raises
    ------
    UsageError
        If there is no table of a number.
    """
    known = [table.number for table in paper.tables]
    for number in numbers or ():
        if number not in known:
            raise UsageError(
                f"{paper.name} has no table {number!r}; it has {', '.join(known)}."
                + did_you_mean(number, known)
            )
    return [table for table in paper.tables if not numbers or table.number in numbers]


def _text(paper: str) -> tuple[str, str]:
    """Return what to call a paper's file, and its text."""
    entries = {e.value: e for e in entry_points(group=GROUP) if e.name == paper}
    if len(entries) > 1:
        raise PluginError(
            f"paper {paper!r} is registered more than once: {', '.join(sorted(entries))}; "
            "uninstall one of the packages."
        )
    for entry in entries.values():
        try:
            path = files(entry.module) / f"{paper}.yaml"
            return f"{entry.module}/{paper}.yaml", path.read_text(encoding="utf-8")
        except (ImportError, OSError) as error:
            raise PluginError(f"paper {paper!r} ({entry.value}) cannot be read: {error}") from error
    file = Path(paper).expanduser()
    try:
        return f"paper file {file}", file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if file.exists():
            raise UsageError(f"paper file {file} cannot be read: {error}") from None
        raise UsageError(
            f"there is no paper {paper!r}: give the path of a YAML file, or one of "
            f"{', '.join(names())}.{did_you_mean(paper, names())}"
        ) from None


def _wrong(paper: Paper) -> Iterator[str]:
    """Yield what the file names that does not exist.

    A plugin that is there but does not load is no fault of the file: its cells cannot be run.
    """
    for name, benchmark in paper.benchmarks.items():
        columns = [
            column for table in paper.tables for column in table.columns if column.benchmark == name
        ]
        try:
            task = make_task(benchmark.task, benchmark.settings)
        except PluginError:
            continue
        except ClamrBenchError as error:
            yield f"benchmark {name!r}: {error}"
            continue
        protocol = task.protocol
        attributes = [
            *protocol.query_breakdowns,
            *(f"document {attribute}" for attribute in protocol.document_breakdowns),
        ]
        for column in columns:
            yield from _wrong_column(column, benchmark.task, protocol.measures, attributes)
    for (_, name), job in jobs_of(paper, paper.tables).items():
        try:
            _check(job)
        except PluginError:
            continue
        except ClamrBenchError as error:
            yield f"method {name!r}: {error}"


def _wrong_column(
    column: Column, task: str, measures: Sequence[str], attributes: Sequence[str]
) -> Iterator[str]:
    if column.measure is not None and column.measure not in measures:
        yield (
            f"column {column.label!r}: {task} has no measure {column.measure!r} (it has "
            f"{', '.join(measures)}).{did_you_mean(column.measure, measures)}"
        )
    for attribute in column.group:
        if attribute not in attributes:
            yield (
                f"column {column.label!r}: {task} has no breakdown by {attribute!r} (it has "
                f"{', '.join(attributes) or 'none'}).{did_you_mean(attribute, attributes)}"
            )


def _check(job: Job) -> None:
    """Make what a job's method names, and throw it away."""
    training = job.method.training
    if training is not None:
        make_task(training.task)
    _ = job.retriever, job.trained, job.config()
