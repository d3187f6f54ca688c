"""The task contract: documents, queries, judgments, and the protocol of the comparison."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from harness.coverage import Coverage
from harness.documents import Documents, ListedDocuments
from harness.errors import UsageError, did_you_mean
from harness.plugin import Direction, Plugin
from harness.progress import Progress
from harness.settings import Settings
from harness.types import Document, Qrels, Query
from harness.workspace import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """The rules that make a number comparable. Different protocols never share a table column.

    Attributes
    ----------
    name
        As in folders and tables: ``v1``, ``sample``.
    candidates
        Which documents compete.
    relevance
        What counts as relevant.
    ties
        How ties are broken.
    measures
        Measures in ir-measures notation (``nDCG@10``, ``Success@1``); names of its own for a task
        with a policy of its own (`harness.policy.OwnPolicy`).
    main
        The measure that tables are ordered by.
    unit
        What the means are over: queries, unless a policy of its own says otherwise.
    query_breakdowns
        Query attributes that results are broken down by.
    document_breakdowns
        Document attributes that results are broken down by.
    """

    name: str
    candidates: str
    relevance: str
    ties: str = "broken by document id, descending (the order of trec_eval)"
    measures: tuple[str, ...] = (
        "nDCG@10",
        "Success@1",
        "Success@5",
        "Success@10",
        "R@10",
        "RR",
        "AP",
    )
    main: str = "nDCG@10"
    unit: str = "queries"
    query_breakdowns: tuple[str, ...] = ()
    document_breakdowns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Documents, queries and judgments that belong together.

    Attributes
    ----------
    name
        ``test`` is evaluated; ``train`` and ``validation`` give training examples.
    documents
        Sized, iterable more than once; not held in memory when it comes from a dataset store.
    queries
        All queries of the split.
    qrels
        Judgments by query id.
    fingerprint
        sha256 (hex) of the content.
    coverage
        How many documents have which modality.
    dataset
        Where the data lies; None for data made in memory.
    channels
        Versions of modality channels, such as the ASR model.
    """

    name: str
    documents: Documents
    queries: Sequence[Query]
    qrels: Qrels
    fingerprint: str
    coverage: Coverage
    dataset: Path | None = None
    channels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str, documents: Sequence[Document], queries: Sequence[Query], qrels: Qrels
    ) -> Split:
        """Make a split of data held in memory."""
        content = {
            "documents": [asdict(document) for document in documents],
            "queries": [asdict(query) for query in queries],
            "qrels": {query: dict(row) for query, row in qrels.items()},
        }
        return cls(
            name=name,
            documents=ListedDocuments(documents),
            queries=tuple(queries),
            qrels=qrels,
            # Media paths are the only values that JSON does not know.
            fingerprint=digest(json.loads(json.dumps(content, default=str))),
            coverage=Coverage.of(documents),
        )


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a group's table: one measure of one task, under a heading of its own."""

    heading: str
    task: str
    measure: str


@dataclass(frozen=True, slots=True)
class Group:
    """The tasks that one address stands for, and the table that the literature makes of them.

    Attributes
    ----------
    members
        Addresses of the tasks.
    columns
        The table: a row for each retriever. Members without a column are for training only.
    remedy
        What to do where no member has data.
    """

    members: tuple[str, ...]
    columns: tuple[Column, ...]
    remedy: str

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Members that have a column."""
        return tuple(dict.fromkeys(column.task for column in self.columns))

    def layout(
        self, figures: Mapping[str, Mapping[str, Mapping[str, float]]]
    ) -> list[tuple[str, list[float | None]]]:
        """Return the rows of the table.

        Parameters
        ----------
        figures
            ``{name of the row: {address of the task: {measure: mean}}}``.

        Returns
        -------
        list
            The name of each row with a figure for each column, None where there is none.
        """
        return [
            (name, [tasks.get(c.task, {}).get(c.measure) for c in self.columns])
            for name, tasks in figures.items()
        ]


class Task(Plugin, ABC):
    """A benchmark: one or more variants, each with its own protocol.

    Parameters
    ----------
    name
        The name that it is registered by.
    variant
        The rest of its address; ``""`` is the default variant.
    settings
        An instance of the class's `Settings`.
    """

    #: Variants that one class serves, with a line about each; ``""`` is the bare name. Mostly a
    #: variant with rules of its own is a class of its own, registered as ``name/variant``.
    variants: ClassVar[Mapping[str, str]] = {"": ""}
    #: Whether all splits rank one body of documents, such as an encyclopedia. Then a document that
    #: an evaluated query asks for may be trained on, and only evaluated queries may not.
    common_documents: ClassVar[bool] = False
    #: Who holds judgments that are not public, and measures what ``clamr-bench submit`` writes.
    #: Only tasks that name one run on splits without judgments.
    submit_to: ClassVar[str] = ""

    def __init__(self, name: str, variant: str, settings: Settings) -> None:
        if variant not in self.variants:
            known = [f"{name}/{v}" if v else name for v in self.variants]
            raise UsageError(
                f"task {name!r} has no variant {variant!r}; there are {', '.join(known)}."
                + did_you_mean(f"{name}/{variant}", known)
            )
        self.name, self.variant, self.settings = name, variant, settings

    @property
    def address(self) -> str:
        """``name[/variant]``, or ``file.py:Class[/variant]``."""
        name = self.file or self.name
        return f"{name}/{self.variant}" if self.variant else name

    @property
    def family(self) -> str:
        """The first part of the address: what tables and folders are grouped by."""
        return self.name.partition("/")[0]

    @property
    def direction(self) -> Direction:
        """Which side asks; a setting may say so. Its protocol must have a name of its own."""
        return Direction.FORWARD

    @property
    def group(self) -> Group | None:
        """The tasks that this address stands for; None for a task that is one itself."""
        return None

    @property
    def is_prepared(self) -> bool:
        """Whether `load` finds data where it looks without being told where."""
        return True

    def found_in(self, sources: Sequence[Path]) -> bool:
        """Whether the folders `sources` hold files of this task; asked of members of a group."""
        return True

    @property
    @abstractmethod
    def protocol(self) -> Protocol:
        """The protocol of this variant."""

    @abstractmethod
    def load(self, split: str, data: Path | None, progress: Progress) -> Split:
        """Return one split.

        Parameters
        ----------
        split
            ``test``, ``train`` or ``validation``.
        data
            A dataset store given by the user, instead of the default place.
        progress
            Where to report longer work.

        Raises
        ------
        NotPreparedError
            If the data are not there; says where it looked and how to prepare them.
        DataError
            If there is no such split.
        """

    def references(
        self, split: Split, queries: Sequence[Query]
    ) -> Mapping[str, Mapping[str, float]]:
        """Return figures to read the measures against: ``{name: {measure: value}}``.

        For instance what an ideal retriever gets; every measure of the protocol has one. They stand
        beside every result.

        Parameters
        ----------
        split
            What is evaluated: in the reverse direction the split turned around.
        queries
            Those that were asked; perhaps only some of the split's.
        """
        return {}

    def prepare(
        self,
        sources: Sequence[Path],
        store: Path | None,
        progress: Progress,
        *,
        strict: bool = False,
    ) -> Path:
        """Turn the files in `sources` into a dataset store and return its folder.

        Parameters
        ----------
        sources
            Folders with the task's official files, searched in this order; empty if the user gave
            none.
        store
            Where the store goes; None for the default place.
        strict
            Whether anything that is missing is an error; else it is counted.
        """
        raise UsageError(f"task {self.address!r} needs no preparation.")
