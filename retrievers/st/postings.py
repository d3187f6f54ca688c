"""Sparse vectors of a collection on disk, in shards that are whole or not there.

A shard is what `harness.index.shards` describes, but for its arrays: the vectors are rows of a
compressed sparse matrix, nothing is stored for a dimension that is zero. A document has a row for
each of its modalities.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from harness.errors import PluginError, StorageError
from harness.index.filling import SHARD_BYTES, SHARD_SECONDS, of_others
from harness.index.shards import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    TENSORS_NAME,
    DamageError,
    Shard,
    ShardManifest,
)
from harness.index.store import check_shards
from harness.index.tensors import map_tensors, tensor_bytes
from harness.index.topk import TopK, places
from harness.progress import Progress
from harness.types import Document, Modality, RankedList
from harness.workspace import Workspace

log = logging.getLogger("clamr_bench.sentence_transformers")

#: The dimensions of a sparse vector that are not zero, int32 and ascending, and their values.
Sparse = tuple[NDArray[np.int32], NDArray[np.float32]]
#: A document's vectors by modality.
Row = dict[Modality, Sparse]

#: Bytes of a score and of what finding it takes, while a block is scored.
_SCORE_BYTES = 24


@dataclass(slots=True)
class _Pending:
    """Documents on their way into the next shard."""

    first: int
    started: float = field(default_factory=time.monotonic)
    ids: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    losses: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    @property
    def full(self) -> bool:
        return self.bytes >= SHARD_BYTES or time.monotonic() - self.started >= SHARD_SECONDS


class Postings:
    """The sparse vectors of one collection in a workspace.

    Parameters
    ----------
    workspace
        Where the shards lie. Whoever fills it holds the workspace's lock.
    dim
        Dimension of the vectors.

    Attributes
    ----------
    shards
        The shards in order, once `fill` has run.
    """

    def __init__(self, workspace: Workspace, dim: int) -> None:
        self._workspace, self._dim = workspace, dim
        self.shards: list[Shard] = []

    @property
    def losses(self) -> Counter[str]:
        """What of the documents could not be used, counted by kind, whoever encoded them."""
        found: Counter[str] = Counter()
        for shard in self.shards:
            found.update(shard.manifest.losses)
        return found

    def fill(
        self,
        documents: Iterable[Document],
        encode: Callable[[Sequence[Document]], tuple[list[Row], Counter[str]]],
        *,
        batch_size: int,
        total: int,
        progress: Progress,
    ) -> None:
        """Encode what no earlier process encoded, and open the shards.

        Parameters
        ----------
        documents
            The whole collection, in an order that never changes.
        encode
            Returns the vectors of each document of a batch, and what of them could not be used.
        batch_size
            Documents of a batch; batches begin at the same documents whatever was done before.
        total
            Number of documents.
        progress
            Where to report.

        Raises
        ------
        StorageError
            If the workspace holds other documents, or the disk is full; what is complete is kept.
        """
        sound = self._sound()
        done = sum(map(len, sound.values()))
        report = Progress() if done >= total else progress
        stream, position = iter(documents), 0
        self.shards = []
        with report.stage(f"encode {total:,} documents", total, done) as advance:
            while position < total:
                shard = sound.get(position)
                if shard is None:
                    following = min((first for first in sound if first > position), default=total)
                    part = islice(stream, following - position)
                    for made in self._encoded(part, position, encode, batch_size):
                        advance(len(made))
                        self.shards.append(made)
                    position = following
                    continue
                ids = tuple(document.id for document in islice(stream, len(shard)))
                if ids != shard.manifest.ids:
                    raise of_others(shard.path)
                self.shards.append(shard)
                position = shard.last

    def search(
        self,
        queries: Sequence[Sparse],
        k: int,
        *,
        modalities: frozenset[Modality] | None,
        memory: int,
    ) -> list[RankedList]:
        """Return the best `k` documents of each query.

        A document's score is the largest inner product of the query with one of its vectors. One
        that shares no dimension with the query is not listed.

        Parameters
        ----------
        queries
            Their vectors.
        k
            How many documents.
        modalities
            The only ones whose vectors count; None for all.
        memory
            Bytes that scoring may take.
        """
        ids = [id_ for shard in self.shards for id_ in shard.manifest.ids]
        order = places(ids)
        most = max(1, memory // 2 // max(1, TopK.bytes_per_query(min(k, len(ids) or 1))))
        found: list[RankedList] = []
        for start in range(0, len(queries), most):
            block = queries[start : start + most]
            best = TopK(len(block), k, ids, order)
            asked = _matrix(block, self._dim).T.tocsr()
            documents = max(1, memory // 2 // (len(block) * _SCORE_BYTES))
            for first, scores in self._scores(asked, documents, modalities):
                best.add(scores, first)
            found.extend(best.ranked())
        return found

    def _scores(
        self, asked: Any, most: int, modalities: frozenset[Modality] | None
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield ``(number of the first document, scores (queries, documents))``."""
        for shard in self.shards:
            arrays = self._opened(shard)
            offsets = arrays["offsets"]
            for low in range(0, len(shard), most):
                high = min(low + most, len(shard))
                first, last = int(offsets[low]), int(offsets[high])
                scores = np.full((asked.shape[1], high - low), -np.inf, np.float32)
                matches = (_rows(arrays, first, last, self._dim) @ asked).tocoo()
                counted = np.ones(last - first, bool)
                if modalities is not None:
                    counted = np.isin(
                        arrays["modalities"][first:last], [int(m) for m in modalities]
                    )
                kept = counted[matches.row]
                document = np.repeat(np.arange(high - low), np.diff(offsets[low : high + 1]))
                np.maximum.at(
                    scores, (matches.col[kept], document[matches.row[kept]]), matches.data[kept]
                )
                yield shard.manifest.first + low, scores

    def _opened(self, shard: Shard) -> dict[str, NDArray[Any]]:
        try:
            return map_tensors(shard.path / TENSORS_NAME)[0]
        except (OSError, ValueError) as error:
            raise StorageError(
                f"{shard.path} was damaged while it was in use ({error}): give the same command "
                "again; only its documents are encoded anew."
            ) from error

    def _sound(self) -> dict[int, Shard]:
        """Return the shards that are as they were written; the others are removed."""
        sound = {}
        for path, found in check_shards(self._workspace.path):
            if isinstance(found, DamageError):
                log.warning("%s is damaged (%s): its documents are encoded anew", path, found)
                shutil.rmtree(path)
            else:
                sound[found.manifest.first] = found
        return sound

    def _encoded(
        self,
        documents: Iterator[Document],
        position: int,
        encode: Callable[[Sequence[Document]], tuple[list[Row], Counter[str]]],
        batch_size: int,
    ) -> Iterator[Shard]:
        """Encode documents, which begin at number `position`, to their end; yields shards."""
        pending = _Pending(position)
        while batch := list(islice(documents, batch_size)):
            rows, losses = encode(batch)
            pending.ids.extend(document.id for document in batch)
            pending.rows.extend(rows)
            pending.losses.update(losses)
            pending.bytes += sum(len(d) * 8 for row in rows for d, _ in row.values())
            if pending.full:
                yield self._written(pending)
                pending = _Pending(pending.first + len(pending.ids))
        if pending.ids:
            yield self._written(pending)

    def _written(self, pending: _Pending) -> Shard:
        vectors = [row[modality] for row in pending.rows for modality in sorted(row)]
        numbers = [int(modality) for row in pending.rows for modality in sorted(row)]
        matrix = _matrix(vectors, self._dim)
        arrays = {
            "dimensions": matrix.indices.astype(np.int32),
            "values": matrix.data,
            "starts": matrix.indptr.astype(np.int64),
            "modalities": np.asarray(numbers, np.uint8),
            "offsets": np.cumsum([0, *map(len, pending.rows)], dtype=np.int64),
        }
        data = tensor_bytes(arrays, {"kind": "sparse"})
        counts = Counter(Modality(number).label for number in numbers)
        name = f"shard-{pending.first:09d}"
        with self._workspace.folder(name) as folder:
            (folder / TENSORS_NAME).write_bytes(data)
            manifest = ShardManifest(
                schema_version=SCHEMA_VERSION,
                first=pending.first,
                ids=tuple(pending.ids),
                tokens=dict(counts),
                dim=self._dim,
                precision="fp32",
                invalid=(),
                losses=dict(sorted(pending.losses.items())),
                bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
            (folder / MANIFEST_NAME).write_text(manifest.dump(), encoding="utf-8")
        return Shard(self._workspace.path / name)


def _matrix(vectors: Sequence[Sparse], dim: int) -> Any:
    """Return sparse vectors as the rows of a matrix."""
    starts = np.cumsum([0, *(len(dimensions) for dimensions, _ in vectors)], dtype=np.int64)
    dimensions = np.concatenate([np.empty(0, np.int32), *(d for d, _ in vectors)])
    values = np.concatenate([np.empty(0, np.float32), *(v for _, v in vectors)])
    if not np.isfinite(values).all():
        row = int(np.searchsorted(starts, int(np.argmin(np.isfinite(values))), side="right")) - 1
        raise PluginError(
            f"the model gave NaN or infinite values for text {row + 1} of {len(vectors)}: try "
            "dtype = float32."
        )
    if len(dimensions) and int(dimensions.max()) >= dim:
        # scipy does not look, and reads beyond the end of its arrays.
        raise PluginError(
            f"the model gave a vector with dimension {int(dimensions.max())}, of {dim}: its query "
            "and its document side do not belong together."
        )
    return csr_matrix((values, dimensions, starts), shape=(len(vectors), dim))


def _rows(arrays: dict[str, NDArray[Any]], first: int, last: int, dim: int) -> Any:
    """Return some rows of a shard's matrix; only they are read from disk."""
    starts = arrays["starts"][first : last + 1]
    part = slice(int(starts[0]), int(starts[-1]))
    inside = (arrays["values"][part], arrays["dimensions"][part], starts - starts[0])
    return csr_matrix(inside, shape=(last - first, dim))
