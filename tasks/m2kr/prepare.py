"""The files of one or more subsets of M2KR -> splits of a dataset store.

Passages keep their order and ids; queries keep ``question`` and ``instruction`` to the letter, as
models were trained on them. A split is there if its file of queries is; ``valid`` is called
``validation``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from harness.dataset import DatasetWriter, Portion
from harness.errors import DataError
from harness.progress import Advance, Progress
from harness.types import Document, Modality, Query
from tasks.m2kr.images import Images
from tasks.m2kr.subsets import Subset
from tasks.m2kr.tables import Block, Column, blocks, find_files

#: Splits of the store by those of the files.
SPLITS = {"test": "test", "valid": "validation", "train": "train"}

#: Query attribute: the row's answers, as a JSON list.
ANSWERS = "answers"
#: Query attribute: the subset, where several are in one pool.
SUBSET = "subset"

_PASSAGES = (Column("passage_id"), Column("passage_content"), Column("title", required=False))
_QUERIES = (
    Column("question_id"),
    Column("question"),
    Column("instruction"),
    Column("img_path"),
    Column("pos_item_ids", "list<string>"),
)

#: Reports something that is missing: its kind, and which one.
Gap = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one split of one subset."""

    subset: Subset
    queries: tuple[Path, ...]
    passages: tuple[Path, ...]

    @classmethod
    def find(cls, sources: Sequence[Path], subset: Subset, split: str) -> Files | None:
        """Return the files of a split, from the first source that has its queries.

        Raises
        ------
        DataError
            If it has queries and no passages, or not all files of either.
        """
        for source in sources:
            queries = find_files(source / f"{subset.folder}_data", split)
            if not queries:
                continue
            folder = source / f"{subset.folder}_passages"
            passages = find_files(folder, f"{split}_passages")
            if not passages:
                raise DataError(
                    f"{folder / f'{split}_passages-*.parquet'} is missing, but "
                    f"{queries[0]} is there: fetch the passages too."
                )
            return cls(subset, tuple(queries), tuple(passages))
        return None


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


def write_subsets(
    sources: Sequence[Path],
    subsets: Sequence[Subset],
    writer: DatasetWriter,
    progress: Progress,
    *,
    label: bool = False,
) -> None:
    """Write every split that `sources` hold of `subsets`, in one pool of passages a split.

    Parameters
    ----------
    sources
        Folders with the Parquet folders and the images, searched in this order.
    subsets
        Which subsets; mostly one.
    writer, progress
        Where splits and reports go.
    label
        Whether queries state their subset.

    Raises
    ------
    DataError
        If there is no split, or a file is broken; names file, row and remedy.
    """
    sources = [source.absolute() for source in sources]
    written = False
    for split, name in SPLITS.items():
        found = [Files.find(sources, subset, split) for subset in subsets]
        files = [each for each in found if each is not None]
        if files:
            _write_split(name, files, sources, writer, progress, label=label)
            written = True
    if not written:
        wanted = " or ".join(f"{subset.folder}_data" for subset in subsets)
        raise DataError(
            f"{', '.join(map(str, sources))}: there is no {wanted} with files such as "
            "test-00000-of-00001.parquet. Give with --source the folder that holds the Parquet "
            "folders of M2KR."
        )


def _write_split(
    split: str,
    files: Sequence[Files],
    sources: Sequence[Path],
    writer: DatasetWriter,
    progress: Progress,
    *,
    label: bool,
) -> None:
    def gap(kind: str, example: str) -> None:
        writer.gap(f"{split}: {kind}", example)

    passages = [block for each in files for block in blocks(each.passages, _PASSAGES)]
    readers = [Queries(each, Images(sources, each.subset, gap), gap, label=label) for each in files]
    positives = Positives()
    total = sum(block.rows for block in passages) + sum(reader.rows for reader in readers)
    with progress.stage(f"reading {split} of {', '.join(r.name for r in readers)}", total) as step:
        portions = [Portion(b.name, _key(b), _documents(b, gap, step)) for b in passages]
        queries = (r.read(lambda: writer.written(split), positives, step) for r in readers)
        writer.write_split(split, portions, chain.from_iterable(queries), positives)
    for reader in readers:
        prefix = f"{split} {reader.name}" if label else split
        for kind, count in reader.counts().items():
            writer.counts[re.sub(r"\W+", "_", f"{prefix} {kind}")] = count


def trec_id(identifier: str) -> str:
    """Return an id that a TREC run can hold: white space and ``%`` are percent-encoded.

    Ids of E-VQA are made of page titles (``WikiWeb_Juglans regia_1``). `urllib.parse.unquote` gives
    the official id back.
    """
    return re.sub(r"[\s%]", lambda m: "".join(f"%{b:02X}" for b in m[0].encode()), identifier)


def _key(block: Block) -> str:
    status = block.path.stat()
    return f"{block.path}|{status.st_size}|{status.st_mtime_ns}|{block.groups}"


def _documents(block: Block, gap: Gap, advance: Advance) -> Callable[[], Iterator[Document]]:
    def read() -> Iterator[Document]:
        for number, row in block.read(_PASSAGES):
            identifier = _identifier(row, "passage_id", block.path, number)
            text = row["passage_content"]
            if not (text and text.strip()):
                gap("passages without text", identifier)
            advance()
            yield Document(
                trec_id(identifier),
                {Modality.TEXT: text} if text and text.strip() else {},
                title=row["title"] or None,
            )

    return read


def _identifier(row: Mapping[str, Any], column: str, path: Path, number: int) -> str:
    value: str | None = row[column]
    if not value:
        raise DataError(f"{path}, row {number}: {column} is {value!r}; every row needs an id.")
    return value


class Queries:
    """The queries of one subset's split, read once.

    Parameters
    ----------
    files
        Where they lie.
    images
        Finds their images.
    gap
        Where what is missing is reported.
    label
        Whether queries state their subset.
    """

    def __init__(self, files: Files, images: Images, gap: Gap, *, label: bool) -> None:
        subset = files.subset
        self.name, self._images, self._gap = subset.name, images, gap
        self._attributes = {SUBSET: subset.name} if label else {}
        self._stated = subset.breakdowns
        self._columns = [
            *_QUERIES,
            *(Column(name, required=False) for name in subset.breakdowns),
            *([Column(ANSWERS, "list<string>")] if subset.answers else []),
        ]
        self._blocks = blocks(files.queries, self._columns)
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
                identifier = _identifier(row, "question_id", block.path, number)
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
