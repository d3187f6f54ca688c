"""The judgments of MultiVENT 2.0.

::

    multivent_2_<split>_judgments.jsonl     ``{"query_id", "doc_id", "relevance"}`` a line
    multivent_2_<split>_qrels.txt           TREC qrels: ``query 0 video grade``

Grades are 0 to 3. Any file ending in ``.jsonl`` holds JSON lines, any other TREC qrels.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import DataError, did_you_mean

_SUFFIXES = (".jsonl", ".txt", ".qrels", ".trec", ".tsv")
_FIELDS = {"query_id": (str, "a string"), "doc_id": (str, "a string"),
           "relevance": (int, "a whole number")}  # fmt: skip
GRADES = range(4)


@dataclass(frozen=True, slots=True)
class Judgments:
    """The judgments of a split.

    Attributes
    ----------
    qrels
        Grades; what the file repeats is there once.
    lines
        Lines of the file.
    repeated
        For each query the videos of lines that say again what an earlier one says.
    more_fields
        Lines with fields that are not known; they are ignored.
    """

    qrels: dict[str, dict[str, int]] = field(default_factory=dict)
    lines: int = 0
    repeated: dict[str, list[str]] = field(default_factory=dict)
    more_fields: int = 0


def find_judgments(sources: Sequence[Path], split: str) -> Path | None:
    """Return the judgments file of the first source that has one.

    Raises
    ------
    DataError
        If a source has two.
    """
    for source in sources:
        names = [f"multivent_2_{split}_{kind}{suffix}" for kind in ("judgments", "qrels")
                 for suffix in _SUFFIXES]  # fmt: skip
        found = [source / name for name in names if (source / name).is_file()]
        if len(found) > 1:
            raise DataError(
                f"two judgments files of split {split!r}: {found[0]} and {found[1]}; keep one."
            )
        if found:
            return found[0]
    return None


def read_judgments(
    path: Path, queries: Collection[str], videos: Collection[str] | None
) -> Judgments:
    """Read the judgments of a split.

    Parameters
    ----------
    path
        JSON lines or TREC qrels, by the file's ending.
    queries, videos
        The ids that a judgment may name; sets or dictionaries. None where any video may be named.

    Raises
    ------
    DataError
        If a line cannot be read, has a grade outside of 0 to 3, names an unknown query or video,
        or contradicts an earlier line. Names file and line.
    """
    qrels: dict[str, dict[str, int]] = {}
    repeated: defaultdict[str, list[str]] = defaultdict(list)
    lines = more = 0
    read = _json_line if path.suffix == ".jsonl" else _trec_line
    for number, text in _lines(path):
        where = f"{path}, line {number}"
        query, video, grade, extra = read(text, where)
        lines += 1
        more += extra
        for kind, identifier, known in (("query", query, queries), ("video", video, videos)):
            if known is not None and identifier not in known:
                raise DataError(
                    f"{where}: unknown {kind} {identifier!r}; it is not in the "
                    f"{'queries' if kind == 'query' else 'ids'} file of the same split."
                )
        if grade not in GRADES:
            raise DataError(
                f"{where}: relevance {grade} is not one of {', '.join(map(str, GRADES))}."
            )
        row = qrels.setdefault(query, {})
        if row.get(video, grade) != grade:
            raise DataError(
                f"{where}: query {query!r}, video {video!r} has relevance {grade}, but an earlier "
                f"line says {row[video]}; keep one of them."
            )
        if video in row:
            repeated[query].append(video)
        row[video] = grade
    return Judgments(qrels, lines, dict(repeated), more)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, start=1):
                if text.strip():
                    yield line, text
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}): fetch it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _json_line(text: str, where: str) -> tuple[str, str, int, bool]:
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg}); fetch the file again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: not a JSON object but {text.strip()[:60]!r}.")
    for key, (kind, name) in _FIELDS.items():
        if key not in value:
            raise DataError(f"{where}: no {key!r}." + did_you_mean(key, value))
        if not isinstance(value[key], kind) or isinstance(value[key], bool):
            raise DataError(f"{where}: {key!r} is {value[key]!r}, it must be {name}.")
    return value["query_id"], value["doc_id"], value["relevance"], len(value) > len(_FIELDS)


def _trec_line(text: str, where: str) -> tuple[str, str, int, bool]:
    cells = text.split()
    if len(cells) != 4:
        raise DataError(
            f"{where}: {len(cells)} fields, but TREC qrels have four: query, 0, video, grade."
        )
    try:
        return cells[0], cells[2], int(cells[3]), False
    except ValueError:
        raise DataError(f"{where}: the grade {cells[3]!r} is no whole number.") from None
