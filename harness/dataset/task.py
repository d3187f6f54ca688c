"""A task whose data live in a dataset store: what most tasks are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.dataset.manifest import MANIFEST_NAME
from harness.dataset.store import DatasetStore
from harness.dataset.writer import DatasetWriter
from harness.errors import DataError, NotPreparedError, UsageError
from harness.progress import Progress
from harness.task import Split, Task
from harness.workspace import data_folder


@dataclass(frozen=True, slots=True)
class Statistics:
    """A table of figures of a store; the first header says what they are of."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


class StoredTask(Task):
    """Loads its splits from a dataset store, and says how to prepare one that is not there.

    A subclass implements `protocol` and `write`, which reads source files into a store.
    """

    @property
    def dataset(self) -> str:
        """Address of the task whose store this one reads; variants that share one override it."""
        return f"{self.name}/{self.variant}" if self.variant else self.name

    @property
    def default_store(self) -> Path:
        """Where the store lies unless the user says otherwise."""
        return data_folder() / self.family / (self.dataset.partition("/")[2] or "default")

    @property
    def is_prepared(self) -> bool:
        """Whether the store is in its default place."""
        return (self.default_store / MANIFEST_NAME).is_file()

    def load(self, split: str, data: Path | None, progress: Progress) -> Split:
        """Return one split of the store (see `Task.load`)."""
        return self.open_store(data).split(split)

    def open_store(self, data: Path | None) -> DatasetStore:
        """Open the store in `data`, or in the default place.

        Raises
        ------
        NotPreparedError
            If there is none; says where it looked and how to prepare it.
        DataError
            If it is damaged, or of another task.
        """
        folder = data or self.default_store
        try:
            store = DatasetStore(folder)
        except NotPreparedError:
            raise self.not_prepared(folder) from None
        if store.manifest.task != self.dataset:
            raise DataError(
                f"{folder} was prepared for task {store.manifest.task!r}, but {self.address!r} "
                f"reads stores of {self.dataset!r}: point --data at one of those."
            )
        return store

    def statistics(self, store: DatasetStore) -> Sequence[Statistics]:
        """Return what ``data stats`` shows of `store` for this task, beside counts of every split.

        A subclass overrides it to give figures of its own.
        """
        return ()

    def not_prepared(self, folder: Path) -> NotPreparedError:
        """Return the error for data that are not in `folder`: what to do about it."""
        return NotPreparedError(
            f"task {self.address!r} has no data yet: looked in {folder}. Prepare it with "
            f"`clamr-bench data prepare {self.dataset} --source DIR`, or point at a prepared "
            "store with --data DIR. `clamr-bench run --task multivent/sample --retriever "
            "bm25-text` works without any data."
        )

    def prepare(
        self,
        sources: Sequence[Path],
        store: Path | None,
        progress: Progress,
        *,
        strict: bool = False,
    ) -> Path:
        """Read `sources` into a store (see `write`)."""
        store = store or self.default_store
        if not sources:
            raise UsageError(
                f"`data prepare {self.address}` needs --source DIR: the folder that holds the "
                "task's official files."
            )
        for source in sources:
            if not source.is_dir():
                raise DataError(
                    f"--source {source} is not a folder: give the folder that holds the files of "
                    f"{self.address}."
                )
        with self.writer(sources, store, strict=strict) as writer:
            if writer.complete_parts:
                progress.note(
                    f"{store}: going on after {writer.complete_parts} parts of an earlier, "
                    "unfinished preparation."
                )
            self.write(sources, writer, progress)
        return store

    def writer(self, sources: Sequence[Path], store: Path, *, strict: bool) -> DatasetWriter:
        """Return the writer that `prepare` uses; override to state media roots and channels."""
        return DatasetWriter(
            store,
            task=self.dataset,
            task_version=self.about.version,
            media_roots=sources,
            strict=strict,
        )

    @abstractmethod
    def write(self, sources: Sequence[Path], writer: DatasetWriter, progress: Progress) -> None:
        """Read the files in `sources` and write every split.

        What is missing is reported with `DatasetWriter.gap`.

        Raises
        ------
        DataError
            If a file is missing or has another form; the message names file, line and remedy.
        """
