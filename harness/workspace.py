"""Where things lie, and folders that hold long work while it is done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

from harness.errors import StorageError
from harness.files import (
    atomic_folder,
    atomic_write,
    exclusive,
    folder_size,
    restore_folder,
    writable_folder,
)

#: Files of a workspace: what it is keyed by, and the lock that its writer holds.
IDENTITY_NAME = "identity.json"
LOCK_NAME = ".lock"
#: Files of a trained model's folder: how it came about, and what it has seen.
TRAINING_NAME = "training.json"
TRAINED_ON_NAME = "trained_on.json"


def data_folder() -> Path:
    """Where prepared datasets live: ``CLAMR_BENCH_DATA`` or the user's data folder."""
    return _folder("CLAMR_BENCH_DATA", platformdirs.user_data_path("clamr-bench"))


def cache_folder() -> Path:
    """Where workspaces live: ``CLAMR_BENCH_CACHE`` or the user's cache folder."""
    return _folder("CLAMR_BENCH_CACHE", platformdirs.user_cache_path("clamr-bench"))


def workspaces_folder() -> Path:
    """Where workspaces lie: ``workspaces`` in the cache folder."""
    return cache_folder() / "workspaces"


def results_folder() -> Path:
    """Where results go: ``CLAMR_BENCH_RESULTS`` or ``./results``."""
    return _folder("CLAMR_BENCH_RESULTS", Path("results"))


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ[variable]).expanduser() if os.environ.get(variable) else default


def digest(value: Any) -> str:
    """Return the sha256 (hex) of a JSON-like value, the same on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def leftovers(folder: Path) -> list[Path]:
    """Return what killed processes left half written or half replaced in `folder`.

    The caller holds the folder's lock. A workspace's identity is written before the lock is taken,
    so a temporary file of it may belong to a living process: it is none.
    """
    found = [*folder.rglob(".*.tmp"), *folder.rglob(".*.old")]
    return sorted(path for path in found if not path.name.startswith(f".{IDENTITY_NAME}."))


def remove_leftovers(folder: Path) -> None:
    """Remove what `leftovers` finds; a folder that was set aside comes back if it has no heir."""
    for path in leftovers(folder):
        if path.suffix == ".old":
            restore_folder(path.with_name(path.name[1:].removesuffix(".old")))
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class Workspace:
    """A folder keyed by all that determines what is put into it.

    A retriever's `index` writes here through `file` and `folder`, which are atomic, and asks with
    `has` what an earlier, perhaps killed, process has completed.

    Parameters
    ----------
    path
        The folder; made here.
    identity
        What the content depends on; kept as ``identity.json``.

    Raises
    ------
    StorageError
        If the folder cannot be written, or was made for another identity.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = path, identity
        self._make()

    def _make(self) -> None:
        writable_folder(self.path, "workspace")
        card = self.path / IDENTITY_NAME
        text = json.dumps(self.identity, indent=1, sort_keys=True) + "\n"
        if not card.exists():
            with atomic_write(card) as temporary:
                temporary.write_text(text)
        elif card.read_text() != text:
            raise StorageError(
                f"{self.path} belongs to something else, as its {IDENTITY_NAME} says: delete the "
                "folder, or choose another one."
            )

    @classmethod
    def of(cls, identity: Mapping[str, Any], root: Path | None = None) -> Workspace:
        """Return the workspace of `identity` under the cache folder."""
        return cls((root or workspaces_folder()) / digest(identity)[:32], identity)

    def has(self, name: str) -> bool:
        """Whether the file or folder `name` is complete."""
        return (self.path / name).exists()

    def file(self, name: str) -> Any:
        """Context manager: write the file `name` atomically (see `atomic_write`)."""
        return atomic_write(self.path / name)

    def folder(self, name: str) -> Any:
        """Context manager: fill the folder `name` atomically (see `atomic_folder`)."""
        return atomic_folder(self.path / name)

    @contextmanager
    def locked(self, busy: Callable[[str], None]) -> Iterator[None]:
        """Let one process at a time in; a second one waits and is told so.

        What killed processes left half written is removed first: whoever writes holds the lock,
        so nobody is writing it still.
        """
        lock = self.path / LOCK_NAME
        while True:
            with exclusive(lock, busy) as held:
                # `cache prune` may have taken the folder away while this process waited.
                if lock.exists() and os.path.samestat(os.fstat(held.fileno()), lock.stat()):
                    remove_leftovers(self.path)
                    yield
                    return
            self._make()

    def size(self) -> int:
        """Bytes of all files in the workspace."""
        return folder_size(self.path)
