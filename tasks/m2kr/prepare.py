"""The files of one or more subsets of M2KR -> splits of a dataset store.

Passages keep their order and ids; queries keep ``question`` and ``instruction`` to the letter, as
models were trained on them. A split is there if its file of queries is; ``valid`` is called
``validation``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from harness.dataset import DatasetWriter, Portion
from harness.errors import DataError
from harness.progress import Advance, Progress
from harness.types import Document, Modality
from tasks.m2kr.images import Images
from tasks.m2kr.queries import Positives, Queries
from tasks.m2kr.subsets import Subset
from tasks.m2kr.tables import Block, Column, Gap, blocks, find_files, row_id, trec_id

#: Splits of the store by those of the files.
SPLITS = {"test": "test", "valid": "validation", "train": "train"}

_PASSAGES = (Column("passage_id"), Column("passage_content"), Column("title", required=False))


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
    readers = [
        Queries(each.subset, each.queries, Images(sources, each.subset, gap), gap, label=label)
        for each in files
    ]
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


def _key(block: Block) -> str:
    status = block.path.stat()
    return f"{block.path}|{status.st_size}|{status.st_mtime_ns}|{block.groups}"


def _documents(block: Block, gap: Gap, advance: Advance) -> Callable[[], Iterator[Document]]:
    def read() -> Iterator[Document]:
        for number, row in block.read(_PASSAGES):
            identifier = row_id(row, "passage_id", block.path, number)
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
