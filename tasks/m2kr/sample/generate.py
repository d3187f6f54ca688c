"""Writes the sample's source files, in M2KR's official layout: Parquet folders, image folders."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness.progress import Progress
from tasks.m2kr.sample.draw import Part, Passage, Row, draw_parts
from tasks.sample.facts import Scene
from tasks.sample.render import render_picture

#: Raised whenever the same settings would give other files.
VERSION = 1

#: A file of every generated source.
MARK = "WIT_data/test-00000-of-00001.parquet"

#: Pictures are filled up to this many bytes: their size is part of the data fingerprint, and
#: differs between builds of the JPEG library. The largest of the default ones has 5,300 bytes.
JPEG_BYTES = 8192

#: Files of a table, by split: both forms are read whenever the sample is prepared.
_FILES = {"test": 1, "train": 2}

_TEXT = pa.string()
_TEXTS = pa.list_(pa.string())
_DATA = {
    "pos_item_ids": _TEXTS,
    "pos_item_contents": _TEXTS,
    "question_id": _TEXT,
    "question": _TEXT,
    "instruction": _TEXT,
    "img_path": _TEXT,
    "image_id": _TEXT,
}
#: Columns that only some parts have, with the types of the released files.
_MORE: dict[str, dict[str, Any]] = {
    "WIT": {"original_data_id": _TEXTS},
    "MSMARCO": {"original_data_id": _TEXTS, "img_path": pa.null(), "image_id": pa.null()},
    "OKVQA": {
        "answers": _TEXTS,
        "gold_answer": _TEXT,
        "img": pa.null(),
        "__index_level_0__": pa.int64(),
    },
}
_PASSAGES = {
    "WIT": {"language": _TEXT, "page_url": _TEXT, "original_height": pa.int64()},
    "MSMARCO": {"language": _TEXT, "img_path": pa.null()},
    "OKVQA": {"title": _TEXT},
}


def generate(
    folder: Path, *, seed: int, test_queries: int, train_queries: int, progress: Progress
) -> None:
    """Fill `folder` with the three parts of both splits.

    Texts, judgments and pixels depend on the parameters alone; the bytes of pictures also on the
    JPEG library, their sizes not.
    """
    parts = draw_parts(seed, test_queries, train_queries)
    total = sum(row.scene is not None for part in parts for row in part.rows)
    with progress.stage("generating sample pictures", total) as advance:
        for part in parts:
            more = _MORE[part.folder]
            _write(
                folder / f"{part.folder}_data",
                part.split,
                [_data(part, row, number) for number, row in enumerate(part.rows)],
                {**_DATA, **more},
                _FILES[part.split],
            )
            _write(
                folder / f"{part.folder}_passages",
                f"{part.split}_passages",
                [_passage(passage) for passage in part.passages],
                {"passage_id": _TEXT, "passage_content": _TEXT, **_PASSAGES[part.folder]},
                _FILES[part.split],
            )
            for row in part.rows:
                if row.scene is not None:
                    path = folder / part.folder / _image(part, row)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(_jpeg(row.scene, f"m2kr sample picture {seed} {row.id}"))
                    advance()


def _image(part: Part, row: Row) -> str:
    """Return the path of a picture in its part's image folder, as in the released data."""
    if part.folder == "WIT":
        return f"{row.id}.jpg"
    year = {"test": "val2014", "train": "train2014"}[part.split]
    return f"{year}/COCO_{year}_{row.id}.jpg"


def _data(part: Part, row: Row, number: int) -> dict[str, Any]:
    return {
        "pos_item_ids": [row.relevant.id],
        "pos_item_contents": [row.relevant.text],
        "question_id": row.id,
        "question": row.question,
        "instruction": row.instruction,
        "img_path": None if row.scene is None else _image(part, row),
        "image_id": None if row.scene is None else row.id,
        "original_data_id": [row.id],
        "answers": list(row.answers),
        "gold_answer": row.answers[0] if row.answers else None,
        "__index_level_0__": number,
    }


def _passage(passage: Passage) -> dict[str, Any]:
    return {
        "passage_id": passage.id,
        "passage_content": passage.text,
        "title": passage.title,
        "language": "en",
    }


def _write(
    folder: Path, name: str, rows: Sequence[dict[str, Any]], columns: dict[str, Any], files: int
) -> None:
    folder.mkdir(exist_ok=True)
    table = pa.Table.from_pylist(list(rows), schema=pa.schema(columns))
    size = -(-len(rows) // files)
    for number in range(files):
        path = folder / f"{name}-{number:05}-of-{files:05}.parquet"
        pq.write_table(table.slice(number * size, size), path)


def _jpeg(scene: Scene, seed: str) -> bytes:
    """Draw a picture and encode it, filled up to `JPEG_BYTES` with a comment."""
    # A stream of random numbers of its own for each picture.
    pixels = render_picture(scene, Random(seed))  # noqa: S311 (not for secrets)
    picture = Image.fromarray(pixels)
    bare = _encoded(picture, b" ")
    return _encoded(picture, b" " * (1 + JPEG_BYTES - len(bare)))


def _encoded(picture: Image.Image, comment: bytes) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90, comment=comment)
    return buffer.getvalue()
