"""The rows of a subset's queries -> queries and judgments."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from harness.errors import DataError
from harness.progress import Advance
from harness.types import Query
from tasks.m2kr.images import Images
from tasks.m2kr.subsets import Subset
from tasks.m2kr.tables import Column, Gap, blocks, row_id, trec_id

#: Query attribute: the row's answers, as a JSON list.
ANSWERS = "answers"
#: Query attribute: the subset, where several are in one pool.
SUBSET = "subset"

_QUERIES = (
    Column("question_id"),
    Column("question"),
    Column("instruction"),
    Column("img_path"),
    Column("pos_item_ids", "list<string>"),
)


class Positives(Mapping[str, Mapping[str, int]]):
    """Judgments as they are met, kept as tuples: dictionaries take four times the memory."""

    def __init__(self) -> None:
        self._ids: dict[str, tuple[str, ...]] = {}

    def __getitem__(self, query: str) -> Mapping[str, int]:
        return dict.fromkeys(self._ids[query], 1)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, query: str, documents: Sequence[str]) -> None:
        """Add what is relevant to one query."""
        if documents:
            self._ids[query] = tuple(documents)


class Queries:
    """The queries of one subset's split, read once.

    Parameters
    ----------
    subset
        Which subset.
    paths
        The split's files.
    images
        Finds their images.
    gap
        Where what is missing is reported.
    label
        Whether queries state their subset.
    """

    def __init__(
        self, subset: Subset, paths: Sequence[Path], images: Images, gap: Gap, *, label: bool
    ) -> None:
        self.name, self._images, self._gap = subset.name, images, gap
        self._attributes = {SUBSET: subset.name} if label else {}
        self._stated = subset.breakdowns
        self._columns = [
            *_QUERIES,
            *(Column(name, required=False) for name in subset.breakdowns),
            *([Column(ANSWERS, "list<string>")] if subset.answers else []),
        ]
        self._blocks = blocks(paths, self._columns)
        self._digests: dict[str, int] = {}
        self._met: Counter[str] = Counter()

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(block.rows for block in self._blocks)

    def counts(self) -> dict[str, int]:
        """Return what was met, by kind."""
        return {"rows": self.rows, **+self._met, **+self._images.counts}

    def read(
        self, passages: Callable[[], Set[str]], positives: Positives, advance: Advance
    ) -> Iterator[Query]:
        """Yield the queries, and add their judgments to `positives`.

        Parameters
        ----------
        passages
            Returns the ids of the split's passages, once they are written.
        positives
            Gets what is relevant to each query.
        advance
            Called for each row.

        Raises
        ------
        DataError
            If a row has no id, or two different rows have the same one.
        """
        known = passages()
        for block in self._blocks:
            for number, row in block.read(self._columns):
                advance()
                where = f"{block.path}, row {number}"
                identifier = row_id(row, "question_id", block.path, number)
                if self._repeated(identifier, row, where):
                    continue
                query = trec_id(identifier)
                relevant = self._relevant(row["pos_item_ids"] or (), known, where)
                if not relevant:
                    self._gap("queries without a relevant passage", where)
                positives.add(query, relevant)
                yield self._query(query, row, where)

    def _query(self, query: str, row: Mapping[str, Any], where: str) -> Query:
        instruction = row["instruction"] or None
        if instruction is not None and ":" not in instruction:
            # PreFLMR leaves out of the query all up to the first colon.
            self._gap("instructions without a colon", f"{where}: {instruction!r}")
        path = row["img_path"]
        attributes = dict(self._attributes)
        attributes |= {name: row[name] for name in self._stated if row[name]}
        if ANSWERS in row:
            answers = [answer for answer in row[ANSWERS] or () if answer is not None]
            if not answers:
                self._gap("queries without answers", where)
            self._met["queries with a blank answer"] += not all(map(str.strip, answers))
            attributes[ANSWERS] = json.dumps(answers, ensure_ascii=False)
        return Query(
            query,
            row["question"] or "",
            self._images.find(path, where) if path else None,
            instruction,
            attributes,
        )

    def _relevant(self, ids: Sequence[str], known: Set[str], where: str) -> list[str]:
        found = []
        for identifier in dict.fromkeys(ids):
            passage = trec_id(identifier or "")
            if passage in known:
                found.append(passage)
            else:
                kind = "relevant passages that are no passage of the split"
                self._gap(kind, f"{where}: {identifier!r}")
        return found

    def _repeated(self, identifier: str, row: Mapping[str, Any], where: str) -> bool:
        """Whether an equal row came before.

        Raises
        ------
        DataError
            If another row with the same id did; names both.
        """
        text = json.dumps(row, sort_keys=True)
        digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())
        before = self._digests.get(identifier)
        if before is None:
            self._digests[identifier] = digest
            return False
        if before != digest:
            raise DataError(
                f"{where}: question_id {identifier!r} is also that of {self._first(identifier)}, "
                "and the rows differ; one id must mean one query. Remove or rename one of them."
            )
        self._met["repeated rows merged"] += 1
        return True

    def _first(self, identifier: str) -> str:
        """Return the first row with an id."""
        for block in self._blocks:
            for number, row in block.read((Column("question_id"),)):
                if row["question_id"] == identifier:
                    return f"{block.path}, row {number}"
        return "another row"  # pragma: no cover - it was read a moment ago
