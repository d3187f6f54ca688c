"""Makes a dataset store, row by row, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.dataset.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    CoverageModel,
    Manifest,
    SplitModel,
)
from harness.dataset.portions import Portion, Unfinished
from harness.dataset.tables import DocumentsWriter, Gaps, Ids, write_qrels, write_queries
from harness.environment import source_sha256
from harness.errors import DataError, StorageError
from harness.files import exclusive, lock_file, restore_folder, storage_error, writable_folder
from harness.types import Document, Qrels, Query


class DatasetWriter:
    """Writes a dataset store; a context manager.

    Everything goes to a folder beside `folder`, which takes its place when the block ends without
    an error. An error, or a killed process, leaves an earlier store as it was. What it has done of
    documents that came in `Portion`s is kept, and the next writer with the same arguments and the
    same source code goes on from there; any other starts anew.

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
    channels
        Versions of modality channels.
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
        self._gaps = Gaps(strict)
        self._ids: dict[str, Ids] = {}
        self._splits: dict[str, SplitModel] = {}
        self.channels = dict(channels or {})
        self.notes: list[str] = []
        self.counts: dict[str, int] = {}

    def __enter__(self) -> Self:
        writable_folder(self.folder.parent, "dataset folder")
        self._lock = exclusive(lock_file(self.folder), remedy="choose another folder")
        self._lock.__enter__()
        try:
            restore_folder(self.folder)
            self._refuse_foreign_folder()
            partial = self.folder.with_name(f".{self.folder.name}.partial")
            self._unfinished = Unfinished(partial, self._identity())
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def _identity(self) -> dict[str, object]:
        return {
            "schema": SCHEMA_VERSION,
            "source": source_sha256(),
            "task": self._task,
            "task_version": self._task_version,
            "media_roots": [str(root) for root in self._roots],
            "strict": self._gaps.strict,
        }

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

    @property
    def complete_parts(self) -> int:
        """Parts that are complete; at the start those that a killed preparation left."""
        return self._unfinished.complete()

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
        self._gaps.add(kind, example)

    def carry_over(self, manifest: Manifest) -> None:
        """Take the notes, counts and gaps of a store whose rows are written anew."""
        self.notes.extend(manifest.notes)
        self.counts.update(manifest.counts)
        self._gaps.merge(manifest.gaps)

    def written(self, split: str) -> Set[str]:
        """Return the ids of the documents of `split` so far."""
        return self._ids[split].origins.keys()

    def write_split(
        self,
        split: str,
        documents: Iterable[Document] | Iterable[Portion],
        queries: Iterable[Query],
        qrels: Qrels,
        *,
        documents_of: str | None = None,
    ) -> None:
        """Write one split and check that its tables fit together.

        Parameters
        ----------
        split
            Its name.
        documents
            Documents, or portions of them, which a killed preparation need not read again.
        queries, qrels
            Queries and judgments.
        documents_of
            A split written before whose documents this one has too; `documents` is then empty.

        Raises
        ------
        DataError
            If a document or query id repeats or is empty, or a judgment names an unknown query or
            document.
        StorageError
            If the disk is full.
        """
        folder = self._unfinished.folder / split
        try:
            folder.mkdir(exist_ok=True)
            if documents_of is None:
                writer = DocumentsWriter(self._unfinished, split, self._roots, self._gaps)
                self._ids[split] = writer.ids
                table, counted = writer.write(documents)
                coverage = CoverageModel(**asdict(counted))
            else:
                self._ids[split] = self._ids[documents_of]
                table, coverage = None, self._splits[documents_of].coverage
            query_ids = Ids("query", split)
            query_table, attributes = write_queries(folder, queries, self._roots, query_ids)
            qrels_table, judged = write_qrels(folder, qrels, query_ids, self._ids[split])
        except OSError as error:
            raise storage_error(error, "dataset folder", self.folder) from error
        self._splits[split] = SplitModel(
            documents=table,
            documents_of=documents_of,
            queries=query_table,
            qrels=qrels_table,
            coverage=coverage,
            query_attributes=attributes,
            judged_documents=len(judged),
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
            self._unfinished.leave()
            self._lock.__exit__(None, None, None)

    def _finish(self) -> None:
        if not self._splits:
            raise DataError(f"no split was written into {self.folder}.")
        manifest = Manifest(
            task=self._task,
            task_version=self._task_version,
            notes=self.notes,
            counts=self.counts,
            gaps=self._gaps.found,
            channels=self.channels,
            media_roots=[str(root) for root in self._roots],
            splits=self._splits,
        )
        manifest.write(self._unfinished.folder)
        files = {
            f"{split}/{part.file}"
            for split, model in self._splits.items()
            for table in model.tables().values()
            for part in table.parts
        }
        self._unfinished.finish(files | {MANIFEST_NAME}, self.folder)
