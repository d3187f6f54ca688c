"""Files that are whole or not there, whatever happens to the process that writes them."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import StorageError
from harness.files import (
    atomic_folder,
    atomic_write,
    exclusive,
    replace_folder,
    restore_folder,
    was_interrupted,
    writable_folder,
)
from harness.workspace import Workspace, cache_folder, data_folder, digest, results_folder


def run(script: str, **values: str) -> subprocess.CompletedProcess[str]:
    lines = "import os, sys\nfrom pathlib import Path\n"
    lines += "from harness.files import *\nfrom harness.workspace import *\n"
    lines += "".join(f"{name} = Path({value!r})\n" for name, value in values.items())
    return subprocess.run(
        [sys.executable, "-c", lines + script], capture_output=True, text=True, check=False
    )


def fails(number: int) -> Callable[..., None]:
    def call(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return call


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- Files ------------------------------------------------------------------------------------


def test_a_file_appears_whole_and_replaces_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    for content in ("one", "two"):
        with atomic_write(path) as temporary:
            temporary.write_text(content)
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == content
    assert names(path.parent) == {"file.txt"}


def test_an_error_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file.txt"}


def test_kill_9_in_the_middle_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    done = run(
        "with atomic_write(path) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n",
        path=str(path),
    )
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_bytes_are_on_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    synced: list[tuple[str, bool]] = []
    plain = os.fsync

    def watched(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        synced.append((kind, path.exists()))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    with atomic_write(path) as temporary:
        temporary.write_text("content")
    assert synced == [("file", False), ("folder", True)]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "the disk is full: free some space"),
        (errno.EDQUOT, "your disk quota is used up"),
        (errno.EROFS, "the file system is read-only: choose another folder"),
        (errno.EACCES, "permission denied: choose another folder"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_storage_errors_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def file() -> None:
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"new")

    def folder() -> None:
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "part").write_bytes(b"new")

    def probe() -> None:
        writable_folder(tmp_path / "probed", "run folder")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fails(number))
        for work, what in ((file, path), (folder, "folder"), (probe, "run folder")):
            with pytest.raises(StorageError, match=says) as caught:
                work()
            assert str(what) in str(caught.value)
    assert path.read_text() == "old"
    assert not (tmp_path / "folder").exists()
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]


def test_a_disk_that_is_full_only_when_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems that reserve late report a full disk at fsync, not at write."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", fails(errno.ENOSPC))
    with pytest.raises(StorageError, match="the disk is full"), atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"


def test_a_file_where_a_folder_must_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="a file"):
            writable_folder(path, "run folder")


# --- Folders ----------------------------------------------------------------------------------


def fill(path: Path, content: str) -> None:
    with atomic_folder(path) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "part").write_text(content)


def content_of(path: Path) -> str:
    return (path / "deep" / "part").read_text()


def test_a_folder_appears_whole_and_replaces_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    fill(path, "one")
    (path / "extra").write_text("of the former")
    fill(path, "two")
    assert content_of(path) == "two"
    assert names(path) == {"deep"}
    assert names(tmp_path) == {"folder"}


def test_an_error_leaves_the_former_folder(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    fill(path, "old")

    def broken() -> None:
        with atomic_folder(path) as temporary:
            (temporary / "deep").mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert content_of(path) == "old"
    assert names(tmp_path) == {"folder"}


def test_a_swap_that_fails_halfway_puts_the_former_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    fill(path, "old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(StorageError, match="permission denied"):
        fill(path, "new")
    assert content_of(path) == "old"
    assert names(tmp_path) == {"folder"}


SWAP = """
import shutil
steps = []

def step(work):
    def call(first, *rest, **options):
        if first.exists():  # clearing a folder that is not there is no step
            steps.append(first)
        if len(steps) == {kill_at}:
            os._exit(7)
        return work(first, *rest, **options)
    return call

Path.rename, shutil.rmtree = step(Path.rename), step(shutil.rmtree)
replace_folder(path.with_name("new"), path)
"""


@pytest.mark.parametrize("kill_at", [1, 2, 3])
def test_a_swap_killed_before_any_of_its_steps_loses_nothing(tmp_path: Path, kill_at: int) -> None:
    """The steps: the former folder aside, the new one into its place, the former one deleted."""
    path = tmp_path / "folder"
    fill(path, "old")
    fill(tmp_path / "new", "new")
    done = run(SWAP.format(kill_at=kill_at), path=str(path))
    assert done.returncode == 7, done.stderr
    assert was_interrupted(path) == (kill_at == 2)
    restore_folder(path)
    assert content_of(path) == ("new" if kill_at == 3 else "old")
    fill(path, "next")
    assert content_of(path) == "next"
    assert not was_interrupted(path)


def test_nothing_to_restore_is_fine(tmp_path: Path) -> None:
    restore_folder(tmp_path / "nowhere")
    (tmp_path / "new").mkdir()
    replace_folder(tmp_path / "new", tmp_path / "path")
    restore_folder(tmp_path / "path")
    assert names(tmp_path) == {"path"}


# --- Locks ------------------------------------------------------------------------------------


HOLD = """
import sys, time
from pathlib import Path
from harness.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_holds_across_processes_and_ends_with_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        if holder.stdout is None:
            pytest.fail("no pipe")
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(StorageError, match=f"in use by another process .pid {holder.pid}"),
            exclusive(lock),
        ):
            pytest.fail("the lock was given twice")
        holder.kill()
    with exclusive(lock):
        assert lock.read_text() == str(os.getpid())


def test_a_second_process_can_wait_and_is_told_for_whom(tmp_path: Path) -> None:
    lock, order, told = tmp_path / "lock", [], []
    waiting = threading.Event()

    def second() -> None:
        def busy(holder: str) -> None:
            told.append(holder)
            waiting.set()

        with exclusive(lock, busy):
            order.append("second")

    with exclusive(lock):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert told == [str(os.getpid())]


def test_a_file_system_without_locks_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", fails(errno.ENOLCK))
    with pytest.raises(StorageError, match="cannot write lock file"), exclusive(tmp_path / "lock"):
        pytest.fail("no lock was held")
    with pytest.raises(StorageError, match="nowhere"), exclusive(tmp_path / "nowhere" / "lock"):
        pytest.fail("no lock was held")


# --- Workspaces -------------------------------------------------------------------------------


def test_a_workspace_is_found_again_by_its_identity() -> None:
    one, same = Workspace.of({"b": 1, "a": [2]}), Workspace.of({"a": [2], "b": 1})
    other = Workspace.of({"a": [2], "b": 2})
    assert one.path == same.path != other.path
    assert one.path.is_relative_to(cache_folder())
    assert '"a"' in (one.path / "identity.json").read_text()


def test_only_what_is_complete_is_there(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "w", {"x": 1})
    before = work.size()
    with work.file("part.bin") as temporary:
        temporary.write_bytes(b"12345")
        assert not work.has("part.bin")
    with work.folder("index") as temporary:
        (temporary / "a").write_bytes(b"123")
        assert not work.has("index")
    assert work.has("part.bin")
    assert work.has("index")
    assert work.size() == before + 8
    with work.locked(lambda holder: None):
        pass


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "б": [1, None]}) == digest({"б": [1, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})
    # Held: it names every workspace and every table.
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_folders_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_folder() == tmp_path / "data"
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("CLAMR_BENCH_RESULTS")
    assert results_folder() == Path("results")
    monkeypatch.setenv("CLAMR_BENCH_RESULTS", "~/mine")
    assert results_folder() == Path.home() / "mine"
    monkeypatch.setenv("CLAMR_BENCH_DATA", "")
    assert data_folder().is_absolute()


def test_a_file_in_the_place_of_a_parent_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with (
        pytest.raises(StorageError, match="cannot write file"),
        atomic_write(tmp_path / "taken" / "deep" / "file") as temporary,
    ):
        temporary.write_text("never")
