"""Writes the tables of a split: documents in parts, queries, judgments."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.coverage import Coverage, CoverageCounter
from harness.dataset.manifest import Gap, Table
from harness.dataset.parts import Hash, PartWriter, file_sha256, part_rows
from harness.dataset.portions import (
    PART_ROWS,
    PartRecord,
    Portion,
    Portions,
    Unfinished,
    from_source,
)
from harness.dataset.schema import document_of, document_row, query_row, row_bytes
from harness.errors import DataError, did_you_mean
from harness.types import Document, Qrels, Query

#: Attributes with more values than this, or that few queries state, make no groups.
_MAX_VALUES = 30
_STATED = 10


class Ids:
    """The ids of one split, with where each came from; finds repeated and unknown ones."""

    def __init__(self, kind: str, split: str) -> None:
        self._kind, self._split = kind, split
        self.origins: dict[str, str] = {}

    def add(self, identifier: str, origin: str = "") -> None:
        """Add a new one."""
        if not identifier:
            raise DataError(f"split {self._split!r}: a {self._kind} has an empty id.")
        if identifier in self.origins:
            where = f", in {self.origins[identifier]} and in {origin}" if origin else ""
            raise DataError(
                f"split {self._split!r}: {self._kind} id {identifier!r} occurs twice{where}; ids "
                "must be unique."
            )
        self.origins[identifier] = origin

    def require(self, identifier: str, what: str) -> None:
        """Check that it is there."""
        if identifier not in self.origins:
            raise DataError(
                f"split {self._split!r}: {what} names the unknown {self._kind} {identifier!r}; "
                "judgments may only name what is in the split."
                + did_you_mean(identifier, self.origins if len(self.origins) <= 5000 else ())
            )


class Gaps:
    """What the source lacked, by kind.

    Parameters
    ----------
    strict
        Whether a gap is an error.
    """

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.found: dict[str, Gap] = {}

    def add(self, kind: str, example: str) -> None:
        """Count one (see `DatasetWriter.gap`)."""
        if self.strict:
            raise DataError(
                f"{kind}: {example}. Add what is missing, or leave out --strict: then it is "
                "counted and left out."
            )
        self.merge({kind: Gap(count=1, example=example)})

    def merge(self, gaps: Mapping[str, Gap]) -> None:
        """Add the gaps of a part."""
        for kind, gap in gaps.items():
            first = self.found.get(kind, Gap(count=0, example=gap.example))
            self.found[kind] = Gap(count=first.count + gap.count, example=first.example)

    @contextmanager
    def apart(self) -> Iterator[dict[str, Gap]]:
        """Count the gaps of the block apart; give them to `merge` when its part is complete."""
        found, self.found = self.found, {}
        try:
            yield self.found
        finally:
            self.found = found


class DocumentsWriter:
    """Writes the documents of a split in parts, and goes on where a killed process stopped."""

    def __init__(
        self, unfinished: Unfinished, split: str, roots: Sequence[Path], gaps: Gaps
    ) -> None:
        self._unfinished, self._split, self._roots, self._gaps = unfinished, split, roots, gaps
        self._folder = unfinished.folder / split
        self._content: Hash = hashlib.sha256()
        self._counter = CoverageCounter()
        self.ids = Ids("document", split)

    def write(self, items: Iterable[Document] | Iterable[Portion]) -> tuple[Table, Coverage]:
        """Write all documents and return their table and coverage."""
        portions = Portions(items)
        records: list[PartRecord] = []
        while (record := self._reusable(len(records), portions)) is not None:
            records.append(record)
        self._unfinished.forget(self._split, len(records))
        coming = iter(portions)
        while (first := next(coming, None)) is not None or not records:
            records.append(self._write_part(len(records), first, coming))
        for record in records:
            self._gaps.merge(record.gaps)
        content = self._content.hexdigest()  # type: ignore[attr-defined]
        table = Table(content_sha256=content, parts=[record.part for record in records])
        return table, self._counter.coverage()

    def _file(self, number: int) -> Path:
        return self._folder / f"documents-{number:05d}.parquet"

    def _reusable(self, number: int, portions: Portions) -> PartRecord | None:
        """Take over a part that is complete and whose portions are the next ones."""
        record = self._unfinished.load(self._split, number)
        path = self._file(number)
        if record is None or not path.is_file() or file_sha256(path) != record.part.sha256:
            return None
        if not portions.skip([(name, key) for name, key, _ in record.portions]):
            return None
        rows = part_rows(path)
        for name, _, count in record.portions:
            for _, row in zip(range(count), rows, strict=False):
                self._content.update(row_bytes(row))
                self._counter.add(document_of(row, self._roots))
                self.ids.add(row["id"], name)
        return record

    def _write_part(
        self, number: int, portion: Portion | None, coming: Iterator[Portion]
    ) -> PartRecord:
        written: list[tuple[str, str, int]] = []
        with (
            self._gaps.apart() as gaps,
            PartWriter(self._file(number), "documents", self._content) as part,
        ):
            while portion is not None:
                before = part.count
                for document in from_source(portion.documents()):
                    self.ids.add(document.id, portion.name)
                    self._counter.add(document)
                    part.write(document_row(document, self._roots))
                written.append((portion.name, portion.key, part.count - before))
                portion = next(coming, None) if part.count < PART_ROWS else None
        record = PartRecord(part=part.result(), portions=written, gaps=gaps)
        if written and all(key for _, key, _ in written):
            self._unfinished.save(self._split, number, record)
        return record


def write_queries(
    folder: Path, queries: Iterable[Query], roots: Sequence[Path], ids: Ids
) -> tuple[Table, dict[str, dict[str, int]]]:
    """Write the queries of a split; return their table and how many have which attribute."""
    counters: dict[str, Counter[str]] = {}
    content = hashlib.sha256()
    with PartWriter(folder / "queries.parquet", "queries", content) as part:
        for query in from_source(queries):
            ids.add(query.id)
            for attribute, value in query.attributes.items():
                counter = counters.setdefault(attribute, Counter())
                if len(counter) <= _MAX_VALUES:
                    counter[value] += 1
            part.write(query_row(query, roots))
    attributes = {
        attribute: dict(counter.most_common())
        for attribute, counter in sorted(counters.items())
        if len(counter) <= _MAX_VALUES and counter.total() * _STATED >= part.count
    }
    return Table(content_sha256=content.hexdigest(), parts=[part.result()]), attributes


def write_qrels(
    folder: Path, qrels: Qrels, queries: Ids, documents: Ids
) -> tuple[Table, Collection[str]]:
    """Write the judgments of a split; return their table and the documents they name.

    Raises
    ------
    DataError
        If a judgment names an unknown query or document.
    """
    content = hashlib.sha256()
    judged: set[str] = set()
    with PartWriter(folder / "qrels.parquet", "qrels", content) as part:
        for query, row in qrels.items():
            queries.require(query, "a judgment")
            for document, grade in row.items():
                documents.require(document, f"a judgment of query {query!r}")
                judged.add(document)
                part.write({"query_id": query, "document_id": document, "grade": grade})
    return Table(content_sha256=content.hexdigest(), parts=[part.result()]), judged
