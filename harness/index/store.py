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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.errors import StorageError
from harness.files import storage_error
from harness.index.filling import Encoded, Filling, Work, of_others
from harness.index.shards import DamageError, Shard
from harness.late_interaction import TokenEmbeddings
from harness.progress import Progress
from harness.workspace import Workspace

T = TypeVar("T")

#: Documents whose ids are listed in a note.
_LISTED = 5

log = logging.getLogger("clamr_bench.index")


def _nothing(_: Any) -> None:
    """Do nothing."""


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

    @property
    def losses(self) -> Counter[str]:
        """What of the documents could not be used, counted by kind, whoever encoded them."""
        found = Counter({"documents invalid": len(self.invalid)})
        for shard in self.shards:
            found.update(shard.manifest.losses)
        return +found

    def fill(
        self,
        items: Iterable[T],
        key: Callable[[T], str],
        encode: Callable[[Sequence[T]], Encoded],
        *,
        batch_size: int,
        total: int,
        expect: Callable[[Sequence[T]], None] = _nothing,
        note: Callable[[], str] = str,
        progress: Progress | None = None,
        processes: int = 1,
        leads: bool = True,
    ) -> None:
        """Encode what no earlier process encoded, and open the shards.

        Batches begin at the same items whatever was done before, so that a store that was resumed
        or repaired, or filled by several processes, gives the same scores, bit for bit.

        Parameters
        ----------
        items
            The whole collection, in an order that never changes. Several processes may iterate
            over it more than once.
        key
            Returns the id of an item.
        encode
            Makes the embeddings of a batch.
        batch_size
            Items of a batch.
        total
            Number of items.
        expect
            Called with the batch after the next one, before that is encoded.
        note
            Returns a remark for the progress.
        progress
            Where to report.
        processes
            How many fill the store together.
        leads
            Whether this one holds the workspace's lock: it checks what is there first, and waits
            for the others in the end. Of several one leads; the others begin after it has checked,
            do what they can, and leave `shards` empty.

        Raises
        ------
        StorageError
            If the workspace holds other documents, or the disk is full; what is complete is kept.
        PluginError
            If the dimension of the vectors changes between batches.
        """
        self.shards = []
        complete = self._verified() if leads else self._found()
        work = Work(items, key, encode, batch_size, total, expect, note)
        done = sum(map(len, complete))
        report = Progress() if progress is None or done >= total else progress
        with report.stage(f"encode {total:,} documents", total, done) as advance:
            filling = Filling(self._workspace, work, complete, advance, processes)
            others = filling.fill()
            if not leads:
                return
            filling.finish(others)
        filling.forget_claims()
        self._take(filling.shards, total)
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

    def _take(self, shards: Mapping[int, Shard], total: int) -> None:
        """Take over the shards, which must follow one another to the end of the collection."""
        for first in sorted(shards):
            shard = shards[first]
            if first != len(self) or shard.last > total:
                raise of_others(shard.path)
            self.shards.append(shard)

    def _found(self) -> list[Shard]:
        """Return the shards on disk, as the leading process left them."""
        found = []
        for path in sorted(self._workspace.path.glob("shard-*")):
            with suppress(DamageError):
                found.append(Shard(path))
        return found

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
