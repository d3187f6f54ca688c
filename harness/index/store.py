"""Token embeddings of a collection on disk, in shards that are whole or not there.

**When a shard ends.** A shard takes whole batches until it has 32 MiB of vectors or a minute has
gone by. So a kill costs about a minute of encoding, whatever the model, and the memory that
encoding takes does not depend on the collection. 109,800 videos of 1,500 tokens of 128 dimensions
in fp16 (42 GB) make 1,257 shards; as many single vectors of 768 dimensions make 6. Borders may
differ from machine to machine; scores do not, since a score depends on its document and query
alone.

**When a shard is checked.** Sizes whenever it is opened; the sha256 of its bytes when a process
first takes over what another one wrote, before anything is searched: there the documents are at
hand to be encoded anew. That reads the store once, in order, at 1.9 GB/s a core (42 GB in 11 s on
two, if the disk keeps up), where every block of queries reads it again.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError, StorageError
from harness.index.shards import DamageError, Shard, write_shard
from harness.late_interaction import TokenEmbeddings
from harness.workspace import Workspace, storage_error

T = TypeVar("T")

#: A shard ends with the first batch that brings it to this many bytes of vectors or this age.
SHARD_BYTES = 32 * 2**20
SHARD_SECONDS = 60.0
#: Documents whose ids are listed in a note.
_LISTED = 5

log = logging.getLogger("clamr_bench.index")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Embeddings of a batch as they are to be stored.

    Attributes
    ----------
    embeddings
        One item for each of the batch.
    invalid
        Ids of items that were left without tokens because their vectors are not finite.
    """

    embeddings: TokenEmbeddings
    invalid: Sequence[str] = ()


@dataclass(slots=True)
class _Pending:
    """Batches on their way into the next shard."""

    first: int
    started: float = field(default_factory=time.monotonic)
    ids: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    parts: list[TokenEmbeddings] = field(default_factory=list)

    @property
    def last(self) -> int:
        return self.first + len(self.ids)

    @property
    def full(self) -> bool:
        size = sum(part.vectors.nbytes for part in self.parts)
        return size >= SHARD_BYTES or time.monotonic() - self.started >= SHARD_SECONDS


class EmbeddingStore:
    """The shards of one collection in a workspace.

    Parameters
    ----------
    workspace
        Where the shards lie. Whoever fills the store holds the workspace's lock.

    Attributes
    ----------
    shards
        The shards in order, once `fill` has run.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.shards: list[Shard] = []

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    @property
    def ids(self) -> list[str]:
        """Ids of all documents, in order."""
        return [id_ for shard in self.shards for id_ in shard.manifest.ids]

    @property
    def dim(self) -> int:
        """Dimension of the vectors; 0 if no document has a token."""
        return max((shard.manifest.dim for shard in self.shards), default=0)

    @property
    def invalid(self) -> list[str]:
        """Ids of documents that have no tokens because the encoder gave NaN."""
        return [id_ for shard in self.shards for id_ in shard.manifest.invalid]

    def fill(
        self,
        items: Iterable[T],
        key: Callable[[T], str],
        encode: Callable[[Sequence[T]], Encoded],
        *,
        batch_size: int,
        total: int,
    ) -> None:
        """Encode what no earlier process encoded, and open the shards.

        Batches begin at the same items whatever was done before, so that a store that was resumed
        or repaired gives the same scores, bit for bit.

        Parameters
        ----------
        items
            The whole collection, in an order that never changes.
        key
            Returns the id of an item.
        encode
            Makes the embeddings of a batch.
        batch_size
            Items of a batch.
        total
            Number of items, for the notes.

        Raises
        ------
        StorageError
            If the workspace holds other documents, or the disk is full; what is complete is kept.
        PluginError
            If the dimension of the vectors changes between batches.
        """
        complete = self._verified()
        self.shards = []
        stream = iter(items)
        began, fresh = time.monotonic(), 0
        for shard in [*complete, None]:
            end = None if shard is None else shard.manifest.first
            while (position := len(self)) != end:
                pending = self._encode(stream, position, end, encode, key, batch_size)
                if not pending.ids:
                    break
                self._write(pending)
                fresh += len(pending.ids)
                log.info(
                    "%s of %s documents encoded (%.1f/s)",
                    f"{len(self):,}",
                    f"{total:,}",
                    fresh / max(time.monotonic() - began, 1e-9),
                )
            if shard is not None:
                self._take(shard, [key(item) for item in islice(stream, len(shard))])
        if self.invalid:
            log.warning(
                "%s documents have no embeddings, because the encoder gave NaN: %s",
                f"{len(self.invalid):,}",
                ", ".join(map(repr, self.invalid[:_LISTED]))
                + (", ..." if len(self.invalid) > _LISTED else ""),
            )

    def blocks(self, tokens: int) -> Iterator[tuple[int, TokenEmbeddings]]:
        """Yield ``(number of the first document, embeddings)`` of at most `tokens` tokens.

        A document of more tokens is a block of its own. Blocks end where shards end; their
        vectors stay on disk until they are read.

        Raises
        ------
        StorageError
            If a shard was damaged since it was checked.
        """
        for shard in self.shards:
            embeddings = self._opened(shard)
            first, items = 0, len(embeddings)
            for last in _block_ends(embeddings.offsets, tokens):
                whole = first == 0 and last == items
                yield shard.manifest.first + first, embeddings if whole else embeddings[first:last]
                first = last

    def _opened(self, shard: Shard) -> TokenEmbeddings:
        try:
            return shard.embeddings()
        except DamageError as error:
            raise StorageError(
                f"{shard.path} was damaged while it was in use ({error}): give the same command "
                "again; only its documents are encoded anew."
            ) from error

    def _encode(
        self,
        stream: Iterator[T],
        position: int,
        end: int | None,
        encode: Callable[[Sequence[T]], Encoded],
        key: Callable[[T], str],
        batch_size: int,
    ) -> _Pending:
        """Encode batches from `position` until a shard is full or `end` is reached."""
        pending = _Pending(position)
        while pending.last != end:
            room = batch_size if end is None else min(batch_size, end - pending.last)
            batch = list(islice(stream, room))
            if not batch:
                break
            encoded = encode(batch)
            pending.parts.append(encoded.embeddings)
            pending.ids.extend(map(key, batch))
            pending.invalid.extend(encoded.invalid)
            if pending.full:
                break
        return pending

    def _write(self, pending: _Pending) -> None:
        embeddings = TokenEmbeddings.concatenate(pending.parts)
        if len(embeddings.vectors) and self.dim not in (0, embeddings.dim):
            raise PluginError(
                f"dimensions differ between batches: {self.dim} before, {embeddings.dim} from "
                f"document {pending.ids[0]!r} on; an encoder must give one dimension."
            )
        name = f"shard-{pending.first:09d}"
        with self._workspace.folder(name) as folder:
            write_shard(folder, pending.first, pending.ids, embeddings, pending.invalid)
        self.shards.append(Shard(self._workspace.path / name))

    def _take(self, shard: Shard, ids: Sequence[str]) -> None:
        """Take over a shard that an earlier process wrote, of the documents `ids`."""
        if shard.manifest.first != len(self) or shard.manifest.ids != tuple(ids):
            raise StorageError(
                f"{shard.path} holds embeddings of other documents: delete the folder "
                f"{self._workspace.path} and give the same command again."
            )
        self.shards.append(shard)

    def _verified(self) -> list[Shard]:
        """Return the shards on disk that are as they were written; the others are removed."""
        start = time.monotonic()
        checked = check_shards(self._workspace.path)
        for path, damage in checked:
            if isinstance(damage, DamageError):
                log.warning("%s is damaged (%s): its documents are encoded anew", path, damage)
                self._discard(path)
        sound = [shard for _, shard in checked if isinstance(shard, Shard)]
        if sound:
            log.info(
                "%s documents are encoded already (checked in %.1f s)",
                f"{sum(map(len, sound)):,}",
                time.monotonic() - start,
            )
        return sound

    def _discard(self, path: Path) -> None:
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise storage_error(error, "folder", path) from error


def _block_ends(offsets: NDArray[np.int64], tokens: int) -> Iterator[int]:
    """Yield the ends of ranges of items of at most `tokens` tokens, or of one item."""
    end, items = 0, len(offsets) - 1
    while end < items:
        fits = int(np.searchsorted(offsets, offsets[end] + tokens, side="right")) - 1
        end = max(fits, end + 1)
        yield end


def check_shards(folder: Path) -> list[tuple[Path, Shard | DamageError]]:
    """Return every shard of a workspace, or what is wrong with it, in order of its documents."""
    paths = sorted(folder.glob("shard-*"))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(zip(paths, pool.map(_checked, paths), strict=True))


def _checked(path: Path) -> Shard | DamageError:
    try:
        shard = Shard(path)
        if path.name != f"shard-{shard.manifest.first:09d}":
            return DamageError(f"it is the shard of document number {shard.manifest.first}")
        shard.verify()
    except DamageError as error:
        return error
    return shard
