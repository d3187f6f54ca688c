"""Versioned result tables: ``results/tables/<task>@<version>/<protocol>.json``.

A table is named by task, version, protocol, task settings, split, data fingerprint and measure
definitions. What differs in any of these never shares a table: a change starts a new one, and the
old one stays, marked superseded. A row is a retriever with its settings, without its seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from harness.errors import ResultError
from harness.files import atomic_write
from harness.rank_measures import goodness, lower_is_better, shown, statistic_of
from harness.reporting.ties import tied_for_first
from harness.results.per_query import read_per_query
from harness.results.schema import Result, read_versioned
from harness.results.store import PER_QUERY_NAME, SavedRun
from harness.runner.scoring import BOOTSTRAP_SEED
from harness.statistics import bootstrap_interval
from harness.workspace import digest

SCHEMA_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Cell(_Record):
    """The mean of a measure over queries (and seeds) with its 95% interval, and its runs.

    Of MdR it is the median.
    """

    mean: float
    low: float
    high: float
    runs: list[str]


class Row(_Record):
    """One retriever."""

    key: str = Field(description="sha256 of retriever and options, without the seed.")
    retriever: str
    note: str = Field(description="Settings and options that differ from their defaults.")
    oracle: bool
    seeds: list[int]
    missing: int
    cells: dict[str, Cell]
    tied: bool | None = Field(
        None,
        description="Tied for first: the interval of its differences from the best row, query by "
        "query on the main measure, includes 0; null where that is not known.",
    )


class Identity(_Record):
    """What makes the numbers of a table comparable."""

    address: str
    split: str
    settings: dict[str, Any]
    data_fingerprint: str
    measures: list[str]


class Table(_Record):
    """Rows of one identity, best first."""

    identity: Identity
    superseded: bool
    newest: str = Field(description="When its newest run was made.")
    main: str
    title: str
    candidates: str
    relevance: str
    ties: str
    documents: int
    queries: int
    unit: str = "queries"
    references: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="What every row is read against, by name and measure."
    )
    rows: list[Row]

    def best(self, measure: str) -> float | None:
        """Return the best mean of `measure` as it is shown; oracle rows do not count."""
        means = [shown(measure, r.cells[measure].mean) for r in self.rows if not r.oracle]
        choose = min if lower_is_better(measure) else max
        return choose(means, default=None)


class TableFile(_Record):
    """One JSON file: every table of a task version and protocol."""

    schema_version: int = SCHEMA_VERSION
    task: str
    version: str
    protocol: str
    tables: list[Table]

    @property
    def relative_path(self) -> Path:
        """Where the file lies under ``results/tables``."""
        return Path(f"{self.task}@{self.version}") / f"{self.protocol}.json"

    def dump(self) -> str:
        """Return the JSON text."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def read_tables(folder: Path) -> list[TableFile]:
    """Read every table file under ``folder/tables``, in the order of their paths."""
    paths = sorted((folder / "tables").glob("*/*.json"))
    return [read_versioned(TableFile, path, SCHEMA_VERSION) for path in paths]


def update_tables(folder: Path, runs: Iterable[SavedRun]) -> list[TableFile]:
    """Build all tables from saved runs and write them; tables without runs stay, superseded.

    Runs with ``--limit``, untrained weights or without judgments are not listed.

    Returns
    -------
    list of TableFile
        All files, old and new.
    """
    grouped: dict[tuple[str, str, str], dict[str, list[SavedRun]]] = {}
    for run in runs:
        result = run.result
        unlisted = result.options.limit is not None or result.retriever.untrained
        if unlisted or not result.measures:
            continue
        place = (result.task.family, result.task.version, result.task.protocol.name)
        identity = digest(identity_of(result).model_dump(mode="json"))
        grouped.setdefault(place, {}).setdefault(identity, []).append(run)
    files = {file.relative_path: file for file in read_tables(folder)}
    for (task, version, protocol), tables in grouped.items():
        made = [_table(group) for group in tables.values()]
        file = TableFile(task=task, version=version, protocol=protocol, tables=made)
        old = files.get(file.relative_path)
        kept = [] if old is None else [t for t in old.tables if not _any_same(t, made)]
        files[file.relative_path] = file.model_copy(update={"tables": [*made, *kept]})
    newest_versions = _newest_versions(files.values())
    marked = [_mark_superseded(file, newest_versions) for _, file in sorted(files.items())]
    for file in marked:
        with atomic_write(folder / "tables" / file.relative_path) as temporary:
            temporary.write_text(file.dump(), encoding="utf-8")
    return marked


def identity_of(result: Result) -> Identity:
    """Return what makes the figures of a result comparable."""
    return Identity(
        address=result.task.address,
        split=result.task.split,
        settings=result.task.changed_settings,
        data_fingerprint=result.data.fingerprint,
        measures=result.task.protocol.measures,
    )


def _any_same(table: Table, made: Sequence[Table]) -> bool:
    return any(table.identity == other.identity for other in made)


def _row_key(result: Result) -> str:
    options = result.options.model_dump(mode="json", exclude={"seed"})
    return digest({"retriever": result.retriever.fingerprint, "options": options})


def _table(runs: Sequence[SavedRun]) -> Table:
    """Make the table of runs that share one identity."""
    by_row: dict[str, dict[int, SavedRun]] = {}
    ordered = sorted(runs, key=lambda run: (run.result.created, run.result.run_id))
    for run in ordered:  # The newest comes last and stays.
        by_row.setdefault(_row_key(run.result), {})[run.result.options.seed] = run
    newest = ordered[-1].result
    protocol = newest.task.protocol
    rows = [_row(key, list(seeds.values()), protocol.measures) for key, seeds in by_row.items()]
    main = protocol.main
    rows.sort(key=lambda r: (-goodness(main, r.cells[main].mean), r.retriever, r.note, r.key))
    rows = _tied(rows, by_row, main)
    return Table(
        identity=identity_of(newest),
        superseded=False,
        newest=newest.created,
        main=protocol.main,
        title=newest.task.title,
        candidates=protocol.candidates,
        relevance=protocol.relevance,
        ties=protocol.ties,
        documents=newest.data.coverage.documents,
        queries=newest.evaluation.queries,
        unit=protocol.unit,
        references=newest.references,
        rows=rows,
    )


def _tied(rows: Sequence[Row], runs: Mapping[str, Mapping[int, SavedRun]], main: str) -> list[Row]:
    """Mark the rows, best first, that are tied for first; oracle rows never are."""
    listed = {row.key: list(runs[row.key].values()) for row in rows if not row.oracle}
    tied = tied_for_first(next(iter(listed), ""), listed, main)
    return [row.model_copy(update={"tied": tied.get(row.key)}) for row in rows]


def _row(key: str, runs: Sequence[SavedRun], measures: Sequence[str]) -> Row:
    """Make a row of the runs of one retriever, one a seed."""
    result = runs[0].result
    ids = [run.result.run_id for run in runs]
    if len(runs) == 1:
        cells = {
            name: Cell(mean=e.mean, low=e.low, high=e.high, runs=ids)
            for name, e in result.measures.items()
        }
    else:
        cells = _mean_over_seeds(runs, measures, ids)
    return Row(
        key=key,
        retriever=result.retriever.address,
        note=_note(result),
        oracle=result.retriever.oracle,
        seeds=sorted(run.result.options.seed for run in runs),
        missing=max(run.result.evaluation.missing for run in runs),
        cells=cells,
    )


def _mean_over_seeds(
    runs: Sequence[SavedRun], measures: Sequence[str], ids: list[str]
) -> dict[str, Cell]:
    """Average each query over the seeds, then take mean (or median) and interval over queries."""
    tables = [read_per_query(run.folder / PER_QUERY_NAME) for run in runs]
    queries = tables[0][0]
    for run, (other, _, columns) in zip(runs, tables, strict=True):
        if other != queries or columns != list(measures):
            raise ResultError(
                f"{run.folder / PER_QUERY_NAME} has other queries or measures than the other "
                "seeds of its retriever: run it again."
            )
    values = np.mean([table[1] for table in tables], axis=0)
    statistics = [statistic_of(measure) for measure in measures]
    intervals = bootstrap_interval(values, BOOTSTRAP_SEED, statistics=statistics)
    return {
        name: Cell(mean=interval.mean, low=interval.low, high=interval.high, runs=ids)
        for name, interval in zip(measures, intervals, strict=True)
    }


def _note(result: Result) -> str:
    parts = [f"{key}={value}" for key, value in result.retriever.changed_settings.items()]
    if result.options.restriction is not None:
        parts.append(result.options.restriction)
    if result.options.k != 1000:
        parts.append(f"k={result.options.k}")
    return ", ".join(parts)


def _newest_versions(files: Iterable[TableFile]) -> dict[tuple[str, str], str]:
    """Return, for each task and protocol, the version with the newest run."""
    newest: dict[tuple[str, str], tuple[str, str]] = {}
    for file in files:
        key = (file.task, file.protocol)
        latest = max((table.newest for table in file.tables), default="")
        newest[key] = max(newest.get(key, ("", "")), (latest, file.version))
    return {key: version for key, (_, version) in newest.items()}


def _mark_superseded(file: TableFile, versions: dict[tuple[str, str], str]) -> TableFile:
    """Mark every table that a newer one of the same address, split and settings replaces."""
    current: dict[str, str] = {}
    for table in sorted(file.tables, key=lambda table: table.newest):
        current[_series(table)] = digest(table.identity.model_dump(mode="json"))
    old_version = versions[file.task, file.protocol] != file.version
    marked = []
    for table in file.tables:
        name = digest(table.identity.model_dump(mode="json"))
        superseded = old_version or current[_series(table)] != name
        marked.append(table.model_copy(update={"superseded": superseded}))
    marked.sort(key=lambda t: (t.superseded, _series(t), t.newest, t.identity.data_fingerprint))
    return file.model_copy(update={"tables": marked})


def _series(table: Table) -> str:
    identity = table.identity
    return digest([identity.address, identity.split, identity.settings])
