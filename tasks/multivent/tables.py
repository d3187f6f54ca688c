"""The tables of MultiVENT 2.0: video ids, queries and judgments of a split.

::

    multivent_2_<split>_ids.csv              column ``id`` (train also as ``multivent_2_ids.csv``)
    multivent_2_<split>_queries.csv          columns ``Query_id,query``
    multivent_2_<split>_judgments.jsonl      ``{"query_id", "doc_id", "relevance"}`` a line

A query id reads ``<source>_<language>_<event>_<style>_<type>_<n>``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from harness.errors import DataError, did_you_mean
from harness.types import Query

_QUERY_ID = re.compile(
    r"[^_]+_(?P<language>[^_]+)_(?P<event>.+)_(?P<style>[^_]+)_(?P<query_type>[^_]+)_\d+"
)

#: The modality that a query type aims at. ``base`` has none: those queries were written from the
#: video's title, which is no input of any retriever.
_TARGETS = {
    "video": "video",
    "audio": "audio",
    "asr": "asr",
    "speech": "asr",
    "ocr": "ocr",
    "description": "description",
}


def csv_rows(path: Path, *columns: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of `columns` of every row of a CSV file.

    A file that holds nothing at all has no rows: feature extractors write one where they find
    nothing.

    Raises
    ------
    DataError
        If the file is missing, is not UTF-8 or CSV, or lacks a column; names file and line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            try:
                header = next(reader, [])
                if not any(cell.strip() for cell in header) and next(reader, None) is None:
                    return
                missing = [column for column in columns if column not in header]
                if missing:
                    raise DataError(
                        f"{path}, line 1: no column {missing[0]!r}; the columns are "
                        f"{', '.join(map(repr, header))}." + did_you_mean(missing[0], header)
                    )
                wanted = [header.index(column) for column in columns]
                for row in reader:
                    if row:
                        cells = [row[i] if i < len(row) else "" for i in wanted]
                        yield reader.line_num, cells
            except csv.Error as error:
                raise DataError(
                    f"{path}, line {reader.line_num}: not readable as CSV ({error}); fetch the "
                    "file again."
                ) from error
    except FileNotFoundError:
        raise DataError(f"{path} is missing: put it where the official release has it.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}): fetch it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def read_ids(root: Path, split: str) -> list[str]:
    """Return the ids of all videos of `split`, in the file's order.

    Raises
    ------
    DataError
        If the file is missing, lists no video, or lists one twice or with an empty id.
    """
    path = root / f"multivent_2_{split}_ids.csv"
    plain = root / "multivent_2_ids.csv"
    if split == "train" and not path.is_file() and plain.is_file():
        path = plain
    lines: dict[str, int] = {}
    for line, (video,) in csv_rows(path, "id"):
        _new_id(video, line, lines, path, "video")
    if not lines:
        raise DataError(f"{path} lists no videos: fetch it again.")
    return list(lines)


def read_queries(root: Path, split: str) -> list[Query]:
    """Return the queries of `split`, with what their ids say as attributes.

    Raises
    ------
    DataError
        If the file is missing, has no query, repeats an id, or has a query without text.
    """
    path = root / f"multivent_2_{split}_queries.csv"
    lines: dict[str, int] = {}
    queries = []
    for line, (query, text) in csv_rows(path, "Query_id", "query"):
        _new_id(query, line, lines, path, "query")
        if not text.strip():
            raise DataError(f"{path}, line {line}: query {query!r} has no text; remove it.")
        queries.append(Query(query, text.strip(), attributes=query_attributes(query)))
    if not queries:
        raise DataError(f"{path} holds no queries: fetch it again.")
    return queries


def query_attributes(query: str) -> dict[str, str]:
    """Return what a query id states.

    Parameters
    ----------
    query
        ``<source>_<language>_<event>_<style>_<type>_<n>``; type ``joint-asr-ocr`` is a query that
        needs one fact from each of two modalities.

    Returns
    -------
    dict
        ``language``, ``event``, ``style``, ``query_type`` and, where the type aims at a modality,
        ``target`` (``asr``, or ``asr+ocr`` for a joint one). Empty if the id has another form.
    """
    match = _QUERY_ID.fullmatch(query)
    if match is None:
        return {}
    attributes = match.groupdict()
    kind, _, parts = attributes["query_type"].partition("-")
    if kind == "joint" and parts:
        attributes["query_type"] = kind
        attributes["target"] = parts.replace("-", "+")
    elif kind in _TARGETS:
        attributes["target"] = _TARGETS[kind]
    return attributes


def read_qrels(
    root: Path, split: str, queries: Collection[str], videos: Collection[str]
) -> tuple[dict[str, dict[str, int]], int]:
    """Return the judgments of `split`, and how many lines repeat an earlier one.

    Parameters
    ----------
    root, split
        Where the file lies.
    queries, videos
        The ids that a judgment may name; sets or dictionaries.

    Raises
    ------
    DataError
        If the file is missing, a line is not a JSON object with ``query_id``, ``doc_id`` and a
        whole number ``relevance``, names an unknown query or video, or contradicts an earlier
        line. Names file and line.
    """
    path = root / f"multivent_2_{split}_judgments.jsonl"
    qrels: dict[str, dict[str, int]] = {}
    repeated = 0
    for line, query, video, grade in _judgments(path):
        for kind, identifier, known in (("query", query, queries), ("video", video, videos)):
            if identifier not in known:
                raise DataError(
                    f"{path}, line {line}: unknown {kind} {identifier!r}; it is not in the "
                    f"{'queries' if kind == 'query' else 'ids'} file of split {split!r}."
                )
        row = qrels.setdefault(query, {})
        if row.get(video, grade) != grade:
            raise DataError(
                f"{path}, line {line}: query {query!r}, video {video!r} has relevance {grade}, "
                f"but an earlier line says {row[video]}; keep one of them."
            )
        repeated += video in row
        row[video] = grade
    return qrels, repeated


def _judgments(path: Path) -> Iterator[tuple[int, str, str, int]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, start=1):
                if text.strip():
                    yield line, *_judgment(text, f"{path}, line {line}")
    except FileNotFoundError:
        raise DataError(f"{path} is missing: put it where the official release has it.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}): fetch it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _judgment(text: str, where: str) -> tuple[str, str, int]:
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg}); fetch the file again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: not a JSON object but {text.strip()[:60]!r}.")
    for key, kind, name in (
        ("query_id", str, "a string"),
        ("doc_id", str, "a string"),
        ("relevance", int, "a whole number"),
    ):
        if key not in value:
            raise DataError(f"{where}: no {key!r}." + did_you_mean(key, value))
        if not isinstance(value[key], kind) or isinstance(value[key], bool):
            raise DataError(f"{where}: {key!r} is {value[key]!r}, it must be {name}.")
    return value["query_id"], value["doc_id"], value["relevance"]


def _new_id(identifier: str, line: int, lines: dict[str, int], path: Path, kind: str) -> None:
    if not identifier.strip():
        raise DataError(f"{path}, line {line}: empty {kind} id.")
    if identifier in lines:
        raise DataError(
            f"{path}, line {line}: {kind} {identifier!r} is already on line {lines[identifier]}; "
            "ids must be unique."
        )
    lines[identifier] = line
