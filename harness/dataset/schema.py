"""Rows of the Parquet parts: documents, queries, judgments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.errors import DataError
from harness.types import TEXT_MODALITIES, Document, Media, Modality, Query

Row = dict[str, Any]

_ATTRIBUTES = pa.map_(pa.string(), pa.string())
_MEDIA = pa.struct(
    [
        pa.field("modality", pa.string(), nullable=False),
        pa.field("root", pa.int16(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("offset", pa.int64()),
    ]
)

SCHEMAS: Mapping[str, pa.Schema] = {
    "documents": pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("title", pa.string()),
            *(pa.field(modality.label, pa.string()) for modality in TEXT_MODALITIES),
            pa.field("media", pa.list_(_MEDIA), nullable=False),
            pa.field("attributes", _ATTRIBUTES, nullable=False),
        ]
    ),
    "queries": pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("image", _MEDIA),
            pa.field("instruction", pa.string()),
            pa.field("attributes", _ATTRIBUTES, nullable=False),
        ]
    ),
    "qrels": pa.schema(
        [
            pa.field("query_id", pa.string(), nullable=False),
            pa.field("document_id", pa.string(), nullable=False),
            pa.field("grade", pa.int32(), nullable=False),
        ]
    ),
}


def document_row(document: Document, roots: Sequence[Path]) -> Row:
    """Return the row of `document`, its media paths relative to one of `roots`."""
    media = [
        _media_row(modality, file, roots)
        for modality in sorted(document.media)
        for file in document.media[modality]
    ]
    texts = {modality.label: document.texts.get(modality) for modality in TEXT_MODALITIES}
    attributes = sorted(document.attributes.items())
    return {
        "id": document.id,
        "title": document.title,
        **texts,
        "media": media,
        "attributes": attributes,
    }


def document_of(row: Mapping[str, Any], roots: Sequence[Path]) -> Document:
    """Return the document of a row."""
    media: dict[Modality, list[Media]] = {}
    for file in row["media"]:
        media.setdefault(Modality.parse(file["modality"]), []).append(_media_of(file, roots))
    return Document(
        id=row["id"],
        texts={m: row[m.label] for m in TEXT_MODALITIES if row[m.label] is not None},
        media={modality: tuple(files) for modality, files in media.items()},
        title=row["title"],
        attributes=dict(row["attributes"]),
    )


def query_row(query: Query, roots: Sequence[Path]) -> Row:
    """Return the row of `query`."""
    image = None if query.image is None else _media_row(Modality.IMAGE, query.image, roots)
    return {
        "id": query.id,
        "text": query.text,
        "image": image,
        "instruction": query.instruction,
        "attributes": sorted(query.attributes.items()),
    }


def query_of(row: Mapping[str, Any], roots: Sequence[Path]) -> Query:
    """Return the query of a row."""
    image = None if row["image"] is None else _media_of(row["image"], roots)
    return Query(row["id"], row["text"], image, row["instruction"], dict(row["attributes"]))


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def row_bytes(row: Mapping[str, Any]) -> bytes:
    """Return a row as bytes that do not depend on Parquet, for content digests.

    Which of the media roots a file lies under is left out: it changes where media move.
    """
    if row.get("media"):
        row = {**row, "media": [_without_root(file) for file in row["media"]]}
    if row.get("image"):
        row = {**row, "image": _without_root(row["image"])}
    return _encode(row).encode() + b"\n"


def _without_root(file: Mapping[str, Any]) -> Row:
    return {key: value for key, value in file.items() if key != "root"}


def _media_row(modality: Modality, file: Media, roots: Sequence[Path]) -> Row:
    path = file.path.absolute()
    root = next((i for i, folder in enumerate(roots) if path.is_relative_to(folder)), None)
    if root is None:
        raise DataError(
            f"media file {path} does not lie under a media root ("
            f"{', '.join(map(str, roots)) or 'there is none'}): the task must name folders that "
            "hold all of its media."
        )
    return {
        "modality": modality.label,
        "root": root,
        "path": path.relative_to(roots[root]).as_posix(),
        "name": file.name,
        "size": file.size,
        "offset": file.offset,
    }


def _media_of(file: Mapping[str, Any], roots: Sequence[Path]) -> Media:
    try:
        root = roots[file["root"]]
    except IndexError:
        raise DataError(
            f"media file {file['path']} lies under media root {file['root'] + 1}, but the store's "
            f"dataset.json names only {len(roots)}: put the folder back into media_roots."
        ) from None
    return Media(root / file["path"], file["name"], file["size"], file["offset"])
