"""The Parquet files of a store, one by one: written, opened, read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from harness.dataset.manifest import Part
from harness.dataset.schema import SCHEMAS, Row, row_bytes
from harness.errors import DataError

#: Rows and bytes (as JSON) of a row group, whichever comes first: what a writer holds in memory.
ROW_GROUP = 2048
ROW_GROUP_BYTES = 32 << 20

#: Rows read at a time.
BATCH = 1024


class Hash(Protocol):
    """A running digest, as hashlib's."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""


class PartWriter:
    """Streams rows into one Parquet file and adds them to a digest; a context manager.

    Parameters
    ----------
    path
        The file; it is replaced.
    table
        ``documents``, ``queries`` or ``qrels``.
    content
        The running digest of the table's rows.
    """

    def __init__(self, path: Path, table: str, content: Hash) -> None:
        self._path, self._schema, self._content = path, SCHEMAS[table], content
        self._rows: list[Row] = []
        self._bytes = 0
        self.count = 0

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(
            self._path, self._schema, compression="zstd", write_page_checksum=True
        )
        return self

    def write(self, row: Row) -> None:
        """Add one row."""
        content = row_bytes(row)
        self._content.update(content)
        self._rows.append(row)
        self.count += 1
        self._bytes += len(content)
        if len(self._rows) >= ROW_GROUP or self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        try:
            table = pa.Table.from_pylist(self._rows, schema=self._schema)
        except UnicodeEncodeError as error:
            raise DataError(
                f"{self._path.name}: the text {error.object[:40]!r} holds "
                f"{error.object[error.start]!r}, half of a surrogate pair and no character: repair "
                "the source file."
            ) from error
        self._writer.write_table(table)
        self._rows, self._bytes = [], 0

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if kind is None and self._rows:
                self._flush()
        finally:
            self._writer.close()

    def result(self) -> Part:
        """Return what the manifest says about the file, once it is closed."""
        return Part(
            file=self._path.name,
            rows=self.count,
            bytes=self._path.stat().st_size,
            sha256=file_sha256(self._path),
        )


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_part(path: Path) -> pq.ParquetFile:
    """Open a Parquet file, memory-mapped.

    Raises
    ------
    DataError
        If it is none.
    """
    try:
        return pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet ({_first_line(error)}): prepare the dataset again."
        ) from error


def part_rows(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Stream the rows of a Parquet file; of `columns` alone if given.

    Raises
    ------
    DataError
        If it is damaged.
    """
    try:
        for batch in open_part(path).iter_batches(BATCH, columns=columns):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is damaged ({_first_line(error)}): `clamr-bench data check` names every "
            "changed part; prepare the dataset again."
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
