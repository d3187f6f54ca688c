"""Vectors that were made elsewhere: files of ids and vectors in three forms.

``safetensors``
    Tensor ``vectors``, ``(n, dim)``, of F32, F16, BF16 or F64, and the ids in the metadata: key
    ``ids``, a JSON list of strings. Memory-mapped, so of any size.
``npz``
    Arrays ``vectors``, ``(n, dim)``, of float32, float16 or float64, and ``ids``, of strings (no
    pickled objects). Read into memory as a whole.
``parquet``
    Columns ``id`` (string) and ``vector`` (a list of floats), a row a vector. Read in pieces.

Without more, each id has one vector. In the first two forms, ``offsets`` (integers, ``n_ids + 1``)
makes them multi-vectors: item ``i`` has the rows ``offsets[i]`` to ``offsets[i + 1]``. In Parquet
an item has as many vectors as it has rows, which lie together. ``modalities`` (integers, ``n``; in
Parquet a column ``modality`` of names or numbers) tells the modality of each vector; without it all
are `Modality.TEXT`. Vectors of modality 0 win only with ``unassigned_tokens=compete``.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.errors import DataError, PluginError, UsageError
from harness.index.intake import modality_label
from harness.index.tensors import map_tensors
from harness.late_interaction import NonFiniteError, TokenEmbeddings
from harness.types import NO_MODALITY, Modality

SUFFIXES = (".safetensors", ".npz", ".parquet")
#: Vectors that are read together.
READ_ROWS = 8192
_FLOATS = ("float32", "float16", "float64")


class VectorFile(ABC):
    """Items with one vector or several each.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    DataError
        If it is not as this module says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def find(folder: Path, stem: str) -> VectorFile:
        """Open ``folder/stem.*`` in whichever form it has.

        Raises
        ------
        UsageError
            If there is none, or more than one.
        DataError
            If it cannot be read.
        """
        paths = [folder / f"{stem}{suffix}" for suffix in SUFFIXES]
        there = [path for path in paths if path.is_file()]
        if len(there) != 1:
            found = " and ".join(path.name for path in there) or "none of them"
            raise UsageError(
                f"{folder} must hold one of {', '.join(path.name for path in paths)}; it has "
                f"{found}."
            )
        kind = _Rows if there[0].suffix == ".parquet" else _Arrays
        return kind(there[0])

    @property
    @abstractmethod
    def ids(self) -> list[str]:
        """Ids of the items, in order."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Dimension of the vectors."""

    @abstractmethod
    def pieces(self) -> Iterator[tuple[list[str], TokenEmbeddings]]:
        """Yield ids and embeddings of consecutive items, a few thousand vectors at a time."""

    def sha256(self) -> str:
        """Return the sha256 (hex) of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _packed(
        self,
        ids: list[str],
        vectors: NDArray[Any],
        offsets: NDArray[np.int64],
        modalities: NDArray[Any] | None,
    ) -> TokenEmbeddings:
        """Group each item's vectors by modality."""
        items = np.repeat(np.arange(len(ids)), np.diff(offsets))
        numbers = np.full(len(items), int(Modality.TEXT)) if modalities is None else modalities
        order = np.lexsort((numbers, items))
        items, numbers = items[order], numbers[order]
        if (order[1:] < order[:-1]).any():
            vectors = vectors[order]
        starts = np.flatnonzero(np.diff(items, prepend=-1) | np.diff(numbers, prepend=-1))
        if vectors.dtype == np.float64:
            vectors = vectors.astype(np.float32)
        try:
            return TokenEmbeddings(
                vectors,
                offsets,
                numbers[starts].astype(np.uint8),
                np.append(starts, len(items)).astype(np.int64),
            )
        except NonFiniteError as error:
            raise self._wrong(
                f"{ids[error.item]!r} has NaN or infinite values ({modality_label(error.modality)})"
            ) from error

    def _wrong(self, what: str) -> DataError:
        return DataError(f"{self.path}: {what}; docs/embeddings.md says what a file must hold.")

    def _check_ids(self, ids: list[str]) -> list[str]:
        if len(set(ids)) != len(ids):
            seen: set[str] = set()
            twice = next(i for i in ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise self._wrong(f"id {twice!r} is there twice, or its rows do not lie together")
        return ids

    def _check_numbers(self, numbers: NDArray[Any]) -> NDArray[np.int64]:
        if numbers.dtype.kind not in "iu":
            raise self._wrong(f"modalities are {numbers.dtype}, not integers")
        strange = numbers[(numbers < NO_MODALITY) | (numbers > max(Modality))]
        if len(strange):
            raise self._wrong(f"modality number {strange[0]} does not exist")
        return numbers.astype(np.int64)


class _Arrays(VectorFile):
    """Safetensors and npz: whole arrays."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        arrays, ids = self._read()
        vectors = arrays.get("vectors")
        kinds = (*_FLOATS, "uint16") if path.suffix == ".safetensors" else _FLOATS
        if vectors is None or vectors.ndim != 2 or str(vectors.dtype) not in kinds:
            found = "none" if vectors is None else f"{vectors.dtype} of shape {vectors.shape}"
            raise self._wrong(f"`vectors` must be floats of shape (n, dim), but there are {found}")
        self._vectors, self._ids = vectors, self._check_ids(ids)
        self._offsets = self._checked_offsets(arrays.get("offsets"))
        self._modalities = arrays.get("modalities")
        if self._modalities is not None:
            if self._modalities.shape != (len(vectors),):
                raise self._wrong(
                    f"{len(vectors)} vectors but modalities of shape {self._modalities.shape}"
                )
            self._modalities = self._check_numbers(self._modalities)

    def _read(self) -> tuple[dict[str, NDArray[Any]], list[str]]:
        try:
            if self.path.suffix == ".safetensors":
                arrays, metadata = map_tensors(self.path)
                ids = json.loads(metadata.get("ids", "null"))
            else:
                with np.load(self.path, allow_pickle=False) as file:
                    arrays = {name: file[name] for name in file.files}
                given = arrays.get("ids")
                ids = given.tolist() if given is not None and given.ndim == 1 else None
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise self._wrong(f"it cannot be read ({error})") from error
        if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
            raise self._wrong("it has no `ids`, or they are no list of strings")
        return arrays, ids

    def _checked_offsets(self, offsets: NDArray[Any] | None) -> NDArray[np.int64]:
        rows, items = len(self._vectors), len(self._ids)
        if offsets is None:
            if rows != items:
                raise self._wrong(f"{items} ids but {rows} vectors: multi-vectors need `offsets`")
            return np.arange(rows + 1, dtype=np.int64)
        right = offsets.shape == (items + 1,) and offsets.dtype.kind in "iu"
        if not right or offsets[0] != 0 or offsets[-1] != rows or (np.diff(offsets) < 0).any():
            raise self._wrong(
                f"`offsets` must be {items + 1} integers that rise from 0 to {rows}, one more "
                "than ids"
            )
        return offsets.astype(np.int64)

    @property
    def ids(self) -> list[str]:
        return self._ids

    @property
    def dim(self) -> int:
        return int(self._vectors.shape[1])

    def pieces(self) -> Iterator[tuple[list[str], TokenEmbeddings]]:
        first = 0
        while first < len(self._ids):
            start = self._offsets[first]
            last = int(np.searchsorted(self._offsets, start + READ_ROWS, side="right")) - 1
            last = max(last, first + 1)
            rows = slice(start, self._offsets[last])
            ids = self._ids[first:last]
            numbers = None if self._modalities is None else self._modalities[rows]
            yield (
                ids,
                self._packed(
                    ids, self._vectors[rows], self._offsets[first : last + 1] - start, numbers
                ),
            )
            first = last


class _Rows(VectorFile):
    """Parquet: a row a vector."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._file = pq.ParquetFile(path)
            names = self._file.schema_arrow.names
            columns = [name for name in ("id", "vector", "modality") if name in names]
            if "id" not in columns or "vector" not in columns:
                raise self._wrong(f"it has the columns {', '.join(names)}, not `id` and `vector`")
            self._columns = columns
            self._ids = self._distinct()
            first = next(self._file.iter_batches(1, columns=["vector"]), None)
        except (OSError, pa.ArrowException) as error:
            raise self._wrong(f"it cannot be read ({error})") from error
        self._dim = 0 if first is None or not len(first) else self._matrix(first.column(0)).shape[1]

    def _distinct(self) -> list[str]:
        found: list[str] = []
        for batch in self._file.iter_batches(READ_ROWS, columns=["id"]):
            for id_ in batch.column(0).to_pylist():
                if not isinstance(id_, str):
                    raise self._wrong(f"id {id_!r} is no string")
                if not found or found[-1] != id_:
                    found.append(id_)
        return self._check_ids(found)

    @property
    def ids(self) -> list[str]:
        return self._ids

    @property
    def dim(self) -> int:
        return int(self._dim)

    def pieces(self) -> Iterator[tuple[list[str], TokenEmbeddings]]:
        held: pa.Table | None = None
        for batch in self._file.iter_batches(READ_ROWS, columns=self._columns):
            piece = pa.Table.from_batches([batch])
            rows = piece if held is None else pa.concat_tables([held, piece])
            # The last item may go on in the next batch.
            ids = rows.column("id").to_pylist()
            end = len(ids)
            while end and ids[end - 1] == ids[-1]:
                end -= 1
            held = rows.slice(end)
            if end:
                yield self._items(rows.slice(0, end))
        if held is not None and held.num_rows:
            yield self._items(held)

    def _items(self, rows: pa.Table) -> tuple[list[str], TokenEmbeddings]:
        ids = rows.column("id").to_pylist()
        starts = [row for row in range(len(ids)) if row == 0 or ids[row] != ids[row - 1]]
        vectors = self._matrix(rows.column("vector").combine_chunks())
        if vectors.shape[1] != self._dim:
            raise self._wrong(f"vectors have {self._dim} and {vectors.shape[1]} dimensions")
        items = [ids[row] for row in starts]
        offsets = np.asarray([*starts, len(ids)], np.int64)
        return items, self._packed(items, vectors, offsets, self._numbers(rows))

    def _matrix(self, column: pa.Array) -> NDArray[Any]:
        """Return a column of lists as a matrix."""
        kind = column.type
        nested = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if not (nested or pa.types.is_fixed_size_list(kind)) or not pa.types.is_floating(
            kind.value_type
        ):
            raise self._wrong(f"`vector` is {kind}, not a list of floats")
        values = column.flatten()
        lengths = set(column.value_lengths().to_pylist()) if nested else {kind.list_size}
        if column.null_count or values.null_count or len(lengths) != 1:
            raise self._wrong("a vector is missing, or vectors differ in dimension")
        matrix: NDArray[Any] = values.to_numpy(zero_copy_only=False)
        return matrix.reshape(len(column), lengths.pop())

    def _numbers(self, rows: pa.Table) -> NDArray[np.int64] | None:
        if "modality" not in self._columns:
            return None
        values = rows.column("modality").to_pylist()
        try:
            numbers = [int(Modality.parse(v)) if isinstance(v, str) else v for v in values]
        except UsageError as error:
            raise self._wrong(str(error).rstrip(".")) from error
        if any(number is None for number in numbers):
            raise self._wrong("a modality is missing")
        return self._check_numbers(np.asarray(numbers))


def read_all(file: VectorFile) -> TokenEmbeddings:
    """Read all items of a file into memory.

    Raises
    ------
    DataError
        If there are none.
    """
    parts = [part for _, part in file.pieces()]
    if not parts:
        raise DataError(f"{file.path} holds no vectors.")
    try:
        return TokenEmbeddings.concatenate(parts)
    except PluginError as error:
        raise DataError(f"{file.path}: {error}") from error
