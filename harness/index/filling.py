"""Encodes what a store lacks: whole batches in order, written shard by shard.

Several processes can share the work (see `harness.team`): the collection is cut into portions, and
each process takes those that no other one has claimed. A claim is a lock on a file, which the
operating system drops when its process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from harness.errors import PluginError, StorageError
from harness.index.shards import DamageError, Shard, write_shard
from harness.late_interaction import TokenEmbeddings
from harness.progress import Advance
from harness.workspace import Workspace

T = TypeVar("T")

#: A shard ends with the first batch that brings it to this many bytes of vectors or this age.
SHARD_BYTES = 32 * 2**20
SHARD_SECONDS = 60.0
#: Portions for each process, so that a slow one holds the others up by little, and the most
#: batches of a portion.
_PORTIONS = 8
_BATCHES = 16


@dataclass(frozen=True, slots=True)
class Encoded:
    """Embeddings of a batch as they are to be stored.

    Attributes
    ----------
    embeddings
        One item for each of the batch.
    invalid
        Ids of items that were left without tokens because their vectors are not finite.
    losses
        What of the batch could not be used, counted by kind.
    """

    embeddings: TokenEmbeddings
    invalid: Sequence[str] = ()
    losses: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Pending:
    """Batches on their way into the next shard."""

    first: int
    started: float = field(default_factory=time.monotonic)
    ids: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    losses: Counter[str] = field(default_factory=Counter)
    parts: list[TokenEmbeddings] = field(default_factory=list)

    def add(self, ids: Sequence[str], encoded: Encoded) -> None:
        self.ids.extend(ids)
        self.invalid.extend(encoded.invalid)
        self.losses.update(encoded.losses)
        self.parts.append(encoded.embeddings)

    @property
    def last(self) -> int:
        return self.first + len(self.ids)

    @property
    def full(self) -> bool:
        size = sum(part.vectors.nbytes for part in self.parts)
        return size >= SHARD_BYTES or time.monotonic() - self.started >= SHARD_SECONDS


@dataclass(frozen=True, slots=True)
class Work(Generic[T]):
    """What is encoded, and how.

    The fields are those of `harness.index.store.EmbeddingStore.fill`.
    """

    items: Iterable[T]
    key: Callable[[T], str]
    encode: Callable[[Sequence[T]], Encoded]
    batch_size: int
    total: int
    expect: Callable[[Sequence[T]], None]
    note: Callable[[], str]


class Filling(Generic[T]):
    """One process's part in filling a store.

    Parameters
    ----------
    workspace
        Where shards go.
    work
        What is encoded.
    shards
        The shards that are there already, in order.
    advance
        Told of each batch.
    processes
        How many share the work.

    Attributes
    ----------
    shards
        By the number of their first item; those that others have written since included.
    """

    def __init__(
        self,
        workspace: Workspace,
        work: Work[T],
        shards: Iterable[Shard],
        advance: Advance,
        processes: int = 1,
    ) -> None:
        self._workspace, self._work, self._advance = workspace, work, advance
        self._shared = processes > 1
        self._portions = list(portions(work.total, work.batch_size, processes))
        self.shards = {shard.manifest.first: shard for shard in shards}

    def fill(self) -> list[range]:
        """Encode every portion that no other process has; return those that others have."""
        others = []
        stream = iter(self._work.items)
        for portion in self._portions:
            part = islice(stream, len(portion)) if self._shared else stream
            with self._claimed(portion, wait=False) as mine:
                if mine:
                    self._complete(portion, part)
                else:
                    others.append(portion)
            for _ in part:  # Begin the next portion at its first item.
                pass
        return others

    def finish(self, others: Sequence[range]) -> None:
        """Wait for portions of other processes, and encode those whose process has ended."""
        for portion in others:
            with self._claimed(portion, wait=True):
                self._refresh()
                if any(True for _ in self._holes(portion)):
                    items = islice(iter(self._work.items), portion.start, portion.stop)
                    self._complete(portion, items)

    @contextmanager
    def _claimed(self, portion: range, *, wait: bool) -> Iterator[bool]:
        """Hold the claim on a portion; yields False if another process holds it."""
        if not self._shared:
            yield True
            return
        with self._claim(portion).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            self._refresh()
            yield True

    def _claim(self, portion: range) -> Path:
        return self._workspace.path / f"claim-{portion.start:09d}"

    def forget_claims(self) -> None:
        """Remove the files of the claims, once all is done."""
        for portion in self._portions if self._shared else ():
            self._claim(portion).unlink(missing_ok=True)

    def _refresh(self) -> None:
        """Take note of shards that other processes have written."""
        for path in self._workspace.path.glob("shard-*"):
            if int(path.name.removeprefix("shard-")) not in self.shards:
                try:
                    shard = Shard(path)
                except DamageError:
                    continue  # Its documents are encoded anew.
                self.shards[shard.manifest.first] = shard
                self._advance(len(shard))

    def _holes(self, portion: range) -> Iterator[range]:
        """Yield the ranges of a portion that no shard holds."""
        position = portion.start
        for shard in self._within(portion):
            if position < shard.manifest.first:
                yield range(position, shard.manifest.first)
            position = max(position, shard.last)
        if position < portion.stop:
            yield range(position, portion.stop)

    def _within(self, portion: range) -> list[Shard]:
        found = (self.shards[first] for first in sorted(self.shards) if first < portion.stop)
        return [shard for shard in found if shard.last > portion.start]

    def _complete(self, portion: range, items: Iterator[T]) -> None:
        """Encode what a portion lacks; the shards that it has must be of its items."""
        position = portion.start
        for shard in [*self._within(portion), None]:
            if shard is None:
                self._encode(items, position)
                return
            if position < shard.manifest.first:
                self._encode(islice(items, shard.manifest.first - position), position)
                position = shard.manifest.first
            known = shard.manifest.ids[position - shard.manifest.first :]
            known = known[: portion.stop - position] if self._shared else known
            if tuple(map(self._work.key, islice(items, len(known)))) != known:
                raise of_others(shard.path)
            position += len(known)

    def _encode(self, items: Iterator[T], position: int) -> None:
        """Encode `items`, which begin at number `position`, to their end."""
        work = self._work
        pending = _Pending(position)
        batch = list(islice(items, work.batch_size))
        while batch:
            following = list(islice(items, work.batch_size))
            work.expect(following)
            pending.add([work.key(item) for item in batch], work.encode(batch))
            self._advance(len(batch), work.note())
            if pending.full or not following:
                self._write(pending)
                pending = _Pending(pending.last)
            batch = following

    def _write(self, pending: _Pending) -> None:
        embeddings = TokenEmbeddings.concatenate(pending.parts)
        dim = max((shard.manifest.dim for shard in self.shards.values()), default=0)
        if len(embeddings.vectors) and dim not in (0, embeddings.dim):
            raise PluginError(
                f"dimensions differ between batches: {dim} before, {embeddings.dim} from "
                f"document {pending.ids[0]!r} on; an encoder must give one dimension."
            )
        name = f"shard-{pending.first:09d}"
        with self._workspace.folder(name) as folder:
            write_shard(
                folder, pending.first, pending.ids, embeddings, pending.invalid, pending.losses
            )
        self.shards[pending.first] = Shard(self._workspace.path / name)
        if self._shared:
            self._refresh()


def portions(total: int, batch_size: int, processes: int) -> Iterator[range]:
    """Yield the portions of a collection: whole batches, some for each of several processes."""
    if processes == 1:
        yield range(total)
        return
    batches = max(1, min(_BATCHES, total // (batch_size * processes * _PORTIONS)))
    for start in range(0, total, batches * batch_size):
        yield range(start, min(total, start + batches * batch_size))


def of_others(path: Path) -> StorageError:
    """Return the error for a shard that is not of the collection's documents."""
    return StorageError(
        f"{path} holds embeddings of other documents: delete the folder {path.parent} and give "
        "the same command again."
    )
