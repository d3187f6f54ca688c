"""Reads a dataset store: checked on open, memory-mapped, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.coverage import Coverage
from harness.dataset.manifest import MANIFEST_NAME, Manifest, Part
from harness.dataset.parts import file_sha256, open_part, part_rows
from harness.dataset.schema import SCHEMAS, document_of, query_of
from harness.documents import Documents
from harness.errors import DataError, did_you_mean
from harness.files import exclusive, lock_file, restore_folder, was_interrupted
from harness.task import Split
from harness.types import Document, Media, Query


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
        for path, name, part in self._parts():
            if not path.is_file():
                raise DataError(f"{path} is missing: prepare the dataset again.")
            if path.stat().st_size != part.bytes:
                raise DataError(
                    f"{path} has {path.stat().st_size:,} bytes, {part.bytes:,} were written: "
                    "it is truncated or was changed; prepare the dataset again."
                )
            file = open_part(path)
            if file.schema_arrow != SCHEMAS[name] or file.metadata.num_rows != part.rows:
                raise DataError(
                    f"{path} has other columns or rows than {folder / MANIFEST_NAME} says: "
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
        for path, _, part in self._parts():
            found = file_sha256(path)
            if found != part.sha256:
                problems.append(
                    f"{path} was changed: sha256 {found[:12]}…, {part.sha256[:12]}… was "
                    "written; prepare the dataset again."
                )
        return problems

    def check_media(self) -> list[str]:
        """Look for every media file; return a line about each that is missing or too short."""
        problems = []
        for split, model in self.manifest.splits.items():
            for document in self.documents(split) if model.documents else ():
                for files in document.media.values():
                    for media in files:
                        problems += _media_problems(f"document {document.id!r}", media)
            for query in self.queries(split):
                if query.image is not None:
                    problems += _media_problems(f"query {query.id!r}", query.image)
        return problems

    def _parts(self) -> Iterator[tuple[Path, str, Part]]:
        """Yield every part with its path and the name of its table."""
        for split, model in self.manifest.splits.items():
            for name, table in model.tables().items():
                for part in table.parts:
                    yield self.folder / split / part.file, name, part

    def _rows(
        self, split: str, name: str, columns: list[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        table = self.manifest.splits[split].tables().get(name)
        if table is None:
            split, table = self.manifest.documents(split)
        for part in table.parts:
            yield from part_rows(self.folder / split / part.file, columns)


def _media_problems(whose: str, media: Media) -> list[str]:
    if not media.path.is_file():
        return [f"{whose}: {media.path} is missing."]
    available = media.path.stat().st_size - (media.offset or 0)
    exact = media.offset is None
    if available < media.size or (exact and available != media.size):
        found, written = f"{available:,}", f"{media.size:,}"
        return [f"{whose}: {media.path} has {found} bytes, {written} were there at preparation."]
    return []


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
