"""Run files: the TREC format, read and written, and ``{query: {document: score}}`` JSON, read."""

from __future__ import annotations

import gzip
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import filterfalse, groupby
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from harness.errors import RankingError
from harness.files import atomic_write
from harness.types import RankedList, Ranking

# Bytes of lines parsed at a time. Some 2,500 lines stay in the processor's cache: blocks of 1 MB
# take twice as long.
_BLOCK = 128 << 10
_FORMATS = (
    "a run file is TREC lines of 6 columns (query Q0 document rank score tag) or JSON of the form "
    "{query: {document: score}}"
)


def read_ranking(path: Path) -> Ranking:
    """Read a run file; whether it is TREC or JSON, and gzipped, is seen from its content.

    Columns of a TREC run are separated by ASCII white space. The order of lines and the rank
    column do not matter: scores alone give the order, as in ``trec_eval``.

    Raises
    ------
    RankingError
        Naming file, line and remedy: the file is missing, damaged, empty, in another format, or
        holds a score that is not a finite number or a document twice for one query.
    """
    try:
        with _opened(path) as file:
            head = file.peek(1024)
            if b"\0" in head:
                raise RankingError(f"{path} is not a text file: {_FORMATS}.")
            is_json = head.lstrip().startswith(b"{")
            lists = _read_json(path, file.read()) if is_json else _read_trec(path, file)
        if not lists:
            raise RankingError(f"{path} is empty: {_FORMATS}.")
        try:
            return Ranking(lists)
        except RankingError as error:
            raise RankingError(f"{path}: {_repeated(path) or error}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RankingError(
            f"{path} is a damaged or cut off gzip file ({error}): get or write it again."
        ) from error
    except OSError as error:
        raise RankingError(
            f"run file {path} cannot be read: {error.strerror}. Check the path."
        ) from error


def write_ranking(ranking: Ranking, path: Path, tag: str) -> None:
    """Write `ranking` as a TREC run; a path that ends in ``.gz`` is compressed.

    The same ranking gives the same bytes. Scores are written so that reading gives them back
    exactly; a tool that reads them as float32, as ``trec_eval`` does, may see ties that are none.
    A query without documents has no line, because the format has no way to say it.

    Parameters
    ----------
    ranking
        Ranked lists.
    path
        Where to; it is replaced as a whole.
    tag
        Name of the run, the last column; white space in it becomes ``_``.

    Raises
    ------
    RankingError
        If an id cannot stand in a TREC run.
    StorageError
        If the file cannot be written.
    """
    end = " " + ("_".join(tag.split()) or "run") + "\n"
    checked: set[str] = set()
    with atomic_write(path) as temporary, temporary.open("wb") as raw:
        file = (
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0)
            if path.suffix == ".gz"
            else raw
        )
        with file:
            for query, ranked in ranking.items():
                _check_query(query)
                for document in filterfalse(checked.__contains__, ranked.documents):
                    _check_id(document, "document")
                checked.update(ranked.documents)
                rows = zip(ranked.documents, ranked.scores.tolist(), strict=True)
                text = "".join(
                    f"{query} Q0 {document} {rank} {score!r}{end}"
                    for rank, (document, score) in enumerate(rows, 1)
                )
                file.write(text.encode())


def check_ids(queries: Iterable[str], documents: Iterable[str]) -> None:
    """Refuse ids that a run file could not hold, before anything is ranked.

    Raises
    ------
    RankingError
        Naming the first one.
    """
    for query in queries:
        _check_query(query)
    for document in documents:
        _check_id(document, "document")


def _check_query(query: str) -> None:
    _check_id(query, "query")
    if query.startswith("{"):
        raise RankingError(
            f"query id {query!r} cannot be written to a TREC run: a file that begins with '{{' is "
            "read as JSON. Give the query another id."
        )


def _check_id(name: str, kind: str) -> None:
    if name.split() != [name] or "\0" in name or not _encodable(name):
        raise RankingError(
            f"{kind} id {name!r} cannot be written to a TREC run, whose columns are separated by "
            f"white space: give the {kind} an id without spaces, tabs and line breaks."
        )


def _encodable(name: str) -> bool:
    """Whether `name` is without lone surrogates."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading bytes, through gzip if its first bytes say so."""
    with path.open("rb") as raw:
        if raw.peek(2).startswith(b"\x1f\x8b"):
            # The buffer splits lines in C; a GzipFile does it three times slower.
            with io.BufferedReader(cast("Any", gzip.GzipFile(fileobj=raw)), _BLOCK) as file:
                yield file
        else:
            yield raw


class _Ids(dict[bytes, str]):
    """Decoded ids: each is decoded and kept once, however many lists it is in."""

    def __missing__(self, raw: bytes) -> str:
        self[raw] = text = raw.decode()
        return text


def _read_trec(path: Path, file: BinaryIO) -> dict[str, RankedList]:
    ids = _Ids()
    documents: dict[str, list[str]] = {}
    scores: dict[str, list[NDArray[np.float64]]] = {}
    first = 1
    for lines in iter(lambda: file.readlines(_BLOCK), []):
        try:
            queries, names, numbers = _columns(lines, ids)
        except ValueError:
            faults = ((number, _fault(line)) for number, line in enumerate(lines, first))
            number, fault = next((number, fault) for number, fault in faults if fault)
            raise RankingError(f"{path}, line {number}: {fault}") from None
        start = 0
        for query, group in groupby(queries):
            stop = start + sum(1 for _ in group)
            documents.setdefault(query, []).extend(names[start:stop])
            scores.setdefault(query, []).append(numbers[start:stop])
            start = stop
        first += len(lines)
    return {
        query: RankedList(names, np.concatenate(scores[query]))
        for query, names in documents.items()
    }


def _columns(lines: list[bytes], ids: _Ids) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Return query ids, document ids and scores of whole lines.

    Raises
    ------
    ValueError
        If a line is not as it should be; `_fault` says which and why.
    """
    if not set(map(len, map(bytes.split, lines))) <= {0, 6}:
        raise ValueError("a line has not 6 columns")
    # One flat list, though it means to split twice: the garbage collector goes through a list for
    # each of millions of lines again and again, which takes longer than all the rest.
    tokens = b"".join(lines).split()
    scores = np.array(list(map(float, tokens[4::6])), dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("a score is NaN or infinite")
    lookup = ids.__getitem__
    return list(map(lookup, tokens[::6])), list(map(lookup, tokens[2::6])), scores


def _fault(line: bytes) -> str | None:
    """Return what is wrong with one line of a TREC run, if anything is."""
    columns = line.split()
    if not columns:
        return None
    try:
        text = [column.decode() for column in columns]
    except UnicodeDecodeError:
        return f"{line[:80]!r} is not UTF-8 text: {_FORMATS}, in UTF-8."
    if len(text) != 6:
        return f"{len(text)} {'column' if len(text) == 1 else 'columns'}, not 6: {_FORMATS}."
    try:
        score = float(columns[4])
    except ValueError:
        return f"score {text[4]!r} is not a number: the fifth column is the score."
    if not math.isfinite(score):
        return (
            f"score {text[4]!r} of document {text[2]!r}: scores must be finite numbers; leave the "
            "line out."
        )
    return None


def _repeated(path: Path) -> str | None:
    """Return where a TREC run lists a document twice for one query."""
    seen: dict[tuple[bytes, bytes], int] = {}
    with _opened(path) as file:
        if file.peek(1024).lstrip().startswith(b"{"):
            return None
        for number, line in enumerate(file, 1):
            if not (columns := line.split()):
                continue
            before = seen.setdefault((columns[0], columns[2]), number)
            if before != number:
                query, document = columns[0].decode(), columns[2].decode()
                return (
                    f"line {number} lists document {document!r} for query {query!r} again (first "
                    f"on line {before}): keep one of them."
                )
    return None


def _read_json(path: Path, content: bytes) -> dict[str, RankedList]:
    try:
        data = json.loads(content, object_pairs_hook=_without_repeats)
        lists = {}
        for query, row in data.items():
            lists[query] = _ranked_list(query, row)
    except (ValueError, RecursionError, OverflowError) as error:
        raise RankingError(f"{path} is no JSON run: {error}; {_FORMATS}.") from error
    return lists


def _ranked_list(query: str, row: Any) -> RankedList:
    if not isinstance(row, dict) or not set(map(type, row.values())) <= {int, float}:
        raise ValueError(f"the value of query {query!r} is not {{document: score}} with numbers")
    return RankedList(list(row), np.fromiter(row.values(), np.float64, len(row)))


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in row if names.count(name) > 1)
        raise ValueError(f"{twice!r} occurs twice in one object")
    return row
