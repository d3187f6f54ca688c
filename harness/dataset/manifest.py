"""``dataset.json``: what a dataset store holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import DataError, NotPreparedError
from harness.files import atomic_write
from harness.workspace import digest

#: Version of the store's layout. A newer store is refused; an older one stays readable.
SCHEMA_VERSION = 1

MANIFEST_NAME = "dataset.json"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(_Model):
    """One Parquet file in the folder of its split; `sha256` is of its bytes and finds damage."""

    file: str = Field(pattern=r"[a-z]+(-\d+)?\.parquet")
    rows: int
    bytes: int
    sha256: str


class Table(_Model):
    """Rows of one kind, in one file or several.

    `content_sha256` is of the rows in their order. It is the same whatever wrote the Parquet files
    and wherever one of them ends and the next begins.
    """

    content_sha256: str
    parts: list[Part]

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)


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
    """The tables of one split, and what can be said of them.

    Attributes
    ----------
    documents
        None if the split has the documents of another one.
    documents_of
        That other split.
    query_attributes
        ``{attribute: {value: queries}}`` for attributes that make groups: few values, and
        at least a tenth of the queries states one.
    judged_documents
        Distinct documents that judgments name.
    """

    documents: Table | None
    documents_of: str | None = None
    queries: Table
    qrels: Table
    coverage: CoverageModel
    query_attributes: dict[str, dict[str, int]] = {}
    judged_documents: int = 0

    def tables(self) -> dict[str, Table]:
        """Return the tables that lie in this split's own folder, by name."""
        tables = {"documents": self.documents, "queries": self.queries, "qrels": self.qrels}
        return {name: table for name, table in tables.items() if table is not None}


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
        tables = {"documents": self.documents(split)[1], **self.splits[split].tables()}
        content = {name: table.content_sha256 for name, table in tables.items()}
        return digest({"tables": content, "channels": self.channels})

    def documents(self, split: str) -> tuple[str, Table]:
        """Return the documents of `split`, and the split in whose folder they lie."""
        home = self.splits[split].documents_of or split
        table = self.splits[home].documents
        if table is None:
            raise DataError(f"split {home!r} has no documents of its own: prepare again.")
        return home, table

    @model_validator(mode="after")
    def _documents_are_somewhere(self) -> Self:
        for name, split in self.splits.items():
            other = self.splits.get(split.documents_of or name)
            if (split.documents is None) != (split.documents_of is not None) or (
                other is None or other.documents is None
            ):
                raise ValueError(f"split {name!r} has no documents")
        return self

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
