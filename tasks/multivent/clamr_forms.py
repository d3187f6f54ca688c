"""What CLaMR's data scripts write, and its synthetic queries.

::

    *synthetic*train*.json, *synthetic*val*.json     {"train_000340_<id>": {"query", "query_type"}}
    <folder>/dataset_dict.json, <split>/state.json, <split>/data-*.arrow

The second is what ``datasets.DatasetDict.save_to_disk`` makes of the scripts' rows: ``video_id``
(``000340_<id>``), ``images``, ``query``, ``query_type``, ``ocr``, ``description``, ``asr``, and of
human queries also ``query_id`` and ``title``. It is read with pyarrow alone, memory-mapped.

A video's texts are in every one of its rows; the first counts. Query type ``video`` of the scripts
is a query that was made from the title, which is no input of any retriever: it is called ``base``
here, as MultiVENT calls its own, and the word stays as the attribute ``label``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from harness.errors import DataError
from harness.types import Modality, Query
from tasks.multivent.archives import Gap
from tasks.multivent.tables import TARGETS, query_attributes

#: Query types of CLaMR as those of MultiVENT.
_TYPES = {"video": "base", "base": "base", "speech": "speech", "asr": "speech", "ocr": "ocr",
          "description": "description"}  # fmt: skip
_TEXTS = {"asr": Modality.ASR, "ocr": Modality.OCR, "description": Modality.DESCRIPTION}

#: Words in the name of a JSON file that tell which queries it holds.
_WORDS = {"train": {"train", "training"}, "validation": {"validation", "valid", "val"}}

#: Splits of the store by those of CLaMR.
SYNTHETIC = {"train": "synthetic-train", "validation": "synthetic-validation"}


@dataclass(frozen=True, slots=True)
class Judged:
    """Queries, and the video that each was written for; both in the files' order."""

    queries: dict[str, Query] = field(default_factory=dict)
    qrels: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """What a row says of its video."""

    texts: Mapping[Modality, str]
    title: str | None
    images: tuple[str, ...]
    embedded: int


class ClamrForms:
    """Everything of CLaMR's own forms in the source folders.

    Parameters
    ----------
    sources
        Source folders; a dataset folder is one of them or lies directly below one.

    Raises
    ------
    DataError
        If a file is broken, or its name does not tell which queries it holds.
    """

    def __init__(self, sources: Sequence[Path]) -> None:
        self.files: list[Path] = []
        self._json: dict[str, list[Path]] = {name: [] for name in SYNTHETIC.values()}
        for path in (
            path for source in sources for path in sorted(source.glob("*synthetic*.json"))
        ):
            words = set(re.split(r"[^a-z]+", path.name.lower()))
            kinds = [kind for kind, names in _WORDS.items() if words & names]
            if len(kinds) != 1:
                raise DataError(
                    f"{path}: its name must say 'train' or 'validation', so that the queries get "
                    "into the right split."
                )
            self._json[SYNTHETIC[kinds[0]]].append(path)
            self.files.append(path)
        self._tables = [
            table
            for source in sources
            for folder in (source, *sorted(path for path in source.iterdir() if path.is_dir()))
            if (folder / "dataset_dict.json").is_file()
            for table in _tables(folder)
        ]
        for table in self._tables:
            if not table.human and table.split not in SYNTHETIC:
                raise DataError(
                    f"{table.folder}: synthetic queries have the splits {', '.join(SYNTHETIC)}; "
                    f"{table.split!r} is none of them."
                )
        self.files += [path for table in self._tables for path in table.files]
        self._places: dict[str, tuple[int, int, int]] = {}
        for number, table in enumerate(self._tables):
            for batch, ids in enumerate(table.column("video_id")):
                for row, name in enumerate(ids):
                    self._places.setdefault(_video(name, table.folder), (number, batch, row))

    @property
    def is_there(self) -> bool:
        """Whether there is anything."""
        return bool(self.files)

    def videos(self) -> list[str]:
        """Return the videos that have rows."""
        return list(self._places)

    def row(self, video: str) -> Row | None:
        """Return what the first row of a video says of it, or None if it has none."""
        place = self._places.get(video)
        if place is None:
            return None
        number, batch, row = place
        return self._tables[number].row(batch, row)

    def human(self) -> Judged:
        """Return the human queries: rows with a ``query_id``.

        Raises
        ------
        DataError
            If one id has two texts.
        """
        found = Judged()
        for table in self._tables:
            if not table.human:
                continue
            for name, query, text, _ in table.queries():
                made = Query(query, text.strip(), attributes=query_attributes(query))
                _add(found, made, _video(name, table.folder), table.folder)
        return found

    def synthetic(self, split: str, gap: Gap) -> Judged:
        """Return the synthetic queries of the store's `split`; JSON files before datasets.

        Raises
        ------
        DataError
            If a file has another form, or one id has two texts.
        """
        found = Judged()
        for path in self._json[split]:
            for key, text, kind in _json_queries(path):
                if not text.strip():
                    gap(f"{split}: queries without text", f"{path}: {key}")
                    continue
                _add(found, _synthetic(key, text, kind, path), _video(key, path), path)
        for table in self._tables:
            if table.human or SYNTHETIC.get(table.split) != split:
                continue
            for name, _, text, kind in table.queries():
                key = name if name.startswith("train_") else f"train_{name}"
                query = _synthetic(key, text, kind, table.folder)
                if not text.strip():
                    gap(f"{split}: queries without text", f"{table.folder}: {key}")
                elif query.id not in found.queries:
                    _add(found, query, _video(key, table.folder), table.folder)
        return found


def _add(found: Judged, query: Query, video: str, where: Path) -> None:
    known = found.queries.setdefault(query.id, query)
    if known.text != query.text:
        raise DataError(
            f"{where}: query {query.id!r} reads {query.text[:60]!r} and {known.text[:60]!r}; one "
            "id must mean one query."
        )
    found.qrels.setdefault(query.id, {})[video] = 1


def _synthetic(key: str, text: str, label: str, where: Path) -> Query:
    kind = _TYPES.get(label)
    if kind is None:
        raise DataError(
            f"{where}: {key!r} has query_type {label!r}; there are {', '.join(sorted(_TYPES))}."
        )
    attributes = {"query_type": kind, "label": label}
    if kind in TARGETS:
        attributes["target"] = TARGETS[kind]
    return Query(f"synthetic_{key}_{kind}", text.strip(), attributes=attributes)


def _video(name: str, where: Path) -> str:
    """Return the id in ``[train_]000340_<id>``; ids may begin with ``-`` or ``_``."""
    match = re.fullmatch(r"(?:train_)?\d+_(.+)", name, re.DOTALL)
    if match is None:
        raise DataError(
            f"{where}: {name!r} is not of the form train_<shard>_<video>, so its video is unknown."
        )
    return match[1]


def _json_queries(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield key, text and type of every query of a JSON file."""
    try:
        value: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): fetch it again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: synthetic queries must be a JSON object by video.")
    for key, row in value.items():
        if not isinstance(row, dict) or not all(
            isinstance(row.get(name), str) for name in ("query", "query_type")
        ):
            raise DataError(f"{path}: {key!r} must have the strings 'query' and 'query_type'.")
        yield key, row["query"], row["query_type"]


class _Table:
    """One split of a dataset folder: Arrow streams, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.split = folder, folder.name
        state = _read_json(folder / "state.json")
        names = [file.get("filename") for file in state.get("_data_files", [])]
        self.files = [folder / PurePosixPath(str(name)).name for name in names]
        self._batches: list[pa.RecordBatch] = []
        for path in self.files:
            try:
                with pa.memory_map(str(path)) as file:
                    reader = pa.ipc.open_stream(file)
                    columns = set(reader.schema.names)
                    self._batches += reader
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    f"{path} cannot be read as an Arrow stream ({str(error).splitlines()[0]}): "
                    "write the dataset again."
                ) from error
            for name in ("video_id", "query", "query_type"):
                if name not in columns:
                    raise DataError(
                        f"{path}: no column {name!r}; it has {', '.join(sorted(columns))}."
                    )
        self.human = bool(self._batches) and "query_id" in self._batches[0].schema.names

    def column(self, name: str) -> Iterator[list[Any]]:
        """Yield a column, batch by batch; of None where it is missing."""
        for batch in self._batches:
            known = name in batch.schema.names
            yield batch.column(name).to_pylist() if known else [None] * batch.num_rows

    def queries(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield video, query id, text and type of every row."""
        columns = ("video_id", "query_id", "query", "query_type")
        for batch in zip(*map(self.column, columns), strict=True):
            for row in zip(*batch, strict=True):
                yield tuple(value or "" for value in row)  # type: ignore[misc]

    def row(self, batch: int, row: int) -> Row:
        """Return what one row says of its video."""
        there = self._batches[batch]

        def value(name: str) -> Any:
            return there.column(name)[row].as_py() if name in there.schema.names else None

        images = value("images") or []
        paths = [image.get("path") if isinstance(image, dict) else image for image in images]
        return Row(
            {m: text.strip() for name, m in _TEXTS.items() if (text := value(name) or "").strip()},
            (value("title") or "").strip() or None,
            tuple(path for path in paths if path),
            sum(not path for path in paths),
        )


def _tables(folder: Path) -> Iterator[_Table]:
    splits = _read_json(folder / "dataset_dict.json").get("splits", [])
    for split in splits:
        yield _Table(folder / PurePosixPath(str(split)).name)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing: write the dataset again.") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): write the dataset again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is no JSON object: write the dataset again.")
    return value
