"""What lies in the cache folder: workspaces, and how to check and remove them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import StorageError
from harness.files import exclusive, folder_size, lock_holder, storage_error
from harness.index.store import check_shards
from harness.retriever import INDEX_NAME
from harness.workspace import (
    IDENTITY_NAME,
    LOCK_NAME,
    leftovers,
    remove_leftovers,
    workspaces_folder,
)

_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Cached:
    """A workspace as it lies on disk.

    Attributes
    ----------
    path
        Its folder.
    identity
        What it is keyed by; empty if that cannot be read.
    size
        Bytes.
    used
        When a process last took its lock, in seconds since the epoch.
    holder
        Process id of whoever works in it now.
    complete
        Whether its index is complete.
    """

    path: Path
    identity: dict[str, Any]
    size: int
    used: float
    holder: str | None
    complete: bool

    @property
    def retriever(self) -> str:
        """Name and weights of the retriever that the workspace belongs to."""
        retriever = self.identity.get("retriever", {})
        name, weights = retriever.get("name", "unknown"), retriever.get("weights")
        return f"{name}/{weights}" if weights else str(name)

    @property
    def state(self) -> str:
        """``complete``, ``incomplete`` or ``in use by PID``."""
        if self.holder is not None:
            return f"in use by {self.holder}"
        return "complete" if self.complete else "incomplete"


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune` did: workspaces removed, files of killed processes removed, bytes freed."""

    removed: list[Cached]
    leftovers: int
    freed: int
    busy: list[Cached]


def cached(root: Path | None = None) -> list[Cached]:
    """Return the workspaces under `root` (default: the cache folder), longest unused first."""
    found = [_read(path) for path in _folders(root or workspaces_folder())]
    return sorted(found, key=lambda one: (one.used, one.path.name))


def check(root: Path | None = None) -> tuple[int, list[str]]:
    """Compare all embeddings on disk with their checksums.

    Returns
    -------
    int, list of str
        How many shards were checked, and what is wrong, a line for each damaged one.
    """
    shards, problems = 0, []
    for path in _folders(root or workspaces_folder()):
        for shard, found in check_shards(path):
            shards += 1
            if isinstance(found, Exception):
                problems.append(f"{shard} is damaged: {found}")
    return shards, problems


def prune(
    root: Path | None = None,
    *,
    older_than: float | None = None,
    incomplete: bool = False,
    everything: bool = False,
) -> Pruned:
    """Remove workspaces, and always what killed processes left half written.

    A workspace in which a living process works is never touched.

    Parameters
    ----------
    root
        Folder of the workspaces.
    older_than
        Remove those that no process has used for so many days.
    incomplete
        Remove those whose index was never completed; the next run could have resumed it.
    everything
        Remove all.

    Raises
    ------
    StorageError
        If something cannot be removed.
    """
    root = root or workspaces_folder()
    removed, busy, count, freed = [], [], 0, 0
    for path in root.glob(".*.tmp"):  # of a prune that was killed
        freed += folder_size(path)
        count += 1
        _remove(path)
    now = time.time()
    for one in cached(root):
        unused = older_than is not None and now - one.used > older_than * _DAY
        chosen = everything or unused or (incomplete and not one.complete)
        if one.holder is not None:
            busy.append(one)
        elif chosen:
            if _take_away(one.path):
                removed.append(one)
                freed += one.size
            else:
                busy.append(one)
        elif parts := leftovers(one.path):
            count += len(parts)
            freed += one.size - _tidied(one)
    return Pruned(removed, count, freed, busy)


def _folders(root: Path) -> Iterator[Path]:
    if root.is_dir():
        yield from sorted(
            path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
        )


def _read(path: Path) -> Cached:
    try:
        identity = json.loads((path / IDENTITY_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        identity = {}
    lock = path / LOCK_NAME
    return Cached(
        path,
        identity if isinstance(identity, dict) else {},
        folder_size(path),
        (lock if lock.exists() else path).stat().st_mtime,
        lock_holder(lock),
        # What is no index of a collection (answers of a router) grows, and is never unfinished.
        (path / INDEX_NAME).exists() or "data" not in identity,
    )


def _take_away(path: Path) -> bool:
    """Remove a workspace unless a process has begun to work in it; say whether it is gone.

    It is renamed under its lock first. So a process that waits for the lock finds the folder gone
    and makes a new one (see `Workspace.locked`), and none sees half a workspace.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with exclusive(path / LOCK_NAME):
            path.rename(aside)
    except StorageError:
        return False
    except OSError as error:
        raise storage_error(error, "folder", path) from error
    _remove(aside)
    return True


def _tidied(one: Cached) -> int:
    """Remove what killed processes left in a workspace; return the bytes that remain."""
    lock = one.path / LOCK_NAME
    try:
        with exclusive(lock):
            remove_leftovers(one.path)
            os.utime(lock, (one.used, one.used))  # tidying is no use of it
    except StorageError:
        return one.size
    return folder_size(one.path)


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:  # another process prunes it, too
        shutil.rmtree(path, ignore_errors=True)
    except OSError as error:
        raise storage_error(error, "folder", path) from error
