"""Folders that hold long work while it is done, and files that are whole or not there."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import platformdirs

from harness.errors import StorageError

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


def storage_error(error: OSError, what: str, path: Path) -> StorageError:
    """Turn an operating system error about `path` into one that says what to do."""
    remedies = {
        errno.ENOSPC: "the disk is full: free some space, then give the same command again",
        errno.EDQUOT: "your disk quota is used up: free some space, then give the same command "
        "again",
        errno.EROFS: "the file system is read-only: choose another folder",
        errno.EACCES: "permission denied: choose another folder or change its permissions",
        errno.EPERM: "not permitted: choose another folder or change its permissions",
        errno.ENOTDIR: "a part of the path is a file: choose another folder",
        errno.EEXIST: "a file of that name is in the way: remove it or choose another folder",
        errno.EISDIR: "a folder of that name is in the way: remove it or choose another",
    }
    # numpy reports a failed write without a number: then its own words must do.
    number = error.errno if error.errno is not None else -1
    reason = remedies.get(number) or error.strerror or str(error) or "the write failed"
    return StorageError(f"cannot write {what} {path}: {reason}.")


def writable_folder(path: Path, what: str) -> Path:
    """Create `path` and prove that it can be written, before any work is done.

    Raises
    ------
    StorageError
        Naming the folder and the remedy.
    """
    probe = path / f".write-test-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"clamr-bench")
        probe.unlink()
    except OSError as error:
        raise storage_error(error, what, path) from error
    return path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it takes the place of `path` if the block succeeds.

    The bytes are on disk (fsync) before the name is. A killed process leaves `path` as it was.

    Raises
    ------
    StorageError
        If the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        # The path itself may be what is wrong: a failure to clean up must not hide it.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise storage_error(error, "file", path) from error
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; it takes the place of `path` if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        replace_folder(temporary, path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise storage_error(error, "folder", path) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def replace_folder(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of `path`, which may exist; bytes are on disk first.

    No system call replaces a folder that holds files. So the former one steps aside: a process
    killed in between loses nothing, and `restore_folder` brings the former one back.

    Raises
    ------
    OSError
        If a rename fails; the former folder is then in its place.
    """
    for part in new.rglob("*"):
        if part.is_file():
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        elif part.is_dir():
            _sync_folder(part)
    _sync_folder(new)
    aside = _aside(path)
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        restore_folder(path)
        raise
    _sync_folder(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def restore_folder(path: Path) -> None:
    """Bring back the former folder if a killed `replace_folder` left none.

    Where several processes replace the folder, call it under their lock.
    """
    if was_interrupted(path):
        _aside(path).rename(path)


def was_interrupted(path: Path) -> bool:
    """Whether `restore_folder` has something to bring back."""
    return not path.exists() and _aside(path).exists()


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def lock_file(folder: Path) -> Path:
    """Return the lock file of a folder that is replaced as a whole: it lies beside it."""
    return folder.with_name(f".{folder.name}.lock")


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(
    path: Path,
    busy: Callable[[str], None] | None = None,
    remedy: str = "choose another folder with --output",
) -> Iterator[IO[str]]:
    """Hold the lock file `path`; the operating system drops it when the process ends.

    Yields the open lock file: whoever waited for a lock in a folder that can be deleted compares
    it with what lies at `path` now.

    Parameters
    ----------
    path
        Lock file, made if missing.
    busy
        Called with the holder's process id when another process holds the lock; then the call
        waits. Without it a held lock is an error at once.
    remedy
        What that error says can be done instead of waiting.

    Raises
    ------
    StorageError
        If the lock is held and `busy` is None, or the file cannot be made.
    """
    try:
        file: IO[str] = path.open("a+")
    except OSError as error:
        raise storage_error(error, "file", path) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            if busy is None:
                raise StorageError(
                    f"{path.parent} is in use by another process (pid {holder}): wait for it to "
                    f"end, or {remedy}."
                ) from None
            busy(holder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise storage_error(error, "lock file", path) from error
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield file


def folder_size(folder: Path) -> int:
    """Return the bytes of all files in `folder`."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # of a process that works there
                total += os.stat(os.path.join(path, name)).st_size  # noqa: PTH116, PTH118
    return total


def lock_holder(path: Path) -> str | None:
    """Return the process id of whoever holds the lock file `path`, or None if nobody does."""
    try:
        file = path.open()
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "unknown"
    return None


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
