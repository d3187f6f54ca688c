"""The schema of a paper's file: its published tables as data, and what here produces each cell.

A file is YAML. Figures are written as the paper prints them, in percent. What a paper does not give
is null; nothing else is filled in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.errors import did_you_mean

SCHEMA_VERSION = 1

#: Verdicts that a file gives itself: of figures that nothing here can be held against.
Excluded = Literal["not comparable: protocol", "out of scope"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Tolerance(_Part):
    """How far a figure may be off and still count as reproduced."""

    points: float = Field(gt=0, description="Points of percent.")
    reason: str = Field(min_length=1, description="Why so many.")


class Benchmark(_Part):
    """Where a column's figures come from."""

    task: str = Field(description="Address of the task.")
    settings: dict[str, Any] = Field({}, description="Its settings.")
    split: str = "test"
    size: int | None = Field(
        None,
        ge=1,
        description="Queries that the published means are over. Ours over another number of them "
        "(by more than a fiftieth) are not compared.",
    )


class Training(_Part):
    """How weights that were not published are made."""

    task: str = Field(description="Address of the task trained on.")
    start: str = Field(description="Address of the retriever that is trained.")
    recipe: str = Field(description="Name of the recipe.")
    changes: dict[str, Any] = Field({}, description="Fields of the recipe, by dotted name.")
    settings: dict[str, Any] = Field(
        {}, description="Settings of the retriever, beside the recipe's own."
    )


class Method(_Part):
    """What produces a row here: a run, or the reason why nothing does."""

    retriever: str | None = Field(
        None, description="Address of the retriever; with `training`, of its plugin alone."
    )
    settings: dict[str, Any] = Field({}, description="Its settings.")
    modalities: list[str] | None = Field(None, min_length=1, description="As in --modalities.")
    k: int = Field(1000, ge=1, description="Documents returned a query, at least.")
    training: Training | None = Field(None, description="Where its weights come from.")
    verdict: Excluded | None = Field(None, description="Why nothing here is held against it.")
    reason: str | None = Field(None, min_length=1, description="The verdict's reason.")

    @model_validator(mode="after")
    def _run_or_reason(self) -> Self:
        if (self.retriever is None) == (self.verdict is None):
            raise ValueError("give either a retriever, or a verdict and its reason")
        if (self.verdict is None) != (self.reason is None):
            raise ValueError("a verdict and its reason belong together")
        return self


class Column(_Part):
    """One column of a table."""

    label: str = Field(min_length=1)
    benchmark: str | None = Field(None, description="Name of one of `benchmarks`.")
    measure: str | None = Field(None, description="Measure of that task's protocol.")
    group: dict[str, str] = Field(
        {}, max_length=1, description="{attribute: value} of one group of a breakdown."
    )


class Row(_Part):
    """One row of a table."""

    label: str = Field(min_length=1)
    published: list[float | None] = Field(description="A figure for each column; null: none.")
    ours: str | dict[str, str] | None = Field(
        None, description="Name of one of `methods`, or one for each benchmark."
    )
    reruns: dict[str, list[float | None]] = Field(
        {}, description="Figures of others who ran it again, by their name in `reruns`."
    )
    doubts: dict[str, str] = Field({}, description="What is doubtful, by the column's label.")


class Table(_Part):
    """One published table."""

    number: str = Field(min_length=1, description="As it is asked for: --table 1.")
    title: str
    place: str = Field(description="Where it stands.")
    decimals: int = Field(1, ge=0, le=4, description="Digits behind the point, as published.")
    columns: list[Column] = Field(min_length=1)
    rows: list[Row] = Field(min_length=1)
    ours: str | None = Field(None, description="Method of rows that name none.")
    notes: list[str] = []

    def cells(self) -> Iterator[tuple[Row, Column, float]]:
        """Yield row, column and figure of every cell that is published."""
        for row in self.rows:
            for column, figure in zip(self.columns, row.published, strict=True):
                if figure is not None:
                    yield row, column, figure

    def method_of(self, row: Row, column: Column) -> str | None:
        """Return the name of the method behind a cell, or None if the file names none."""
        if isinstance(row.ours, dict):
            return row.ours.get(column.benchmark or "")
        return row.ours or self.ours


class Paper(_Part):
    """One paper's file."""

    schema_version: Literal[1]
    name: str = Field(min_length=1, pattern=r"^[\w.-]+$")
    title: str
    citation: str
    url: str = ""
    source: str = Field(description="Where the figures were read.")
    tolerance: Tolerance
    reruns: dict[str, str] = Field({}, description="Third parties who ran it again, and where.")
    benchmarks: dict[str, Benchmark] = {}
    methods: dict[str, Method] = Field(min_length=1)
    tables: list[Table] = Field(min_length=1)
    notes: list[str] = []

    @model_validator(mode="after")
    def _names_meet(self) -> Self:
        wrong = list(self._problems()) or list(self._unused())
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _problems(self) -> Iterator[str]:
        yield from _twice([table.number for table in self.tables], "table")
        for table in self.tables:
            where = f"table {table.number}"
            yield from _twice([column.label for column in table.columns], f"{where}: column")
            yield from _twice([row.label for row in table.rows], f"{where}: row")
            for column in table.columns:
                if column.benchmark is not None:
                    what = f"{where}, {column.label}: benchmark"
                    yield from _unknown(column.benchmark, self.benchmarks, what)
            for row in table.rows:
                yield from self._row_problems(table, row, f"{where}, {row.label}")

    def _unused(self) -> Iterator[str]:
        cells = [(table, row, column) for table in self.tables for row, column, _ in table.cells()]
        methods = {table.method_of(row, column) for table, row, column in cells}
        benchmarks = {column.benchmark for _, _, column in cells}
        for kind, names, used in (
            ("method", self.methods, methods),
            ("benchmark", self.benchmarks, benchmarks),
        ):
            for name in names:
                if name not in used:
                    yield f"{kind} {name!r} is used by no cell"

    def _row_problems(self, table: Table, row: Row, where: str) -> Iterator[str]:
        width = len(table.columns)
        for name, figures in {"published": row.published, **row.reruns}.items():
            if len(figures) != width:
                yield f"{where}: {len(figures)} figures ({name}) for {width} columns"
        for name in row.reruns:
            yield from _unknown(name, self.reruns, f"{where}: rerun")
        labels = {column.label for column in table.columns}
        for label in row.doubts:
            yield from _unknown(label, labels, f"{where}: doubt about a column")
        if len(row.published) != width:
            return
        for column, figure in zip(table.columns, row.published, strict=True):
            if figure is None:
                continue
            cell, method = f"{where}, {column.label}", table.method_of(row, column)
            if method is None:
                yield f"{cell}: no method is named by `ours`"
            elif method not in self.methods:
                yield from _unknown(method, self.methods, f"{cell}: method")
            elif self.methods[method].verdict is None and None in (
                column.benchmark,
                column.measure,
            ):
                yield f"{cell}: its method runs, so the column needs a benchmark and a measure"


def _twice(names: Sequence[str], what: str) -> Iterator[str]:
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"{what} {name!r} is there more than once"


def _unknown(name: str, known: Mapping[str, Any] | set[str], what: str) -> Iterator[str]:
    if name not in known:
        listed = ", ".join(known) or "none"
        yield f"{what} {name!r} is not there (there is {listed}).{did_you_mean(name, known)}"
