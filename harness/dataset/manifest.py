"""``dataset.json``: what a dataset store holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import DataError, NotPreparedError
from harness.workspace import atomic_write, digest

#: Version of the store's layout. A newer store is refused; an older one stays readable.
SCHEMA_VERSION = 1

MANIFEST_NAME = "dataset.json"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(_Model):
    """One Parquet file.

    `content_sha256` is of the rows and is the same whatever wrote the Parquet file; `sha256` is of
    the file's bytes and finds damage.
    """

    rows: int
    bytes: int
    sha256: str
    content_sha256: str


class CoverageModel(_Model):
    """How many documents have which modality (see `harness.coverage.Coverage`)."""

    documents: int
    modalities: dict[str, int]
    languages: dict[str, dict[str, int]]


class Gap(_Model):
    """Things of one kind that the source should have had: how many, and the first."""

    count: int
    example: str


class SplitModel(_Model):
    """The parts of one split, and its coverage."""

    documents: Part
    queries: Part
    qrels: Part
    coverage: CoverageModel

    def parts(self) -> dict[str, Part]:
        """Return the parts by file stem."""
        return {"documents": self.documents, "queries": self.queries, "qrels": self.qrels}


class Manifest(_Model):
    """The content of ``dataset.json``.

    Attributes
    ----------
    task
        Address of the task that the data were prepared for.
    task_version
        Version of that task at preparation.
    notes
        What a reader must know about how the data were made (protocol, repairs).
    counts
        What preparation met: rows read, merged, dropped.
    gaps
        What the source lacked, by kind.
    channels
        Versions of modality channels: ``{"asr": "whisper-large-v3"}``.
    media_roots
        Folders that media paths are relative to; each media file has the position of its root.
        They may be edited where media moved.
    digest
        sha256 (hex) of all the rest but `media_roots`; finds a changed value.
    """

    schema_version: int = SCHEMA_VERSION
    task: str
    task_version: str
    notes: list[str] = []
    counts: dict[str, int] = {}
    gaps: dict[str, Gap] = {}
    channels: dict[str, str] = {}
    media_roots: list[str] = []
    splits: dict[str, SplitModel]
    digest: str = ""

    def own_digest(self) -> str:
        """Return what `digest` must be."""
        return digest(self.model_dump(mode="json", exclude={"digest", "media_roots"}))

    def fingerprint(self, split: str) -> str:
        """sha256 (hex) of all that determines results on `split`.

        It covers every row, and so the media list (path, size), but not where the store and its
        media lie, nor how Parquet wrote the rows.
        """
        parts = {name: part.content_sha256 for name, part in self.splits[split].parts().items()}
        return digest({"parts": parts, "channels": self.channels})

    def write(self, folder: Path) -> None:
        """Write ``dataset.json`` atomically; a store without it does not count as prepared."""
        with atomic_write(folder / MANIFEST_NAME) as temporary:
            values = self.model_copy(update={"digest": self.own_digest()}).model_dump(mode="json")
            text = json.dumps(values, indent=1, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check ``dataset.json``.

        Raises
        ------
        NotPreparedError
            If there is none.
        DataError
            If it is damaged or of a newer schema.
        """
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise NotPreparedError(f"{folder} holds no prepared dataset (no {MANIFEST_NAME}).")
        try:
            values: Any = json.loads(path.read_text(encoding="utf-8"))
            version = values.get("schema_version") if isinstance(values, dict) else None
            if isinstance(version, int) and version > SCHEMA_VERSION:
                raise DataError(
                    f"{path} has schema version {version}, this clamr-bench reads up to "
                    f"{SCHEMA_VERSION}: update clamr-bench, or prepare the dataset again."
                )
            return cls.model_validate(values)
        except (OSError, ValueError, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise DataError(
                f"{path} is damaged or cannot be read ({first}): prepare the dataset again."
            ) from error
