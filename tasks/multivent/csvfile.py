"""CSV files of the MultiVENT release, read by a CSV parser: fields hold commas and line ends."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from harness.errors import DataError, did_you_mean


def csv_rows(path: Path, *columns: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of `columns` of every row of a CSV file.

    A byte order mark and line ends of any kind, mixed too, are understood. A file that holds
    nothing at all has no rows: feature extractors write one where they find nothing.

    Raises
    ------
    DataError
        If the file cannot be read, is not UTF-8 or CSV, or lacks a column; names file and line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    return parse_csv(content, str(path), *columns)


def parse_csv(content: bytes, where: str, *columns: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV file's `content` (see `csv_rows`); `where` is what errors name."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text ({error.reason}): fetch it again.") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = next(reader, [])
        if not any(cell.strip() for cell in header) and next(reader, None) is None:
            return
        missing = [column for column in columns if column not in header]
        if missing:
            raise DataError(
                f"{where}, line 1: no column {missing[0]!r}; the columns are "
                f"{', '.join(map(repr, header))}." + did_you_mean(missing[0], header)
            )
        wanted = [header.index(column) for column in columns]
        for row in reader:
            if row:
                yield reader.line_num, [row[i] if i < len(row) else "" for i in wanted]
    except csv.Error as error:
        raise DataError(
            f"{where}, line {reader.line_num}: not readable as CSV ({error}); fetch the file again."
        ) from error


def csv_columns(content: bytes) -> list[str]:
    """Return the names in the first line of a CSV file's `content`."""
    first = content[:4096].decode("utf-8-sig", errors="replace")
    return next(csv.reader(io.StringIO(first, newline="")), [])
