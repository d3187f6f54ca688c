"""Files and folders that are whole or not there, and locks that end with their process."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from harness.errors import StorageError


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
