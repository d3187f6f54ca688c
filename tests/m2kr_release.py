"""A small subset of M2KR in its official layout, for tests to use and to spoil."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.dataset import DatasetStore, DatasetWriter
from harness.progress import Progress
from tasks.m2kr.prepare import write_subsets
from tasks.m2kr.subsets import SUBSETS

TEXT, TEXTS = pa.string(), pa.list_(pa.string())

#: What the released OKVQA_data has beside what is read: nested, null-typed and index columns.
EXTRA = {
    "img": pa.null(),
    "img_key": pa.int64(),
    "img_caption": pa.struct([("caption", TEXT), ("conf", pa.float64())]),
    "objects": pa.list_(pa.struct([("class", TEXT), ("rect", pa.list_(pa.float64()))])),
    "related_item_ids": TEXTS,
    "__index_level_0__": pa.int64(),
}
DATA = {
    "question_id": TEXT,
    "question": TEXT,
    "instruction": TEXT,
    "img_path": TEXT,
    "pos_item_ids": TEXTS,
    "pos_item_contents": TEXTS,
    "answers": TEXTS,
    "gold_answer": TEXT,
    **EXTRA,
}
PASSAGES = {"passage_id": TEXT, "passage_content": TEXT, "title": TEXT}


def query(number: int, **changes: Any) -> dict[str, Any]:
    """Row `number` of OKVQA_data; its passage is that of the same number."""
    return {
        "question_id": f"q{number}",
        "question": f"what is thing {number} ?",
        "instruction": "Using the picture, find: ",
        "img_path": f"val2014/{number}.jpg",
        "pos_item_ids": [f"Thing {number}"],
        "pos_item_contents": ["ignored"],
        "answers": [f"answer{number}"],
        "gold_answer": f"answer{number}",
        "img_key": number,
        "img_caption": {"caption": "a thing", "conf": 0.5},
        "objects": [{"class": "thing", "rect": [0.0, 1.0]}],
        **changes,
    }


def passage(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "passage_id": f"Thing {number}",
        "passage_content": f"Thing {number} is answer{number}.",
        "title": f"T{number}",
        **changes,
    }


def table(
    folder: Path,
    split: str,
    rows: Sequence[Mapping[str, Any]],
    schema: Mapping[str, Any],
    *,
    files: int = 1,
    row_group: int = 2,
) -> list[Path]:
    """Write rows as Hugging Face does."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pa.Table.from_pylist(list(rows), schema=pa.schema(schema))
    size = -(-len(rows) // files)
    paths = []
    for number in range(files):
        path = folder / f"{split}-{number:05}-of-{files:05}.parquet"
        pq.write_table(made.slice(number * size, size), path, row_group_size=row_group)
        paths.append(path)
    return paths


def release(
    root: Path,
    rows: Sequence[Mapping[str, Any]] | None = None,
    passages: Sequence[Mapping[str, Any]] | None = None,
    *,
    subset: str = "okvqa",
    split: str = "test",
    schema: Mapping[str, Any] = DATA,
) -> Path:
    """Three queries about five passages, with their images (which nothing here decodes)."""
    rows = [query(number) for number in range(3)] if rows is None else rows
    passages = [passage(number) for number in range(5)] if passages is None else passages
    folder = SUBSETS[subset].folder
    table(root / f"{folder}_data", split, rows, schema)
    table(root / f"{folder}_passages", f"{split}_passages", passages, PASSAGES)
    for row in rows:
        if row.get("img_path"):
            image(root / folder / str(row["img_path"]))
    return root


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"picture of " + path.name.encode())
    return path


def prepare(*sources: Path, subset: str = "okvqa", strict: bool = False) -> DatasetStore:
    folder = sources[0].parent / f"store-{subset}"
    with DatasetWriter(
        folder, task=f"m2kr/{subset}", task_version="1", media_roots=sources, strict=strict
    ) as writer:
        write_subsets(sources, [SUBSETS[subset]], writer, Progress())
    return DatasetStore(folder)


def gaps(store: DatasetStore) -> dict[str, int]:
    return {kind: gap.count for kind, gap in store.manifest.gaps.items()}
