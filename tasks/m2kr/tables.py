"""The Parquet folders of M2KR, as Hugging Face serves them.

``<D>_data`` holds queries in files such as ``train-00000-of-00003.parquet``, ``<D>_passages``
passages in ``train_passages-00000-of-00002.parquet``. Columns beyond those asked for are ignored,
whatever their type. Rows are read in batches: a file is never in memory as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import DataError, did_you_mean

#: Rows read at a time.
_BATCH = 1024

#: Rows of a block: a preparation that was killed reads at most one again. 8.8 million passages are
#: then 135 parts of the store, which are opened in a moment; parts of 2,048 rows would be 4,300.
BLOCK_ROWS = 1 << 16

_NUMBERED = re.compile(r"(?P<split>[a-z_]+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.parquet")
_REMEDY = "fetch it again from the data set's page"


#: Reports something that is missing: its kind, and which one.
Gap = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is read.

    Attributes
    ----------
    name
        Its name.
    kind
        Type of its values.
    required
        Whether it must be there; one that is not reads as None.
    """

    name: str
    kind: Literal["string", "list<string>"] = "string"
    required: bool = True


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of a file that are read together: whole row groups.

    Attributes
    ----------
    path
        The file.
    groups
        Its row groups.
    first, rows
        Number of the first row, from 0, and how many there are.
    """

    path: Path
    groups: tuple[int, ...]
    first: int
    rows: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.path.name} (rows {self.first} to {self.first + self.rows - 1})"

    def read(self, columns: Sequence[Column]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield the number and the values of each row.

        Raises
        ------
        DataError
            If the file is damaged, or a column is missing or has another type.
        """
        file = _opened(self.path, columns)
        present = [column.name for column in columns if column.name in file.schema_arrow.names]
        absent = {column.name: None for column in columns if column.name not in present}
        number = self.first
        try:
            for batch in file.iter_batches(_BATCH, row_groups=list(self.groups), columns=present):
                for row in batch.to_pylist():
                    yield number, {**row, **absent}
                    number += 1
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} is damaged ({_line(error)}): {_REMEDY}.") from error


def find_files(folder: Path, split: str) -> list[Path]:
    """Return the files of a split in a folder, in their order; none if the split is not there.

    Raises
    ------
    DataError
        If some of the files that belong together are missing.
    """
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(folder.glob(f"{split}-*.parquet")):
        match = _NUMBERED.fullmatch(path.name)
        if match is not None and match["split"] == split:
            found[int(match["number"]), int(match["total"])] = path
    totals = {total for _, total in found}
    if len(totals) > 1:
        raise DataError(
            f"{folder} holds files of {split!r} from different downloads (of "
            f"{', '.join(map(str, sorted(totals)))} files): keep one set."
        )
    for total in totals:
        missing = [number for number in range(total) if (number, total) not in found]
        if missing:
            raise DataError(
                f"{folder / f'{split}-{missing[0]:05}-of-{total:05}.parquet'} is missing: "
                f"{split!r} is {total} files, {len(found)} are there. Fetch the others."
            )
    return [found[key] for key in sorted(found)]


def blocks(paths: Sequence[Path], columns: Sequence[Column]) -> list[Block]:
    """Return the rows of all files in blocks of about `BLOCK_ROWS`; checks the files' columns.

    Raises
    ------
    DataError
        If a file is no Parquet file, or a column is missing or has another type.
    """
    found = []
    for path in paths:
        metadata = _opened(path, columns).metadata
        first, rows, groups = 0, 0, list[int]()
        for group in range(metadata.num_row_groups):
            groups.append(group)
            rows += metadata.row_group(group).num_rows
            if rows >= BLOCK_ROWS or group == metadata.num_row_groups - 1:
                found.append(Block(path, tuple(groups), first, rows))
                first, rows, groups = first + rows, 0, []
    return [block for block in found if block.rows]


def trec_id(identifier: str) -> str:
    """Return an id that a TREC run can hold: white space and ``%`` are percent-encoded.

    Ids of E-VQA are made of page titles (``WikiWeb_Juglans regia_1``). `urllib.parse.unquote` gives
    the official id back.
    """
    return re.sub(r"[\s%]", lambda m: "".join(f"%{b:02X}" for b in m[0].encode()), identifier)


def row_id(row: Mapping[str, Any], column: str, path: Path, number: int) -> str:
    """Return the id of a row.

    Raises
    ------
    DataError
        If it has none.
    """
    value: str | None = row[column]
    if not value:
        raise DataError(f"{path}, row {number}: {column} is {value!r}; every row needs an id.")
    return value


def _opened(path: Path, columns: Sequence[Column]) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({_line(error)}): {_REMEDY}.") from error
    schema = file.schema_arrow
    for column in columns:
        if column.name not in schema.names:
            if column.required:
                raise DataError(
                    f"{path} has no column {column.name!r} (expected: {column.kind}); it has "
                    f"{', '.join(schema.names)}.{did_you_mean(column.name, schema.names)}"
                )
            continue
        kind = schema.field(column.name).type
        if not _is(kind, column.kind):
            raise DataError(
                f"{path}: column {column.name!r} has type {kind}, expected {column.kind}: "
                f"{_REMEDY}, or write the column as {column.kind}."
            )
    return file


def _is(kind: Any, wanted: str) -> bool:
    """Whether a type is the wanted one; a column without any value has the type null."""
    if pa.types.is_null(kind):
        return True
    if wanted == "string":
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is(kind.value_type, "string")
    return False


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
