"""Makes a dataset store, row by row, in bounded memory."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from harness.coverage import CoverageCounter
from harness.dataset.manifest import MANIFEST_NAME, CoverageModel, Gap, Manifest, Part, SplitModel
from harness.dataset.schema import SCHEMAS, Row, document_row, query_row, row_bytes
from harness.errors import DataError, StorageError, did_you_mean
from harness.types import Document, Qrels, Query
from harness.workspace import (
    exclusive,
    lock_file,
    replace_folder,
    restore_folder,
    storage_error,
    writable_folder,
)

T = TypeVar("T")

#: Rows of a Parquet row group: with texts of some kB each a group stays at a few MB.
ROW_GROUP = 2048


class DatasetWriter:
    """Writes a dataset store; a context manager.

    Everything goes to a folder beside `folder`, which takes its place when the block ends without
    an error. An error, or a killed process, leaves an earlier store as it was.

    Parameters
    ----------
    folder
        Where the store will be.
    task, task_version
        What the data are prepared for.
    media_roots
        Folders that all media lie under; stored once, media paths are relative to one of them.
    channels
        Versions of modality channels.
    strict
        Whether a gap is an error.

    Attributes
    ----------
    notes
        What a reader must know about how the data were made.
    counts
        What preparation met.
    """

    def __init__(
        self,
        folder: Path,
        *,
        task: str,
        task_version: str,
        media_roots: Sequence[Path] = (),
        channels: Mapping[str, str] | None = None,
        strict: bool = False,
    ) -> None:
        self.folder = folder
        self._task, self._task_version = task, task_version
        self._roots = [root.absolute() for root in media_roots]
        self._channels = dict(channels or {})
        self._strict = strict
        self._gaps: dict[str, Gap] = {}
        self._splits: dict[str, SplitModel] = {}
        self.notes: list[str] = []
        self.counts: dict[str, int] = {}

    def __enter__(self) -> Self:
        writable_folder(self.folder.parent, "dataset folder")
        self._lock = exclusive(lock_file(self.folder))
        self._lock.__enter__()
        self._partial = self.folder.with_name(f".{self.folder.name}.partial")
        try:
            restore_folder(self.folder)
            self._refuse_foreign_folder()
            shutil.rmtree(self._partial, ignore_errors=True)
            writable_folder(self._partial, "dataset folder")
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def _refuse_foreign_folder(self) -> None:
        """Never replace, and so delete, a folder that is not a dataset store."""
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise StorageError(f"{folder} is a file: choose another place for the dataset.")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST_NAME).is_file():
            raise StorageError(
                f"{folder} holds files that are no dataset store (no {MANIFEST_NAME}): choose an "
                "empty or a new folder, since preparing replaces all that is there."
            )

    def gap(self, kind: str, example: str) -> None:
        """Count something that the source should have and has not.

        Parameters
        ----------
        kind
            What is missing, as in the report: ``videos without speech``.
        example
            Which one; the first of each kind is kept.

        Raises
        ------
        DataError
            If the writer is strict.
        """
        if self._strict:
            raise DataError(
                f"{kind}: {example}. Add what is missing, or leave out --strict: then it is "
                "counted and left out."
            )
        known = self._gaps.get(kind)
        self._gaps[kind] = Gap(
            count=1 + (known.count if known else 0), example=known.example if known else example
        )

    def write_split(
        self, split: str, documents: Iterable[Document], queries: Iterable[Query], qrels: Qrels
    ) -> None:
        """Write one split and check that its parts fit together.

        Raises
        ------
        DataError
            If a document or query id repeats or is empty, or a judgment names an unknown query or
            document.
        StorageError
            If the disk is full.
        """
        folder = self._partial / split
        try:
            folder.mkdir()
            counter = CoverageCounter()
            with _PartWriter(folder / "documents.parquet") as part:
                known_documents = _Ids("document", split)
                for document in _from_source(documents):
                    known_documents.add(document.id)
                    counter.add(document)
                    part.write(document_row(document, self._roots))
            document_part = part.result()
            with _PartWriter(folder / "queries.parquet") as part:
                known_queries = _Ids("query", split)
                for query in _from_source(queries):
                    known_queries.add(query.id)
                    part.write(query_row(query, self._roots))
            query_part = part.result()
            with _PartWriter(folder / "qrels.parquet") as part:
                for query_id, row in qrels.items():
                    known_queries.require(query_id, "a judgment")
                    for document_id, grade in row.items():
                        known_documents.require(document_id, f"a judgment of query {query_id!r}")
                        part.write(
                            {"query_id": query_id, "document_id": document_id, "grade": grade}
                        )
            qrels_part = part.result()
        except OSError as error:
            raise storage_error(error, "dataset folder", self.folder) from error
        self._splits[split] = SplitModel(
            documents=document_part,
            queries=query_part,
            qrels=qrels_part,
            coverage=CoverageModel(**asdict(counter.coverage())),
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as failure:
            raise storage_error(failure, "dataset folder", self.folder) from failure
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._lock.__exit__(None, None, None)

    def _finish(self) -> None:
        Manifest(
            task=self._task,
            task_version=self._task_version,
            notes=self.notes,
            counts=self.counts,
            channels=self._channels,
            gaps=self._gaps,
            media_roots=[str(root) for root in self._roots],
            splits=self._splits,
        ).write(self._partial)
        replace_folder(self._partial, self.folder)


def _from_source(items: Iterable[T]) -> Iterator[T]:
    """Yield the items; an error of the files they are read from is not one of the store's."""
    try:
        yield from items
    except OSError as error:
        raise DataError(f"the source cannot be read: {error}.") from error


class _Ids:
    """The ids of one split, to find repeated and unknown ones."""

    def __init__(self, kind: str, split: str) -> None:
        self._kind, self._split = kind, split
        self._ids: set[str] = set()

    def add(self, identifier: str) -> None:
        if not identifier:
            raise DataError(f"split {self._split!r}: a {self._kind} has an empty id.")
        if identifier in self._ids:
            raise DataError(
                f"split {self._split!r}: {self._kind} id {identifier!r} occurs twice; ids must be "
                "unique."
            )
        self._ids.add(identifier)

    def require(self, identifier: str, what: str) -> None:
        if identifier not in self._ids:
            raise DataError(
                f"split {self._split!r}: {what} names the unknown {self._kind} {identifier!r}; "
                "judgments may only name what is in the split."
                + did_you_mean(identifier, self._ids if len(self._ids) <= 5000 else ())
            )


class _PartWriter:
    """Streams rows into one Parquet file and digests them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._schema = SCHEMAS[path.stem]
        self._rows: list[Row] = []
        self._count = 0
        self._content = hashlib.sha256()

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(
            self._path, self._schema, compression="zstd", write_page_checksum=True
        )
        return self

    def write(self, row: Row) -> None:
        self._content.update(row_bytes(row))
        self._rows.append(row)
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._count += len(self._rows)
        try:
            table = pa.Table.from_pylist(self._rows, schema=self._schema)
        except UnicodeEncodeError as error:
            raise DataError(
                f"{self._path.stem}: the text {error.object[:40]!r} holds "
                f"{error.object[error.start]!r}, half of a surrogate pair and no character: repair "
                "the source file."
            ) from error
        self._writer.write_table(table)
        self._rows = []

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if kind is None and self._rows:
                self._flush()
        finally:
            self._writer.close()

    def result(self) -> Part:
        with self._path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Part(
            rows=self._count,
            bytes=self._path.stat().st_size,
            sha256=sha256,
            content_sha256=self._content.hexdigest(),
        )
