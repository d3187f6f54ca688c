"""The tables of MultiVENT 2.0: video ids and queries of a split.

::

    multivent_2_<split>_ids.csv              column ``id`` (train also as ``multivent_2_ids.csv``)
    multivent_2_<split>_queries.csv          columns ``Query_id,query``

A query id reads ``<source>_<language>_<event>_<style>_<type>_<n>``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from harness.errors import DataError
from harness.types import Query
from tasks.multivent.csvfile import csv_rows

_QUERY_ID = re.compile(
    r"[^_]+_(?P<language>[^_]+)_(?P<event>.+)_(?P<style>[^_]+)_(?P<query_type>[^_]+)_\d+"
)

#: The modality that a query type aims at. ``base`` has none: those queries were written from the
#: video's title, which is no input of any retriever.
TARGETS = {
    "video": "video",
    "audio": "audio",
    "asr": "asr",
    "speech": "asr",
    "ocr": "ocr",
    "description": "description",
}


def find_ids(sources: Sequence[Path], split: str) -> Path | None:
    """Return the ids file of the first source that has one, or None."""
    names = [f"multivent_2_{split}_ids.csv", *(["multivent_2_ids.csv"] if split == "train" else [])]
    paths = [source / name for source in sources for name in names]
    return next((path for path in paths if path.is_file()), None)


def find_queries(sources: Sequence[Path], split: str) -> Path | None:
    """Return the queries file of the first source that has one, or None."""
    paths = [source / f"multivent_2_{split}_queries.csv" for source in sources]
    return next((path for path in paths if path.is_file()), None)


def read_ids(path: Path) -> list[str]:
    """Return the ids of all videos of a split, in the file's order.

    Raises
    ------
    DataError
        If the file lists no video, or lists one twice or with an empty id.
    """
    lines: dict[str, int] = {}
    for line, (video,) in csv_rows(path, "id"):
        _new_id(video, line, lines, path, "video")
    if not lines:
        raise DataError(f"{path} lists no videos: fetch it again.")
    return list(lines)


def read_queries(path: Path) -> list[Query]:
    """Return the queries of a split, with what their ids say as attributes.

    Raises
    ------
    DataError
        If the file has no query, repeats an id, or has a query without text.
    """
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
    elif kind in TARGETS:
        attributes["target"] = TARGETS[kind]
    return attributes


def _new_id(identifier: str, line: int, lines: dict[str, int], path: Path, kind: str) -> None:
    if not identifier.strip():
        raise DataError(f"{path}, line {line}: empty {kind} id.")
    if identifier in lines:
        raise DataError(
            f"{path}, line {line}: {kind} {identifier!r} is already on line {lines[identifier]}; "
            "ids must be unique."
        )
    lines[identifier] = line
