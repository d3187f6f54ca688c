"""Reads a dataset store: checked on open, memory-mapped, streamed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.coverage import Coverage
from harness.dataset.manifest import MANIFEST_NAME, Manifest
from harness.dataset.schema import SCHEMAS, document_of, query_of
from harness.documents import Documents
from harness.errors import DataError, did_you_mean
from harness.task import Split
from harness.types import Document, Query
from harness.workspace import exclusive, lock_file, restore_folder, was_interrupted

#: Rows read at a time.
BATCH = 1024


class DatasetStore:
    """A prepared dataset on disk.

    Opening reads ``dataset.json`` and checks that every part is there with the recorded size, the
    right columns and the recorded number of rows. `check` reads every byte.

    Parameters
    ----------
    folder
        The store.

    Raises
    ------
    NotPreparedError
        If `folder` holds no store.
    DataError
        If it is damaged or of a newer schema; the message names the part.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if was_interrupted(folder):
            with exclusive(lock_file(folder), busy=lambda holder: None):
                restore_folder(folder)
        self.manifest = Manifest.read(folder)
        for split, model in self.manifest.splits.items():
            for stem, part in model.parts().items():
                path = folder / split / f"{stem}.parquet"
                if not path.is_file():
                    raise DataError(f"{path} is missing: prepare the dataset again.")
                if path.stat().st_size != part.bytes:
                    raise DataError(
                        f"{path} has {path.stat().st_size:,} bytes, {part.bytes:,} were written: "
                        "it is truncated or was changed; prepare the dataset again."
                    )
                file = self._open(path)
                if file.schema_arrow != SCHEMAS[stem] or file.metadata.num_rows != part.rows:
                    raise DataError(
                        f"{path} has other columns or rows than {folder / 'dataset.json'} says: "
                        "prepare the dataset again."
                    )

    @property
    def media_roots(self) -> list[Path]:
        """Folders that media paths are relative to."""
        return [Path(root) for root in self.manifest.media_roots]

    def split(self, name: str) -> Split:
        """Return one split; its documents stay on disk.

        Raises
        ------
        DataError
            If there is no such split; the message lists those that exist.
        """
        if name not in self.manifest.splits:
            known = list(self.manifest.splits)
            raise DataError(
                f"{self.folder} has no split {name!r}; it has {', '.join(known)}."
                + did_you_mean(name, known)
            )
        coverage = self.manifest.splits[name].coverage
        qrels: dict[str, dict[str, int]] = {}
        for row in self._rows(name, "qrels"):
            qrels.setdefault(row["query_id"], {})[row["document_id"]] = row["grade"]
        return Split(
            name=name,
            documents=_StoredDocuments(self, name),
            queries=tuple(self.queries(name)),
            qrels=qrels,
            fingerprint=self.manifest.fingerprint(name),
            coverage=Coverage(coverage.documents, coverage.modalities, coverage.languages),
            dataset=self.folder,
            channels=self.manifest.channels,
        )

    def documents(self, split: str) -> Iterator[Document]:
        """Stream the documents of `split`."""
        roots = self.media_roots
        for row in self._rows(split, "documents"):
            yield document_of(row, roots)

    def queries(self, split: str) -> Iterator[Query]:
        """Stream the queries of `split`."""
        roots = self.media_roots
        for row in self._rows(split, "queries"):
            yield query_of(row, roots)

    def check(self) -> list[str]:
        """Read every byte of every part; return a line about each file that was changed."""
        problems = []
        if self.manifest.digest != self.manifest.own_digest():
            problems.append(
                f"{self.folder / MANIFEST_NAME} was changed since it was written; prepare the "
                "dataset again."
            )
        for split, model in self.manifest.splits.items():
            for stem, part in model.parts().items():
                path = self.folder / split / f"{stem}.parquet"
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != part.sha256:
                    problems.append(
                        f"{path} was changed: sha256 {found[:12]}…, {part.sha256[:12]}… was "
                        "written; prepare the dataset again."
                    )
        return problems

    def check_media(self) -> list[str]:
        """Look for every media file; return a line about each that is missing or too short."""
        problems = []
        for split in self.manifest.splits:
            for document in self.documents(split):
                for files in document.media.values():
                    for media in files:
                        if not media.path.is_file():
                            problems.append(f"document {document.id!r}: {media.path} is missing.")
                            continue
                        available = media.path.stat().st_size - (media.offset or 0)
                        exact = media.offset is None
                        if available < media.size or (exact and available != media.size):
                            problems.append(
                                f"document {document.id!r}: {media.path} has {available:,} bytes, "
                                f"{media.size:,} were there at preparation."
                            )
        return problems

    def _open(self, path: Path) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path} cannot be read as Parquet ({_first_line(error)}): prepare the dataset "
                "again."
            ) from error

    def _rows(
        self, split: str, stem: str, columns: list[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        path = self.folder / split / f"{stem}.parquet"
        try:
            for batch in self._open(path).iter_batches(BATCH, columns=columns):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path} is damaged ({_first_line(error)}): `clamr-bench data check` names every "
                "changed part; prepare the dataset again."
            ) from error


class _StoredDocuments(Documents):
    """The documents of a split, streamed from disk at each iteration."""

    def __init__(self, store: DatasetStore, split: str) -> None:
        self._store, self._split = store, split

    def __len__(self) -> int:
        return self._store.manifest.splits[self._split].coverage.documents

    def __iter__(self) -> Iterator[Document]:
        return self._store.documents(self._split)

    def attributes(self) -> dict[str, Mapping[str, str]]:
        """Return the attributes of every document by its id; reads only those columns."""
        rows = self._store._rows(self._split, "documents", ["id", "attributes"])
        return {row["id"]: dict(row["attributes"]) for row in rows}


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
