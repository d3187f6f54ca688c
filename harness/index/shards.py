"""One shard of a store: a run of documents with their token embeddings, whole or not there.

A shard is a folder ``shard-<number of its first document>`` with two files:

- ``embeddings.safetensors``: the arrays of `TokenEmbeddings`, nothing padded;
- ``shard.json``: the ids, counts, and the sha256 of the other file and of itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import PluginError
from harness.index.tensors import map_tensors, tensor_bytes
from harness.late_interaction import TokenEmbeddings
from harness.types import NO_MODALITY, Modality
from harness.workspace import digest

SCHEMA_VERSION = 2
TENSORS_NAME = "embeddings.safetensors"
MANIFEST_NAME = "shard.json"
#: Arrays that every shard has, and those that only some have.
_ARRAYS = ("vectors", "offsets", "modalities", "segment_offsets")
_OPTIONAL = ("scales", "spans")
#: Bytes hashed at a time.
_CHUNK = 1 << 22


class DamageError(Exception):
    """A shard that is not as it was written; whoever opens shards catches it."""


class ShardManifest(BaseModel):
    """``shard.json``: what a shard holds.

    Attributes
    ----------
    first
        Number of the shard's first document in the collection.
    ids
        Ids of its documents, in order.
    tokens
        Number of tokens by modality label (``none`` for those that never win).
    dim, precision
        Of the vectors; the dimension is 0 where no document has a token.
    invalid
        Ids of documents that were left without tokens because the encoder gave NaN.
    losses
        What of the documents could not be used, counted by kind (``video missing``).
    bytes, sha256
        Of ``embeddings.safetensors``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    first: int
    ids: tuple[str, ...]
    tokens: dict[str, int]
    dim: int
    precision: str
    invalid: tuple[str, ...]
    losses: dict[str, int] = Field(default_factory=dict)
    bytes: int
    sha256: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check a manifest.

        Raises
        ------
        DamageError
            If it cannot be read, or is not as it was written.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            own = values.pop("digest")
            manifest = cls.model_validate(values)
        except (OSError, ValueError, KeyError, AttributeError, TypeError, ValidationError) as error:
            raise DamageError(f"{path.name} cannot be read") from error
        if own != digest(values):
            raise DamageError(f"{path.name} is not as it was written")
        if manifest.schema_version != SCHEMA_VERSION:
            raise DamageError(f"{path.name} has version {manifest.schema_version}")
        return manifest

    def dump(self) -> str:
        """Return the text of the file: the values and a digest of them."""
        values = self.model_dump(mode="json")
        return json.dumps({**values, "digest": digest(values)}, ensure_ascii=False) + "\n"


class Shard:
    """A shard on disk.

    Parameters
    ----------
    path
        Its folder.

    Raises
    ------
    DamageError
        If its manifest is damaged or the file of its tensors has another size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = ShardManifest.read(path / MANIFEST_NAME)
        self._tensors = path / TENSORS_NAME
        self._check_size()

    def __len__(self) -> int:
        return len(self.manifest.ids)

    @property
    def last(self) -> int:
        """Number of the document after the shard's last one."""
        return self.manifest.first + len(self)

    def _check_size(self) -> None:
        try:
            size = self._tensors.stat().st_size
        except OSError as error:
            raise DamageError(f"{TENSORS_NAME} is missing") from error
        if size != self.manifest.bytes:
            raise DamageError(f"{TENSORS_NAME} has {size:,} bytes of {self.manifest.bytes:,}")

    def verify(self) -> None:
        """Compare the bytes on disk with the checksum.

        Raises
        ------
        DamageError
            If they differ.
        """
        state = hashlib.sha256()
        try:
            with self._tensors.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    state.update(chunk)
        except OSError as error:
            raise DamageError(f"{TENSORS_NAME} cannot be read: {error.strerror}") from error
        if state.hexdigest() != self.manifest.sha256:
            raise DamageError(f"{TENSORS_NAME} is not as it was written (its sha256 differs)")

    def embeddings(self) -> TokenEmbeddings:
        """Open the embeddings; the vectors stay on disk.

        Raises
        ------
        DamageError
            If they are not what the manifest says.
        """
        self._check_size()  # Reading a map beyond the end of its file would end the process.
        try:
            arrays, _ = map_tensors(self._tensors)
            return TokenEmbeddings.trusted(
                *(arrays[name] for name in _ARRAYS),
                **{name: arrays[name] for name in _OPTIONAL if name in arrays},
            )
        except (OSError, ValueError, KeyError, TypeError, PluginError) as error:
            raise DamageError(f"{TENSORS_NAME} cannot be opened: {error}") from error


def write_shard(
    folder: Path,
    first: int,
    ids: Sequence[str],
    embeddings: TokenEmbeddings,
    invalid: Sequence[str] = (),
    losses: Mapping[str, int] | None = None,
) -> None:
    """Write the two files of a shard into `folder`, which takes its place when it is whole."""
    arrays: dict[str, Any] = {name: getattr(embeddings, name) for name in _ARRAYS}
    for name in _OPTIONAL:
        if getattr(embeddings, name) is not None:
            arrays[name] = getattr(embeddings, name)
    data = tensor_bytes(arrays, {"precision": embeddings.precision})
    (folder / TENSORS_NAME).write_bytes(data)
    manifest = ShardManifest(
        schema_version=SCHEMA_VERSION,
        first=first,
        ids=tuple(ids),
        tokens=_tokens(embeddings),
        dim=embeddings.dim if len(embeddings.vectors) else 0,
        precision=embeddings.precision,
        invalid=tuple(invalid),
        losses=dict(sorted((losses or {}).items())),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    (folder / MANIFEST_NAME).write_text(manifest.dump(), encoding="utf-8")


def _tokens(embeddings: TokenEmbeddings) -> dict[str, int]:
    lengths = np.diff(embeddings.segment_offsets)
    counts = np.bincount(embeddings.modalities, weights=lengths)
    labels = {NO_MODALITY: "none"} | {int(m): m.label for m in Modality}
    return {labels[number]: int(n) for number, n in enumerate(counts.tolist()) if n}
