"""Tasks whose source files are generated when they are first used, so that they need nothing."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from harness.dataset import SCHEMA_VERSION, DatasetStore
from harness.dataset.task import StoredTask
from harness.errors import DataError, NotPreparedError, StorageError
from harness.files import exclusive, lock_file, storage_error, writable_folder
from harness.progress import Progress
from harness.task import Split
from harness.workspace import digest


class GeneratedTask(StoredTask):
    """A task that writes its source files beside its store, in the layout of a real release.

    The code that reads the release then reads them.
    """

    #: A file of every generated source; a folder without it is never replaced.
    mark: ClassVar[str]
    #: Version of the generator: raised whenever the same settings would give other files.
    generator_version: ClassVar[int]

    @property
    def generation(self) -> Mapping[str, Any]:
        """The settings that the source files depend on, as JSON values."""
        return self.settings.model_dump(mode="json")

    @abstractmethod
    def generate(self, folder: Path, progress: Progress) -> None:
        """Fill `folder` with the source files."""

    @property
    def default_store(self) -> Path:
        """A folder for each choice of settings and version of the generator."""
        identity = {
            "settings": self.generation,
            "generator": self.generator_version,
            "task": self.about.version,
            "schema": SCHEMA_VERSION,
        }
        store = super().default_store
        return store.with_name(f"{store.name}-{digest(identity)[:8]}")

    @property
    def is_prepared(self) -> bool:
        """Whether there are data: they are made when they are asked for."""
        return True

    def not_prepared(self, folder: Path) -> NotPreparedError:
        """Return the error for a sample that is not there."""
        return NotPreparedError(
            f"{folder} holds no sample: `clamr-bench data prepare {self.address}` generates it, "
            "and so does every run without --data."
        )

    def load(self, split: str, data: Path | None, progress: Progress) -> Split:
        """Return one split; generates the sample first if it is not there (see `Task.load`)."""
        if data is None:
            self._ensure(self.default_store, progress)
        return super().load(split, data, progress)

    def prepare(
        self,
        sources: Sequence[Path],
        store: Path | None,
        progress: Progress,
        *,
        strict: bool = False,
    ) -> Path:
        """Generate the sample, or read one that was generated into `sources`."""
        store = store or self.default_store
        if not sources:
            self._ensure(store, progress)
            return store
        return super().prepare(sources, store, progress, strict=strict)

    def _ensure(self, store: Path, progress: Progress) -> None:
        """Generate and prepare what is not there whole; other processes wait meanwhile."""
        source = store.with_name(f"{store.name}.source")
        if self._is_whole(store, source, progress):
            return
        writable_folder(store.parent, "dataset folder")

        def busy(holder: str) -> None:
            progress.note(f"waiting for process {holder}, which generates {self.address}.")

        with exclusive(lock_file(source), busy):
            if self._is_whole(store, source, progress):
                return
            self._generate(source, progress)
            super().prepare([source], store, progress)

    def _is_whole(self, store: Path, source: Path, progress: Progress) -> bool:
        try:
            manifest = DatasetStore(store).manifest
        except NotPreparedError:
            return False
        except DataError as error:
            progress.note(f"{error} The sample is generated anew.")
            return False
        return manifest.media_roots == [str(source.absolute())] and source.is_dir()

    def _generate(self, source: Path, progress: Progress) -> None:
        if source.exists() and not (source / self.mark).is_file():
            raise StorageError(
                f"{source} is in the way and holds no generated sample (no {self.mark}): move it, "
                "or choose another place with --data."
            )
        partial = source.with_name(f".{source.name}.partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            self.generate(partial, progress)
            shutil.rmtree(source, ignore_errors=True)
            # No fsync of thousands of small files: whatever a power cut loses is generated anew.
            partial.rename(source)
        except OSError as error:
            raise storage_error(error, "sample", source) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
